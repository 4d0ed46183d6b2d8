# expect: RE
# limits: wall=3 cpu=3
# why: signals to every process that it can see, itself last
import os, signal
try:
    os.kill(-1, signal.SIGKILL)
except OSError:
    pass
os.kill(os.getpid(), signal.SIGKILL)
