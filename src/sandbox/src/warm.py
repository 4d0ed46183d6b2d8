# What the warm interpreter does before it serves: what programs usually do, so that caches of the interpreter that a first
# use fills (attributes of types, names, specialised bytecode) are full before the first fork. Each that is not costs a
# run the page that it lies in. Everything here is our own text; nothing of it is left when it is over.
import io
import marshal
import os
import sys

INPUT = b'4 3\n4 2 7 1\nab cd\n1.5 x\n\nlast line\n'

READING = '''
import sys
from sys import stdin
n, k = map(int, input().split())
a = list(map(int, input().split()))
words = input().strip().split()
line = sys.stdin.readline()
x = float(line.split()[0])
rest = [l.rstrip() for l in sys.stdin]
print(n, k)
print(*a)
print(*sorted(a), sep=', ', end='\\n')
print(words, x, len(rest))
print(f'{n} {x:.2f} {words[0]!r} {k:>3}')
print('%d %s %.1f' % (n, words[0], x), '{} {:.3f}'.format(n, x))
sys.stdout.write(str(n) + '\\n')
print('\\n'.join(map(str, a)), file=sys.stdout, flush=True)
'''

WHOLE = '''
import sys
input = sys.stdin.readline
def main():
    data = sys.stdin.read().split()
    n = int(data[0])
    a = [int(x) for x in data[2:2 + n]]
    print(sum(a), max(a), min(a), len(data))
    print(sum(map(int, data[:2])))
if __name__ == '__main__':
    main()
'''

BYTES = '''
import sys
data = sys.stdin.buffer.read().split()
lines = b'a b\\nc\\n'.decode().splitlines()
sys.stdout.write(' '.join(map(str, map(int, data[:2]))))
'''

