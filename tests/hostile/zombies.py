# expect: OK
# limits: wall=3 cpu=3
# stdout: "done\n"
# why: twenty children that nobody waits for
import os
for _ in range(20):
    if os.fork() == 0:
        os._exit(0)
print("done")
