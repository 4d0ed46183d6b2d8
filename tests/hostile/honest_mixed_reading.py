# expect: OK
# stdin: "3\n10 20 30\nrest of\nthe text"
# stdout: "3 [10, 20, 30] 'rest of\\n' 'the text' ''\n"
# why: three ways to read one input
import sys
n = int(input())
numbers = list(map(int, sys.stdin.readline().split()))
line = next(sys.stdin)
print(n, numbers, repr(line), repr(sys.stdin.read()), repr(sys.stdin.read()))
