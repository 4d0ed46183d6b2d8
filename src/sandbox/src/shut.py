# Outside of namespaces (tiers C and D) a program that wants what it cannot have ends by SIGSYS, which makes it unscored:
# nobody can say what it would have done. The filter sees to processes; here is what shows in Python alone. It is decided in
# the program's own process, which can evade a verdict by it, and never earn one.
import importlib
import os
import pkgutil
import sys

SIGSYS = 31
WANTED = '''
abc argparse array ast asyncio base64 binascii bz2 calendar cmath cmd code codecs codeop collections.abc colorsys
concurrent.futures configparser contextvars csv dataclasses datetime decimal difflib dis enum errno fnmatch fractions
getopt getpass gettext glob graphlib gzip hashlib heapq hmac html html.entities html.parser imp io ipaddress keyword
linecache locale logging lzma math mimetypes numbers opcode optparse pathlib pickle pickletools platform pprint
queue quopri random re resource sched secrets select selectors shlex shutil signal socket sqlite3 stat statistics string
stringprep struct subprocess symtable tempfile textwrap time timeit token tokenize traceback tracemalloc types typing
unicodedata unittest.mock urllib.parse uuid warnings weakref xml.etree.ElementTree zipfile zlib zoneinfo
encodings.ascii encodings.cp1252 encodings.cp437 encodings.hex_codec encodings.idna encodings.latin_1
encodings.raw_unicode_escape encodings.rot_13 encodings.unicode_escape encodings.utf_16 encodings.utf_16_be
encodings.utf_16_le encodings.utf_32 encodings.utf_8_sig
'''.split()

# Events of sys.audit that say that a program wants the file system or another process.
FILES = ('os.chdir', 'os.chmod', 'os.link', 'os.listdir', 'os.mkdir', 'os.remove', 'os.rename', 'os.rmdir', 'os.scandir',
         'os.symlink', 'os.truncate', 'os.utime', 'os.exec', 'os.fork', 'os.forkpty', 'os.posix_spawn', 'os.system',
         'subprocess.Popen', 'sqlite3.connect')


class NoSemaphore:
    """Semaphores between processes are named files, and there is no other process to share them with."""
    SEM_VALUE_MAX = 2147483647

    def __new__(cls, *args):
        end()


def no_processes():
    """Tier C."""
    try:
        import _multiprocessing
    except ImportError:
        return
    _multiprocessing.SemLock = NoSemaphore


def load():
    """Tier D: no program can open a file, so what it may want is imported beforehand."""
    for name in WANTED:
        try:
            importlib.import_module(name)
        except ImportError:  # not of this version of Python
            pass


def end(_kill=os.kill, _getpid=os.getpid):
    _kill(_getpid(), SIGSYS)


class Unloaded:
    """Stands for the search of the file system: modules that are there, and have not been imported in time."""

    def __init__(self):
        self.there = frozenset(getattr(sys, 'stdlib_module_names', ())) | {m.name for m in pkgutil.iter_modules()}

    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in self.there:
            end()
        return None


def shut(programs):
    """Tier D, from now on."""
    known = (programs, sys.base_prefix + '/', sys.prefix + '/', '<')  # a traceback looks for lines of these

    def wants(path):
        if type(path) is not int:
            path = os.fsdecode(path)
            if not path.startswith(known):
                end()

    def heard(event, args):
        if event == 'open':
            if type(args[0]) in (str, bytes):
                wants(args[0])
        elif event in FILES:
            end()

    def asking(function):
        def ask(path, *args, **kwargs):
            wants(path)
            return function(path, *args, **kwargs)
        return ask

    unloaded = Unloaded()
    for name in ('stat', 'lstat', 'access'):  # they raise no event, and "it is not there" would be taken for an answer
        setattr(os, name, asking(getattr(os, name)))

    kept = (sys.modules['_frozen_importlib'].BuiltinImporter, sys.modules['_frozen_importlib'].FrozenImporter)
    sys.meta_path[:] = [f for f in sys.meta_path if f in kept] + [unloaded]
    sys.addaudithook(heard)
