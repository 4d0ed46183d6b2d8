//! A pass that does not fit into memory: smaller passes, the same steps. The limit is real (`RLIMIT_AS`), so the run is a
//! process of its own.

mod common;

use common::{Listener, model, store};
use tch::Kind;
use train::End;
use train::rows::Encoded;
use train::sft::{Plan, train};

const CHILD: &str = "BESSEMER_TEST_OUT_OF_MEMORY";

const ROWS: u32 = 2048;

/// All rows, of 64 tokens each, in one pass: the logits alone take 150 MB, several times.
fn plan() -> Plan {
    Plan { steps: 2, batch: ROWS as usize, learning_rate: 1e-2, chunk: 1 << 20, ..Plan::default() }
}

fn losses(limit_mb: Option<u64>) -> (Vec<f64>, Vec<String>, Option<u64>) {
    let m = model(None);
    let rows: Vec<Encoded> =
        (0..ROWS).map(|i| Encoded::answer((0..64).map(|t| (i * 7 + t * 13) % 250).collect(), 1)).collect();
    let dir = tempfile::tempdir().unwrap();
    let mut host = Listener::default();
    // libtorch's own threads and tables come first
    let _ = m.decoder.logits(&tch::Tensor::zeros([8, 32], (Kind::Float, tch::Device::Cpu)));
    if let Some(mb) = limit_mb {
        let now = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = now.split(' ').next().unwrap().parse().unwrap();
        let bytes = pages * 4096 + (mb << 20);
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: a plain system call on a struct of our own.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    }
    let end = train(&m, &rows, &[], &plan(), &store(dir.path(), 1), &mut host).unwrap();
    let End::Finished(s) = end else { panic!("was not stopped") };
    (host.series("loss"), host.notes, s.pass_tokens)
}

#[test]
#[ignore = "depends on how threads reserve addresses: run it alone (cargo test -p bessemer-train --test memory -- --ignored)"]
fn out_of_memory_halves_the_pass_and_keeps_the_step() {
    if std::env::var_os(CHILD).is_some() {
        let (losses, notes, tokens) = losses(Some(200));
        println!("RESULT {}", serde_json::json!({"losses": losses, "notes": notes, "tokens": tokens}));
        return;
    }
    let (want, notes, tokens) = losses(None);
    assert!(notes.is_empty() && tokens.is_none(), "{notes:?}");
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "out_of_memory_halves_the_pass_and_keeps_the_step", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let words = String::from_utf8_lossy(&out.stderr);
    let line =
        text.lines().find_map(|l| l.split("RESULT ").nth(1)).unwrap_or_else(|| panic!("{text}\n{words}"));
    let got: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(got["tokens"].as_u64().is_some_and(|n| n < 131_072), "{got}");
    assert!(got["notes"][0].as_str().unwrap().contains("out of memory: passes of 65536 tokens"), "{got}");
    for (i, want) in want.iter().enumerate() {
        let got = got["losses"][i].as_f64().unwrap();
        assert!((got - want).abs() < 1e-4, "step {i}: {got}, with enough memory {want}");
    }
}
