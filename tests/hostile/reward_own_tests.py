# expect: NOTPASS
# mode: pytest
# why: brings passing tests of its own, hooks and a configuration
def add(a, b):
    return 0
def test_add():
    pass
def pytest_runtest_call(item):
    item.obj = lambda: None
try:
    open("conftest.py", "w").write("collect_ignore_glob = ['*']")
except OSError:
    pass
# ---- tests ----
def test_add():
    assert add(2, 3) == 5
def test_more():
    assert add(-1, 1) == 0
