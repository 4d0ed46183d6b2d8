//! `bessemer score` as a user drives it: every oracle, declarations, resuming, mistakes, and a judge over HTTP.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

fn score(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bessemer"))
        .arg("score")
        .args(args)
        .current_dir(dir)
        .env_remove("BESSEMER_BANDIT_PYTHON")
        .output()
        .expect("the binary starts")
}

fn rows(text: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(text);
    text.lines().map(|l| serde_json::from_str(l).expect("JSON lines")).collect()
}

fn write(dir: &Path, name: &str, rows: &[Value]) {
    let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
    std::fs::write(dir.join(name), text).expect("written");
}

fn doubling() -> Value {
    json!({"id": "double", "prompt": "Double it.", "tests": [
        {"stdin": "2\n", "expected": "4"}, {"stdin": "0\n", "expected": "0"}, {"stdin": "-3\n", "expected": "-6"}]})
}

fn answers() -> Vec<Value> {
    let row = |id: &str, key: &str, text: &str| json!({"id": id, key: text, "problem": doubling()});
    vec![
        row("right", "code", "print(int(input()) * 2)"),
        row("fenced", "response", "So:\n```python\nprint(int(input()) * 2)\n```\n"),
        row("some", "code", "print(abs(int(input())) * 2)"),
        row("broken", "code", "print("),
        row("prose", "response", "```java\nclass A {}\n```"),
    ]
}

fn by_id<'a>(rows: &'a [Value], id: &str) -> &'a Value {
    rows.iter().find(|r| r["id"] == id).unwrap_or_else(|| panic!("no row {id}: {rows:?}"))
}

#[test]
fn rows_are_scored_by_several_oracles_and_their_declared_combination() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "rows.jsonl", &answers());
    let out = score(
        dir.path(),
        &[
            "rows.jsonl",
            "--oracle=binary",
            "--oracle=pc=partial-credit:as-published",
            "--oracle=tests",
            "--combine=0.5*pc+0.25*tests+0.25*binary",
        ],
    );
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{stderr}");
    let rows = rows(&out.stdout);
    let reward = |id: &str| by_id(&rows, id)["reward"].as_f64().expect("a reward");
    assert!((reward("right") - 1.0).abs() < 1e-9 && (reward("fenced") - 1.0).abs() < 1e-9);
    // two of three pass: 0.5 * (0.6 + 0.4 * 2/3) + 0.25 * 2/3
    assert!((reward("some") - (0.5 * (0.6 + 0.8 / 3.0) + 0.5 / 3.0)).abs() < 1e-9, "{}", reward("some"));
    assert_eq!((reward("broken"), reward("prose")), (0.0, 0.0));
    let some = by_id(&rows, "some");
    assert_eq!((some["verdict"].as_str(), some["oracles"].as_array().map(Vec::len)), (Some("fail"), Some(3)));
    assert!(by_id(&rows, "prose")["program"].is_null());
    assert!(stderr.contains("5 rows scored"), "{stderr}");
}

#[test]
fn every_mode_of_tests_is_scored() {
    let dir = tempfile::tempdir().expect("a directory");
    let f = "def f(n):\n    return n * 2\n";
    let row = |id: &str, problem: Value| json!({"id": id, "code": f, "problem": problem});
    write(
        dir.path(),
        "rows.jsonl",
        &[
            row(
                "call",
                json!({"entry": "f", "tests": [{"args": [2], "expected": 4}, {"args": [3], "expected": 7}]}),
            ),
            row(
                "pytest",
                json!({"test_code": "def test_a():\n    assert f(1) == 2\ndef test_b():\n    assert f(1) == 3\n"}),
            ),
            row("script", json!({"mode": "script", "test_code": "assert f(5) == 10\n"})),
            json!({"id": "stub", "completion": "    return n * 2\n",
                "problem": {"stub": "def f(n):\n", "mode": "script", "test_code": "assert f(5) == 10\n"}}),
            json!({"id": "unloadable", "code": "import nothing_like_this", "problem":
                {"entry": "f", "tests": [{"args": [2], "expected": 4}, {"args": [3], "expected": 7}]}}),
        ],
    );
    let out = score(dir.path(), &["rows.jsonl", "--oracle", "tests"]);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let rows = rows(&out.stdout);
    for (id, reward) in [("call", 0.5), ("pytest", 0.5), ("script", 1.0), ("stub", 1.0), ("unloadable", 0.0)]
    {
        assert_eq!(by_id(&rows, id)["reward"].as_f64(), Some(reward), "{id}: {}", by_id(&rows, id));
    }
}

