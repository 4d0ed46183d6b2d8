# expect: OK
# stdout: "CONTAINED\n"
# why: four harmless devices, none can be made, no GPU and no disk is there
import os, stat
bad = []
for n in os.listdir("/dev"):
    mode = os.lstat("/dev/" + n).st_mode
    if (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and n not in ("null", "zero", "random", "urandom"):
        bad.append(n)
for p in ("/tmp/sda", "/work/mem"):
    try:
        os.mknod(p, 0o600 | stat.S_IFCHR, os.makedev(1, 1))
        open(p, "rb").read(1)
        bad.append(p)
    except OSError:
        pass
open("/dev/null", "wb").write(b"x")
assert open("/dev/zero", "rb").read(2) == b"\0\0" and len(os.urandom(4)) == 4
print("ESCAPED %s" % bad if bad else "CONTAINED")
