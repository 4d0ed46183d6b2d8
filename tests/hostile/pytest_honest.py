# expect: PASS
# mode: pytest
# why: honest: plain tests, parameters, exceptions, a class of tests, a class under test
class Counter:
    def __init__(self):
        self.n = 0
    def up(self, by=1):
        if by < 0:
            raise ValueError("down")
        self.n += by
        return self.n
def double(x):
    return x * 2
# ---- tests ----
import pytest

@pytest.mark.parametrize("given, wanted", [(1, 2), ("ab", "abab"), ([1], [1, 1])])
def test_double(given, wanted):
    assert double(given) == wanted

class TestCounter:
    def test_up(self):
        c = Counter()
        assert c.up() == 1
        assert c.up(by=4) == 5
        with pytest.raises(ValueError, match="down"):
            c.up(-1)
