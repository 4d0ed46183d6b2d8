# expect: OK
# limits: wall=3 cpu=3
# stdout: "parent\n"
# why: a grandchild in its own session sleeps on with stdout open (15 s); the verdict belongs to the main process
import os, sys, time
print("parent", flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(15)
    os._exit(0)
