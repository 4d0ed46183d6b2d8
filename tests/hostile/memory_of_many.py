# expect: MLE RE TLE OK
# limits: wall=6 cpu=6 mem=192 procs=32
# why: eight children, each well below the limit, together far above it (bounded: 640 MiB, 2 s)
import os, time
pids = []
for _ in range(8):
    try:
        pid = os.fork()
    except OSError:
        break
    if pid == 0:
        try:
            b = bytearray(80 << 20)
            b[::4096] = b"x" * len(b[::4096])
            time.sleep(2)
        except MemoryError:
            pass
        os._exit(0)
    pids.append(pid)
for p in pids:
    os.waitpid(p, 0)
