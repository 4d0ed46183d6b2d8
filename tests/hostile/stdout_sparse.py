# expect: OLE RE OK
# limits: wall=3 cpu=3 out=65536
# why: a far seek makes a huge file out of one byte; what comes back is bounded
import os
try:
    os.lseek(1, 1 << 40, os.SEEK_SET)
    os.write(1, b"x")
    os.ftruncate(1, 1 << 34)
except OSError:
    os._exit(1)
