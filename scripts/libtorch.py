#!/usr/bin/env python3
"""Make .libtorch/ (the C++ library under PyTorch) from the official PyPI wheels: private, no sudo, no global install.

    scripts/libtorch.py                 the CPU half (0.5 GB on disk); enough to build and run everything on CPUs
    scripts/libtorch.py cuda            adds the CUDA half (5.9 GB) next to it; no rebuild needed
    scripts/libtorch.py --wheels DIR    takes the wheels from DIR (or $BESSEMER_WHEELS) instead of downloading
    scripts/libtorch.py --check         says whether .libtorch is whole; exit status 1 if not

Downloads go through pip into .libtorch-cache/, are pinned by SHA-256, and are kept until everything is in place: an
interrupted run continues where it stopped. Only Python's standard library is used.
"""
import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TORCH = "2.10.0"  # the last PyPI wheel with V100 (sm_70) code; pairs with tch 0.23

# (requirement, version, sha256). The CPU part of the x86-64 wheel needs the first two NVIDIA libraries at load time.
TORCH_SHA256 = {
    ("Linux", "x86_64"): "ac5bdcbb074384c66fa160c15b1ead77839e3fe7ed117d667249afce0acabfac",
    ("Linux", "aarch64"): "3282d9febd1e4e476630a099692b44fdc214ee9bf8ee5377732d9d9dfe5712e4",
    ("Darwin", "arm64"): "418997cb02d0a0f1497cf6a09f63166f9f5df9f3e16c8a716ab76a72127c714f",
}
NVIDIA_CPU = [
    ("cuda-runtime", "12.8.90", "adade8dcbd0edf427b7204d480d6066d33902cab2a4707dcfc48a2d0fd44ab90"),
    ("cuda-cupti", "12.8.90", "ea0cb07ebda26bb9b29ba82cda34849e73c166c18162d3913575b0c9db9a6182"),
]
NVIDIA_CUDA = [
    ("cublas", "12.8.4.1", "8ac4e771d5a348c551b2a426eda6193c19aa630236b418086020df5ba9667142"),
    ("cudnn", "9.10.2.21", "949452be657fa16687d0930933f032835951ef0892b37d2d53824d1a84dc97a8"),
    ("cufft", "11.3.3.83", "4d2dd21ec0b88cf61b62e6b43564355e5222e4a3fb394cac0db101f2dd0d4f74"),
    ("curand", "10.3.9.90", "b32331d4f4df5d6eefa0554c565b626c7216f87a06a4f56fab27c3b68a830ec9"),
    ("cusolver", "11.7.3.90", "4376c11ad263152bd50ea295c05370360776f8c3427b30991df774f9fb26c450"),
    ("cusparse", "12.5.8.93", "1ec05d76bbbd8b61b06a80e1eaf8cf4959c3d4ce8e711b65ebd0443bb0ebb13b"),
    ("cusparselt", "0.7.1", "f1bb701d6b930d5a7cea44c19ceb973311500847f81b634d802b7b539dc55623"),
    ("nccl", "2.27.5", "ad730cf15cb5d25fe849c6e6ca9eb5b76db16a80f13f425ac68d8e2e55624457"),
    ("nvshmem", "3.4.5", "042f2500f24c021db8a06c5eec2539027d57460e1c1a762055a6554f72c369bd"),
    ("nvjitlink", "12.8.93", "81ff63371a7ebd6e6451970684f916be2eab07321b73c9d244dc2b4da7f73b88"),
    ("cufile", "1.13.1.3", "1d069003be650e131b21c932ec3d8969c1715379251f8d23a1860554b1cb24fc"),
    ("cuda-nvrtc", "12.8.93", "a7756528852ef889772a84c6cd89d41dfa74667e24cca16bb31f8f061e3e9994"),
]
PLATFORMS = {
    ("Linux", "x86_64"): [
        "manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64",
        "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux_2_12_x86_64",
    ],
    ("Linux", "aarch64"): ["manylinux_2_28_aarch64"],
    ("Darwin", "arm64"): ["macosx_11_0_arm64"],
}
PIP_WITH_RESUME = "25.3"  # pip learnt to continue a broken download in 25.1

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".bessemer.json"


