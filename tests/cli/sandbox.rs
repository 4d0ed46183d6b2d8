//! `bessemer sandbox` as a user and as another project's client would drive it.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};

fn bessemer(args: &[&str], input: &str) -> Output {
    bessemer_with(&[], args, input)
}

fn bessemer_with(environment: &[(&str, &str)], args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bessemer"))
        .envs(environment.iter().copied())
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
    let out = bessemer_with(&[("BESSEMER_CGROUP", "off")], &["batch", "--tier-min", "A"], "{}\n");
    assert_eq!(out.status.code(), Some(77), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("control groups are switched off"), "{out:?}");
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
        .args(["sandbox", "serve", "--port", "0"])
        .args(if args.contains(&"--slots") { [].as_slice() } else { &["--slots", "2"] })
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

fn submit(server: &Server, config: &Value, completion: &str) -> (u16, Value) {
    let body = json!({"dataset": "mine", "id": 7, "completion": completion, "config": config});
    let (status, text) = ask(server, "POST", "/submit", "", &body.to_string());
    (status, serde_json::from_str(&text).expect("JSON"))
}

#[test]
fn a_submission_that_brings_its_tests_is_judged() {
    let s = serve(&["--no-token"]);
    let tests = json!([{"input": {"stdin": "1 2"}, "output": {"stdout": "3.000001\n"}}, {"input": {"stdin": "x"}, "output": {"stdout": "NO"}},
        {"input": {"stdin": "5 5"}, "output": {"stdout": "10"}}]);
    let config = |extra: Value| json!({"dataset_type": "CommonOJDataset", "language": "python", "provided_data": {"id": 7, "test": tests}, "extra": extra});
    let good = "Here:\n```python\ntry:\n    print(sum(map(int, input().split())))\nexcept ValueError:\n    print('no')\n```\nDone.";
    let (status, r) = submit(&s, &config(json!({})), good);
    assert_eq!((status, &r["accepted"], &r["id"]), (200, &json!(true), &json!(7)), "{r}");
    let keys: Vec<_> = r.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(
        keys,
        ["id", "accepted", "extracted_code", "full_code", "test_code", "tests", "extracted_type", "extra"]
    );
    assert!(
        r["extracted_code"].as_str().is_some_and(|c| c.starts_with("try:") && c.ends_with("print('no')")),
        "{r}"
    );
    let first = &r["tests"][0];
    assert_eq!((&first["passed"], &first["exec_info"]["status"]), (&json!(true), &json!("Success")));
    assert_eq!(first["exec_info"]["run_result"]["stdout"], "3\n");
    assert_eq!(first["test_info"]["input"]["stdin"], "1 2");

    let bad = "```python\nprint(sum(map(int, input().split())))\n```";
    let (_, r) = submit(&s, &config(json!({})), bad);
    assert_eq!((&r["accepted"], r["tests"].as_array().map(Vec::len)), (&json!(false), Some(2)), "{r}");
    assert_eq!(r["tests"][1]["exec_info"]["status"], "Failed");
    let (_, r) = submit(&s, &config(json!({"run_all_cases": true})), bad);
    assert_eq!(r["tests"].as_array().map(Vec::len), Some(3), "{r}");

    let (status, r) = submit(&s, &json!({"dataset_type": "MBPPDataset"}), bad);
    assert!(status == 400 && r["detail"].as_str().is_some_and(|d| d.contains("MBPPDataset")), "{r}");
    let (status, r) = submit(
        &s,
        &json!({"dataset_type": "CommonOJDataset", "language": "cobol", "provided_data": {"test": tests}}),
        bad,
    );
    assert!(
        status == 500 && r["detail"].as_str().is_some_and(|d| d.contains("cobol")),
        "never a verdict: {r}"
    );
    assert_eq!(ask(&s, "GET", "/list_datasets", "", ""), (200, "[]".into()));
    assert_eq!(ask(&s, "GET", "/submit", "", "").0, 405);
}

#[test]
fn requests_as_verl_and_purpcode_send_them() {
    let s = serve(&["--no-token"]);
    // verl: one call for each test, exactly these fields, floats for the times, null for no input.
    for (stdin, printed) in [(json!("3\n4\n"), "7\n"), (Value::Null, "")] {
        let body = json!({"compile_timeout": 10, "run_timeout": 10, "code": "import sys\nv = sys.stdin.read().split()\nif v: print(sum(map(int, v)))",
            "stdin": stdin, "memory_limit_MB": 1024, "language": "python", "files": {}, "fetch_files": []});
        let r = run_code(&s, &body);
        assert_eq!((&r["status"], &r["run_result"]["stdout"]), (&json!("Success"), &json!(printed)), "{r}");
        assert!(r["run_result"]["execution_time"].as_f64().is_some_and(|t| t > 0.0), "{r}");
    }
    // PurpCode: solution and tests in one file, and a field that nobody reads.
    let glued = "def add(a, b):\n    return a + b\n\ndef test_solution():\n    assert add(1, 2) == 3\n    assert add('a', 'b') == 'ab'\n";
    let r = run_code(&s, &json!({"code": glued, "language": "pytest", "timeout": 3}));
    assert_eq!((&r["status"], &r["run_result"]["return_code"]), (&json!("Success"), &json!(0)), "{r}");
    let r = run_code(&s, &json!({"code": glued.replace("== 3", "== 4"), "language": "pytest"}));
    assert_eq!((&r["status"], &r["run_result"]["return_code"]), (&json!("Failed"), &json!(1)), "{r}");
    let r = run_code(&s, &json!({"code": glued, "language": "pytest", "args": ["-k", "x"]}));
    assert_eq!(r["status"], "SandboxError", "not ignored: {r}");
    let r = run_code(&s, &json!({"code": "int main( {", "language": "cpp"}));
    assert_eq!(
        (&r["status"], &r["compile_result"]["status"], &r["run_result"]),
        (&json!("Failed"), &json!("Finished"), &Value::Null),
        "{r}"
    );
    assert!(r["compile_result"]["return_code"].as_i64().is_some_and(|c| c != 0));
    let r = run_code(
        &s,
        &json!({"code": "x = bytearray(1 << 30)", "language": "python", "memory_limit_MB": 100}),
    );
    assert_eq!(r["status"], "Failed", "{r}");
    let r = run_code(&s, &json!({"code": "print(1)", "language": "python", "run_timeout": 0}));
    assert!(
        r["status"] == "SandboxError" && r["message"].as_str().is_some_and(|m| m.contains("wall_s")),
        "{r}"
    );
}

fn health(s: &Server) -> Value {
    serde_json::from_str(&ask(s, "GET", "/health", "", "").1).expect("JSON")
}

fn wait_for(s: &Server, what: &str, n: u64) {
    while health(s)[what] != n {
        std::thread::yield_now();
    }
}

#[test]
fn cells_of_a_notebook_share_one_namespace_and_are_told_apart() {
    let s = serve(&["--no-token", "--slots", "1"]);
    let post = |body: &Value| -> Value {
        let (status, text) = ask(&s, "POST", "/run_jupyter", "", &body.to_string());
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    };
    let cells = json!([
        "a = 'hello'",
        "a",
        "import sys, os\nsys.stderr.write('e\\n'); os.system('echo child')\nprint(a)",
        "def f():\n    assert False, 'why'\nf()",
        "open('out', 'w').write(a);",
        "display(1); 2",
        "def g(:",
    ]);
    let r = post(&json!({"cells": cells, "fetch_files": ["out"]}));
    assert_eq!((&r["status"], &r["driver"]["return_code"]), (&json!("Success"), &json!(0)), "{r}");
    let keys: Vec<_> = r.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["status", "message", "driver", "cells", "executor_pod_name", "files"]);
    let c = &r["cells"];
    assert_eq!(c.as_array().map(Vec::len), Some(7));
    assert_eq!(c[0], json!({"stdout": "", "stderr": "", "display": [], "error": []}));
    assert_eq!(c[1]["display"], json!([{"text/plain": "'hello'"}]));
    assert!(c[2]["stderr"] == "e\n" && c[2]["stdout"].as_str().is_some_and(|t| t.contains("child\n")), "{c}");
    assert_eq!(
        (&c[3]["error"][0]["ename"], &c[3]["error"][0]["evalue"]),
        (&json!("AssertionError"), &json!("why"))
    );
    let trace = c[3]["error"][0]["traceback"].to_string();
    assert!(
        trace.contains("<cell 4>") && trace.contains("assert False") && !trace.contains("/prog/"),
        "{trace}"
    );
    assert_eq!(c[4]["display"], json!([]), "a semicolon at the end shows nothing");
    assert_eq!(r["files"]["out"], "aGVsbG8=");
    assert_eq!(c[5]["display"], json!([{"text/plain": "1"}, {"text/plain": "2"}]));
    assert_eq!(c[6]["error"][0]["ename"], "SyntaxError");
    // A cell that is late ends, and the others go on; one that ends the process ends the notebook.
    let r = post(&json!({"cells": ["while True: pass", "7"], "cell_timeout": 0.2}));
    assert_eq!(
        (&r["status"], &r["cells"][0]["error"][0]["ename"]),
        (&json!("Success"), &json!("TimeoutError")),
        "{r}"
    );
    assert_eq!(r["cells"][1]["display"][0]["text/plain"], "7");
    let r = post(&json!({"cells": ["1", "import os; os._exit(3)", "2"]}));
    assert_eq!((&r["status"], &r["driver"]["return_code"]), (&json!("Failed"), &json!(3)), "{r}");
    assert_eq!(r["cells"].as_array().map(Vec::len), Some(1));
    let (status, _) = ask(&s, "POST", "/run_jupyter", "", r#"{"cells": [], "kernel": "ir"}"#);
    assert_eq!(status, 422);
}

#[test]
fn provided_problems_are_listed_and_prompted() {
    let s = serve(&["--no-token", "--slots", "1"]);
    let rows = json!([{"id": 3, "content": "Add.", "labels": {}}, {"id": "x", "content": "Sort."}]);
    let config = json!({"dataset_type": "CommonOJDataset", "language": "python", "provided_data": rows});
    let body = json!({"dataset": "mine", "config": config}).to_string();
    assert_eq!(ask(&s, "POST", "/list_ids", "", &body), (200, "[3,\"x\"]".into()));
    let (status, text) = ask(&s, "POST", "/get_prompts", "", &body);
    let prompts: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, &prompts[0]["id"], &prompts[1]["labels"]), (200, &json!(3), &json!({})));
    let one = json!({"dataset": "mine", "id": 3, "config": {"dataset_type": "CommonOJDataset", "provided_data": rows[0]}});
    assert_eq!(ask(&s, "POST", "/get_prompt_by_id", "", &one.to_string()).0, 200);
    let (status, text) = ask(&s, "POST", "/list_ids", "", r#"{"dataset": "MBPP", "config": {}}"#);
    assert!(status == 400 && text.contains("no eval class found for dataset MBPP"), "{text}");
}

