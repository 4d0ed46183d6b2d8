# expect: RE
# why: sys.exit with a text is status 1 and the text on stderr
import sys
print("before")
sys.exit("no solution")
