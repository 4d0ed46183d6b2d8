# What runs in a slot's Python process besides the program itself: the answering end of function mode ("serve_calls")
# and the test runner of pytest mode ("run_tests"). Both talk to the supervisor over descriptor 3 in frames of four
# length bytes and a marshal value. Nothing here is trusted: a program that tampers with it can change its own answers,
# but it never learns what was expected, and an answer that is missing is a failure.
import builtins
import collections
import itertools
import marshal
import os
import sys

CHANNEL = 3
MAIN = '/prog/main.py'
Module = type(sys)
# marshal takes exact types only
DICTIONARIES = (dict, collections.Counter, collections.OrderedDict, collections.defaultdict)


def frame(value, _dumps=marshal.dumps):
    data = _dumps(value, 2)
    return len(data).to_bytes(4, 'little') + data


def put(data, _write=os.write):
    data = len(data).to_bytes(4, 'little') + data
    sent = _write(CHANNEL, data)
    while sent < len(data):
        sent += _write(CHANNEL, data[sent:sent + (1 << 20)])


def send(value, _dumps=marshal.dumps, _put=put):
    _put(_dumps(value, 2))


read_first = os.read  # a warm interpreter has a better one
waiting = b''  # what has been read behind a frame: calls may come several at a time


def receive(_loads=marshal.loads, _read=os.read):
    """The next frame, or None at the end."""
    global waiting
    data = waiting or read_first(CHANNEL, 4096)
    if not data:
        return None
    if len(data) >= 4:
        size = int.from_bytes(data[:4], 'little') + 4
        if len(data) >= size:
            waiting = data[size:]
            return _loads(data[4:size])
    parts = bytearray(data)
    while len(parts) < 4 or len(parts) < int.from_bytes(parts[:4], 'little') + 4:
        data = _read(CHANNEL, 1 << 20)
        if not data:
            return None
        parts += data
    size = int.from_bytes(parts[:4], 'little') + 4
    waiting = bytes(parts[size:])
    return _loads(bytes(parts[4:size]))


MANY = 50000  # a list or tuple with more items crosses in parts
PART = 1 << 20  # of about as many bytes, but no more items than this; what occurs twice in a part is written once
MOST = 20000


