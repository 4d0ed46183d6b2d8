# Process 1 of the Python lane. Imports what programs use, then serves: each run is a fork of this process, and calls
# "child" in it. Nothing of any job is ever in this process' memory but for the moment of passing it on.
import sys

import bisect, collections, copy, functools, heapq, io, itertools, json, linecache, marshal, math, operator, os, random
import re, string, threading, traceback, types, typing, warnings
import _io, _thread, atexit, builtins, contextlib, datetime, gc, importlib, inspect, unittest
import bessemer_child, bessemer_warm

# Outside of namespaces the slot is a directory of the host (src/sandbox-slot/src/outside.rs).
ROOT = os.environ.pop('BESSEMER_ROOT', '')
# There no program starts another process, and in tier D ("files") none can open a file.
SHUT = os.environ.pop('BESSEMER_SHUT', '')
MAIN = ROOT + '/prog/main.py'
WORK = ROOT + '/work'
bessemer_child.MAIN = MAIN
bessemer_child.TEST_FILE = ROOT + bessemer_child.TEST_FILE


def read_program():
    held = held_source()
    if held is not None:
        return held
    with open(MAIN, 'rb') as f:
        return f.read()


def child(kind, source):
    """A run of this kind; source is None where the extension module has not read it."""
    if kind == 0:
        script()
    elif kind == 4:
        check()
    if source is None:
        source = read_program()
    sys.argv[:] = [MAIN]
    bessemer_child.start(('', 'calls', 'tests', 'script', '', 'pytest')[kind], source)


def new_main():
    """Makes __main__ what it is when a script starts."""
    space = sys.modules['__main__'].__dict__
    space.clear()
    space.update(__name__='__main__', __doc__=None, __package__=None, __loader__=None, __spec__=None,
                 __builtins__=builtins, __file__=MAIN, __cached__=None)
    sys.argv[:] = [MAIN]
    sys.path[0] = ROOT + '/prog'
    return space


def script():
    """Does what the interpreter does with a script. The extension module does the same more cheaply, and leaves to this
    function what it could not read or compile."""
    space = sys.modules['__main__'].__dict__
    try:
        code = compile(read_program(), MAIN, 'exec', dont_inherit=True)
    except Exception as e:
        sys.excepthook(type(e), e.with_traceback(None), None)
        finish(1)
    try:
        exec(code, space)
    except BaseException as e:
        failed(e.with_traceback(e.__traceback__.tb_next))  # without the frame of this function
    finish(0)


def failed(e):
    """The program has raised this."""
    status = 1
    if isinstance(e, SystemExit):
        finish(exit_status(e))
    try:
        sys.excepthook(type(e), e, e.__traceback__)
    except SystemExit as e:
        status = exit_status(e)
    except BaseException:
        pass
    finish(status)


def again(stdin=sys.stdin, stdout=sys.stdout, limit=sys.getrecursionlimit(), modules=sys.modules):
    """Another test in the same process: descriptors 0 and 1 are new files already."""
    new_main()
    sys.setrecursionlimit(limit)
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), stdin.encoding,
                                                 stdin.errors)
    if os.getcwd() != WORK:
        os.chdir(WORK)
    if sys.stdout is not stdout or stdout.closed:
        raise ValueError('another stdout')


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


def finish(status, _exit=os._exit, _threads=threading, _handlers=atexit._run_exitfuncs, io=io, sys=sys):
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
    # The interpreter closes what the program left open, and so writes what lies in buffers.
    for stream in [sys.__stdout__, sys.__stderr__] + list(sys.modules['__main__'].__dict__.values()):
        try:
            if isinstance(stream, io.IOBase) and not stream.closed:
                stream.flush()
        except BaseException:
            pass
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


def warm_up():
    """Takes the paths that runs take, so that their caches are filled before the first fork."""
    bessemer_warm.programs(new_main, MAIN)
    bessemer_warm.conversations(bessemer_child)