#[test]
fn a_full_queue_refuses_at_once_and_a_stopping_service_says_so() {
    let mut s = serve(&["--no-token", "--slots", "1", "--queue", "1"]);
    let forever = json!({"code": "while True: pass", "language": "python", "run_timeout": 3600}).to_string();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let (server, body) = (&s, forever.as_str());
        let first = scope.spawn(move || ask(server, "POST", "/run_code", "", body));
        wait_for(server, "running", 1);
        let second = scope.spawn(move || ask(server, "POST", "/run_code", "", body));
        wait_for(server, "waiting", 1);
        let third = ask(server, "POST", "/run_code", "", body);
        let terminate = Command::new("kill").args(["-TERM", &server.0.id().to_string()]).status();
        assert!(terminate.is_ok_and(|s| s.success()));
        vec![third, second.join().expect("no panic"), first.join().expect("no panic")]
    });
    assert_eq!((answers[0].0, answers[1].0, answers[2].0), (429, 503, 200), "{answers:?}");
    assert!(answers[0].1.contains("too many") && answers[1].1.contains("stopping"), "{answers:?}");
    // What ran was given a moment, then ended without a verdict.
    assert!(answers[2].1.contains("SandboxError") && answers[2].1.contains("cancelled"), "{answers:?}");
    assert!(s.0.wait().is_ok_and(|status| status.success()));
}

