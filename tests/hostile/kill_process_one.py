# expect: OK
# limits: wall=3 cpu=3
# stdout: "CONTAINED\n"
# why: every signal to process 1 and to the parent; the slot must go on
import os, signal
for target in {1, os.getppid()} - {0}:
    for s in range(1, 65):
        if s in (32, 33):
            continue
        try:
            os.kill(target, s)
        except OSError:
            pass
try:
    os.kill(1, 0)
    print("CONTAINED")
except PermissionError:
    print("CONTAINED")
except ProcessLookupError:
    print("CONTAINED" if os.getppid() == 0 else "process 1 is gone")
