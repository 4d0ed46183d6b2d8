# expect: OK
# stdout: "rang\n"
# why: a program may use alarms of its own
import signal
def ring(*_):
    raise TimeoutError
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    while True:
        pass
except TimeoutError:
    print("rang")