def send_result(number, result):
    """The answer to a call."""
    if type(result) not in (list, tuple) or len(result) <= MANY:
        send([number, 'value', result])
        return
    at, step = 0, 256
    while at < len(result):
        part = marshal.dumps(result[at:at + step], 4)
        if len(part) > 8 * PART and step > 1:
            step = max(1, step * PART // len(part))
            continue
        send([number, 'part', at])
        put(part)
        at += step
        step = max(1, min(4 * step, step * PART // len(part), MOST))
    send([number, 'whole', type(result).__name__])


def new_main(source, name):
    """Compiles and runs source as the module of this name; returns its globals."""
    module = Module(name)
    module.__dict__['__file__'] = MAIN
    module.__dict__['__builtins__'] = __builtins__
    sys.modules[name] = module
    exec(compile(source, MAIN, 'exec', dont_inherit=True), module.__dict__)
    return module.__dict__


def describe(error):
    """An exception as plain values: type name, its builtin base, text."""
    base = 'Exception'
    for kind in type(error).__mro__:
        if getattr(builtins, kind.__name__, None) is kind:
            base = kind.__name__
            break
    try:
        text = str(error)[:2000]
    except BaseException:
        text = ''
    return [type(error).__name__, base, text]


def serve_calls(source):
    """Loads the program, then answers: (number, name, args, kwargs) -> (number, 'value', v) or (number, 'raised', e).

    A name may be a path of attributes behind an object handle: results that are no builtin values stay here, and
    ('object', id, type name) goes out instead.
    """
    try:
        space = new_main(source, 'solution')
    except SyntaxError as e:
        send(['syntax', str(e)])
        return
    except BaseException as e:
        send(['failed', describe(e)])
        return
    objects = {}
    names = [[k, 'callable' if callable(v) else 'value'] for k, v in space.items() if type(k) is str and not k.startswith('__')]
    send(['loaded', names])
    while True:
        request = receive()
        if request is None:
            return
        number, handle, name, args, kwargs = request
        try:
            if not objects and args is not None and name in space:  # the usual case: nothing to resolve
                result = space[name](*args, **kwargs)
            else:
                result = answer(space, objects, handle, name, args, kwargs)
        except BaseException as e:
            if isinstance(e, (KeyboardInterrupt, GeneratorExit)):
                raise
            send([number, 'raised', describe(e)])
        else:
            try:
                send_result(number, result)
            except ValueError:  # no builtin value: nothing has been sent, or parts, which another answer takes back
                try:
                    send_result(number, as_builtin(result))
                except (ValueError, RecursionError):
                    key = len(objects) + 1
                    objects[key] = result
                    send([number, 'object', [key, type(result).__name__]])


def answer(space, objects, handle, name, args, kwargs):
    target = objects[handle] if handle else space
    if name == '\0list':
        return list(itertools.islice(target, 100000))
    if name is None:
        return target(*resolve(args, objects), **resolve(kwargs, objects))
    got = getattr(target, name) if handle else global_name(target, name)
    if args is None:
        return got
    return got(*resolve(args, objects), **resolve(kwargs, objects))


def as_builtin(value):
    """The standard library's dictionaries as plain ones, which they are equal to, also inside of containers."""
    kind = type(value)
    if kind in (list, tuple):
        return kind(as_builtin(v) for v in value)
    if kind in DICTIONARIES:
        return {k: as_builtin(v) for k, v in dict.items(value)}
    return value


def global_name(space, name):
    """A name of the program; else a method of its class Solution, on a fresh object, as some judges call programs."""
    if name in space:
        return space[name]
    holder = space.get('Solution')
    if isinstance(holder, type) and hasattr(holder, name):
        return getattr(holder(), name)
    raise NameError('name %r is not defined' % name)


def resolve(value, objects):
    """Puts objects in place of the handles that the other side sends for them."""
    if type(value) is list and len(value) == 2 and value[0] == '\0handle':
        return objects[value[1]]
    if type(value) is list:
        return [resolve(v, objects) for v in value]
    if type(value) is tuple:
        return tuple(resolve(v, objects) for v in value)
    if type(value) is dict:
        return {k: resolve(v, objects) for k, v in value.items()}
    return value


# ---- the test runner: runs in a process that has never seen the program ----

class Remote:
    """Stands for an object of the program. It compares by identity only: equality is never asked of the program."""

    def __init__(self, handle, kind):
        object.__setattr__(self, '_handle', handle)
        object.__setattr__(self, '_kind', kind)

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        value = ask(self._handle, name, None, {})
        if type(value) is Remote:
            return lambda *a, **k: ask(self._handle, name, list(a), k)
        return value

    def __call__(self, *args, **kwargs):
        return ask(self._handle, None, list(args), kwargs)

    def __iter__(self):
        return iter(ask(self._handle, '\0list', None, {}))

    def __len__(self):
        return ask(self._handle, '__len__', [], {})

    def __getitem__(self, key):
        return ask(self._handle, '__getitem__', [key], {})

    def __contains__(self, key):
        return ask(self._handle, '__contains__', [key], {}) is True

    def __repr__(self):
        return '<%s of the program>' % self._kind


def plain(value):
    if type(value) is Remote:
        return ['\0handle', value._handle]
    if type(value) in (list, tuple):
        return type(value)(plain(v) for v in value)
    if type(value) is dict:
        return {k: plain(v) for k, v in value.items()}
    return value


_asked = 0


def ask(handle, name, args, kwargs):
    global _asked
    _asked += 1
    try:
        send(['call', _asked, handle, name, plain(args), plain(kwargs)])
    except ValueError:
        raise Unsupported('arguments of %s are no builtin values' % name) from None
    parts = []
    while True:
        reply = receive()
        if reply is None or reply[0] != _asked:
            os._exit(3)
        kind, value = reply[1], reply[2]
        if kind != 'part':
            break
        del parts[value:]
        parts.extend(receive())
    if kind == 'value':
        return value
    if kind == 'whole':
        return tuple(parts) if value == 'tuple' else parts
    if kind == 'object':
        return Remote(value[0], value[1])
    base = getattr(builtins, value[1], Exception)
    if not (isinstance(base, type) and issubclass(base, Exception)):
        base = RuntimeError
    error = type(value[0], (base,), {})(value[2]) if value[0] != base.__name__ else base(value[2])
    error.of_program = True
    raise error


class Unsupported(Exception):
    """A test needs more of the program than values can carry."""


def tests_module(names):
    """An empty module of tests, in which the program's names stand for the program's."""
    module = Module('tests')
    space = module.__dict__
    sys.modules['tests'] = module
    solution = Module('solution')
    for name, kind in names:
        if kind == 'callable':
            proxy = make_proxy(name)
        else:
            proxy = ask(0, name, None, {})
        space[name] = proxy
        setattr(solution, name, proxy)
    for alias in ('solution', 'main', 'code', 'program'):
        sys.modules.setdefault(alias, solution)
    return module


TEST_FILE = '/work/test_main.py'
pytest_plugins = None  # the installed packages that have plugins of pytest, where a warm interpreter has looked


def find_pytest_plugins():
    """Looks once what every start of pytest looks for in each package that is installed."""
    import importlib.metadata
    global pytest_plugins
    pytest_plugins = [d for d in importlib.metadata.distributions()
                      if any(e.group == 'pytest11' for e in d.entry_points)]


def run_pytest(source):
    """Runs the tests of a module by the real pytest: the same messages as run_tests sends."""
    import ast
    import importlib.metadata
    import pytest
    from _pytest.assertion.rewrite import rewrite_asserts
    path = TEST_FILE
    distributions = importlib.metadata.distributions
    if pytest_plugins is not None:
        importlib.metadata.distributions = lambda **kinds: iter(pytest_plugins)
    names = receive()
    if names is None:
        return
    module = tests_module(names)
    module.__file__ = path
    with open(path, 'wb') as f:
        f.write(source)
    known, told = [], {}

    class Module(pytest.Module):
        def _getobj(self):
            return module

    class Plugin:
        def pytest_pycollect_makemodule(self, module_path, parent):
            return Module.from_parent(parent, path=module_path)

        def pytest_configure(self, config):
            importlib.metadata.distributions = distributions  # tests may ask for themselves
            tree = ast.parse(source)
            rewrite_asserts(tree, source, path, config)
            exec(compile(tree, path, 'exec', dont_inherit=True), module.__dict__)

        def pytest_collection_finish(self, session):
            known.extend(item.nodeid.split('::', 1)[1] for item in session.items)
            send(['collected', known])

        def pytest_runtest_logreport(self, report):
            name = report.nodeid.split('::', 1)[1]
            if report.outcome == 'passed' and report.when != 'call':
                return
            if name in told and report.outcome == 'passed':
                return
            text = '' if report.outcome == 'passed' else str(report.longrepr)[-2000:]
            if 'Unsupported' in text and report.outcome == 'failed':
                told[name] = ['unsupported', text]
            elif hasattr(report, 'wasxfail'):
                told[name] = ['passed' if report.outcome == 'skipped' else 'failed', text]
            else:
                told[name] = [report.outcome, text]

        def pytest_runtest_logfinish(self, nodeid, location):
            name = nodeid.split('::', 1)[1]
            send(['test', name] + told.get(name, ['failed', 'pytest did not report it']))

    try:
        quiet = ['-q', '--no-header', '--capture=sys', '--noconftest', '-c', '/dev/null', '--rootdir=' + os.path.dirname(TEST_FILE)]
        plugins = ['-p', 'no:cacheprovider', '-p', 'no:faulthandler']
        status = int(pytest.main(quiet + plugins + [path], plugins=[Plugin()]))
        if status in (3, 4):
            raise RuntimeError('pytest gave up with status %d' % status)
    except BaseException as e:
        send(['broken', describe(e)])
        return
    send(['end', len(known)])


def run_tests(source, script):
    """Runs the tests of a module, one after the other: ('test', name, outcome, text) each, ('end', count) last.

    A script is one test: it passes when its last line has been reached. The program's names are heard first; it is being
    loaded while this process gets ready.
    """
    if b'pytest' in source:
        try:
            import pytest  # noqa: F401 - the real one where it is installed
        except ImportError:
            sys.modules['pytest'] = tiny_pytest()
    try:
        code = compile(source, 'test_main.py', 'exec', dont_inherit=True)
    except (SyntaxError, ValueError) as e:
        send(['broken', describe(e), 'tests'])
        return
    names = receive()
    if names is None:
        return
    space = tests_module(names).__dict__
    try:
        exec(code, space)
    except BaseException as e:
        # what only the tests can have done: they want more than values can carry, or a module that is not here
        own = isinstance(e, (Unsupported, ModuleNotFoundError)) and not hasattr(e, 'of_program')
        send(['broken', describe(e), 'tests'] if own else ['broken', describe(e)])
        return
    tests = [('script', lambda: None)] if script else list(collect(space))
    send(['collected', [t[0] for t in tests]])
    for name, call in tests:
        try:
            call()
            outcome = ['passed', '']
        except Unsupported as e:
            outcome = ['unsupported', str(e)]
        except BaseException as e:
            kind = type(e).__name__
            outcome = ['skipped' if kind in ('Skipped', 'SkipTest') else 'failed', ': '.join(describe(e)[::2])]
        send(['test', name] + outcome)
    send(['end', len(tests)])


def make_proxy(name):
    def proxy(*args, **kwargs):
        return ask(0, name, list(args), kwargs)
    proxy.__name__ = proxy.__qualname__ = name
    return proxy


def collect(space):
    """Functions test_*, methods test_* of classes Test* and unittest cases, in the order of their definition."""
    import inspect
    import unittest
    fixtures = {k: v for k, v in space.items() if getattr(v, '_is_fixture', False)}
    for name, value in list(space.items()):
        if name.startswith('test') and inspect.isfunction(value) and value.__module__ == 'tests':
            yield from cases(name, value, value, fixtures)
        elif inspect.isclass(value) and value.__module__ == 'tests':
            if issubclass(value, unittest.TestCase):
                for method in unittest.TestLoader().getTestCaseNames(value):
                    yield '%s::%s' % (name, method), unittest_case(value, method)
            elif name.startswith('Test'):
                for method, function in list(vars(value).items()):
                    if method.startswith('test') and inspect.isfunction(function):
                        yield from cases('%s::%s' % (name, method), function, bound(value, method), fixtures)


def bound(cls, method):
    def call(*args, **kwargs):
        one = cls()
        if hasattr(one, 'setup_method'):
            one.setup_method(None)
        try:
            getattr(one, method)(*args, **kwargs)
        finally:
            if hasattr(one, 'teardown_method'):
                one.teardown_method(None)
    return call


def unittest_case(cls, method):
    def call():
        cls(method).debug()
    return call


def parameter_sets(function):
    """Every combination of the function's parametrize marks, as keyword arguments."""
    sets = [{}]
    for mark in getattr(function, 'pytestmark', []):
        if getattr(mark, 'name', '') != 'parametrize':
            continue
        names, values = mark.args[0], mark.args[1]
        names = [n.strip() for n in names.split(',')] if isinstance(names, str) else list(names)
        more = []
        for v in values:
            v = getattr(v, 'values', v) if type(v).__name__ == 'ParameterSet' else v
            more.append(dict(zip(names, v if len(names) > 1 else [v])) if not isinstance(v, tuple) or len(names) > 1
                        else {names[0]: v})
        sets = [dict(a, **b) for b in sets for a in more]
    return sets


def cases(name, function, call, fixtures):
    import inspect
    sets = parameter_sets(function)
    for i, kwargs in enumerate(sets):
        def one(kwargs=kwargs):
            given = dict(kwargs)
            for p in inspect.signature(function).parameters:
                if p in fixtures and p not in given:
                    got = fixtures[p]()
                    given[p] = next(got) if inspect.isgenerator(got) else got
            call(**given)
        yield (name if len(sets) == 1 else '%s[%d]' % (name, i)), one


def tiny_pytest():
    """The part of pytest that plain test functions use, for machines without it."""
    import types
    module = types.ModuleType('pytest')

    class Raises:
        def __init__(self, kinds, match=None):
            self.kinds, self.match, self.value = kinds, match, None

        def __enter__(self):
            return self

        def __exit__(self, kind, value, trace):
            if kind is None:
                raise AssertionError('DID NOT RAISE %r' % (self.kinds,))
            if not issubclass(kind, self.kinds):
                return False
            self.value, self.type = value, kind
            if self.match is not None:
                import re
                assert re.search(self.match, str(value)), 'the text %r does not match' % str(value)
            return True

    class Approx:
        def __init__(self, expected, rel=None, abs=None, nan_ok=False):
            self.expected, self.rel, self.abs = expected, 1e-6 if rel is None else rel, 1e-12 if abs is None else abs

        def near(self, a, b):
            if isinstance(b, (list, tuple)):
                return type(a) in (list, tuple) and len(a) == len(b) and all(self.near(x, y) for x, y in zip(a, b))
            if isinstance(b, dict):
                return type(a) is dict and a.keys() == b.keys() and all(self.near(a[k], b[k]) for k in b)
            return a == b or (type(a) in (int, float) and abs(a - b) <= max(self.rel * abs(b), self.abs))

        def __eq__(self, other):
            return self.near(other, self.expected)

        def __ne__(self, other):
            return not self == other

        def __repr__(self):
            return 'approx(%r)' % (self.expected,)

    class Skipped(Exception):
        pass

    class Mark:
        def __getattr__(self, name):
            def make(*args, **kwargs):
                mark = types.SimpleNamespace(name=name, args=args, kwargs=kwargs)
                if name != 'parametrize' and len(args) == 1 and callable(args[0]) and not kwargs:
                    return args[0]

                def decorate(function):
                    function.pytestmark = getattr(function, 'pytestmark', []) + [mark]
                    return function
                return decorate
            return make

    def fixture(function=None, **_):
        if function is None:
            return fixture
        function._is_fixture = True
        return function

    def raises(kinds, *args, match=None, **kwargs):
        context = Raises(kinds, match)
        if not args:
            return context
        with context:
            args[0](*args[1:], **kwargs)
        return context

    def skip(reason=''):
        raise Skipped(reason)

    def fail(reason=''):
        raise AssertionError(reason)

    module.raises, module.approx, module.skip, module.fail = raises, Approx, skip, fail
    module.mark, module.fixture = Mark(), fixture
    module.param = lambda *values, **_: values if len(values) != 1 else values[0]
    return module


def start(kind, source):
    """Entry: kind 'calls', 'tests', 'script' or 'pytest'."""
    try:
        if kind == 'calls':
            serve_calls(source)
        elif kind == 'pytest':
            run_pytest(source)
        else:
            run_tests(source, kind == 'script')
    except BrokenPipeError:
        pass  # the supervisor has heard enough
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        pass
    os._exit(0)
