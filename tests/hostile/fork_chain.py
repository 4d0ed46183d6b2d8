# expect: SAFE
# limits: wall=2 cpu=2 procs=16
# why: each process makes the next and leaves, so that there is never a parent to kill (bounded: 400 links, 4 s)
import os, time
end = time.monotonic() + 4
for _ in range(400):
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        time.sleep(0.01)
    if time.monotonic() > end:
        break
time.sleep(0.2)
