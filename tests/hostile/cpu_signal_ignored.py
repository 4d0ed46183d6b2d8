# expect: TLE
# limits: wall=8 cpu=1
# why: the soft CPU limit is a signal that can be ignored (bounded: 8 s)
import signal, time
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
end = time.monotonic() + 8
while time.monotonic() < end:
    pass
