# expect: OK
# repeat: 2
# stdout: "CONTAINED\n"
# why: a program that could change its own file would be another one in the next test
import os
bad = []
for f in (lambda: open(__file__, "a"), lambda: os.chmod(__file__, 0o777), lambda: os.unlink(__file__),
          lambda: open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "new"), "w"),
          lambda: os.rename(__file__, "/tmp/x.py"), lambda: os.link(__file__, "/tmp/y.py"),
          lambda: os.utime(__file__)):
    try:
        f()
        bad.append(f.__code__.co_names)
    except OSError:
        pass
print("ESCAPED %s" % bad if bad else "CONTAINED")
