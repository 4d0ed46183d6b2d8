# expect: OK
# limits: wall=10 cpu=10
# stdout: "[0, 1, 4, 9, 16]\n"
# why: a pool needs fork, semaphores in /dev/shm and pipes
import multiprocessing as mp
def square(n):
    return n * n
if __name__ == "__main__":
    with mp.get_context("fork").Pool(2) as pool:
        print(pool.map(square, range(5)))
