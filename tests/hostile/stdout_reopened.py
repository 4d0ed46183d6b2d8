# expect: OK RE
# limits: wall=3
# why: stdout opened again by name starts at offset 0
import os, sys
print("first", flush=True)
with open("/dev/stdout", "w") as f:
    f.write("second\n")
