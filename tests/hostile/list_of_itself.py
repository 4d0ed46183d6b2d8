# expect: NOTPASS
# mode: pytest
# why: long lists that hold themselves, or stand for more items than any memory has
def itself(n):
    a = [0] * n
    a[n // 2] = a
    return a
def laughs(n):
    a = ["ha"] * 10
    for _ in range(40):
        a = [a] * 10
    return [0] * n + [a]
# ---- tests ----
def test_itself():
    assert itself(60000) == 1
def test_laughs():
    assert laughs(60000) == 1
