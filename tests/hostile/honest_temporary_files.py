# expect: OK
# stdout: "1048576 True\n"
# why: scratch space is there and large enough
import os, tempfile
with tempfile.TemporaryDirectory() as d:
    a, b = os.path.join(d, "a"), os.path.join(d, "b")
    with open(a, "wb") as f:
        f.write(b"x" * (1 << 20))
    os.replace(a, b)
    size = os.path.getsize(b)
print(size, not os.path.exists(b))
