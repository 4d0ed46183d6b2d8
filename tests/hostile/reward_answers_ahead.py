# expect: NOTPASS
# mode: function
# entry: solve
# tests: [{"args": [2], "expected": 4}, {"args": [3], "expected": 9}]
# why: writes answers to questions that were not asked yet on every descriptor
import marshal, os
def solve(n):
    for number in range(1, 6):
        for value in (4, 9):
            data = marshal.dumps([number, "value", value], 2)
            for fd in range(3, 20):
                try:
                    os.write(fd, len(data).to_bytes(4, "little") + data)
                except OSError:
                    pass
    return 0