DOING = '''
import math, heapq, bisect, itertools, functools, collections, string
from collections import defaultdict, Counter, deque, OrderedDict
from itertools import permutations, combinations, accumulate, product
from functools import lru_cache, reduce, cmp_to_key
from heapq import heappush, heappop
from typing import List, Optional, Dict, Tuple
from math import gcd, sqrt
MOD = 10 ** 9 + 7
INF = float('inf')

class Node:
    count = 0
    def __init__(self, val, next=None):
        self.val = val
        self.next = next
        Node.count += 1
    def __lt__(self, other):
        return self.val < other.val
    def __eq__(self, other):
        return isinstance(other, Node) and self.val == other.val
    def __hash__(self):
        return hash(self.val)
    def __repr__(self):
        return 'Node(%r)' % self.val
    @property
    def double(self):
        return self.val * 2
    @staticmethod
    def make(v):
        return Node(v)

class Child(Node):
    def __init__(self, val):
        super().__init__(val)
        self.children = {}
    def __len__(self):
        return len(self.children)
    def __getitem__(self, key):
        return self.children[key]
    def __contains__(self, key):
        return key in self.children
    def __iter__(self):
        return iter(self.children)

class Solution:
    def twoSum(self, nums: List[int], target: int) -> List[int]:
        seen = {}
        for i, x in enumerate(nums):
            if target - x in seen:
                return [seen[target - x], i]
            seen[x] = i
        return []

@lru_cache(maxsize=None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

def generate(n):
    for i in range(n):
        yield i
    return

def strings():
    s = ' Ab,cd ef,Gh '
    t = s.strip().lower().upper()
    parts = s.split(',')
    u = t.replace('A', 'b').title().capitalize().swapcase()
    n = s.find('c') + s.rfind('f') + s.index(',') + s.count(',') + len(s)
    flags = [t.isdigit(), t.isalpha(), t.isalnum(), t.isupper(), t.islower(), t.startswith('A'), t.endswith('H'), t.isspace()]
    w = t.rjust(20).ljust(22, '.').center(30).zfill(32)
    v = ''.join(reversed(t)) + t[::-1] + '-'.join(parts) + 'a' * 3 + t.lstrip('A').rstrip('H')
    table = str.maketrans('ab', 'cd')
    b = s.encode().decode('utf-8') + s.translate(table)
    words = 'a b\\nc'.splitlines() + 'a b'.partition(' ')[0].split(maxsplit=1) + list('abc')
    codes = [ord(c) - ord('a') for c in 'abc'] + [int('11', 2), int('7')]
    return f'{n:5d}|{n:05d}|{n:x}|{n:b}|{1.5:.3f}|{w!s}|{v!r}' + chr(97) + bin(5) + hex(255) + str(1.5) + repr(flags) + u + b

def lists():
    a = [3, 1, 2]
    a.append(4); a.extend([5, 6]); a.insert(0, 9); a.pop(); a.pop(0); a.remove(2); a.sort(); a.sort(key=lambda x: -x, reverse=True)
    a.reverse(); a.index(3); a.count(1)
    b = a.copy() + a[1:] + a[::-1] + [0] * 3
    b[0] = 7; b[1], b[2] = b[2], b[1]; b[-1] += 1; del b[0]
    grid = [[0] * 3 for _ in range(3)]
    grid[1][2] = 5
    flat = [x for row in grid for x in row if x]
    pairs = list(zip(a, b)) + list(enumerate(a))
    q = sorted(pairs, key=lambda p: (p[1], -p[0]))
    m = max(a), min(a, default=0), sum(a), any(a), all(a), list(map(str, a)), list(filter(None, a)), sum(x * x for x in a)
    t = tuple(a) + (1,)
    first, *others = t
    for i in range(len(a) - 1, -1, -1):
        if a[i] > 100:
            break
    else:
        i = 0
    while i < 3:
        i += 1
        continue
    return len(b) // 2 + len(q) % 3 - i ** 2 + round(2.567, 1) + abs(-3) + divmod(7, 2)[0] + pow(2, 10, 7), m, first, others, flat

def dicts():
    d = {'a': 1, 'b': 2}
    d['c'] = 3
    d.get('z', 0); d.setdefault('y', []).append(1); d.pop('y'); d.update({'q': 1}); d.update(r=2)
    for k, v in d.items():
        if k in d and v not in (9,):
            pass
    e = {k: v for k, v in sorted(d.items(), key=lambda kv: kv[1])}
    n = len(d.keys()) + sum(d.values())
    g = defaultdict(list); g[1].append(2); h = defaultdict(int); h['x'] += 1
    c = Counter('abca'); c.most_common(1); c['a'] -= 1
    s = {1, 2, 3}; s.add(4); s.discard(1); s.remove(2); s.update([7]); s2 = s | {5} & {5} - {6} ^ {8}; s.issubset(s2); s.union([1]); s.intersection(s2)
    f = frozenset([1]); o = OrderedDict(); o['k'] = 1; o.move_to_end('k'); o.popitem(last=False)
    d2 = deque([1, 2], maxlen=5); d2.append(3); d2.appendleft(0); d2.popleft(); d2.pop(); d2.extend([5]); d2.rotate(1)
    del d['a']
    return n, e, list(g), h, f, bool(d2), dict(zip('ab', [1, 2])), [*d], {**d}

def functions(*args, key=None, **more):
    def inner(x):
        nonlocal total
        total += x
        return total
    total = 0
    for x in generate(3):
        inner(x)
    it = iter([1, 2]); next(it); next(it, None); next(it, None)
    h = []; heappush(h, 3); heappush(h, (1)); heappop(h); heapq.heapify(h); heapq.nlargest(1, [1, 2])
    bisect.bisect_left([1, 2], 2); bisect.bisect_right([1, 2], 1); bisect.insort([1], 2)
    list(permutations([1, 2])); list(combinations([1, 2], 2)); list(accumulate([1, 2])); list(product([1], [2])); list(itertools.chain([1], [2]))
    reduce(lambda a, b: a + b, [1, 2], 0); sorted([2, 1], key=cmp_to_key(lambda a, b: a - b))
    gcd(4, 6); sqrt(2.0); math.ceil(1.5); math.floor(1.5); math.log(2); math.isqrt(9); math.pi; math.inf; math.comb(4, 2)
    for bad in (lambda: int('x'), lambda: {}['k'], lambda: [][1], lambda: 1 // 0, lambda: None.x, lambda: 'a' + 1):
        try:
            bad()
        except (ValueError, KeyError) as e:
            str(e), type(e).__name__
        except Exception as e:
            repr(e)
        finally:
            total += 1
    try:
        assert total > 1000, 'small'
    except AssertionError:
        pass
    nodes = sorted([Node(2), Child(1)]); c = nodes[0]; c.children['x'] = c; len(c); 'x' in c; c['x']; list(c); c == nodes[1]; {c: 1}; c.double; c.make(1)
    head = Node(1, Node(2)); cur = head
    while cur:
        cur = cur.next
    big = 12345678901234567890123 * 98765432109876543210 % MOD
    bits = (5 & 3) | (1 << 4) ^ ~2 >> 1
    return isinstance(total, int), hasattr(head, 'val'), getattr(head, 'val', 0), type(head) is Node, callable(bad), bool(args), id(head) and hash('x'), big, bits, INF > 1, -INF, float('nan') != 1, 7 / 2, 1e9, complex(1, 2), None is None

def everything():
    return fib(10), strings(), lists(), dicts(), functions(1, 2, key=3, other=4), Solution().twoSum([1, 2], 3), repr(Node(1)), str(fib(5))

print(len(str(everything())))
'''

