# expect: NOTPASS
# mode: function
# entry: greet
# tests: [{"args": ["a"], "expected": "hello a"}, {"args": ["b"], "expected": "hello b"}]
# why: a kind of text that is equal to every text
class Text(str):
    def __eq__(self, other): return True
    def __hash__(self): return 0
    def __len__(self): return 7
def greet(name):
    return Text("x")
