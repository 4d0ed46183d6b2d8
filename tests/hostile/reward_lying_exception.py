# expect: NOTPASS
# mode: function
# entry: solve
# tests: [{"args": [2], "expected": 4}]
# why: an exception whose text and type pretend
class value(Exception):
    def __str__(self):
        raise SystemExit(0)
    def __repr__(self):
        return "4"
def solve(n):
    raise value(4)
