# expect: OK
# stdout: "7\n"
# why: debug output does not matter below the limit
import sys
for i in range(2000):
    print("step", i, "of the computation", file=sys.stderr)
print(7)