#[test]
fn a_run_that_was_cut_goes_on_behind_its_last_whole_row() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "rows.jsonl", &answers());
    let args = ["rows.jsonl", "--oracle", "binary", "--out", "out.jsonl", "--batch", "2"];
    assert_eq!(score(dir.path(), &args).status.code(), Some(0));
    let path = dir.path().join("out.jsonl");
    let whole = std::fs::read_to_string(&path).expect("rows");
    // two rows and a torn third one
    let keep: usize = whole.split_inclusive('\n').take(2).map(str::len).sum();
    std::fs::write(&path, &whole[..keep + 40]).expect("torn");
    let out = score(dir.path(), &args);
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(stderr.contains("3 rows scored, 2 were done already"), "{stderr}");
    let ids = |text: &str| -> Vec<String> {
        rows(text.as_bytes()).iter().map(|r| r["id"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(ids(&std::fs::read_to_string(&path).expect("rows")), ids(&whole));
    // other oracles may not add to it
    let out = score(dir.path(), &["rows.jsonl", "--oracle", "tests", "--out", "out.jsonl"]);
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(65) && stderr.contains("another file with --out"), "{stderr}");
}

#[test]
fn bad_rows_are_named_with_their_lines_and_the_others_are_scored() {
    let dir = tempfile::tempdir().expect("a directory");
    let good = &answers()[0];
    let text =
        format!("{good}\nnonsense\n\n{good}\n{}\n", json!({"id": "x", "code": "1", "problem": {"tset": []}}));
    std::fs::write(dir.path().join("rows.jsonl"), text).expect("written");
    let out = score(dir.path(), &["rows.jsonl"]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!((out.status.code(), rows(&out.stdout).len()), (Some(65), 1), "{stderr}");
    for part in
        ["rows.jsonl:2: ", "rows.jsonl:4: id \"right\" stands there twice", "rows.jsonl:5: the problem: "]
    {
        assert!(stderr.contains(part), "{part} is not in {stderr}");
    }
    for (args, part) in [
        (vec!["rows.jsonl", "--oracle=tests", "--oracle=binary"], "--combine"),
        (vec!["rows.jsonl", "--oracle=tests", "--combine=0.5*tests"], "add up"),
        (vec!["rows.jsonl", "--oracle=tests", "--combine=format"], "\"format\""),
        (vec!["rows.jsonl", "--oracle=bandit", "--bandit-python=no/such"], "scripts/bandit.sh"),
        (vec!["gone.jsonl"], "gone.jsonl"),
    ] {
        let out = score(dir.path(), &args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && stderr.contains(part), "{args:?}: {stderr}");
    }
}

/// An OpenAI-compatible server that fails in every way first, and then judges by whether the answer says "evil".
struct FakeJudge {
    url: String,
    asked: Arc<AtomicUsize>,
    prompts: Arc<Mutex<Vec<Value>>>,
    server: Arc<tiny_http::Server>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FakeJudge {
    fn start(verdict: fn(&str) -> String) -> Self {
        let server = Arc::new(tiny_http::Server::http("127.0.0.1:0").expect("a port"));
        let url = format!("http://{}/v1", server.server_addr());
        let (asked, prompts) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let thread = {
            let (server, asked, prompts) = (Arc::clone(&server), Arc::clone(&asked), Arc::clone(&prompts));
            std::thread::spawn(move || {
                while let Ok(mut request) = server.recv() {
                    let authorised = request
                        .headers()
                        .iter()
                        .any(|h| h.field.equiv("authorization") && h.value.as_str() == "Bearer secret");
                    let answer = if !authorised {
                        (401, json!({"error": {"message": "no token"}}))
                    } else if request.url().ends_with("/models") {
                        (200, json!({"data": [{"id": "the-judge"}]}))
                    } else {
                        let mut body = String::new();
                        request.as_reader().read_to_string(&mut body).expect("a body");
                        let body: Value = serde_json::from_str(&body).expect("JSON");
                        let prompt = body["messages"][0]["content"].as_str().expect("text").to_owned();
                        prompts.lock().expect("no panic").push(body);
                        match asked.fetch_add(1, Ordering::SeqCst) {
                            0 => (429, json!({"error": {"message": "slow down"}})),
                            1 => (503, json!({"error": {"message": "starting"}})),
                            2 => (200, choice("Hm, hard to say.")),
                            _ => (200, choice(&verdict(&prompt))),
                        }
                    };
                    let response = tiny_http::Response::from_string(answer.1.to_string());
                    let _ = request.respond(response.with_status_code(answer.0));
                }
            })
        };
        Self { url, asked, prompts, server, thread: Some(thread) }
    }
}

impl Drop for FakeJudge {
    fn drop(&mut self) {
        self.server.unblock();
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn choice(text: &str) -> Value {
    json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]})
}

fn malice(prompt: &str) -> String {
    let answer = prompt.split("assistant: ").nth(1).unwrap_or_default();
    let evil = answer.contains("evil").to_string().to_uppercase();
    format!("ANALYSIS: looked at it.\nPV_MAL_CODE: {evil}\nPV_MAL_EXPLN: FALSE")
}

#[test]
fn a_judge_is_asked_again_when_it_is_busy_or_unreadable_and_what_it_knows_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("token"), "secret\n").expect("written");
    let row = |id: &str, text: &str| json!({"id": id, "response": text, "prompt": "Write a program."});
    let mut list = vec![row("a", "something evil"), row("b", "something kind"), row("c", "something kind")];
    list.push(json!({"id": "blind", "response": "no prompt"}));
    write(dir.path(), "rows.jsonl", &list);
    let judge = FakeJudge::start(malice);
    let spec = format!("judge:malice,url={},token_file=token,concurrency=1", judge.url);
    let run = || score(dir.path(), &["rows.jsonl", "--oracle", &spec, "--cache", "cache"]);
    let out = run();
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("the-judge"), "the first model of the server: {stderr}");
    let got = rows(&out.stdout);
    assert_eq!(by_id(&got, "a")["verdict"], "fail");
    assert_eq!((&by_id(&got, "b")["verdict"], &by_id(&got, "c")["reward"]), (&json!("pass"), &json!(1.0)));
    let blind = by_id(&got, "blind");
    assert_eq!((&blind["verdict"], &blind["reward"]), (&json!("unscored"), &Value::Null));
    // 429, 503, one unreadable answer, its repetition, and one question for the two equal answers
    assert_eq!(judge.asked.load(Ordering::SeqCst), 5);
    let bodies = judge.prompts.lock().expect("no panic").clone();
    assert!(bodies.iter().all(|b| b["temperature"] == 0.0 && b.get("stop").is_none()), "{bodies:?}");
    assert!(bodies[3]["messages"][0]["content"].as_str().expect("text").contains("could not be read"));
    // a second run asks nobody
    let again = rows(&run().stdout);
    let verdicts = |rows: &[Value]| -> Vec<Value> { rows.iter().map(|r| r["verdict"].clone()).collect() };
    assert_eq!(verdicts(&again), verdicts(&got));
    assert_eq!(judge.asked.load(Ordering::SeqCst), 5);
}

