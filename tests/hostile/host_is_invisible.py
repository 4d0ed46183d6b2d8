# expect: OK
# needs: home
# stdout: "CONTAINED\n"
# why: host name, users, mounts, scheduler and kernel files of the machine
import os
bad = []
if os.uname().nodename != "sandbox":
    bad.append("host name")
for p in ("/etc/shadow", "/etc/hostname", "/etc/machine-id", "/etc/munge", "/etc/slurm", "/run", "/sys/class", "/sys/kernel", "/boot", "/root", "/home",
          "/proc/kcore", "/proc/cmdline", "/proc/sys/kernel/hostname", "/proc/net/tcp", "/var/run/docker.sock", "/var/spool"):
    try:
        if os.path.isdir(p):
            if os.listdir(p):
                bad.append(p)
        else:
            open(p, "rb").read(1)
            bad.append(p)
    except OSError:
        pass
if len(open("/etc/passwd").read().splitlines()) > 1:
    bad.append("users")
print("ESCAPED %s" % bad if bad else "CONTAINED")
