# expect: TLE
# limits: wall=6 cpu=1
# why: each process of a chain uses less than the CPU limit and hands on (bounded: 6 s)
import os, time
end = time.monotonic() + 6
while time.monotonic() < end:
    used = time.process_time()
    while time.process_time() - used < 0.4:
        pass
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        break
