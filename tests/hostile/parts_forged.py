# expect: NOTPASS
# mode: function
# entry: solve
# tests: [{"args": [1], "expected": [1, 2]}, {"args": [2], "expected": [1, 2]}]
# why: sends parts of a list that never end, that start anywhere, or that hold themselves
import marshal, os, sys
def frame(data):
    return len(data).to_bytes(4, "little") + data
def solve(n):
    number = sys._getframe(1).f_locals["number"]
    for part in (b"[\x01\0\0\0i\x01\0\0\0", b"\xdb\x01\0\0\0r\0\0\0\0", b"c\0\0\0\0", b"\xff" * 9):
        for at in (0, 1, -1, 1 << 70, None):
            os.write(3, frame(marshal.dumps([number, "part", at], 2)) + frame(part))
    return [1, 2]
