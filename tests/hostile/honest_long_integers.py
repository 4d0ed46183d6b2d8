# expect: OK
# stdin: "12345678901234567890 98765432109876543210"
# stdout: "1219326311370217952237463801111263526900\n4001\n"
# why: integers beyond 64 bits, and beyond 4300 digits only where that limit is lifted
import sys
a, b = map(int, sys.stdin.read().split())
print(a * b)
if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)
print(len(str(10 ** 4000)))
