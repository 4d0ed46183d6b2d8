# expect: OK
# stdin: "žluťoučký kůň\n日本\n"
# stdout: "ŽLUŤOUČKÝ KŮŇ 13\n本日 2\n"
# why: text is UTF-8 whatever the locale of the machine
a, b = input(), input()
print(a.upper(), len(a))
print(b[::-1], len(b))
