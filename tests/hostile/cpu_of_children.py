# expect: TLE
# limits: wall=8 cpu=1 procs=16
# why: four children, each below the CPU limit for a while, together above it (bounded: 8 s)
import os, time
end = time.monotonic() + 8
for _ in range(4):
    if os.fork() == 0:
        while time.monotonic() < end:
            pass
        os._exit(0)
time.sleep(8)