#[test]
fn waiting_too_long_is_a_504_and_no_verdict() {
    let s = serve(&["--no-token", "--queue-wait", "0"]);
    let (status, text) = ask(&s, "POST", "/run_code", "", r#"{"code":"print(1)","language":"python"}"#);
    assert!(status == 504 && text.contains("waited"), "{status} {text}");
}

#[test]
fn results_of_a_batch_go_out_while_others_run() {
    let s = serve(&["--no-token"]);
    let quick = json!({"id": "quick", "code": "print(1)", "tests": [{"expected": "1"}]});
    let slow = json!({"id": "slow", "code": "while True: pass", "tests": [{"expected": "1"}], "limits": {"wall_s": 3600, "cpu_s": 3600}});
    let body = format!("{quick}\n{slow}\n");
    let mut stream = TcpStream::connect(&s.1).expect("it listens");
    let n = body.len();
    write!(stream, "POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\n\r\n{body}")
        .expect("it reads");
    let mut lines = BufReader::new(stream).lines();
    let row =
        lines.find_map(|l| l.ok().filter(|l| l.contains("\"id\":\"quick\""))).expect("the first result");
    assert!(row.contains("\"verdict\":\"pass\""), "{row}");
    assert_eq!(health(&s)["running"], 1, "the other still runs");
}

#[test]
fn wrong_requests_say_what_is_wrong() {
    let out = bessemer(
        &["batch", "--slots", "1"],
        "{\"id\": \"a\", \"code\": \"x\", \"limits\": {\"wall\": 3}}\n{\"id\": \"b\", \"code\": \"x\", \"comparator\": \"lines\", \"entry\": \"f\"}\nnot json\n{\"id\": \"c\", \"code\": \"print(1)\", \"language\": \"pyhton\", \"tests\": [{\"stdin\": \"\"}]}\n",
    );
    let got = rows(&out);
    let reason = |i: usize| got[i]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason(0).contains("line 1") && reason(0).contains("wall_s"), "{}", reason(0));
    assert!(reason(1).contains("line 2") && reason(1).contains("comparator"), "{}", reason(1));
    assert!(reason(2).contains("line 3") && reason(2).contains("column"), "{}", reason(2));
    assert!(reason(3).contains("pyhton") && reason(3).contains("python"), "{}", reason(3));
    assert!(got.iter().all(|r| r["verdict"] == "unscored"));
    assert_eq!(out.status.code(), Some(65));
}

#[test]
fn a_checker_comes_through_a_batch() {
    let checker = json!({"checker": {"language": "python", "code": "import sys\nsys.exit(int(open(sys.argv[2]).read()) % 3)"}});
    let line =
        |code: &str| json!({"id": "c", "code": code, "comparator": checker, "tests": [{"expected": ""}]});
    let lines: String =
        ["print(3)", "print(4)", "print(5)"].iter().map(|c| format!("{}\n", line(c))).collect();
    let out = bessemer(&["batch", "--slots", "1"], &lines);
    let verdicts: Vec<_> = rows(&out).iter().map(|r| r["verdict"].clone()).collect();
    assert_eq!(verdicts, ["pass", "wrong-answer", "unscored"], "{out:?}");
}
