//! Compilers: what is kept, what it depends on, and what source code can do to them.

use sandbox::{CacheConfig, Config, File, Job, JobResult, Limits, Sandbox, Verdict};
use std::path::Path;

fn start(cache: &Path) -> Sandbox {
    let compile_cache = Some(CacheConfig { dir: cache.to_owned(), max_mb: 64 });
    Sandbox::start(Config { slots: 1, compile_cache, ..Config::default() })
        .expect("a sandbox can be built here")
}

fn has(s: &Sandbox, language: &str) -> bool {
    let found = s.languages().iter().any(|(n, v)| *n == language && v.is_ok());
    if !found {
        eprintln!("{language} is not on this machine");
    }
    found
}

fn cached(r: &JobResult) -> bool {
    r.compile.as_ref().expect("a compiled language").cached
}

const DOUBLE: &str = "#include <stdio.h>\nint main(){int n;scanf(\"%d\",&n);printf(\"%d\\n\",n*2);}";

fn limits() -> Limits {
    Limits { wall_s: 20.0, cpu_s: 20.0, ..Limits::default() }
}

fn c(code: &str) -> Job {
    Job { limits: limits(), ..Job::stdio("c", "c", code).test("21", "42") }
}

#[test]
fn the_same_source_is_compiled_once_for_every_sandbox_that_shares_the_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().join("compiled");
    let s = start(&cache);
    if !has(&s, "c") {
        return;
    }
    let first = s.run(&c(DOUBLE));
    assert_eq!((first.verdict, cached(&first)), (Verdict::Pass, false), "{first:?}");
    let second = s.run(&c(DOUBLE));
    assert_eq!((second.verdict, cached(&second)), (Verdict::Pass, true), "{second:?}");
    let other = start(&cache);
    let third = other.run(&c(DOUBLE));
    assert_eq!((third.verdict, cached(&third)), (Verdict::Pass, true), "{third:?}");
    assert!(!cached(&s.run(&c(&format!("{DOUBLE}\n")))));
    // As C++ it is another program.
    let cpp = s.run(&Job { language: "cpp".into(), ..c(DOUBLE) });
    assert!(!cached(&cpp), "{cpp:?}");
}

#[test]
fn a_header_of_the_job_is_part_of_what_is_compiled() {
    let dir = tempfile::tempdir().expect("a directory");
    let s = start(dir.path());
    if !has(&s, "c") {
        return;
    }
    let with = |n: &str| {
        let code = "#include <stdio.h>\n#include \"/work/n.h\"\nint main(){printf(\"%d\", N);}";
        let files = vec![File { path: "n.h".into(), data: format!("#define N {n}").into() }];
        s.run(&Job { files, ..c(code) })
    };
    let (right, wrong) = (with("42"), with("41"));
    assert_eq!((right.verdict, wrong.verdict), (Verdict::Pass, Verdict::WrongAnswer), "{right:?} {wrong:?}");
    assert!(!cached(&wrong) && cached(&with("42")));
}

#[test]
fn a_damaged_entry_is_compiled_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let s = start(dir.path());
    if !has(&s, "c") {
        return;
    }
    assert_eq!(s.run(&c(DOUBLE)).verdict, Verdict::Pass);
    // Somebody puts another whole program, which prints what is expected, under the name of this one.
    let cheat = s.run(&c("#include <stdio.h>\nint main(){puts(\"42\");}"));
    assert_eq!(cheat.verdict, Verdict::Pass, "{cheat:?}");
    let mut entries: Vec<_> =
        std::fs::read_dir(dir.path()).expect("a directory").map(|e| e.expect("an entry").path()).collect();
    entries.sort();
    assert_eq!(entries.len(), 2);
    let first = std::fs::read(&entries[0]).expect("an entry");
    std::fs::copy(&entries[1], &entries[0]).expect("our own files");
    std::fs::write(&entries[1], &first[..first.len() - 1]).expect("our own files");
    for code in [DOUBLE, "#include <stdio.h>\nint main(){puts(\"42\");}"] {
        let r = s.run(&c(code));
        assert_eq!((r.verdict, cached(&r)), (Verdict::Pass, false), "{r:?}");
    }
}

