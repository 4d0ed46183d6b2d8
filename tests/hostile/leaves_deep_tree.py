# expect: OK
# repeat: 2
# limits: wall=10 cpu=10
# stdout: "CLEAN\n"
# why: a tree deeper than PATH_MAX, with directories that nobody may enter
import os
for d in ("/tmp", "/work", "/dev/shm"):
    if os.listdir(d):
        print("left in", d)
        break
else:
    print("CLEAN")
os.chdir("/tmp")
for i in range(300):
    name = "d" * 200
    os.mkdir(name)
    os.chdir(name)
open("bottom", "w").close()
os.chmod("/tmp/" + "d" * 200, 0)