PROGRAMS = [READING, WHOLE, BYTES, DOING]
TIMES = 12  # bytecode is specialised after eight runs of a function, and what it then tries has a few more


def programs(globals_of_a_script, file):
    """Runs them on streams as programs have them."""
    saved = sys.stdin, sys.stdout
    inward, outward = os.memfd_create('warm'), os.memfd_create('warm')
    os.write(inward, INPUT)
    codes = [compile(p, file, 'exec', dont_inherit=True) for p in PROGRAMS]
    try:
        for n in range(TIMES):
            for text, code in zip(PROGRAMS, codes):
                os.lseek(inward, 0, os.SEEK_SET)
                sys.stdin = stream(saved[0], io.BufferedReader(io.FileIO(inward, closefd=False)))
                sys.stdout = stream(saved[1], io.BufferedWriter(io.FileIO(outward, 'w', closefd=False)))
                if n % 4 == 3:
                    code = compile(text, file, 'exec', dont_inherit=True)
                exec(code, globals_of_a_script())
                sys.stdout.flush()
    finally:
        sys.stdin, sys.stdout = saved
        os.close(inward)
        os.close(outward)


def stream(like, buffer):
    return io.TextIOWrapper(buffer, like.encoding, like.errors, line_buffering=False)


TESTED = b'def f(a):\n    return a + 1\nclass C:\n    def m(self):\n        return [1]\n'
CALLS = [('f', [1]), ('f', [1.5]), ('f', ['x']), ('g', []), ('C', [])]
TESTS = b'def test_f():\n    assert f(1) == 2\n\nclass TestIt:\n    def test_g(self):\n        assert f(2) == 3\n'


def conversations(child):
    """What the processes do that answer calls, and that run tests, with both ends of the conversation here."""
    saved = child.send, child.receive
    modules = set(sys.modules)
    said = []
    try:
        for _ in range(TIMES):
            heard = [[n, 0, name, args, {}] for n, (name, args) in enumerate(CALLS)]
            child.send = lambda value: said.append(marshal.dumps(value, 2))
            child.receive = lambda: marshal.loads(marshal.dumps(heard.pop(0), 2)) if heard else None
            child.serve_calls(TESTED)
            heard = [[['f', 'callable'], ['C', 'callable']], [child._asked + 1, 'value', 2], [child._asked + 2, 'value', 3]]
            child.run_tests(TESTS, False)
            for name in set(sys.modules) - modules:
                del sys.modules[name]
            del said[:]
    finally:
        child.send, child.receive = saved
        child._asked = 0