#[test]
fn compile_errors_are_told_and_not_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let s = start(dir.path());
    if !has(&s, "c") {
        return;
    }
    for _ in 0..2 {
        let r = s.run(&c("int main( {"));
        let compile = r.compile.as_ref().expect("it was compiled");
        assert_eq!((r.verdict, compile.ok, compile.cached), (Verdict::CompileError, false, false));
        assert!(compile.output.lossy().contains("error"), "{compile:?}");
        assert!(r.tests.is_empty() && r.total == 1);
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
}

#[test]
fn a_program_finds_no_cache_to_write_to() {
    let dir = tempfile::tempdir().expect("a directory");
    let s = start(dir.path());
    let code = format!("import os\nprint(os.path.exists({:?}))", dir.path());
    assert!(s.run(&Job::python("p", code).test("", "False")).passed_all());
}

/// Source code that turns on its compiler: it ends within its limits, and nothing of the host is in what comes back.
#[test]
fn hostile_source_is_a_compile_error_within_the_compilers_limits() {
    let dir = tempfile::tempdir().expect("a directory");
    let canary = "canary_5551212";
    let secret = dir.path().join("secret.h");
    std::fs::write(&secret, format!("{canary}\n")).expect("our own file");
    let s = start(&dir.path().join("compiled"));
    let secret = secret.to_str().expect("UTF-8");
    let sources = [
        ("c", "#include \"/dev/zero\"\nint main(){}".to_owned()),
        ("c", "#include \"/dev/urandom\"\nint main(){}".into()),
        ("c", "#include \"/dev/stdin\"\n#include \"/prog\"\nint main(){}".into()),
        ("c", "#include \"/prog/main.c\"\nint main(){}".into()),
        ("c", format!("#include \"{secret}\"\nint main(){{}}")),
        ("c", "#include \"/etc/shadow\"\n#include \"/proc/1/environ\"\nint main(){}".into()),
        ("c", format!("asm(\".incbin \\\"{secret}\\\"\");\nint main(){{}}")),
        ("c", "char big[3L << 30] = {1};\nint main(){return big[5];}".into()),
        ("c", "asm(\".rept 1000000000\\n.quad 1\\n.endr\");\nint main(){}".into()),
        ("cpp", "template <int N> struct A { typedef typename A<N + 1>::T T; };\ntypedef A<0>::T X;\nint main(){}".into()),
        ("cpp", "constexpr int f(long n) { long s = 0; for (long i = 0; i < n; ++i) s += i; return s; }\nstatic_assert(f(1L << 60) == 0);\nint main(){}".into()),
        ("rust", format!("fn main(){{ print!(\"{{}}\", include_str!(\"{secret}\")); }}")),
        ("rust", "static X: &[u8] = include_bytes!(\"/dev/zero\");\nfn main(){ println!(\"{}\", X.len()); }".into()),
        ("rust", "macro_rules! m { ($($t:tt)*) => { m!($($t)* $($t)*) } }\nm!(a b);\nfn main(){}".into()),
        ("rust", "fn main(){ println!(\"{}\", env!(\"HOME_OF_NOBODY\")); }".into()),
    ];
    for (language, code) in sources {
        if !has(&s, language) {
            continue;
        }
        let job = Job {
            limits: limits(),
            compile_wall_s: 3.0,
            ..Job::stdio("h", language, code.as_str()).input("")
        };
        let r = s.run(&job);
        assert_eq!(r.verdict, Verdict::CompileError, "{code}: {:?} {:?}", r.reason, r.compile);
        let compile = r.compile.expect("it was compiled");
        assert!(!compile.output.lossy().contains(canary), "{code}: {compile:?}");
        assert!(compile.wall_ms < 20_000.0, "{code}: {compile:?}");
        // The slot is as good as before.
        assert!(s.run(&Job::python("p", "print(1)").test("", "1")).passed_all(), "{code}");
    }
}
