# expect: OK
# limits: wall=4 cpu=4
# stdout: "started\n"
# why: jobs that a shell leaves in the background (15 s each)
import os
os.system("for i in 1 2 3 4; do (sleep 15 &) ; done; nohup sleep 15 >/dev/null 2>&1 &")
print("started")
