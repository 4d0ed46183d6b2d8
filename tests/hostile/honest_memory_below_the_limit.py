# expect: OK
# limits: mem=256
# stdout: "167772160\n"
# why: 160 MiB fit in 256
block = bytearray(160 << 20)
block[::4096] = b"x" * len(block[::4096])
print(len(block))
