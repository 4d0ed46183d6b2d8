# expect: OK MLE RE
# limits: wall=5 cpu=5 mem=256 file=64
# why: files in memory: at most the scratch limit (bounded: 512 MiB)
import os
total, block = 0, b"m" * (1 << 20)
for d in ("/dev/shm", "/tmp", "."):
    try:
        with open(os.path.join(d, "fill"), "wb", buffering=0) as f:
            for _ in range(170):
                total += f.write(block)
    except OSError:
        pass
print("ESCAPED" if total > 130 << 20 else "held")
