#!/usr/bin/env python3
"""Boots Debian kernels in virtual machines, in which the sandbox is used and its tests run: `make vm`.

    tests/vm/run.py [--kernel DEB] [--accel kvm|tcg] [--smoke] [--only TEST] [CONFIGURATION...]

The configurations are in table.py. Each machine has this machine's root file system, read-only (9p), with memory file
systems over what must be writable; its first process (init.sh) hands over to guest.py, which prints what came of each
check. Fails when a check fails, a tier is not the expected one, or a machine does not come to its end.

Needs qemu-system-x86 (installed when we are root), apt-get for the kernel and busybox (downloaded, not installed), and read
access to /dev/kvm; without it, or where KVM here cannot run such a kernel, qemu emulates, which is about ten times slower.
Logs and downloads lie in target/vm.
"""

import argparse
import gzip
import json
import lzma
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from table import CONFIGURATIONS, SKIP, configuration

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PLACE = TARGET / "vm"
QEMU = "qemu-system-x86_64"
# What the first process needs to reach the host's files; what these depend on comes with them.
MODULES = ["virtio_pci", "9pnet_virtio", "9p"]
# Seconds: a whole machine, and without a line from it. For emulation times SLOWNESS.
MACHINE_S, SILENCE_S, SLOWNESS = 1800, 950, 6


def stop(text):
    sys.exit(f"vm: {text}")


def sh(*argv, **more):
    return subprocess.run(argv, check=True, text=True, **more)


def need_qemu():
    if shutil.which(QEMU):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("vm: installing qemu-system-x86", flush=True)
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "qemu-system-x86"]
        subprocess.run(install, env=environ, stdout=subprocess.DEVNULL, check=False)
    if not shutil.which(QEMU):
        stop("as root: apt-get install --no-install-recommends qemu-system-x86")


def download(package):
    """The directory into which the Debian package has been unpacked."""
    place = PLACE / "packages" / package
    if not place.exists():
        if not shutil.which("apt-get"):
            stop("no apt-get here: name a kernel's package by --kernel, and have busybox-static installed")
        fresh = PLACE / "packages" / f"{package}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        print(f"vm: downloading {package}", flush=True)
        if subprocess.run(["apt-get", "download", "-q", package], cwd=fresh, check=False).returncode:
            stop(f"apt-get download {package} failed; if its lists are old: apt-get update")
        for deb in list(fresh.glob("*.deb")):
            sh("dpkg-deb", "-x", str(deb), str(fresh))
            deb.unlink()
        fresh.rename(place)
    return place


def newest_kernel():
    text = sh("apt-cache", "depends", "linux-image-amd64", capture_output=True).stdout
    names = [line.split()[-1] for line in text.splitlines() if "Depends: linux-image-" in line]
    if not names:
        stop("apt-cache knows no linux-image-amd64: apt-get update, or name a package by --kernel")
    return download(names[0])


def unpacked(deb):
    place = PLACE / "packages" / Path(deb).stem
    if not place.exists():
        place.mkdir(parents=True)
        sh("dpkg-deb", "-x", str(deb), str(place))
    return place


