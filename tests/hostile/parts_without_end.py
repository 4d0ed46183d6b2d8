# expect: NOTPASS
# mode: function
# entry: solve
# limits: wall=2
# tests: [{"args": [1], "expected": [1, 2]}]
# why: an answer of ever more parts: nobody may hold them all, or wait for the last
import marshal, os, sys
def frame(data):
    return len(data).to_bytes(4, "little") + data
def solve(n):
    number = sys._getframe(1).f_locals["number"]
    items = marshal.dumps([0] * 100000, 4)
    at = 0
    while True:
        data = frame(marshal.dumps([number, "part", at], 2)) + frame(items)
        while data:
            data = data[os.write(3, data):]
        at += 100000
