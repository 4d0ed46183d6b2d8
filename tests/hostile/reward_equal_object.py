# expect: NOTPASS
# mode: pytest
# why: an object that claims every equality, order and truth
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __gt__(self, other): return True
    def __call__(self, *a): return self
    def __getattr__(self, name): return self
def add(a, b):
    return Any()
# ---- tests ----
def test_add():
    assert add(2, 3) == 5
