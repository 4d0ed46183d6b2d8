# expect: OK
# stdout: "CONTAINED\n"
# why: more filters, other personalities, tracing of itself, a way back to privileges
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
bad = []
if libc.prctl(38, 0, 0, 0, 0) == 0 and libc.prctl(39, 0, 0, 0, 0) != 1:
    bad.append("no_new_privs off")
if libc.syscall(317, 1, 0, 0) == 0:
    bad.append("seccomp")
if libc.personality(0x0040000) != -1:
    bad.append("personality")
if libc.ptrace(0, 0, 0, 0) == 0:
    bad.append("ptrace")
if libc.prctl(47, 2, 21, 0, 0) == 0:
    bad.append("ambient capability")
if libc.setuid(0) == 0 or libc.setresgid(0, 0, 0) == 0:
    bad.append("ids")
print("ESCAPED %s" % bad if bad else "CONTAINED")
