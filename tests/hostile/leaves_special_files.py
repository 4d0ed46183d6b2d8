# expect: OK
# repeat: 2
# stdout: "CLEAN\n"
# why: FIFOs, dangling and circular links, hard links, a file that is still mapped
import mmap, os
print("CLEAN" if not os.listdir("/tmp") and not os.listdir("/dev/shm") else "left")
os.mkfifo("/tmp/fifo")
os.symlink("/tmp/loop", "/tmp/loop")
os.symlink("/nowhere/at/all", "/tmp/dangling")
os.symlink("/work", "/tmp/work")
with open("/dev/shm/mapped", "w+b") as f:
    f.write(b"x" * 4096)
    f.flush()
    held = mmap.mmap(f.fileno(), 4096)
os.link("/dev/shm/mapped", "/dev/shm/again")
