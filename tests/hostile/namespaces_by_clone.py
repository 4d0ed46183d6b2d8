# expect: OK
# stdout: "CONTAINED\n"
# why: new namespaces through clone and clone3 instead of unshare
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
bad = []
def reap(pid, what):
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
        bad.append(what)
for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x02000000):
    reap(libc.syscall(ctypes.c_long(56), ctypes.c_long(flag | 17), 0, 0, 0, 0), hex(flag))
args = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, 17, 0, 0, 0)
reap(libc.syscall(ctypes.c_long(435), args, ctypes.c_long(64)), "clone3")
print("ESCAPED %s" % bad if bad else "CONTAINED")
