# expect: OK
# fetch: huge
# stdout: "made\n"
# why: a sparse file of a tebibyte is not read
import os
with open("huge", "wb") as f:
    try:
        f.truncate(1 << 40)
    except OSError:
        pass
if os.path.getsize("huge") == 0:
    os.unlink("huge")
print("made")
