# expect: OK
# fetch: fifo dir hard deep/er ../etc/passwd loop
# stdout: "made\n"
# why: results that would block, or lead elsewhere; none may come back
import os
os.mkfifo("fifo")
os.mkdir("dir")
open("other", "w").write("x")
os.link("other", "hard")
os.mkdir("real")
open("real/er", "w").write("secret of another file")
os.symlink("real", "deep")
os.symlink("loop", "loop")
print("made")
