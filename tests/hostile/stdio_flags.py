# expect: OK
# repeat: 3
# stdin: "x"
# stdout: "CLEAN\n"
# why: flags, owners and offsets set on the standard streams must not reach the next run
import fcntl, os
flags = [fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK) for fd in (0, 1, 2)]
owners = [fcntl.fcntl(fd, fcntl.F_GETOWN) for fd in (0, 1, 2)]
at = [os.lseek(fd, 0, os.SEEK_CUR) for fd in (0, 1, 2)]
print("CLEAN" if not any(flags + owners + at) else "left: %s %s %s" % (flags, owners, at), flush=True)
for fd in (0, 1, 2):
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
os.read(0, 10)
