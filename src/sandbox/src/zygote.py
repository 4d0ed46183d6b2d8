# Process 1 of the Python lane. Imports what programs use, then serves: each run is a fork of this process, and calls
# "child" in it. Nothing of any job is ever in this process' memory but for the moment of passing it on.
import sys

import bisect, collections, copy, functools, heapq, io, itertools, json, linecache, marshal, math, operator, os, random
import re, string, threading, traceback, types, typing, warnings
import atexit, builtins, datetime, decimal, fractions, gc
import bessemer_child
import bessemer_zygote

MAIN = '/prog/main.py'


def child(kind):
    if kind == 0:
        script()
    elif kind == 4:
        check()
    with open(MAIN, 'rb') as f:
        source = f.read()
    extra = b'N'
    if kind != 1:
        with open('/prog/.extra', 'rb') as f:
            extra = f.read()
    sys.argv[:] = [MAIN]
    bessemer_child.start(('', 'calls', 'tests', 'script')[kind], source, extra)


def script():
    """Does what the interpreter does with a script: runs it as __main__, honours exits, threads, handlers, buffers."""
    space = sys.modules['__main__'].__dict__
    space.clear()
    space.update(__name__='__main__', __doc__=None, __package__=None, __loader__=None, __spec__=None,
                 __builtins__=builtins, __file__=MAIN, __cached__=None)
    sys.argv[:] = [MAIN]
    sys.path[0] = '/prog'
    status = 0
    try:
        with open(MAIN, 'rb') as f:
            code = compile(f.read(), MAIN, 'exec', dont_inherit=True)
    except Exception as e:
        sys.excepthook(type(e), e.with_traceback(None), None)
        finish(1)
    try:
        exec(code, space)
    except SystemExit as e:
        status = exit_status(e)
    except BaseException as e:
        status = 1
        trace = e.__traceback__.tb_next  # without the frame of this function
        try:
            sys.excepthook(type(e), e.with_traceback(trace), trace)
        except SystemExit as e:
            status = exit_status(e)
        except BaseException:
            pass
    finish(status)


def exit_status(e):
    code = e.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xff
    try:
        sys.stderr.write(str(code) + '\n')
    except BaseException:
        pass
    return 1


def finish(status, _exit=os._exit, _threads=threading, _handlers=atexit._run_exitfuncs):
    try:
        _threads._shutdown()
    except BaseException:
        pass
    try:
        _handlers()
    except BaseException:
        pass
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException:
            status = 120  # as the interpreter itself says then
    _exit(status)


def check():
    """Does stdin parse and compile? Status 0 or 1, the error on stderr."""
    warnings.simplefilter('ignore')
    try:
        compile(sys.stdin.buffer.read(), MAIN, 'exec', dont_inherit=True)
    except Exception as e:
        sys.stderr.write('%s: %s' % (type(e).__name__, e))
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def burn():
    """Uses up the half-used pools of small objects, so that a child's new objects come from pages of their own.

    Without this, each small object of a run lands in some page that this process filled earlier, and the kernel
    copies that page for the run.
    """
    held = []
    for size in range(16, 513, 16):
        # bytes objects have a header of 33 bytes; a pool holds 4 or 16 KiB of one size.
        data = size - 33
        if data > 0:
            held.append([bytes(data) for _ in range(16384 // size + 1)])
    held.append([[] for _ in range(300)])
    held.append([() for _ in range(300)])
    held.append([{} for _ in range(300)])
    held.append([float(i) for i in range(1000)])
    return held


def warm_up():
    """Takes the paths that every run takes, so that their caches are filled before the first fork."""
    source = b"import sys\ndef f(n):\n    return [i * i for i in range(n)]\nclass C:\n    pass\nx = sum(f(3)) + len('%s' % C())\n"
    exec(compile(source, MAIN, 'exec', dont_inherit=True), {'__name__': 'warm'})
    ' '.join(map(str, sorted('3 1 2'.split(), key=int)))


def main():
    sys.path.remove('/.zygote')
    hello = bytes.fromhex(sys.argv[1])
    for name in ('bessemer_zygote', 'bessemer_child', __name__):
        sys.modules.pop(name, None)
    warm_up()
    gc.collect()
    keep = burn()  # noqa: F841 - held for ever, which is its purpose
    gc.freeze()
    bessemer_zygote.serve(hello, child)


def tell_failure(text):
    """The hello of a slot that does not stand, in the encoding of the slot crate's wire module."""
    text = text.encode('utf-8', 'replace')[:4000]
    os.write(100, b'\0' + (1).to_bytes(4, 'little') + len(text).to_bytes(8, 'little') + text + bytes(4 + 4 + 8))


try:
    main()
except BaseException:
    tell_failure('the warm interpreter: ' + traceback.format_exc())
    os._exit(1)
