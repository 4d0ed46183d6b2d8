# expect: NOTPASS
# mode: function
# entry: solve
# tests: [{"args": [1], "expected": 1}, {"args": [2], "expected": 2}]
# why: leaves with status 0 instead of answering
import os, sys
def solve(n):
    sys.stdout.write("PASSED 2 of 2\n")
    sys.stdout.flush()
    os._exit(0)
