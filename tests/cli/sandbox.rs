//! `bessemer sandbox` as a user and as another project's client would drive it.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};

fn bessemer(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bessemer"))
        .arg("sandbox")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let input = input.to_owned();
    let mut stdin = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let out = child.wait_with_output().expect("it ends");
    let _ = writer.join().expect("no panic"); // a command that reads nothing breaks the pipe
    out
}

fn rows(out: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON lines"))
        .collect()
}

#[test]
fn a_batch_answers_every_line_in_order() {
    let mut lines = String::new();
    for i in 0..12 {
        // the first ones take longest, so that order has to be made
        let code =
            format!("import time\ntime.sleep({})\nprint(int(input()) * 2)", if i < 2 { 0.4 } else { 0.0 });
        let row = json!({"id": format!("j{i}"), "language": "python", "code": code,
            "tests": [{"stdin": format!("{i}\n"), "expected": format!("{}", i * 2)}]});
        lines.push_str(&format!("{row}\n"));
        if i == 5 {
            lines.push_str("{\"id\": \"broken\", \"nonsense\": 1}\n\n");
        }
    }
    let out = bessemer(&["batch", "--slots", "3"], &lines);
    let got = rows(&out);
    let ids: Vec<_> = got.iter().map(|r| r["id"].as_str().unwrap_or_default()).collect();
    assert_eq!(ids, ["j0", "j1", "j2", "j3", "j4", "j5", "broken", "j6", "j7", "j8", "j9", "j10", "j11"]);
    assert_eq!(out.status.code(), Some(65), "a bad line is the user's error");
    for r in &got {
        let bad = r["id"] == "broken";
        assert_eq!(r["verdict"], if bad { "unscored" } else { "pass" }, "{r}");
        if bad {
            assert!(r["reason"].as_str().expect("a reason").contains("line 7"), "{r}");
        } else {
            assert_eq!((&r["passed"], &r["total"], &r["grade"]), (&json!(1), &json!(1), &json!("test")));
            assert_eq!(r["tests"][0]["exit_code"], 0);
            assert!(r["tests"][0]["stdout_b64"].is_string() && r["tests"][0]["truncated"] == false);
        }
    }
}

#[test]
fn every_mode_comes_through_a_batch() {
    let lines = [
        json!({"id": "f", "code": "def f(a, b):\n  return [a, b]", "entry": "f", "tests": [{"args": [1, "x"], "expected": [1, "x"]}]}),
        json!({"id": "p", "code": "def f(a):\n  return a", "test_code": "def test_f():\n  assert f(2) == 2"}),
        json!({"id": "s", "code": "def f(a):\n  return a", "mode": "script", "test_code": "assert f(2) == 3"}),
        json!({"id": "c", "code": "def f(:", "mode": "parse"}),
        json!({"id": "n", "code": "print(input())", "tests": [{"stdin": "echo", "expected": null}]}),
    ];
    let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
    let out = bessemer(&["batch", "--slots", "1"], &text);
    let verdicts: Vec<_> = rows(&out).iter().map(|r| r["verdict"].clone()).collect();
    assert_eq!(verdicts, ["pass", "pass", "wrong-answer", "compile-error", "pass"], "{out:?}");
}

#[test]
fn one_program_runs_with_our_streams_and_its_own_status() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("p.py");
    std::fs::write(&file, "import sys\nprint(sys.stdin.read().upper(), end='')\nsys.exit(3)")
        .expect("a file");
    let out = bessemer(&["run", file.to_str().expect("UTF-8")], "abc");
    assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(3), &b"ABC"[..]), "{out:?}");
    std::fs::write(&file, "while True: pass").expect("a file");
    let out = bessemer(&["run", "--time", "0.3", file.to_str().expect("UTF-8")], "");
    assert_eq!(out.status.code(), Some(124));
    assert!(String::from_utf8_lossy(&out.stderr).contains("time-limit"));
}

#[test]
fn a_tier_that_is_not_there_is_refused_before_anything_runs() {
    let out = bessemer(&["batch", "--tier-min", "A"], "{}\n");
    assert_eq!(out.status.code(), Some(77), "{out:?}");
    assert!(out.stdout.is_empty());
}

