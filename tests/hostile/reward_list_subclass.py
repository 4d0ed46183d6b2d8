# expect: NOTPASS
# mode: function
# entry: order
# tests: [{"args": [[3, 1, 2]], "expected": [1, 2, 3]}]
# why: a kind of list whose items depend on who asks
class Lazy(list):
    def __eq__(self, other): return True
    def __iter__(self): return iter([1, 2, 3])
    def __getitem__(self, i): return i + 1
def order(items):
    return Lazy([0, 0, 0])
