# expect: OK
# limits: wall=5 cpu=5 mem=128
# stdout: "caught\n"
# why: honest: a refused allocation is an exception that a program may handle
try:
    b = bytearray(1 << 30)
except MemoryError:
    print("caught")
