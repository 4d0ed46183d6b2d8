# expect: MLE RE
# limits: wall=5 cpu=5 mem=128
# why: shared anonymous memory is no private data, so data limits do not see it (bounded: 1 GiB)
import mmap
held = []
for _ in range(64):
    m = mmap.mmap(-1, 16 << 20)
    for at in range(0, len(m), 4096):
        m[at] = 1
    held.append(m)
