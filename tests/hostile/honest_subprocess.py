# expect: OK
# limits: wall=10 cpu=10
# stdout: "inner 42\n0\n"
# why: a program may start others
import subprocess, sys
r = subprocess.run([sys.executable, "-c", "print('inner', 6 * 7)"], capture_output=True, text=True)
print(r.stdout, end="")
print(r.returncode)
