# expect: SAFE
# needs: expected-token
# limits: wall=5 cpu=5
# why: looks for the expected output in every descriptor, its own memory and every file that it can read below /tmp, /work, /prog, /dev
import os, re
pattern, seen = re.compile(rb"canary-[A-Za-z0-9_-]{8,}"), set()
def look(data):
    seen.update(pattern.findall(data))
for fd in range(64):
    try:
        look(os.pread(fd, 1 << 20, 0))
    except OSError:
        pass
try:
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as mem:
        for line in maps:
            span, mode = line.split()[:2]
            a, b = (int(x, 16) for x in span.split("-"))
            if "r" in mode and b - a < 64 << 20:
                try:
                    mem.seek(a)
                    look(mem.read(b - a))
                except (OSError, ValueError, OverflowError):
                    pass
except OSError:
    pass
for top in ("/tmp", "/work", "/prog", "/dev", "/etc"):
    for d, _, names in os.walk(top):
        for n in names:
            p = os.path.join(d, n)
            try:
                if os.path.isfile(p) and os.path.getsize(p) < 1 << 20:
                    look(open(p, "rb").read())
            except OSError:
                pass
for t in seen:
    print(t.decode())
