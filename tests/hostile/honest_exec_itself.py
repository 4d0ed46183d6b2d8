# expect: OK
# stdin: "abc"
# stdout: "again abc\n"
# why: exec keeps limits, filter and descriptors
import os, sys
os.execv(sys.executable, [sys.executable, "-c", "print('again', input())"])
