# expect: OK
# needs: env
# stdout: "CONTAINED\n"
# why: a fixed, small environment, and no other process whose environment could be read
import os
known = {"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED",
         "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH", "PYTHONPATH", "LC_CTYPE", "PWD", "SHLVL", "_"}
bad = sorted(set(os.environ) - known)
for p in os.listdir("/proc") if os.path.isdir("/proc") else []:
    if p.isdigit() and int(p) != os.getpid():
        try:
            if open("/proc/%s/environ" % p).read():
                bad.append(p)
        except OSError:
            pass
print("ESCAPED %s" % bad if bad else "CONTAINED")
