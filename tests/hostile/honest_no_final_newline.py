# expect: OK
# stdout: "a\tb  \n\n c"
# why: every byte comes back as written, blanks at the end of lines too
print("a\tb  \n\n c", end="")
