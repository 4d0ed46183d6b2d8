//! The report of a sweep, as a reader and as a browser see it.

mod common;

use report::{State, Sweep};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

fn read(dir: &Path) -> Sweep {
    Sweep::read(dir, &BTreeMap::new(), 1_790_000_400_000).unwrap()
}

#[test]
fn the_page_holds_every_fact_and_no_markup_from_the_outside() {
    let dir = tempfile::tempdir().unwrap();
    common::quickstart(dir.path(), true);
    let sweep = read(dir.path());
    assert_eq!(sweep.warnings, Vec::<String>::new());
    assert_eq!(sweep.counts(), [(State::Succeeded, 18), (State::Failed, 1)]);
    let page = report::html(&sweep);
    for text in [
        "demo &lt;b&gt;&amp;amp;", // the sweep's name, escaped
        "rl binary",               // a group
        "mean of 2 seeds",
        "rl fresh − rl binary",                            // a paired difference
        "# the whole house in miniature",                  // the job file
        "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;", // the failure's message
        "412672",
        "bessemer 0.1.0",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("<script"), "a report needs no script");
    assert!(!page.contains('\u{1b}'));
    for outside in ["http://", "https://", "src=", "url(", "@import"] {
        assert!(!page.contains(outside), "the page would load something: {outside}");
    }
    // the job file survives to the byte, up to escaping
    assert!(page.contains("name</span>: demo &lt;b&gt;&amp;amp;\n"));
}

#[test]
fn a_damaged_result_is_not_shown_as_a_result() {
    let dir = tempfile::tempdir().unwrap();
    common::quickstart(dir.path(), false);
    let before = report::rows::rows(&read(dir.path())).count();
    let key = read(dir.path()).tasks.iter().find(|t| t.task.phase == "eval").unwrap().task.key.clone();
    let out =
        record::layout::attempt_dir(&record::layout::task_dir(dir.path(), &key), 1).join("out/scores.jsonl");
    std::fs::write(&out, "short").unwrap();
    let sweep = read(dir.path());
    assert_eq!(report::rows::rows(&sweep).count(), before - 2);
    assert_eq!(sweep.warnings.len(), 1, "{:?}", sweep.warnings);
    assert!(report::html(&sweep).contains("Files that could not be read"));
}

#[test]
fn documents_give_the_same_facts_to_programs() {
    let dir = tempfile::tempdir().unwrap();
    common::quickstart(dir.path(), false);
    let sweep = read(dir.path());
    let doc = report::json::report(&sweep);
    assert_eq!(doc["format"], 1);
    assert_eq!(doc["counts"]["succeeded"], 19);
    let rows = doc["data"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 8);
    let fields: Vec<&str> =
        doc["schema"]["fields"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    for row in rows {
        for field in &fields {
            assert!(row.get(*field).is_some(), "{field} is missing in {row}");
        }
        assert_eq!(row.as_object().unwrap().len(), fields.len());
    }
    let last = &rows[rows.len() - 1];
    assert_eq!(
        (&last["phase"], &last["variant"], &last["seed"]),
        (&"eval".into(), &"continued".into(), &2.into())
    );
    assert_eq!(last["of"], "rl");
    assert_eq!(doc["curves"].as_array().unwrap().iter().filter(|c| c["name"] == "reward").count(), 6);
    // 5 groups, each pair once, two metrics
    assert_eq!(doc["paired"].as_array().unwrap().len(), 10 * 2);
}

#[test]
fn terminal_tables_fit_and_show_intervals() {
    let dir = tempfile::tempdir().unwrap();
    common::quickstart(dir.path(), false);
    let sweep = read(dir.path());
    for width in [60, 80, 120] {
        for line in report::text::results(&sweep, width).lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
    let table = report::text::results(&sweep, 100);
    assert!(table.contains("rl continued") && table.contains("] *3"), "{table}");
    assert!(report::text::paired(&sweep, 100).contains("rl fresh − rl binary"));
    assert!(report::text::cost(&sweep, 100).lines().last().unwrap().starts_with("all"));
}

#[test]
fn a_large_sweep_is_drawn_by_phase() {
    let dir = tempfile::tempdir().unwrap();
    let mut b = common::Builder::new(dir.path());
    let at = common::labels(&[]);
    b.task("corpus", "corpus", at, &[]);
    for seed in 0..500 {
        let at = common::labels(&[("seed", seed.into())]);
        b.task("rl", "rl", at.clone(), &[("corpus", "corpus")]);
        b.task("eval", "eval", at, &[("model", "rl")]);
    }
    b.finish();
    let page = report::html(&read(dir.path()));
    assert!(page.contains("0 of 500 done"));
    assert!(page.len() < 600_000, "{} bytes", page.len());
}

/// Headless, offline, with a profile of its own.
fn chromium(profile: &Path) -> Option<Command> {
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|p| Command::new(p).arg("--version").output().is_ok_and(|o| o.status.success()))?;
    let mut c = Command::new(found);
    c.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
    ]);
    c.arg(format!("--user-data-dir={}", profile.display()));
    Some(c)
}

#[test]
fn a_browser_shows_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut dump) = chromium(&dir.path().join("p1")) else {
        assert!(std::env::var_os("BESSEMER_CI").is_none(), "CI must have Chromium");
        eprintln!("SKIPPED: a_browser_shows_the_page: no Chromium here");
        return;
    };
    let run = dir.path().join("run");
    std::fs::create_dir(&run).unwrap();
    common::quickstart(&run, true);
    let file = dir.path().join("report.html");
    std::fs::write(&file, report::html(&read(&run))).unwrap();
    let url = format!("file://{}", file.display());

    let dom = dump.args(["--dump-dom", &url]).output().unwrap();
    let dom = String::from_utf8_lossy(&dom.stdout).into_owned();
    for text in ["<h2>Results</h2>", "rl fresh − rl binary", "&lt;script&gt;", "</svg>"] {
        assert!(dom.contains(text), "{text} is not in the browser's document");
    }

    let shot = dir.path().join("shot.png");
    let status = chromium(&dir.path().join("p2"))
        .unwrap()
        .args(["--window-size=1200,1600", &format!("--screenshot={}", shot.display()), &url])
        .output()
        .unwrap();
    let png = std::fs::read(&shot).unwrap_or_else(|e| panic!("no screenshot: {e}; {status:?}"));
    // PNG compresses a blank page of this size to a few kilobytes
    assert!(png.starts_with(b"\x89PNG") && png.len() > 60_000, "{} bytes: blank?", png.len());
    if let Some(keep) = std::env::var_os("BESSEMER_KEEP_REPORT") {
        std::fs::copy(&file, Path::new(&keep).join("report.html")).unwrap();
        let doc = report::json::report(&read(&run)).to_string();
        std::fs::write(Path::new(&keep).join("report.json"), doc).unwrap();
        std::fs::copy(&shot, Path::new(&keep).join("report.png")).unwrap();
    }
}