def fail(text):
    sys.exit(f"libtorch: {text}")


def sha256(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            h.update(chunk)
    return h.hexdigest()


def wanted(key, cuda):
    """[(requirement, sha256)] of the wheels for this machine."""
    wheels = [(f"torch=={TORCH}", TORCH_SHA256[key])]
    if key == ("Linux", "x86_64"):
        wheels += [(f"nvidia-{n}-cu12=={v}", s) for n, v, s in NVIDIA_CPU + (NVIDIA_CUDA if cuda else [])]
    return wheels


def present(directory, wheels):
    """{requirement: path} of the wheels in `directory` whose hash is right; names are only a hint where to look."""
    found = {}
    for path in sorted(directory.glob("*.whl")):
        for req, digest in wheels:
            name, version = req.split("==")
            stem = f"{name.replace('-', '_')}-{version}-"
            if path.name.startswith(stem) and req not in found and sha256(path) == digest:
                found[req] = path
    return found


def pip_command(cache):
    """A pip that can continue broken downloads, installed privately; the machine's own pip if that fails."""
    private = cache / "pip"
    env = {**os.environ, "PYTHONPATH": str(private), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if not (private / "pip").is_dir():
        cmd = [sys.executable, "-m", "pip", "install", "-q", "--target", str(private), f"pip=={PIP_WITH_RESUME}"]
        env_plain = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if subprocess.run(cmd, env=env_plain, check=False).returncode != 0:
            shutil.rmtree(private, ignore_errors=True)
            return [sys.executable, "-m", "pip"], [], env_plain
    return [sys.executable, "-m", "pip"], ["--resume-retries", "20"], env


def download(cache, wheels, key):
    cache.mkdir(parents=True, exist_ok=True)
    have = present(cache, wheels)
    missing = [(r, s) for r, s in wheels if r not in have]
    if not missing:
        return have
    pip, resume, env = pip_command(cache)
    for i, (req, digest) in enumerate(missing, 1):
        print(f"libtorch: [{i}/{len(missing)}] {req}", flush=True)
        lines = cache / "requirement.txt"
        lines.write_text(f"{req} --hash=sha256:{digest}\n")
        cmd = pip + ["download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--retries", "10",
                     "--python-version", "3.11", "--implementation", "cp", "-d", str(cache), "-r", str(lines)]
        cmd += resume + [a for p in PLATFORMS[key] for a in ("--platform", p)]
        if subprocess.run(cmd, env=env, check=False).returncode != 0:
            fail(f"pip could not download {req}; check the network (or PIP_INDEX_URL for a mirror) and run this again, "
                 f"what is already in {cache} is kept")
    have = present(cache, wheels)
    gone = [r for r, _ in wheels if r not in have]
    if gone:
        fail(f"after the download these wheels are missing or have another SHA-256 than pinned: {', '.join(gone)}")
    return have


def put(z, info, dst):
    dst.parent.mkdir(parents=True, exist_ok=True)
    with z.open(info) as src, open(dst, "wb") as out:
        shutil.copyfileobj(src, out, 1 << 20)
    dst.chmod(0o755 if ".so" in dst.name or ".dylib" in dst.name else 0o644)


def unpack(wheel, req, new, x86, cuda):
    with zipfile.ZipFile(wheel) as z:
        for info in z.infolist():
            directory, base = os.path.split(info.filename)
            if not base:
                continue
            if req.startswith("torch=="):
                gpu_part = x86 and not cuda and any(s in base for s in ("cuda", "nvshmem", "nvrtc"))
                # libtorch.so is an empty stub that would drag in libtorch_cuda; a symlink replaces it below.
                skip = base.startswith("libtorch_python") or base == "libtorch.so" or gpu_part
                if info.filename.startswith("torch/include/"):
                    put(z, info, new / info.filename[len("torch/"):])
                elif directory == "torch/lib" and not skip:
                    put(z, info, new / "lib" / base)
            elif directory.endswith("/lib") and ".so" in base:
                put(z, info, new / "lib" / base)


def state(dest, key, cuda):
    """None if `dest` holds what is asked for, else a sentence."""
    try:
        stamp = json.loads((dest / STAMP).read_text())
    except (OSError, ValueError):
        return f"{dest} is missing or incomplete"
    if stamp.get("torch") != TORCH or stamp.get("platform") != list(key):
        return f"{dest} holds torch {stamp.get('torch')} for {stamp.get('platform')}, wanted {TORCH} for {list(key)}"
    if cuda and not stamp.get("cuda"):
        return f"{dest} holds the CPU half only"
    for name, size in stamp["files"].items():
        path = dest / "lib" / name
        if not path.exists() or path.stat().st_size != size:
            return f"{path} is missing or has another size than when it was unpacked"
    return None


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("half", nargs="?", choices=["cpu", "cuda"], default="cpu")
    ap.add_argument("--wheels", metavar="DIR", default=os.environ.get("BESSEMER_WHEELS"),
                    help="directory with the wheels; nothing is downloaded")
    ap.add_argument("--dest", type=Path, default=ROOT / ".libtorch", help="default: .libtorch in the project")
    ap.add_argument("--check", action="store_true")
    args = ap.parse_args()
    key, cuda = (platform.system(), platform.machine()), args.half == "cuda"
    if key not in PLATFORMS:
        fail(f"there is no libtorch wheel for {key[0]} on {key[1]}; known: "
             + ", ".join(f"{s} {m}" for s, m in PLATFORMS))
    x86 = key == ("Linux", "x86_64")
    if cuda and not x86:
        fail("the CUDA half is for Linux on x86_64 only")
    dest = Path(os.path.realpath(args.dest))
    why = state(dest, key, cuda)
    if args.check:
        print(f"libtorch: {why or f'{dest} is whole (torch {TORCH})'}")
        sys.exit(1 if why else 0)
    if why is None:
        print(f"libtorch: {dest} is in place (torch {TORCH})")
        return
    wheels = wanted(key, cuda)
    cache = ROOT / ".libtorch-cache"
    if args.wheels:
        have = present(Path(args.wheels), wheels)
        gone = [f"{r} (sha256 {s})" for r, s in wheels if r not in have]
        if gone:
            fail(f"{args.wheels} lacks: " + ", ".join(gone))
    else:
        have = download(cache, wheels, key)
    dest.parent.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(prefix=".libtorch-", dir=dest.parent))
    try:
        new = tmp / "new"
        for i, (req, _) in enumerate(wheels, 1):
            print(f"libtorch: unpacking [{i}/{len(wheels)}] {req}", flush=True)
            unpack(have[req], req, new, x86, cuda)
        if key[0] == "Linux":
            (new / "lib" / "libtorch.so").symlink_to("libtorch_cpu.so")
        (new / "build-version").write_text(TORCH)  # torch-sys reads it
        files = {p.name: p.stat().st_size for p in (new / "lib").iterdir()}
        (new / STAMP).write_text(json.dumps({"torch": TORCH, "platform": list(key), "cuda": cuda, "files": files}))
        old = tmp / "old"
        if dest.exists():
            dest.rename(old)
        new.rename(dest)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    if not args.wheels:
        shutil.rmtree(cache, ignore_errors=True)  # 0.9 to 3.9 GB that are no longer needed
    print(f"libtorch: {dest} is ready (torch {TORCH}, {'CPU and CUDA' if cuda else 'CPU'})")


if __name__ == "__main__":
    main()
