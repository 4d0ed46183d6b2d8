# expect: OK
# stdout: "8000\n"
# why: recursion deeper than the default limit, but not deeper than the stack
import sys
sys.setrecursionlimit(20000)
def depth(n):
    return 0 if n == 0 else 1 + depth(n - 1)
print(depth(8000))
