# expect: OK
# stdout: "CONTAINED\n"
# why: real-time scheduling, better priority, locked memory, memory files without a name
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
bad = []
for name, f in (("fifo", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))), ("nice", lambda: os.nice(-5)),
                ("priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5)), ("memfd", lambda: os.memfd_create("x"))):
    try:
        f()
        bad.append(name)
    except (OSError, AttributeError):
        pass
if libc.mlockall(3) == 0:
    bad.append("mlockall")
print("ESCAPED %s" % bad if bad else "CONTAINED")
