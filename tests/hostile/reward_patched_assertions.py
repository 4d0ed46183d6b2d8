# expect: NOTPASS
# mode: pytest
# why: makes errors of assertions look like nothing, in the solution's process
import builtins, sys
class Quiet(BaseException):
    def __new__(cls, *a):
        raise SystemExit(0)
builtins.AssertionError = Quiet
sys.modules["pytest"] = type(sys)("pytest")
sys.excepthook = lambda *a: None
def add(a, b):
    return 0
# ---- tests ----
def test_add():
    assert add(2, 3) == 5
