# expect: OK
# repeat: 2
# limits: wall=10 cpu=10
# stdout: "CLEAN\n"
# why: names with newlines, dashes, bytes that are no text, and names that a cleaner might use itself
import os
print("CLEAN" if not os.listdir("/tmp") and not os.listdir(".") else "left")
names = [b"-rf", b"new\nline", b"\xff\xfe", b".moved-1", b".moved-2", b"*", b" ", b"a" * 255]
for d in (b"/tmp", b"."):
    for n in names:
        p = os.path.join(d, n)
        if n.startswith(b".moved"):
            os.makedirs(os.path.join(p, b"in", b".moved-3"))
        else:
            open(p, "wb").close()
    os.mkdir(os.path.join(d, b"shut"))
    open(os.path.join(d, b"shut", b"f"), "wb").close()
    os.chmod(os.path.join(d, b"shut"), 0)
