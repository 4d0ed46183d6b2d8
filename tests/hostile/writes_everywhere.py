# expect: OK
# limits: wall=10 cpu=10
# stdout: "CONTAINED\n"
# why: no directory but the scratch ones takes a file
import os
bad = []
for top in ["/"] + ["/" + n for n in os.listdir("/")]:
    if top in ("/tmp", "/work", "/proc"):
        continue
    dirs = [top] + [os.path.join(top, n) for n in (os.listdir(top) if os.path.isdir(top) else [])][:200]
    for d in dirs:
        if d in ("/dev/shm", "/var/tmp", "/tmp", "/work", "/proc") or not os.path.isdir(d) or os.path.islink(d):
            continue
        try:
            open(os.path.join(d, "x"), "w").close()
            bad.append(d)
        except OSError:
            pass
print("ESCAPED %s" % bad if bad else "CONTAINED")
