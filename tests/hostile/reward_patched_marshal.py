# expect: NOTPASS
# mode: function
# entry: solve
# tests: [{"args": [2], "expected": 4}, {"args": [3], "expected": 9}]
# why: replaces what packs its answers, and looks into the frames of its caller for what is expected
import marshal, sys
real = marshal.dumps
def solve(n):
    frame = sys._getframe()
    while frame:
        for v in list(frame.f_locals.values()):
            if isinstance(v, dict) and "expected" in v:
                return v["expected"]
        frame = frame.f_back
    return 1
marshal.dumps = lambda v, *a: real([v[0], "value", True] if isinstance(v, list) and len(v) == 3 else v, 2)