struct Server(Child, String);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(args: &[&str]) -> Server {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bessemer"))
        .args(["sandbox", "serve", "--port", "0", "--slots", "2"])
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its first line");
    let address =
        line.split("http://").nth(1).and_then(|r| r.split(' ').next()).expect("an address").to_owned();
    Server(child, address)
}

fn ask(server: &Server, method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(&server.1).expect("it listens");
    let auth = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let n = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\n{auth}Content-Length: {n}\r\nConnection: close\r\n\r\n{body}"
    )
    .expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let body = text.split_once("\r\n\r\n").map(|(_, b)| b.to_owned()).unwrap_or_default();
    (status, body)
}

fn run_code(server: &Server, body: &Value) -> Value {
    let (status, text) = ask(server, "POST", "/run_code", "", &body.to_string());
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn clients_of_sandbox_fusion_get_the_answers_that_they_know() {
    let s = serve(&["--no-token"]);
    let (status, text) = ask(&s, "GET", "/v1/ping", "", "");
    assert_eq!((status, text.as_str()), (200, "\"pong\""));

    let ok = run_code(
        &s,
        &json!({"code": "print(int(input()) + 1)", "language": "python", "stdin": "41", "run_timeout": 5,
        "compile_timeout": 5, "memory_limit_MB": 256, "files": {}, "fetch_files": []}),
    );
    assert_eq!((&ok["status"], &ok["run_result"]["status"]), (&json!("Success"), &json!("Finished")));
    assert_eq!((&ok["run_result"]["return_code"], &ok["run_result"]["stdout"]), (&json!(0), &json!("42\n")));
    assert!(ok["compile_result"].is_null() && ok["executor_pod_name"].is_null());

    let failed = run_code(&s, &json!({"code": "raise SystemExit(2)", "language": "python"}));
    assert_eq!((&failed["status"], &failed["run_result"]["return_code"]), (&json!("Failed"), &json!(2)));

    let late = run_code(&s, &json!({"code": "while True: pass", "language": "python", "run_timeout": 0.3}));
    assert_eq!(
        (&late["status"], &late["run_result"]["status"]),
        (&json!("Failed"), &json!("TimeLimitExceeded"))
    );

    let unknown = run_code(&s, &json!({"code": "x", "language": "cobol"}));
    assert_eq!(unknown["status"], "SandboxError");

    let files = run_code(
        &s,
        &json!({"code": "open('out.txt','w').write(open('in.txt').read() * 2)", "language": "python",
        "files": {"in.txt": "YWI="}, "fetch_files": ["out.txt", "../etc/passwd"]}),
    );
    assert_eq!((&files["status"], &files["files"]), (&json!("Success"), &json!({"out.txt": "YWJhYg=="})));

    for (code, status) in [
        ("def test_a():\n  assert 1 + 1 == 2", "Success"),
        ("def test_a():\n  assert 1 == 2", "Failed"),
        ("import os\nos._exit(0)", "Failed"),
    ] {
        let r = run_code(&s, &json!({"code": code, "language": "pytest"}));
        assert_eq!(r["status"], status, "{r}");
    }
    assert_eq!(ask(&s, "POST", "/run_code", "", "{").0, 422);
    assert_eq!(ask(&s, "GET", "/nothing", "", "").0, 404);
}

#[test]
fn a_token_is_made_once_and_wanted_from_then_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("token");
    let s = serve(&["--token-file", path.to_str().expect("UTF-8")]);
    let token = std::fs::read_to_string(&path).expect("it was made");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(ask(&s, "POST", "/run_code", "", "{}").0, 401);
    assert_eq!(ask(&s, "POST", "/run_code", &"0".repeat(token.len()), "{}").0, 401);
    let line = json!({"id": "a", "code": "print(1)", "tests": [{"expected": "1"}]}).to_string();
    let (status, text) = ask(&s, "POST", "/v1/batch", &token, &format!("{line}\n{line}\n"));
    assert_eq!(status, 200);
    assert_eq!(text.lines().filter(|l| l.contains("\"passed\":1,")).count(), 2, "{text}");
    drop(s);
    let refused = Command::new(env!("CARGO_BIN_EXE_bessemer"))
        .args(["sandbox", "serve", "--port", "0"])
        .output()
        .expect("it starts");
    assert_eq!(refused.status.code(), Some(2), "no token and no --no-token: {refused:?}");
}
