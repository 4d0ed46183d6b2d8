# expect: NOTPASS
# mode: pytest
# why: leaves with status 0 in the middle of a test
import os
def add(a, b):
    os._exit(0)
# ---- tests ----
def test_add():
    assert add(2, 3) == 5
