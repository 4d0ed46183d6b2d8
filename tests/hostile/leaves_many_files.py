# expect: OK
# repeat: 2
# limits: wall=10 cpu=10
# stdout: "CLEAN\n"
# why: as many files as there may be
import os
print("CLEAN" if not os.listdir("/tmp") else "left")
try:
    for i in range(12000):
        os.close(os.open("/tmp/f%d" % i, os.O_CREAT | os.O_WRONLY))
except OSError:
    pass
