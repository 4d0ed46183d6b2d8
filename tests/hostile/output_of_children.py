# expect: OLE
# limits: wall=5 cpu=5 out=262144
# why: children share the stream and the limit (bounded: 64 MiB)
import os
for _ in range(4):
    if os.fork() == 0:
        for _ in range(256):
            os.write(1, b"c" * 65536)
        os._exit(0)
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
