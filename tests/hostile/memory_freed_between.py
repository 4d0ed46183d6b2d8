# expect: OK
# limits: wall=30 cpu=10 mem=256
# stdout: "20\n"
# why: honest: 100 MiB twenty times, one after the other
n = 0
for _ in range(20):
    b = bytearray(100 << 20)
    b[::65536] = b"x" * len(b[::65536])
    n += 1
    del b
print(n)
