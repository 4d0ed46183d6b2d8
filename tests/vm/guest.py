"""Inside the virtual machine: sets up one configuration, runs everything in it, says what came of it, powers off.

Started by init.sh as root, with the plan that `run.py` wrote. Lines for `run.py` start with `VM> `.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
POWER_OFF = 0x4321FEDC

PLAN = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
CONFIG = PLAN["configuration"]
TIER, USER = CONFIG["tier"], CONFIG["user"]
failures = 0


def say(text):
    print(f"VM> {text}", flush=True)


def power_off():
    sys.stdout.flush()
    time.sleep(0.2)  # the console is slow
    os.sync()
    ctypes.CDLL(None).reboot(ctypes.c_int(POWER_OFF))


def check(holds, what, evidence=""):
    global failures
    if holds:
        say(f"ok    {what}")
    else:
        failures += 1
        say(f"FAIL  {what}")
        for line in str(evidence).splitlines()[-60:]:
            print(f"      {line}", flush=True)


def set_up():
    Path("/dev/shm").mkdir(exist_ok=True)
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "mode=1777", "shm", "/dev/shm"], check=True)
    subprocess.run(["/bin/mount", "-t", "cgroup2", "-o", "nsdelegate", "cgroup2", str(GROUPS)], check=True)
    subprocess.run(["/bin/mount", "-t", "securityfs", "securityfs", "/sys/kernel/security"], check=False)
    os.chmod("/dev/null", 0o666)
    for name, value in CONFIG["sysctl"].items():
        Path("/proc/sys", *name.split(".")).write_text(f"{value}\n", encoding="utf-8")
    # What systemd sets up on every machine: controllers in the slices, a login's group that belongs to root.
    for group in (GROUPS, GROUPS / "user.slice", GROUPS / "user.slice/login.scope"):
        group.mkdir(exist_ok=True)
        if group.name != "login.scope":
            (group / "cgroup.subtree_control").write_text("+memory +pids", encoding="utf-8")
    # the name as it is on every machine: without it a TCP socket to loopback gives another error than with it
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False, capture_output=True)
    lsm = Path("/sys/kernel/security/lsm")
    say(f"kernel {os.uname().release}, security modules {lsm.read_text() if lsm.exists() else 'unknown'}")


class Scope:
    """The control group that a command starts in; afterwards, what is left in it."""

    count = 0

    def __init__(self, kind, memory_max="max"):
        Scope.count += 1
        self.kind = kind
        if kind == "delegated":
            self.dir = GROUPS / f"user.slice/run-{Scope.count}.scope"
            self.dir.mkdir()
            for name in (".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
                os.chown(self.dir / name, USER, USER)
            (self.dir / "memory.max").write_text(memory_max, encoding="utf-8")
        elif kind == "root":
            self.dir = GROUPS
        else:
            self.dir = GROUPS / "user.slice/login.scope"

    def enter(self):
        (self.dir / "cgroup.procs").write_text(str(os.getpid()), encoding="utf-8")

    def left(self):
        found = [p for p in self.dir.glob("**/bessemer-*") if p.is_dir() and p.name != "bessemer-supervisor"]
        left = [str(p) for p in found]
        if self.kind == "delegated":
            if (self.dir / "cgroup.kill").exists():  # from 5.14
                (self.dir / "cgroup.kill").write_text("1", encoding="utf-8")
            below = sorted((p for p in self.dir.glob("**") if p.is_dir()), reverse=True)
            for path in below:
                for _ in range(50):
                    try:
                        path.rmdir()
                        break
                    except OSError:
                        time.sleep(0.05)
        return left


def environment():
    home = f"/tmp/home-{USER}"
    os.makedirs(home, exist_ok=True)
    os.chown(home, USER, USER)
    return {
        "HOME": home,
        "PATH": ":".join([*PLAN["path"], "/usr/local/bin:/usr/bin:/bin"]),
        "LANG": "C.UTF-8",
        "RUST_BACKTRACE": "0",
        **PLAN["environment"],
    }


def command(argv, stdin="", seconds=300, group="of the table", memory_max="max", cwd="/tmp", more={}):
    """Runs one as the configuration's user in its group. Returns status (None: too slow), stdout, stderr."""
    scope = Scope(CONFIG["group"] if group == "of the table" else group, memory_max)

    def become():
        scope.enter()
        if USER:
            os.setgroups([])
            os.setgid(USER)
            os.setuid(USER)

    with open(f"/run/{Scope.count}.out", "w+b") as out, open(f"/run/{Scope.count}.err", "w+b") as err:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=out, stderr=err, env={**environment(), **more}, cwd=cwd,
            preexec_fn=become, start_new_session=True,
        )  # fmt: skip
        try:
            process.communicate(stdin.encode(), timeout=seconds * PLAN["slowness"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        status = None if process.returncode == -9 else process.returncode
        texts = [(f.seek(0), f.read().decode(errors="replace"))[1] for f in (out, err)]
    left = scope.left()
    if left:
        check(False, f"control groups are left by {argv}", "\n".join(left))
    return status, *texts


def bessemer(*words, **more):
    return command([PLAN["bessemer"], *words], **more)


HOG = "held = []\nwhile True:\n    held.append(bytearray(b'x' * (8 << 20)))\n"
CHILDREN = """
import os, time
for i in range(10):
    if os.fork() == 0:
        held = bytearray(b'x' * (30 << 20))
        time.sleep(600)
time.sleep(600)
"""
BOMB = "import os\nwhile True:\n    os.fork()\n"
SPIN = "while True: pass\n"
SLEEP = "import time\ntime.sleep(600)\n"
SQUARE = "print(int(input()) ** 2)\n"


def smoke():
    """One batch: every verdict once, and an honest program behind each that misbehaves."""
    limits = {"wall_s": 60, "cpu_s": 60, "memory_mb": 128, "processes": 16}
    short = {**limits, "wall_s": 3, "cpu_s": 3}
    cases = [
        ("right", SQUARE, "7\n", "49", limits, ["pass"], False),
        ("wrong", SQUARE, "7\n", "50", limits, ["wrong-answer"], False),
        ("memory hog", HOG, "", "", limits, ["memory-limit"], False),
        ("memory of children", CHILDREN, "", "", limits, ["memory-limit"], True),
        ("fork bomb", BOMB, "", "", {**short, "memory_mb": 512}, ["runtime-error", "time-limit"], True),
        ("spin", SPIN, "", "", short, ["time-limit"], False),
        ("sleep", SLEEP, "", "", short, ["time-limit"], False),
    ]
    jobs, wanted = [], []
    for name, code, stdin, expected, lim, verdicts, forks in cases:
        if forks and not CONFIG["processes"]:
            continue
        for id, c, i, e, v in ((name, code, stdin, expected, verdicts), (f"after {name}", SQUARE, "5\n", "25", ["pass"])):
            test = {"stdin": i, "expected": e}
            jobs.append(json.dumps({"id": id, "code": c, "tests": [test], "limits": lim if id == name else limits}))
            wanted.append((id, v))
    status, out, err = bessemer("sandbox", "batch", "--slots", "1", *CONFIG["options"], stdin="\n".join(jobs) + "\n")
    results = [json.loads(line) for line in out.splitlines()]
    check(status == 0 and len(results) == len(jobs), "a batch comes back whole", (status, out, err))
    for result, (id, verdicts) in zip(results, wanted):
        good = result["id"] == id and result["verdict"] in verdicts and result["tier"] == TIER
        peak = max((t["memory_peak_mb"] for t in result["tests"]), default=0)
        check(good, f"{id}: {result['verdict']}, tier {result['tier']}, {peak:.1f} MiB", json.dumps(result))


def one_program():
    path = Path("/tmp/square.py")
    path.write_text(SQUARE, encoding="utf-8")
    status, out, err = bessemer("sandbox", "run", *CONFIG["options"], "-v", str(path), stdin="12\n")
    check((status, out) == (0, "144\n") and f"tier {TIER}" in err, "a program runs by itself", (status, out, err))
    path.write_text("import sys\nprint('x')\nsys.exit(7)\n", encoding="utf-8")
    status, out, err = bessemer("sandbox", "run", *CONFIG["options"], str(path))
    check((status, out) == (7, "x\n"), "its exit status is ours", (status, out, err))


def doctor():
    status, out, err = bessemer("doctor", "--json")
    lines = bessemer("doctor")[1].splitlines()
    at = next((i for i, line in enumerate(lines) if " sandbox " in line), 0)
    shown = [lines[at], *(line for line in lines[at + 1 : at + 2] if line.lstrip().startswith("→"))]
    for line in shown:
        print(f"      {line}", flush=True)
    text = "\n".join(shown)
    if TIER is None:
        check(CONFIG["refuses"] in text and "→" in text, "doctor says why nothing runs, and what to do", out + err)
    else:
        check(f"tier {TIER}:" in text, f"doctor says tier {TIER}", out + err)


def refusal():
    """With the default options nothing may run, and the message says why."""
    mark = Path("/tmp/mark")
    program = Path("/tmp/marks.py")
    program.write_text(f"print('it ran')\nopen({str(mark)!r}, 'w').close()\n", encoding="utf-8")
    job = json.dumps({"id": "x", "code": program.read_text(encoding="utf-8"), "tests": [{"stdin": "", "expected": ""}]})
    for words, stdin in ((["run", str(program)], ""), (["batch"], job + "\n")):
        status, out, err = bessemer("sandbox", *words, stdin=stdin)
        good = status not in (0, None) and not out and CONFIG["refuses"] in err and not mark.exists()
        check(good, f"sandbox {words[0]} refuses: {err.strip()}", (status, out, err))


def places():
    """Groups as they are in practice: a service's or a scope, shared with a shell or not, full, or out of reach."""
    shell = ["/bin/sh", "-c", '"$0" doctor; true', PLAN["bessemer"]]
    out = command([PLAN["bessemer"], "doctor"], group="delegated")[1]
    check("tier A:" in out, "alone in a delegated group: tier A", out)
    out = command(shell, group="delegated")[1]
    check("tier B:" in out and "other processes live in" in out, "beside a shell in it: tier B, and why", out)

    limits = {"memory_mb": 512, "wall_s": 60, "cpu_s": 60}
    test = {"stdin": "", "expected": ""}
    jobs = [{"id": "hog", "code": HOG, "tests": [test], "limits": limits}]
    jobs.append({"id": "after", "code": SQUARE, "tests": [{"stdin": "3\n", "expected": "9"}]})
    stdin = "".join(json.dumps(job) + "\n" for job in jobs)
    full = bessemer("sandbox", "batch", "--slots", "1", stdin=stdin, group="delegated", memory_max="200M")
    results = [json.loads(line) for line in full[1].splitlines()]
    verdicts = [(r["verdict"], r.get("reason") or (r["tests"][0].get("reason") if r["tests"] else "")) for r in results]
    good = [v for v, _ in verdicts] == ["unscored", "pass"] and "control group" in str(verdicts[0][1])
    check(good, "a group around it that is full is no program's fault", (verdicts, *full))

    if not USER:
        return
    out = command(shell, group=None)[1]
    check("tier B:" in out and "no control groups:" in out, "in a group of root's: tier B, and why", out)
    # Ours to make groups in, but nobody may move a process there from where we are.
    elsewhere = Scope("delegated")
    (elsewhere.dir / "cgroup.subtree_control").write_text("+memory +pids", encoding="utf-8")
    out = command([PLAN["bessemer"], "doctor"], group=None, more={"BESSEMER_CGROUP": str(elsewhere.dir)})[1]
    elsewhere.left()
    check("tier B:" in out and "moving a process" in out, "a delegated group out of reach: tier B, and why", out)


def tests():
    for program in PLAN["tests"]:
        name = program["name"]
        argv = [program["executable"], "--show-output", "--test-threads", "1" if name == "hostile" else "2"]
        for skipped in [*PLAN["skip"].get("", []), *PLAN["skip"].get(name, [])]:
            argv += ["--skip", skipped]
        argv += PLAN["only"]
        since = time.monotonic()
        status, out, err = command(argv, seconds=900, cwd=program["directory"])
        summary = [line for line in out.splitlines() if line.startswith("test result:")]
        untested = "not tested:" in out + err and TIER == "A" and name == "groups"
        took = time.monotonic() - since
        what = f"{name}: {summary[-1] if summary else 'no summary'} ({took:.0f} s)"
        check(status == 0 and not untested, what, f"status {status}\n{out}\n{err}")


def main():
    set_up()
    doctor()
    if CONFIG["refuses"]:
        refusal()
    if TIER is not None:
        one_program()
        smoke()
    if TIER == "A":
        places()
    if CONFIG["tests"] and TIER is not None and PLAN["tests"]:
        tests()


try:
    main()
    say(f"end {failures}")
except BaseException as e:  # whatever it is, the machine must not stay up
    say(f"FAIL  guest.py: {e!r}")
    import traceback

    traceback.print_exc(file=sys.stdout)
    say("end 1")
power_off()
