# expect: PASS
# mode: function
# entry: describe
# tests: [{"args": [[1, 2, 3], "x"], "expected": {"sum": 6, "name": "x", "pair": [1, 3], "none": null}}, {"args": [[], "\u00e9"], "expected": {"sum": 0, "name": "\u00e9", "pair": [], "none": null}}]
# why: honest: nested values, a tuple where a list is expected
def describe(items, name):
    return {"sum": sum(items), "name": name, "pair": tuple(items[i] for i in (0, -1)) if items else [], "none": None}
