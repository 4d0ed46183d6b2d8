# expect: OK
# repeat: 2
# stdout: "CLEAN\n"
# why: a child that crashes leaves no core file behind
import os, resource, signal
try:
    resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))
except (OSError, ValueError):
    pass
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGSEGV)
os.waitpid(pid, 0)
print("CLEAN" if os.listdir(".") == [] else os.listdir("."))
