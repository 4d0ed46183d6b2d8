"""Runs one program on several inputs, a forked process for each: one interpreter start instead of many.

Runs inside the sandbox. It reads one JSON object on stdin and writes one JSON object a line on stdout: {"syntax": true},
or one object per input and {"done": n}. It knows no expected output. The program could interfere with it, but only with
its own runs; whatever does not come back whole is judged again without this harness. Imports are few: they cost more than
most programs.
"""
import atexit
import binascii
import json
import os
import resource
import signal
import sys

job = json.loads(sys.stdin.buffer.read())
CAP, WALL, CPU = job["cap"], job["wall_s"], job["cpu_s"]
report = os.fdopen(os.dup(1), "w", encoding="ascii")  # not inheritable


def say(**fields):
    report.write(json.dumps(fields) + "\n")
    report.flush()


def leave(code):
    """What the interpreter does with the argument of SystemExit."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(str(code) + "\n")
    return 1


def child(program, files):
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU))
    resource.setrlimit(resource.RLIMIT_FSIZE, (CAP, CAP))
    report.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.argv = ["main.py"]
    main = type(sys)("__main__")
    main.__file__ = "main.py"
    sys.modules["__main__"] = main
    status = 0
    try:
        exec(program, main.__dict__)
    except SystemExit as stop:
        status = leave(stop.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        status = status or 1
    return status


def wait(pid):
    """Status of the child, or None after the wall limit."""

    def late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, WALL)
    try:
        return os.waitpid(pid, 0)[1]
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            os.killpg(pid, signal.SIGKILL)  # whatever it left behind
        except (ProcessLookupError, PermissionError):
            pass


def scratch():
    """A file without a name."""
    file = os.open("scratch", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    os.unlink("scratch")
    return file


def run(program, stdin):
    """Reports one run; whether it was plain, so that the next one starts where this one did."""
    source, out, err = files = [scratch() for _ in range(3)]
    os.write(source, stdin.encode("utf-8", "surrogatepass"))
    os.lseek(source, 0, os.SEEK_SET)
    pid = os.fork()
    if pid == 0:
        try:
            status = child(program, files)
        except BaseException:
            status = 1
        os._exit(status)
    status = wait(pid)
    text = os.pread(out, CAP, 0)
    for file in files:
        os.close(file)
    stopped = status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL))
    say(
        exit=os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
        timeout=stopped,
        full=len(text) >= CAP,
        out=binascii.hexlify(text).decode("ascii"),
    )
    return not stopped and len(text) < CAP and not os.listdir(".")


try:
    program = compile(job["code"], "main.py", "exec", dont_inherit=True)
except Exception:  # besides SyntaxError: null bytes, nesting that the compiler cannot take
    say(syntax=True)
else:
    # after a run that is not plain the whole program is judged elsewhere
    if all(run(program, text) for text in job["tests"]):
        say(done=len(job["tests"]))