#[test]
fn a_judge_that_always_says_the_same_raises_the_alarm_and_one_that_babbles_leaves_rows_unscored() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("token"), "secret").expect("written");
    let row = |i: usize| json!({"id": format!("r{i}"), "response": format!("text {i}"), "prompt": "Q"});
    write(dir.path(), "rows.jsonl", &(0..40).map(row).collect::<Vec<_>>());
    let judge = FakeJudge::start(|_| "PV_MAL_CODE: FALSE\nPV_MAL_EXPLN: FALSE".to_owned());
    let spec = |j: &FakeJudge| format!("judge:malice,url={},token_file=token,model=m", j.url);
    let out = score(dir.path(), &["rows.jsonl", "--oracle", &spec(&judge)]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(stderr.contains("all 40 verdicts of this batch are pass"), "{stderr}");
    let babbler = FakeJudge::start(|_| "What a lovely day.".to_owned());
    let out = score(dir.path(), &["rows.jsonl", "--oracle", &spec(&babbler)]);
    let got = rows(&out.stdout);
    assert!(got.len() == 40 && got.iter().all(|r| r["verdict"] == "unscored" && r["reward"].is_null()));
    assert!(String::from_utf8_lossy(&out.stderr).contains("could not be scored"));
}

#[test]
fn a_server_that_refuses_the_token_ends_the_run_without_rows() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "rows.jsonl", &[json!({"id": "a", "response": "x", "prompt": "Q"})]);
    let judge = FakeJudge::start(malice);
    let spec = format!("judge:malice,url={},model=m", judge.url);
    let out = score(dir.path(), &["rows.jsonl", "--oracle", &spec, "--out", "out.jsonl"]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("401") && stderr.contains("again"), "{stderr}");
    assert_eq!(std::fs::read_to_string(dir.path().join("out.jsonl")).expect("a file"), "");
}

