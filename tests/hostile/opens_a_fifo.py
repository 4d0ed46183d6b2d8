# expect: TLE
# limits: wall=1 cpu=1
# why: waits for a writer that never comes; a helper ends it after 8 s
import os, time
os.mkfifo("never")
if os.fork() == 0:
    time.sleep(8)
    open("never", "w").close()
    os._exit(0)
open("never").read()