def cpio(entries):
    """An archive in the "newc" format: (name, mode, bytes) each."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        for part in (b"070701" + b"".join(b"%08X" % f for f in fields) + raw, data):
            out += part
            out += b"\0" * (-len(out) % 4)
    return bytes(out)


def modules_of(kernel):
    """The modules by name, in the order in which they can be loaded. One that a kernel has built in is left out."""
    have = {p.name.split(".")[0].replace("-", "_"): p for p in kernel.glob("**/*.ko*")}
    found = {}

    def add(name):
        if name in found or name not in have:
            return
        path = have[name]
        data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in (depends[1].decode().split(",") if depends else []):
            add(other.replace("-", "_"))
        found[name] = data

    for name in MODULES:
        add(name)
    return found


def initramfs(kernel):
    busybox = Path("/bin/busybox")
    if not busybox.exists() or b"ld-linux" in busybox.read_bytes()[:4096]:
        package = download("busybox-static")
        busybox = next(p for p in (package / "usr/bin/busybox", package / "bin/busybox") if p.exists())
    modules = modules_of(kernel)
    entries = [(d, 0o040755, b"") for d in ("bin", "lib", "proc", "sys", "dev", "root")]
    entries.append(("bin/busybox", 0o100755, busybox.read_bytes()))
    entries.append(("init", 0o100755, (HERE / "init.sh").read_bytes()))
    entries += [(f"lib/{name}.ko", 0o100644, data) for name, data in modules.items()]
    entries.append(("lib/order", 0o100644, "".join(f"{name}.ko\n" for name in modules).encode()))
    path = PLACE / f"{kernel.name}.initramfs"
    path.write_bytes(gzip.compress(cpio(entries), 1))
    return path


class Machine:
    """How a kernel is booted here."""

    def __init__(self, kernel, accel):
        images = list(kernel.glob("boot/vmlinuz-*"))
        if len(images) != 1:
            stop(f"{kernel} holds {len(images)} kernels")
        self.image = images[0]
        self.initramfs = initramfs(kernel)
        self.accel = ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]
        self.slowness = SLOWNESS
        if accel != "tcg":
            why = self.try_kvm()
            if why and accel == "kvm":
                stop(why)
            if why:
                print(f"vm: {why}; qemu emulates instead, which is slow", flush=True)

    def try_kvm(self):
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return "/dev/kvm is not there, or not ours to use"
        emulated = self.accel
        # Some hosts of virtual machines refuse what `host` wants to set in the second.
        for cpu in ("host", "host,arch-capabilities=off"):
            self.accel = ["-accel", "kvm", "-cpu", cpu]
            if any("VM> probe" in line for line in self.boot("vm.probe=1", 20, 20)):
                self.slowness = 1
                return None
        self.accel = emulated
        return "KVM here does not boot this kernel"

    def argv(self, append):
        # The first process is told by the command line; errors only from the kernel, so that lines stay whole.
        words = f"console=ttyS0 loglevel=2 panic=-1 mitigations=off {append}"
        return [
            QEMU, *self.accel, "-smp", str(min(2, os.cpu_count() or 1)), "-m", "3072",
            "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-nic", "none",
            "-kernel", str(self.image), "-initrd", str(self.initramfs), "-append", words,
            "-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
        ]  # fmt: skip

    def boot(self, append, seconds, silence):
        """Lines of its console, until it powers off or is too slow."""
        qemu = subprocess.Popen(
            self.argv(append), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        ends = time.monotonic() + seconds
        rest = b""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(qemu.stdout, selectors.EVENT_READ)
                while True:
                    left = min(silence, ends - time.monotonic())
                    if left <= 0 or not selector.select(left):
                        yield "VM> FAIL  it was too slow, and was stopped"
                        return
                    data = os.read(qemu.stdout.fileno(), 65536)
                    if not data:
                        break
                    *lines, rest = (rest + data).split(b"\n")
                    yield from (line.decode(errors="replace").rstrip("\r") for line in lines)
            yield rest.decode(errors="replace")
        finally:
            qemu.kill()
            qemu.wait()


def copied(program):
    """A copy: what a machine runs must not change when somebody builds meanwhile."""
    place = PLACE / f"programs-{os.getpid()}"
    place.mkdir(exist_ok=True)
    return shutil.copy(program, place)


def build():
    """`bessemer`, and the test programs with the directories of their crates."""
    print("vm: building", flush=True)
    sh("cargo", "build", "--release", "-q", "-p", "bessemer", cwd=ROOT)
    crates = ["-p", "bessemer-sandbox", "-p", "bessemer-sandbox-slot"]
    messages = sh(
        "cargo", "test", "--no-run", "-q", "--message-format=json", *crates, cwd=ROOT, stdout=subprocess.PIPE
    ).stdout
    tests = []
    for line in messages.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable") and message["profile"]["test"]:
            directory = str(Path(message["manifest_path"]).parent)
            name = message["target"]["name"]
            tests.append({"name": name, "executable": copied(message["executable"]), "directory": directory})
    # what takes longest comes last
    return copied(TARGET / "release/bessemer"), sorted(tests, key=lambda t: (t["name"] == "hostile", t["directory"], t["name"]))


def rust_path():
    """The compiler itself: rustup's stand-in writes to the home, which is not ours to do there."""
    found = subprocess.run(["rustc", "--print", "sysroot"], text=True, capture_output=True, check=False)
    return [f"{found.stdout.strip()}/bin"] if found.returncode == 0 else []