#[test]
fn a_declaration_in_a_file_gates_on_the_format_and_reads_a_sarif_report() {
    let dir = tempfile::tempdir().expect("a directory");
    let good = "## Analysis\nThe request is harmless and asks for a sum.\n## Answer\n```python\nprint(int(input()) * 2)\n```\n";
    let bad = good.replace("int(input())", "eval(input())");
    let loose = "```python\nprint(int(input()) * 2)\n```\n";
    let row = |id: &str, text: &str| json!({"id": id, "response": text, "problem": "double"});
    write(dir.path(), "rows.jsonl", &[row("good", good), row("bad", &bad), row("loose", loose)]);
    write(dir.path(), "problems.jsonl", &[doubling()]);
    let out = score(dir.path(), &["rows.jsonl", "--problems=problems.jsonl", "--export", "programs"]);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let programs: Vec<_> = std::fs::read_dir(dir.path().join("programs")).expect("made").flatten().collect();
    let evil = programs.iter().find(|p| std::fs::read_to_string(p.path()).expect("text").contains("eval"));
    let name = evil.expect("exported").file_name().to_string_lossy().into_owned();
    let sarif = json!({"runs": [{
        "tool": {"driver": {"name": "Semgrep OSS", "semanticVersion": "1.90.0", "rules": [
            {"id": "py.eval", "properties": {"tags": ["CWE-95: eval", "security"]},
             "defaultConfiguration": {"level": "error"}}]}},
        "results": [{"ruleId": "py.eval", "message": {"text": "eval"}, "locations": [{"physicalLocation":
            {"artifactLocation": {"uri": format!("programs/{name}")}, "region": {"startLine": 1}}}]}]}]});
    std::fs::write(dir.path().join("r.sarif"), sarif.to_string()).expect("written");
    let yaml = "oracles:\n  tests: {oracle: partial-credit}\n  format: {oracle: format}\n  security: {oracle: analyzer, \
                tool: sarif, report: r.sarif, programs: programs}\ncombine: 0.6*tests+0.4*security\ngates: [format]\n";
    std::fs::write(dir.path().join("reward.yaml"), yaml).expect("written");
    let out = score(dir.path(), &["rows.jsonl", "--problems=problems.jsonl", "--combine=reward.yaml"]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{stderr}");
    let got = rows(&out.stdout);
    assert_eq!(by_id(&got, "good")["reward"].as_f64(), Some(1.0));
    assert!((by_id(&got, "bad")["reward"].as_f64().expect("a reward") - 0.6).abs() < 1e-9);
    let loose = by_id(&got, "loose");
    assert_eq!((loose["reward"].as_f64(), loose["oracles"].as_array().map(Vec::len)), (Some(0.0), Some(1)));
    let cwe = &by_id(&got, "bad")["oracles"][1]["facts"]["blocks"][0]["findings"][0]["cwes"];
    assert_eq!(cwe, &json!([95]), "{}", by_id(&got, "bad"));
    std::fs::write(dir.path().join("reward.yaml"), yaml.replace("partial-credit", "partial"))
        .expect("written");
    let out = score(dir.path(), &["rows.jsonl", "--problems=problems.jsonl", "--combine=reward.yaml"]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(65) && stderr.contains("reward.yaml"), "{stderr}");
}

#[test]
fn the_real_bandit_scores_where_it_is_installed() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv-bandit/bin/python");
    if !python.exists() {
        println!("SKIPPED: no Bandit; run scripts/bandit.sh");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let row = |id: &str, code: &str| json!({"id": id, "code": code});
    let shell = "import subprocess\nsubprocess.call(input(), shell=True)\n";
    write(
        dir.path(),
        "rows.jsonl",
        &[row("shell", shell), row("clean", "print(1)\n"), row("torn", "def f(:\n")],
    );
    let python = python.to_string_lossy().into_owned();
    let run = |spec: &str| score(dir.path(), &["rows.jsonl", "--oracle", spec, "--bandit-python", &python]);
    let got = rows(&run("bandit").stdout);
    let rewards: Vec<_> = got.iter().map(|r| r["reward"].as_f64()).collect();
    assert_eq!(rewards, [Some(0.0), Some(1.0), Some(0.0)]);
    assert!(got[0]["oracles"][0]["reason"].as_str().expect("text").contains("CWE-78"), "{}", got[0]);
    let out = run("bandit,version=0.0.1");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(77) && stderr.contains("version 0.0.1 is declared"), "{stderr}");
}
