# expect: PASS
# mode: function
# entry: f
# tests: [{"args": [1], "expected": 1}, {"args": [1], "expected": 1}]
# why: honest: output of a function does not disturb its answers, and a cache is allowed
import functools, sys
@functools.lru_cache(None)
def f(n):
    print("called with", n)
    sys.stderr.write("debug\n")
    return n
