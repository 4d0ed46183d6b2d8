# expect: OK
# stdout: "body\nthread\nhandler\n"
# why: what is due at the end happens: threads are joined, handlers run, buffers are flushed
import atexit, sys, threading, time
atexit.register(lambda: print("handler"))
def late():
    time.sleep(0.1)
    print("thread")
threading.Thread(target=late).start()
sys.stdout.write("body\n")
