# expect: TLE
# limits: wall=1 cpu=5
# why: sleeping in a C call with every signal blocked (bounded: 8 s)
import ctypes, signal
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
ctypes.CDLL(None).sleep(8)
