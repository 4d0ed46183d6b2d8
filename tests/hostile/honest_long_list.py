# expect: PASS
# mode: pytest
# why: honest: a list that is larger than one message may be
# limits: wall=60 cpu=60 mem=1024
def pairs(n):
    return [("left-hand side", "right-hand side", i % 7) for i in range(n)]
# ---- tests ----
def test_pairs():
    got = pairs(600000)
    assert got == [("left-hand side", "right-hand side", i % 7) for i in range(600000)]
    assert type(got) is list and type(got[0]) is tuple