SAMPLE = b'def f(a):\n    return a + 1\n'
SAMPLE_TESTS = b'def test_f():\n    assert f(1) == 2\n'
NUMPY_SAMPLE = b'import sys\nimport numpy as np\na = np.array(sys.stdin.read().split(), dtype=np.int64)\nprint(int(a.sum()), a.max())\n'


def rehearsals():
    """What is rehearsed besides plain programs, so that the pages that it uses are known: for each a byte with its group
    (sample.rs), what it hears, and an empty one."""
    frame = bessemer_child.frame
    call = frame([1, 0, 'f', [1], {}])
    for kind in REHEARSED:
        if kind == 'calls':
            yield from (b'\1', call, b'')
        elif kind == 'numpy':
            yield from (b'\0', b'')
        else:
            yield from (b'\2', frame([['f', 'callable']]), frame([1, 'value', 2]), b'')


REHEARSED = ['calls', 'tests']


def rehearse(n):
    kind = REHEARSED[n]
    if kind == 'calls':
        bessemer_child.serve_calls(SAMPLE)
    elif kind == 'tests':
        bessemer_child.run_tests(SAMPLE_TESTS, False)
    elif kind == 'pytest':
        bessemer_child.run_pytest(SAMPLE_TESTS)
        os.unlink(bessemer_child.TEST_FILE)
    else:
        exec(compile(NUMPY_SAMPLE, MAIN, 'exec', dont_inherit=True), sys.modules['__main__'].__dict__)
        sys.stdout.flush()
    return 0


def ready():
    """The arguments of the extension module's serve."""
    sys.path.remove(ROOT + '/.zygote')
    os.environ.pop('LD_BIND_NOW', None)  # meant for this process only
    hello = bytes.fromhex(sys.argv[-1])
    warm_up()
    for name in ('bessemer_zygote', 'bessemer_child', 'bessemer_warm', __name__):
        sys.modules.pop(name, None)
    space = new_main()
    gc.collect()
    gc.freeze()
    out, err = sys.stdout, sys.stderr
    thread_handlers = getattr(threading, '_threading_atexits', [])
    return (hello, child, failed, finish, space, _thread._count, atexit._ncallbacks, thread_handlers, _io._IOBase,
            out, out.flush, err, err.flush, again, rehearse, list(rehearsals()), give_up)


def tell_failure(text):
    """The hello of a slot that does not stand, in the encoding of the slot crate's wire module."""
    text = text.encode('utf-8', 'replace')[:4000]
    os.write(100, b'\0' + (2).to_bytes(4, 'little') + len(text).to_bytes(8, 'little') + text + bytes(4 + 4 + 8 + 1 + 8))


def load():
    global serve, held_source
    try:
        from bessemer_zygote import held_source, receive, serve
        bessemer_child.read_first = receive
        for name in sys.argv[1:-1]:
            importlib.import_module(name)
            REHEARSED.append(name)
            if name == 'pytest':
                REHEARSED.remove('tests')
                from _pytest.config import default_plugins
                # The rest is what pytest imports when it starts.
                for plugin in list(default_plugins) + ['_argcomplete']:
                    importlib.import_module('_pytest.' + plugin)
                import cmd, code, codeop, pdb
                bessemer_child.find_pytest_plugins()
        if SHUT:
            import bessemer_shut
            bessemer_shut.no_processes()
            if SHUT == 'files':
                bessemer_shut.load()
                bessemer_shut.shut(ROOT + '/prog/')
            sys.modules.pop('bessemer_shut')
    except BaseException as e:
        give_up(e)


def start():
    # Called from the top of the -c command: each frame below a program would be missing from its recursion limit.
    try:
        return ready()
    except BaseException as e:
        give_up(e)


def give_up(e):
    tell_failure('the warm interpreter: ' + ''.join(traceback.format_exception(type(e), e, e.__traceback__)))
    os._exit(1)
