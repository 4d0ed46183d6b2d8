# Runs the cells of a notebook one after the other in one namespace, and reports each as a line of JSON on the stdout that it was
# started with. There is no kernel: a cell is plain Python, and the value of its last expression is displayed.
import ast
import json
import linecache
import os
import signal
import sys
import tempfile
import traceback

RICH = {'_repr_html_': 'text/html', '_repr_markdown_': 'text/markdown', '_repr_svg_': 'image/svg+xml', '_repr_latex_': 'text/latex'}


def capture(fd):
    """Puts a file in place of a standard stream."""
    held = tempfile.TemporaryFile()
    os.dup2(held.fileno(), fd)


def take(fd):
    """What was written to it since the last time."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    return data.decode('utf-8', 'replace')


def mime(value):
    shown = {'text/plain': repr(value)}
    for method, kind in RICH.items():
        if not isinstance(value, type) and callable(getattr(value, method, None)):
            text = getattr(value, method)()
            if isinstance(text, str):
                shown[kind] = text
    return shown


def run(source, name, space, display):
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    tree = ast.parse(source, name)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(';'):
        last = ast.Expression(tree.body.pop().value)
    exec(compile(tree, name, 'exec', dont_inherit=True), space)
    if last is not None:
        value = eval(compile(last, name, 'eval', dont_inherit=True), space)
        if value is not None:
            space['_'] = value
            display(value)


def main():
    request = json.loads(sys.stdin.buffer.read())
    report = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    capture(1)
    capture(2)
    seconds = request['cell_timeout']

    def late(_signal, _frame):
        raise TimeoutError('the cell ran longer than %s s' % seconds)

    signal.signal(signal.SIGALRM, late)
    shown = []

    def display(*values):
        shown.extend(mime(value) for value in values)

    space = {'__name__': '__main__', 'display': display}
    for number, source in enumerate(request['cells'], 1):
        name = '<cell %d>' % number
        error = []
        try:
            if seconds > 0:
                signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                run(source, name, space, display)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException as e:
            own = e.__traceback__
            while own is not None and not own.tb_frame.f_code.co_filename.startswith('<cell '):
                own = own.tb_next
            lines = traceback.format_exception(type(e), e, own)
            error.append({'ename': type(e).__name__, 'evalue': str(e), 'traceback': [line.rstrip('\n') for line in lines]})
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        cell = {'stdout': take(1), 'stderr': take(2), 'display': shown[:], 'error': error}
        shown.clear()
        report.write(json.dumps(cell) + '\n')
        report.flush()


main()