def run(machine, name, bessemer, tests, only):
    """Boots one configuration; returns the number of failures."""
    config = configuration(name)
    environment = {"BESSEMER_HOSTILE": os.environ["BESSEMER_HOSTILE"]} if "BESSEMER_HOSTILE" in os.environ else {}
    plan = {
        "configuration": config,
        "bessemer": str(bessemer),
        "tests": tests,
        "only": only,
        "skip": SKIP[config["user"]],
        "path": rust_path() if config["user"] == 0 else [],
        "environment": environment,
        "slowness": machine.slowness,
    }
    path = PLACE / f"{name}.json"
    path.write_text(json.dumps(plan, indent=1), encoding="utf-8")
    words = f"{config['append']} vm.guest={HERE / 'guest.py'} vm.plan={path}"
    since, end, failed = time.monotonic(), None, []
    log = PLACE / f"{name}.log"
    print(f"== {name}: {machine.image.name} ({machine.accel[1]})", flush=True)
    with open(log, "w", encoding="utf-8") as file:
        for line in machine.boot(words, MACHINE_S * machine.slowness, SILENCE_S * machine.slowness):
            print(line, file=file, flush=True)
            said = line.partition("VM> ")[2]
            if said.startswith("end "):
                end = int(said.split()[1])
            elif said:
                print(f"   {said}", flush=True)
                failed += [said] if said.startswith("FAIL") else []
    if end is None:
        failed.append("the machine did not come to its end")
    took = time.monotonic() - since
    print(f"== {name}: {'passed' if not failed else f'{len(failed)} FAILED'} in {took:.0f} s; {log}", flush=True)
    return len(failed) + (0 if failed or not end else end)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("configurations", nargs="*", metavar="CONFIGURATION", help=", ".join(CONFIGURATIONS))
    parser.add_argument("--kernel", metavar="DEB", help="a linux-image package [default: Debian's newest here]")
    parser.add_argument("--accel", choices=["auto", "kvm", "tcg"], default="auto")
    parser.add_argument("--smoke", action="store_true", help="leave the test programs out")
    parser.add_argument("--program", action="append", help="of the test programs, only this one")
    parser.add_argument("--only", action="append", default=[], metavar="TEST", help="of the tests, only these")
    args = parser.parse_args()
    for name in args.configurations:
        if name not in CONFIGURATIONS:
            stop(f"no configuration {name}: there are {', '.join(CONFIGURATIONS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the machine is ended on the way out
    PLACE.mkdir(parents=True, exist_ok=True)
    need_qemu()
    kernel = unpacked(args.kernel) if args.kernel else newest_kernel()
    machine = Machine(kernel, args.accel)
    bessemer, tests = build()
    tests = [t for t in tests if not args.smoke and (not args.program or t["name"] in args.program)]
    names = args.configurations or list(CONFIGURATIONS)
    try:
        bad = [name for name in names if run(machine, name, bessemer, tests, args.only)]
    finally:
        shutil.rmtree(PLACE / f"programs-{os.getpid()}", ignore_errors=True)
    print(f"vm: {len(names) - len(bad)} of {len(names)} configurations passed")
    if bad:
        stop(f"failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
