# expect: OK
# stdout: "True True 1 __main__\n"
# why: the program is the main module of a process of its own
import os, sys, __main__
x = 5
print(__main__.x == 5, os.path.exists(__file__), len(sys.argv), __name__)
