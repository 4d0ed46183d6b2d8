# expect: SAFE
# limits: wall=3 cpu=3 mem=128
# why: kernel memory in pipe buffers, which no address space limit counts (bounded by open files)
import fcntl, os
held = []
try:
    for _ in range(500):
        r, w = os.pipe()
        held.append((r, w))
        try:
            fcntl.fcntl(w, 1031, 1 << 20)
        except OSError:
            pass
        os.set_blocking(w, False)
        try:
            while os.write(w, b"p" * 65536):
                pass
        except BlockingIOError:
            pass
except OSError:
    pass
print(len(held))
