#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of hupper.py: real monitors run real apps in temporary folders.

    python test_hupper.py                     all tests, several at a time
    python test_hupper.py -v -k rename        with the usual options of unittest
    python -m pytest test_hupper.py           with pytest, if you have it

No package is needed. Tests that need something absent (the package watchdog, Linux, root, git) are skipped and say so.
A test never sleeps in the hope that something has happened: it waits for the event, for at most LIMIT seconds.

    HUPPER_TEST_FULL=1        also run slow variants, and each test on every backend in both modes
    HUPPER_TEST_JOBS=N        number of tests at a time
    HUPPER_TEST_PATIENCE=N    multiply every limit, for slow machines
    HUPPER_TEST_ROUNDS=N, HUPPER_TEST_SEED=N    length and seed of the random sequences

Sections, in this order: harness; pure parts; command line; API; never miss (ways of saving); trees, backends, storms;
processes and signals; kept sockets; terminal; fidelity; preloading; main.
"""

import atexit
import collections
import contextlib
import errno
import faulthandler
import importlib.machinery
import importlib.util
import json
import marshal
import os
import queue
import random
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import unittest
import warnings
import zipfile
from types import SimpleNamespace
from unittest import mock

import hupper

HERE = os.path.dirname(os.path.abspath(__file__))
FULL = os.environ.get('HUPPER_TEST_FULL', '') not in ('', '0')
LIMIT = 30 * float(os.environ.get('HUPPER_TEST_PATIENCE', 1))  # seconds to wait for anything
ROUNDS = int(os.environ.get('HUPPER_TEST_ROUNDS') or (50 if FULL else 4))  # length of the random sequences
SEED = int(os.environ.get('HUPPER_TEST_SEED') or time.time_ns() % 1_000_000)
LINUX = sys.platform.startswith('linux')
WINDOWS = sys.platform == 'win32'

# --- harness -----------------------------------------------------------------

RAN = collections.Counter()  # (backend, mode) that real monitors used -> how many did
# How most tests call the command line; the short run does not compile all of hupper.py each time.
HUPPER = ['hupper.py'] if FULL else ['-m', 'hupper']
# The end of an app that keeps running. It takes short naps because Python sometimes handles a signal that arrives
# just before a sleep only after the sleep.
IDLE = 'import time\nwhile True: time.sleep(0.1)\n'
POLITE, STOPPED, KILLED = 'SIGTERM', {143}, {137}  # the signal for a polite stop, and the exit statuses of a worker
if WINDOWS:  # a stop is a Ctrl-C there, for which Python prints a traceback
    import msvcrt

    IDLE = 'import time\ntry:\n    while True: time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(1)\n'
    POLITE, STOPPED, KILLED = 'SIGINT', {1, 130, 0xC000013A}, {1}  # 130: stopped before its app began

needs_posix = unittest.skipIf(WINDOWS, 'POSIX only')
needs_cpython = unittest.skipIf(sys.implementation.name != 'cpython', 'PyPy itself differs from CPython here')
needs_linux = unittest.skipUnless(LINUX, 'Linux only')
needs_root = unittest.skipUnless(hasattr(os, 'geteuid') and os.geteuid() == 0, 'root only')
FORKS = LINUX and sys.implementation.name == 'cpython'  # whether the command line forks its workers
only_full = unittest.skipUnless(FULL, 'only with HUPPER_TEST_FULL=1')


def needs_program(name):
    return unittest.skipUnless(shutil.which(name), f'there is no {name}')


def environment(**changes):
    """Return this process's environment without variables for Python or hupper; a change to None removes a variable."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(('PYTHON', 'HUPPER_', 'COVERAGE_'))}
    if os.environ.get('HUPPER_TEST_PRELOAD'):
        env['HUPPER_PRELOAD'] = '1'
    env.update(changes)
    return {name: value for name, value in env.items() if value is not None}


def wait_until(condition, message='the condition did not become true', limit=None):
    """Return the first true value of condition(); at the limit, fail with the message (a text or a function)."""
    deadline = time.monotonic() + (limit or LIMIT)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(message() if callable(message) else message)
        time.sleep(0.01)


def patient(function):
    """Retry on Windows, which can't move or remove a file while a process has it open, for an import, for example."""

    def wrapper(*args):
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                return function(*args)
            except OSError as error:
                in_use = error.errno in (errno.EACCES, errno.EEXIST, errno.ENOTEMPTY)  # the last two: during a removal
                if not WINDOWS or not in_use or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    return wrapper


def free_port():
    """Return a free port outside the range that the system assigns to clients or as free."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(('127.0.0.1', port))
            return port


def unlink(path):
    """Remove a file; on Windows, wait until its name is gone, which takes until every process has closed the file.

    In Wine, what is written to the name meanwhile is lost.
    """
    os.remove(path)
    folder, name = os.path.split(os.path.abspath(path))
    deadline = time.monotonic() + LIMIT
    while WINDOWS and name in os.listdir(folder) and time.monotonic() < deadline:
        time.sleep(0.001)


replace, rename, remove, link, rmtree = map(patient, (os.replace, os.rename, unlink, os.link, shutil.rmtree))


def flood(folder, limit):
    """Cause more than `limit` events in a folder, two per rename, with files that are ignored."""
    names = [os.path.join(folder, name) for name in ('flood~', 'back~')]
    put(names[0], '')
    for _ in range(limit // 4 + 10):
        rename(*names)
        rename(*reversed(names))
    remove(names[0])


def copy(path, to):
    """Like shutil.copy2, which on Windows calls a function that Wine 8 lacks."""
    shutil.copyfile(path, to)
    shutil.copystat(path, to)


def copy_tree(folder, new):
    unfinished = shutil.ignore_patterns('*.pyc.*')  # Python renames it when it is complete
    shutil.copytree(folder, new, symlinks=True, copy_function=copy, ignore=unfinished)


def symlink(target, link, **options):
    os.symlink(target, link, **options)
    if not os.path.exists(link):
        raise unittest.SkipTest('links do not work here')


class Project:
    """A temporary folder with a copy of hupper.py and its bytecode, and a second one for temporary files."""

    FILES = [hupper.__file__, hupper.__spec__.cached]

    def __init__(self):
        self.base = os.path.realpath(tempfile.mkdtemp(prefix='hupper-'))
        self.folder = os.path.join(self.base, 'project')
        self.tmp = os.path.join(self.base, 'tmp')
        os.mkdir(self.tmp)
        for path in filter(os.path.exists, self.FILES):
            new = os.path.join(self.folder, os.path.relpath(path, HERE))
            os.makedirs(os.path.dirname(new), exist_ok=True)
            copy(path, new)
        atexit.register(self.remove)  # for Ctrl-C, after which unittest does no cleanup

    def path(self, name):
        return os.path.join(self.folder, *name.split('/'))

    def write(self, name, content, save=None):
        """Save a file by one of SAVES, or by renaming one from outside the project onto it; make its folders."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        (save or self._put)(path, textwrap.dedent(content) if isinstance(content, str) else content)
        return path

    def _put(self, path, content):
        new = os.path.join(self.tmp, f'new-{threading.get_ident()}')
        put(new, content)
        replace(new, path)

    def read(self, name):
        with open(self.path(name), encoding='utf-8') as file:
            return file.read()

    def environment(self, **changes):
        """Return an environment with our TMPDIR, which holds temporary files and marks this project's processes."""
        return environment(**{'TMPDIR': self.tmp, **changes})

    def run(self, *command, **options):
        """Run a command until it exits; the result has returncode, stdout and stderr as text."""
        options.setdefault('cwd', self.folder)
        options.setdefault('stdin', subprocess.DEVNULL)
        options['env'] = self.environment(**options.pop('env', {}))
        options = {'encoding': 'utf-8', 'errors': 'backslashreplace', 'timeout': LIMIT, **options}
        return subprocess.run(command, capture_output=True, **options)

    def python(self, *args, **options):
        return self.run(sys.executable, *args, **options)

    def processes(self):
        """Return the pids of this project's processes: on Linux, those with its TMPDIR, no zombies; elsewhere none."""
        mark = b'TMPDIR=' + os.fsencode(self.tmp)
        found = []
        for name in os.listdir('/proc') if LINUX else ():
            with contextlib.suppress(OSError):
                if name.isdigit() and int(name) != os.getpid():
                    with open(f'/proc/{name}/environ', 'rb') as file:
                        if mark in file.read().split(b'\0'):
                            found.append(int(name))
        return found

    def kill_all(self):
        while self.processes():
            for pid in self.processes():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def remove(self):
        self.kill_all()
        shutil.rmtree(self.base, ignore_errors=True)
        atexit.unregister(self.remove)


# Presses Ctrl-C in another process's console, on Windows.
CTRL_C = """
import ctypes, sys
console = ctypes.WinDLL('kernel32')
console.FreeConsole()
console.AttachConsole(int(sys.argv[1]))
console.SetConsoleCtrlHandler(None, True)
console.GenerateConsoleCtrlEvent(0, 0)
"""


class Monitor:
    """A running monitor. It collects the output line by line; each failure shows all of it."""

    def __init__(self, project, *command, **options):
        """Start a command in the project's folder. options: those of Popen; env holds changes to the environment."""
        self.project = project
        self.lines = []  # (stream, line); stream is 'out' or 'err'
        self.seen = None  # (backend, mode)
        self._news = threading.Condition()
        options.setdefault('cwd', project.folder)
        options.setdefault('stdin', subprocess.DEVNULL)
        if WINDOWS:
            options.setdefault('creationflags', 0x8000000)  # CREATE_NO_WINDOW: its own console
        else:
            options.setdefault('start_new_session', True)
        options['env'] = project.environment(**options.pop('env', {}))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        self.pid = self.process.pid
        streams = [('out', self.process.stdout), ('err', self.process.stderr)]
        self._readers = [threading.Thread(target=self._read, args=stream, daemon=True) for stream in streams]
        for reader in self._readers:
            reader.start()

    def _read(self, name, stream):
        with stream:
            for line in stream:
                with self._news:
                    self.lines.append((name, line.decode('utf-8', 'backslashreplace').rstrip('\r\n')))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def mark(self):
        """Return the number of lines so far, for wait_for(..., after=mark)."""
        return len(self.lines)

    def text(self, stream=None, after=0):
        return ''.join(line + '\n' for name, line in self.lines[after:] if stream in (None, name))

    def count(self, what):
        """Return how many lines contain the text or match the compiled pattern."""
        return sum(1 for _, line in self.lines if _find(what, line))

    def wait_for(self, what, after=0, count=1, limit=None):
        """Wait until `count` lines after the mark have the text (or match the pattern); return the last (or match)."""
        deadline = time.monotonic() + (limit or LIMIT)
        with self._news:
            while True:
                found = [found for found in (_find(what, line) for _, line in self.lines[after:]) if found]
                if len(found) >= count:
                    break
                if time.monotonic() > deadline or not any(reader.is_alive() for reader in self._readers):
                    self.fail(f'{getattr(what, "pattern", what)!r} did not appear', after)
                self._news.wait(0.1)
        self._look()
        return found[count - 1]

    def fail(self, message, after=0):
        status = self.process.poll()
        ended = 'running' if status is None else f'exited with status {status}'
        lines = [f'  {"*" if i >= after else " "} {name}: {line}\n' for i, (name, line) in enumerate(self.lines)]
        raise AssertionError(f'{message}; the monitor {self.pid} ({ended}) wrote:\n' + ''.join(lines))

    @property
    def worker(self):
        """Pid of the newest worker."""
        self.wait_start(1)
        return self.workers[-1]

    @property
    def workers(self):
        """Pids of all workers so far."""
        return [int(pid) for pid in re.findall(r'(?m)^Starting monitor for PID (\d+)\.$', self.text('err'))]

    def check_workers(self, number):
        """Check that there have been exactly this many workers."""
        if len(self.workers) != number:
            self.fail(f'{len(self.workers)} workers rather than {number}')

    def wait_start(self, number):
        """Wait for the worker with this number, counted from 1."""
        self.wait_for('Starting monitor for PID ', count=number)

    def _look(self):
        """Record which backend and mode this monitor really uses, as the system shows them now."""
        if self.workers and self.text('out'):
            with contextlib.suppress(OSError):
                self.seen = _backend(self), _mode(self)

    def send(self, signum):
        if WINDOWS:
            subprocess.run([sys.executable, '-c', CTRL_C, str(self.pid)], stdin=subprocess.DEVNULL, timeout=LIMIT)
        else:
            self.process.send_signal(signum)

    def wait(self, limit=None):
        """Wait until the monitor exits; return its status."""
        try:
            status = self.process.wait(limit or LIMIT)
        except subprocess.TimeoutExpired:
            self.fail('the monitor did not exit')
        for reader in self._readers:
            reader.join(LIMIT)
        return status

    def stop(self, signum=signal.SIGTERM):
        """Stop the monitor politely; check that no process is left; return the status."""
        if self.process.poll() is None:
            self.send(signum)
        status = self.wait()
        self.check_nothing_left()
        return status

    def check_nothing_left(self):
        def left():
            return [f'{pid} {_command_line(pid)}' for pid in self.project.processes()]

        wait_until(lambda: not left(), lambda: self.fail(f'left behind: {left()}'))

    def kill(self):
        RAN.update([self.seen] if self.seen else [])
        self.seen = None
        self.process.kill()
        self.process.wait()
        self.project.kill_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def _find(what, line):
    return what.search(line) if hasattr(what, 'search') else line if what in line else None


def _command_line(pid):
    with contextlib.suppress(OSError), open(f'/proc/{pid}/cmdline', 'rb') as file:
        return file.read().replace(b'\0', b' ').decode('utf-8', 'backslashreplace')
    return ''


def _backend(monitor):
    if not LINUX:
        return 'unknown'
    if len(os.listdir(f'/proc/{monitor.pid}/task')) > 1:
        return 'watchdog'
    files = f'/proc/{monitor.pid}/fd/'
    return 'inotify' if any('inotify' in os.readlink(files + name) for name in os.listdir(files)) else 'polling'


def _mode(monitor):
    if not LINUX:
        return 'spawn'
    return 'fork' if _command_line(monitor.workers[-1]) == _command_line(monitor.pid) else 'spawn'


class Case(unittest.TestCase):
    """A test with a project; the monitors that it starts are killed at the end."""

    def setUp(self):
        self.project = Project()
        self.addCleanup(self.project.remove)
        self.path, self.write = self.project.path, self.project.write

    def start(self, *command, **options):
        """Start any command as a monitor."""
        monitor = Monitor(self.project, *command, **options)
        self.addCleanup(monitor.kill)
        return monitor

    def hupper(self, *args, **options):
        """Start `python hupper.py ARGS`, with a short reload interval by default."""
        return self.start(sys.executable, *HUPPER, '--reload-interval', '0.2', *args, **options)

    def wait_for_standby(self, monitor, mode):
        """On Linux, wait until the standby exists too; in mode 'fork' there is none until it is needed."""
        number = 2 if mode == 'fork' else 3
        if LINUX:
            wait_until(lambda: len(self.project.processes()) == number, lambda: monitor.fail('there is no standby'))

    def write_app(self, value=1, name='app.py'):
        """Write an app of two modules that prints `app VALUE` and keeps running."""
        self.write('mod.py', f'VALUE = {value!r}\n')
        self.write(name, 'from mod import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)

    def write_value(self, value, save=None):
        self.write('mod.py', f'VALUE = {value!r}\n', save)

    def write_zip(self, name, **files):
        path = self.path(name)
        with zipfile.ZipFile(path + '.tmp', 'w') as archive:
            for module, text in files.items():
                archive.writestr(module + '.py', text)
        replace(path + '.tmp', path)

    def check_reload(self, monitor, value=1):
        """The app prints its value, and the new value after a save of mod.py."""
        monitor.wait_for(f'app {value}')
        self.write_value(value + 10)
        monitor.wait_for(f'app {value + 10}')


# For slow tests, and for tests that hardly depend on the backend: the short run uses only one.
LONG = ('inotify', 'polling', 'watchdog') if FULL else ('inotify',) if LINUX else ('polling',)


class BackendCase(Case):
    """A test that on_each_backend() repeats: run_app() starts the module app on self.backend, in self.mode."""

    backend = mode = None

    def setUp(self):
        if self.backend == 'inotify' and not LINUX:
            self.skipTest('inotify is only on Linux')
        if self.backend == 'watchdog' and importlib.util.find_spec('watchdog') is None:
            self.skipTest('the package watchdog is not installed')
        super().setUp()

    def run_app(self, *args, interval=0.2, shutdown=5, watch=(), ignore=(), **options):
        """Run app.py: in mode 'cli' by `hupper.py -m app ARGS`, in mode 'api' by a script with start_reloader()."""
        if self.mode == 'cli':
            flags = [
                '-v',
                f'--reload-interval={interval}',
                f'--shutdown-interval={shutdown}',
                f'--monitor={self.backend}',
            ]
            flags += [f'--watch={path}' for path in watch] + [f'--ignore={path}' for path in ignore]
            return self.start(sys.executable, *HUPPER, *flags, '-m', 'app', *args, **options)
        settings = dict(reload_interval=interval, shutdown_interval=shutdown, ignore_files=list(ignore), verbose=2)
        self.write('start.py', START % {'settings': settings, 'watch': list(watch)})
        options['env'] = {'HUPPER_DEFAULT_MONITOR': self.backend, **options.get('env', {})}
        return self.start(sys.executable, 'start.py', *args, **options)


START = """\
import hupper

def main():
    hupper.get_reloader().watch_files(%(watch)r)
    import app

if __name__ == '__main__':
    hupper.start_reloader('start.main', **%(settings)r)
"""

COMBINATIONS = [('inotify', 'cli'), ('polling', 'api'), ('watchdog', 'cli')]
if FULL:
    COMBINATIONS += [('inotify', 'api'), ('polling', 'cli'), ('watchdog', 'api')]


def on_each_backend(cls=None, *, backends=('inotify', 'polling', 'watchdog'), modes=('cli', 'api'), full=FULL):
    """Class decorator: replace a BackendCase by a TestCase per backend and mode, named ThisInotifyCli and so on.

    The short run uses only COMBINATIONS; full=True uses all backends and modes.
    """
    if cls is None:
        return lambda cls: on_each_backend(cls, backends=backends, modes=modes, full=full)
    for backend in backends:
        for mode in modes:
            if full or (backend, mode) in COMBINATIONS:
                name = cls.__name__ + backend.title() + mode.title()
                space = {'backend': backend, 'mode': mode, '__module__': cls.__module__, '__qualname__': name}
                sys.modules[cls.__module__].__dict__[name] = type(name, (cls,), space)
    return None


# Ways in which editors and tools save a file; each is a function of the path and the new text.

SAVES = {}


def saving(function):
    SAVES[function.__name__.replace('save_', '')] = function
    return function


def put(path, content, mode='w'):
    """Write a file in place, without converting newlines."""
    content = content.encode('utf-8') if isinstance(content, str) else content
    with open(path, mode + 'b') as file:
        file.write(content)


@saving
def save_in_place(path, text):
    put(path, text)


@saving
def save_slowly(path, text):
    """Truncate the file, then write it in pieces."""
    with open(path, 'wb', buffering=0) as file:
        for part in re.findall('(?s).{1,8}', text):
            time.sleep(0.02)
            file.write(part.encode('utf-8'))


@saving
def save_rename(path, text):
    """Rename a new file onto the name (atomic)."""
    put(path + '.tmp', text)
    replace(path + '.tmp', path)


@saving
def save_backup_rename(path, text):
    """Rename the old file to a backup, then the new file to the name."""
    put(path + '.new', text)
    if os.path.exists(path):
        replace(path, path + '.bak')
    rename(path + '.new', path)


@saving
def save_vim(path, text):
    """Probe the folder with a file 4913, rename the old file to `name~`, write a new one, remove the backup."""
    probe = os.path.join(os.path.dirname(path), '4913')
    put(probe, '')
    remove(probe)
    existed = os.path.exists(path)
    if existed:
        replace(path, path + '~')
    put(path, text)
    if existed:
        remove(path + '~')


@saving
def save_pycharm(path, text):
    """Safe write: write the new text beside the file, rename the old file away, rename the new one to the name."""
    put(path + '___jb_tmp___', text)
    if os.path.exists(path):
        replace(path, path + '___jb_old___')
    rename(path + '___jb_tmp___', path)
    with contextlib.suppress(FileNotFoundError):
        remove(path + '___jb_old___')


@saving
def save_emacs(path, text):
    """Make a dangling lock link `.#name`, rename the old file to the backup `name~`, then write a new file."""
    folder, name = os.path.split(path)
    lock = os.path.join(folder, '.#' + name)
    with contextlib.suppress(OSError):  # Windows may not allow links
        os.symlink('user@host.1:1', lock)
    if os.path.exists(path):
        replace(path, path + '~')
    put(path, text)
    with contextlib.suppress(FileNotFoundError):
        remove(lock)


@saving
def save_vscode(path, text):
    """Write in place without truncating first; cut to the new length at the end."""
    if not os.path.exists(path):
        put(path, '')
    with open(path, 'r+b') as file:
        file.write(text.encode('utf-8'))
        file.truncate()


@saving
def save_hard_link(path, text):
    """Unlink the name, then link it to a new file."""
    put(path + '.new', text)
    with contextlib.suppress(FileNotFoundError):
        remove(path)
    link(path + '.new', path)
    remove(path + '.new')


@saving
def save_delete_create(path, text):
    with contextlib.suppress(FileNotFoundError):
        remove(path)
    put(path, text)


@saving
def save_symlink(path, text):
    """Switch the name, a symbolic link, to another file."""
    new = f'{path}.{time.time_ns()}'
    put(new, text)
    old = os.path.realpath(path) if os.path.islink(path) else None
    os.symlink(os.path.basename(new), path + '.link')
    replace(path + '.link', path)
    if old and os.path.exists(old):
        remove(old)


@saving
def save_config_map(path, text):
    """Save as Kubernetes does: the name leads through a linked folder, and that link is switched."""
    folder, name = os.path.split(path)
    new, data = os.path.join(folder, f'..{time.time_ns()}'), os.path.join(folder, '..data')
    old = os.path.realpath(data) if os.path.islink(data) else None
    os.mkdir(new)
    for other in os.listdir(old) if old else ():
        shutil.copy(os.path.join(old, other), new)
    put(os.path.join(new, name), text)
    os.symlink(os.path.basename(new), data + '_tmp')
    replace(data + '_tmp', data)
    target = os.path.join('..data', name)
    if not os.path.islink(path) or os.readlink(path) != target:
        os.symlink(target, path + '.link')
        replace(path + '.link', path)
    if old:
        rmtree(old)


@saving
def save_delete_pause_create(path, text):
    with contextlib.suppress(FileNotFoundError):
        remove(path)
    time.sleep(0.3)
    put(path, text)


@saving
def save_away_and_back(path, text):
    """Move the file to another folder, write it there, move it back."""
    folder, name = os.path.split(path)
    away = os.path.join(os.path.dirname(folder), f'away-{name}')
    if os.path.exists(path):
        replace(path, away)
    if os.path.islink(away):
        remove(away)
    put(away, text)
    replace(away, path)


@saving
def save_older(path, text):
    """Replace the file by one that is years older."""
    put(path + '.tmp', text)
    when = 1_000_000_000 + time.monotonic_ns() // 1_000_000 % 100_000_000  # never the same twice
    os.utime(path + '.tmp', (when, when))
    replace(path + '.tmp', path)


@saving
def save_same_time(path, text):
    """Replace the file by one with the same time, and the same size if the text is as long: only the inode differs."""
    put(path + '.tmp', text)
    if os.path.exists(path):
        os.utime(path + '.tmp', ns=(0, os.stat(path).st_mtime_ns))
    replace(path + '.tmp', path)


if WINDOWS:  # not every user may make links there
    del SAVES['symlink'], SAVES['config_map']


# --- pure parts --------------------------------------------------------------


class Schedule(unittest.TestCase):
    """When changes cause a start, with simulated time."""

    def run_through(self, changes, interval=1.0, started=-100.0, settle=0, lag=0):
        """Return the times of all starts that changes at these times cause."""
        schedule = hupper._Schedule(interval)
        schedule.note_start(started)
        starts, changes = [], sorted(changes)
        while changes or schedule.due() is not None:
            due = schedule.due()
            if changes and (due is None or changes[0] <= due):
                now = changes.pop(0)
                schedule.note_change(now, f'file {now}', settle, lag)
            else:
                schedule.note_start(due)
                starts.append(round(due, 6))
        return starts

    def test_nothing_to_do(self):
        self.assertIsNone(hupper._Schedule(1).due())

    def test_one_save_has_no_wait(self):
        self.assertEqual(self.run_through([5]), [5])
        self.assertEqual(self.run_through([5, 50, 500]), [5, 50, 500])

    def test_a_save_right_after_a_start_waits_for_quiet(self):
        self.assertEqual(self.run_through([5.3], started=5), [5.4])
        self.assertEqual(self.run_through([5.03], started=5, interval=0.05), [5.05])

    def test_quick_saves(self):
        """Five saves, 0.4 s apart: each waits only for a moment of quiet."""
        saves = [5, 5.4, 5.8, 6.2, 6.6]
        self.assertEqual(self.run_through(saves), [5, 5.5, 5.9, 6.3, 6.7])
        self.assertEqual(self.run_through(saves, started=4.9), [5.1, 5.5, 5.9, 6.3, 6.7])

    def test_the_bucket_is_empty(self):
        """After a burst, a change waits until an interval after the last start; later, another burst is allowed."""
        saves = [5 + 0.2 * i for i in range(7)]
        self.assertEqual(self.run_through([*saves, 30, 30.4]), [5, 5.3, 5.5, 5.7, 5.9, 6.1, 7.1, 30, 30.5])

    def test_a_checkout_costs_two_starts(self):
        """300 files within half a second: the last start comes after the last file."""
        files = [5 + 0.5 * i / 300 for i in range(300)]
        starts = self.run_through(files)
        self.assertLessEqual(len(starts), 2)
        self.assertGreaterEqual(starts[-1], files[-1])

    def test_a_checkout_seen_by_polling(self):
        """A look at all files notices at once what has changed since the last one; the next look may be as late."""
        for pause in (0.1, 0.13, 0.2):
            looks = [5 + pause * i for i in range(int(0.5 / pause) + 2)]
            starts = self.run_through(looks, lag=pause)
            self.assertEqual(starts[0], 5)
            self.assertEqual(len(starts), 2, pause)
            self.assertGreater(starts[-1], looks[-1] + pause)

    def test_cancelled(self):
        """After a save that does not parse, the next change is judged independently of it."""
        schedule = hupper._Schedule(1)
        schedule.note_change(5)
        schedule.cancel()
        self.assertIsNone(schedule.due())
        schedule.note_change(100, 'still being written', settle=1)
        self.assertEqual(schedule.due(), 101)

    def test_a_formatter_after_the_save(self):
        self.assertLessEqual(len(self.run_through([5, 5.2])), 2)

    def test_written_again_and_again(self):
        """About one start per interval, however often the file is written."""
        for period in (0.01, 0.05, 0.2, 0.5, 0.99):
            starts = self.run_through([5 + period * i for i in range(int(20 / period))])
            self.assertLessEqual(len(starts), 21 + hupper._Schedule.BURST, period)
            self.assertGreaterEqual(len(starts), 10, period)

    def test_none_waits_longer_than_the_interval(self):
        seed = int(os.environ.get('HUPPER_TEST_SEED') or time.time())
        chance = random.Random(seed)
        for _ in range(200):
            interval = chance.choice([0.05, 0.5, 1, 3])
            changes = [chance.uniform(0, 20) for _ in range(chance.randrange(1, 60))]
            starts = self.run_through(changes, interval, started=chance.uniform(-2, 0))
            for change in changes:
                waits = [start - change for start in starts if start > change - 1e-5]
                self.assertTrue(waits, f'seed {seed}: no start after {change}')
                self.assertLessEqual(min(waits), interval + 1e-5, f'seed {seed}')

    def test_an_incomplete_change_settles(self):
        self.assertEqual(self.run_through([5], settle=0.1), [5.1])


class LoopGuard(unittest.TestCase):
    """When a change is held because the app causes its own reloads, with simulated time."""

    def setUp(self):
        self.guard = hupper._LoopGuard(1)
        self.now = 0
        self.guard.note_start(0, {})

    def boot(self, *paths, late=()):
        """Boot for 0.1 s while `paths` change, then change `late` ones and start again. Return the longest hold."""
        holds = [self.guard.hold(path, self.now + 0.05, False) for path in paths]
        self.guard.note_boot(self.now + 0.1)
        self.now += 2
        holds += [self.guard.hold(path, self.now, False) for path in late]
        self.guard.note_start(self.now, [*paths, *late])
        return max(holds, default=0)

    def test_holds_grow(self):
        holds = [self.boot('app.lock') for _ in range(12)]
        self.assertEqual(holds, [0, 0, 0, 0, 0, 2, 4, 8, 16, 32, 60, 60])

    def test_other_names_count_as_well(self):
        self.assertEqual([self.boot(f'run-{i}.log') for i in range(7)], [0, 0, 0, 0, 0, 2, 4])

    def test_a_late_change_is_never_held(self):
        for _ in range(7):
            self.boot('app.lock')
        self.guard.note_boot(self.now + 0.1)
        self.assertEqual(self.guard.hold('template', self.now + 1.2, False), 0)
        self.assertEqual(self.guard.hold('app.lock', self.now + 1.2, False), 0)

    def test_a_source_is_not_held_for_others(self):
        """A source is held only if it has caused a start of the streak itself, and then for two intervals at most."""
        for _ in range(8):
            self.boot('app.lock')
        self.assertEqual(self.guard.hold('app.py', self.now + 0.05, True), 0)
        for _ in range(8):
            self.boot('made.py')
        self.assertEqual(self.guard.hold('made.py', self.now + 0.05, True), 2)

    def test_a_quiet_boot_ends_the_streak(self):
        for _ in range(7):
            self.boot('app.lock')
        self.boot(late=['app.py'])
        self.assertEqual([self.boot('app.lock') for _ in range(6)], [0, 0, 0, 0, 0, 2])

    def test_a_save_beside_a_boot_writer_does_not_end_it(self):
        for _ in range(7):
            self.boot('app.lock')
        self.boot('app.lock', late=['app.py'])
        self.assertGreater(self.boot('app.lock'), 1)

    def test_a_requested_start_does_not_end_it(self):
        for _ in range(6):
            self.boot('app.lock')
        self.guard.note_start(self.now + 0.01, [], was_requested=True)
        self.assertGreater(self.guard.hold('app.lock', self.now + 0.02, False), 1)

    def test_the_window_begins_with_the_boot(self):
        """Changes during a boot count, however long the boot takes."""
        self.assertEqual([self.guard.hold('x', 1000 * i, False) for i in range(3)], [0, 0, 0])
        for _ in range(5):
            self.guard.hold('x', self.now + 30, False)
            self.now += 31
            self.guard.note_start(self.now, ['x'])
        self.assertEqual(self.guard.hold('x', self.now + 30, False), 2)


class Parts(unittest.TestCase):
    """Functions and classes by themselves."""

    def test_glob(self):
        monitor = hupper.PollingFileMonitor(print)
        for glob, path, fits in [
            ('*.ini', 'a.ini', True),
            ('*.ini', 'b/a.ini', False),
            ('**/*.ini', 'a.ini', True),
            ('**/*.ini', 'b/c/a.ini', True),
            ('b/**', 'b/c/d', True),
            ('b/*/d', 'b/c/d', True),
            ('b/*/d', 'b/d', False),
            ('?.[ab]', 'x.a', True),
            ('*', '.hidden', False),
            ('**/x', '.hidden/x', False),
            ('.*', '.hidden', True),
            ('[x].ini', '[x].ini', True),
        ]:
            with self.subTest(glob=glob, path=path):
                monitor.rules = [('root', tuple(glob.split('/')))]
                self.assertIs(monitor._is_watched_entry(os.path.join('root', *path.split('/'))), fits)
        for glob, path, leads in [
            ('b/*/d', 'b', True),
            ('b/*/d', 'b/c', True),
            ('b/*/d', 'b/c/d', False),
            ('b/*/d', 'c', False),
            ('*/d/**/*', 'b/c', False),
            ('*/d/**/*', 'b/d/e/f', True),
            ('**/d', 'b/c', True),
            ('**/d', '.b', False),
        ]:
            with self.subTest(glob=glob, path=path):
                self.assertIs(any(hupper._glob_rests(tuple(glob.split('/')), path.split('/'))), leads)

    def test_modules_without_a_file(self):
        """A built-in module names `built-in` as its origin: that is no file in the current folder."""
        for name in '_imp', 'zipimport', '_frozen_importlib':
            path = hupper._file_of(sys.modules.get(name))
            self.assertTrue(path == '' or os.path.isabs(path), (name, path))

    def test_relative_glob(self):
        """A program that uses a file monitor by itself may give it one; the paths of new files begin like it."""
        project = Project()
        self.addCleanup(project.remove)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(project.folder)
        os.mkdir('src')
        monitor = hupper.PollingFileMonitor(print)
        monitor.add_path(os.path.join('src', '*.py'))
        project.write('src/new.py', '')
        monitor.rescan('src')
        self.assertEqual([change.path for change in monitor.take_changes()], [os.path.join('src', 'new.py')])

    @needs_posix
    @needs_program('ps')
    def test_children_elsewhere_than_on_linux(self):
        """Only children count, even on a system that is not called Linux and has Linux's /proc, as Android."""
        with mock.patch.object(hupper, '_LINUX', False), subprocess.Popen(['cat'], stdin=subprocess.PIPE) as child:
            found = hupper._Process.children_of(os.getpid())
        self.assertIn(child.pid, [process.pid for process in found])
        self.assertEqual({process.parent for process in found}, {os.getpid()})

    def test_gone_again(self):
        """A file that comes and goes is no change, unless it existed at the worker's start or is watched by name."""
        project = Project()
        self.addCleanup(project.remove)
        monitor = hupper.PollingFileMonitor(print)
        monitor.add_path(project.folder)
        monitor.take_changes()
        for name, started_ns in (('new', 0), ('old', time.time_ns() + 10**12)):
            monitor.started_ns = started_ns
            path = project.write(name, '')
            monitor.rescan(project.folder)
            self.assertEqual([change.path for change in monitor.take_changes()], [path])
            self.assertFalse(monitor.has_vanished(path))
            os.remove(path)
            self.assertEqual(monitor.has_vanished(path), name == 'new')
            monitor.add_path(path)
            self.assertFalse(monitor.has_vanished(path))

    def test_monitors_with_a_thread(self):
        """Monitors as programs for hupper 1.x use them: with a callback, start(), stop() and join()."""
        project = Project()
        self.addCleanup(project.remove)
        path = project.write('file', 'old')
        for factory in self.factories():
            with self.subTest(factory.__name__):
                changed = []
                monitor = factory(changed.append, interval=0.1, logger=hupper.SilentLogger())
                monitor.add_path(path)
                monitor.start()
                project.write('file', factory.__name__)
                wait_until(lambda changed=changed: path in changed)
                monitor.stop()
                monitor.join()

    def test_stopped_while_its_thread_reads(self):
        """The descriptor stays open until the thread has ended: another file could get its number."""
        for factory in self.factories():
            with self.subTest(factory.__name__):
                monitor, errors = factory(print), []
                has_begun, may_go_on, step = threading.Event(), threading.Event(), monitor.step

                def slow_step(begun=has_begun, go_on=may_go_on, step=step):
                    begun.set()
                    go_on.wait(20)
                    step()

                monitor.step = slow_step
                with mock.patch.object(threading, 'excepthook', errors.append):
                    monitor.start()
                    has_begun.wait(20)
                    monitor.stop()
                    may_go_on.set()
                    monitor.join()
                self.assertEqual(errors, [])

    def factories(self):
        yield hupper.PollingFileMonitor
        if LINUX:
            yield hupper.InotifyFileMonitor
        if importlib.util.find_spec('watchdog'):
            yield hupper.WatchdogFileMonitor

    def test_changes_of_any_monitor(self):
        """Our monitors return changes, foreign ones call back. A replaced file_changed sees all and may keep any."""

        class Foreign:
            def __init__(self, callback, **kw):
                self.add_path = self.start = self.stop = self.join = lambda *_: None
                self.callback = callback

        def replacement(proxy, path):
            seen.append(path)
            with proxy.lock:
                if not path.endswith('hidden'):
                    proxy.changed_paths.add(path)
                    proxy.callback(proxy.changed_paths)

        project, seen, woken = Project(), [], []
        self.addCleanup(project.remove)
        names = ['hidden', 'seen']
        for factory in (hupper.PollingFileMonitor, Foreign):
            for is_replaced in (False, True):
                with self.subTest(factory=factory.__name__, is_replaced=is_replaced), contextlib.ExitStack() as stack:
                    if is_replaced:
                        stack.enter_context(mock.patch.object(hupper.FileMonitorProxy, 'file_changed', replacement))
                    proxy = hupper.FileMonitorProxy(hupper.SilentLogger())
                    proxy.open(factory, 1, lambda: woken.append(1))
                    paths = [project.path(name) for name in names]
                    for path in paths:
                        if factory is Foreign:
                            proxy.monitor._monitor.callback(path)
                            proxy.monitor._monitor.callback(path)
                        else:
                            proxy.watch_file(path, 1)
                    changes = proxy.take_changes()
                    self.assertEqual({change.path for change in changes}, set(paths[is_replaced:]))
                    evidence = hupper._Change.UNSETTLED if factory is Foreign else hupper._Change.COMPLETE
                    self.assertEqual({change.evidence for change in changes}, {evidence})
                    self.assertEqual(proxy.take_changes(), [])
                    self.assertEqual(set(seen), set(paths) if is_replaced else set())
                    self.assertEqual(bool(woken), is_replaced or factory is Foreign)
                    seen.clear()
                    woken.clear()

    def test_replaced_file_changed_of_1_12(self):
        """It may guard its call of `callback` by `is_changed`, as hupper 1.12 does."""

        def replacement(proxy, path):
            with proxy.lock:
                if path not in proxy.changed_paths:
                    proxy.changed_paths.add(path)
                    if not proxy.is_changed:
                        proxy.is_changed = True
                        proxy.callback(proxy.changed_paths)

        with mock.patch.object(hupper.FileMonitorProxy, 'file_changed', replacement):
            proxy = hupper.FileMonitorProxy(hupper.SilentLogger())
            proxy.open(hupper.PollingFileMonitor, 1, lambda: None)
            for _ in range(2):
                proxy.watch_file(os.path.join(HERE, 'none'), 1)
                self.assertEqual(len(proxy.take_changes()), 1)
                proxy.monitor.files.clear()

    def test_own_callback(self):
        """A factory may give a monitor of ours a callback that filters, or passes on, what it gets."""
        seen = []

        def factory(callback, **kw):
            def filter(path):
                seen.append(path)
                if not path.endswith('hidden'):
                    callback(path)

            return hupper.PollingFileMonitor(filter, **kw)

        proxy = hupper.FileMonitorProxy(hupper.SilentLogger())
        proxy.open(factory, 1, lambda: None)
        paths = [os.path.join(HERE, name) for name in ('hidden', 'seen')]
        for path in paths:
            proxy.watch_file(path, 1)
        changes = proxy.take_changes()
        self.assertEqual([(each.path, each.evidence) for each in changes], [(paths[1], hupper._Change.COMPLETE)])
        self.assertEqual(seen, paths)

    def test_foreign_monitor_of_existing_files(self):
        """One that fails for a missing file, as the places of a missing module, still watches the others."""

        class Foreign:
            def __init__(self, callback, **kw):
                self.start = self.stop = self.join = lambda: None
                self.added = []

            def add_path(self, path):
                os.stat(path)
                self.added.append(path)

        project = Project()
        self.addCleanup(project.remove)
        proxy = hupper.FileMonitorProxy(hupper.SilentLogger())
        proxy.open(Foreign, 1, lambda: None)
        path = project.path('later.py')
        proxy.monitor.add_missing(path[:-3])
        project.write('later.py', '')
        proxy.watch_file(path, 1)
        self.assertEqual(proxy.monitor._monitor.added, [path])

    def test_monitor_as_in_1_12(self):
        """hupper 1.12 has threads here, which take paths from others; and the logger comes second."""
        project = Project()
        self.addCleanup(project.remove)
        paths = [project.write('file%d' % number, '') for number in range(20)]
        with mock.patch('threading.excepthook') as failed:
            monitor = hupper.PollingFileMonitor(print, interval=0.001)
            monitor._is_polled = lambda path: time.sleep(0.001) or True  # so that a look takes long
            self.assertFalse(monitor.is_alive())
            monitor.start()
            for path in paths:
                monitor.add_path(path)
                time.sleep(0.005)
            self.assertTrue(monitor.is_alive(), failed.call_args)
            monitor.stop()
            monitor.join(timeout=20)
            self.assertFalse(failed.called, failed.call_args)
        if importlib.util.find_spec('watchdog'):
            monitor = hupper.WatchdogFileMonitor(print, hupper.SilentLogger())
            monitor.stop()
            monitor.join()

    def test_copy_of_a_patched_module(self):
        """What others have put into a module before us, as gevent does, keeps its own globals."""
        with mock.patch.object(os, 'close', lambda fd: ('patched', HERE)):
            self.assertEqual(hupper._private_copy(os).close(-1), ('patched', HERE))

    def test_keyword_of_watch_files(self):
        proxy = hupper.ReloaderProxy(mock.Mock())
        proxy.watch_files(files=[os.path.join(HERE, 'a')])
        self.assertEqual(proxy._handshake.send.call_count, 1)

    def test_no_monitor_of_ours_works(self):
        """If there is no other monitor to fall back on, the error is raised, without a retry."""
        proxy = hupper.FileMonitorProxy(hupper.SilentLogger())
        with mock.patch.object(hupper, '_best_monitor', mock.Mock(side_effect=RuntimeError)) as factory:
            self.assertRaises(RuntimeError, proxy.open, factory, 1, lambda: None)
            self.assertRaises(RuntimeError, proxy.open, hupper.PollingFileMonitor.stop, 1, lambda: None)
            self.assertEqual(factory.call_count, 2)

    def test_ignored_change_from_elsewhere(self):
        """A monitor that watches more than it was asked to causes no reload for ignored paths."""
        proxy = hupper.FileMonitorProxy(hupper.SilentLogger(), ['*.log'])
        proxy.open(hupper.PollingFileMonitor, 1, lambda: None)
        for name in ('a.log', 'a.py'):
            proxy.file_changed(os.path.join(HERE, name))
        self.assertEqual([change.path for change in proxy.take_changes()], [os.path.join(HERE, 'a.py')])

    def test_editors_temporaries(self):
        for (
            name
        ) in 'x.pyc x.py~ .x.py.swp 4913 #x.py# .#x.py x.py___jb_tmp___ x.py___jb_old___ .goutputstream-X1'.split():
            self.assertTrue(hupper.PollingFileMonitor._is_temporary(name), name)
        for name in 'x.py x.ini .env 49130 x#y notes x.pyx'.split():
            self.assertFalse(hupper.PollingFileMonitor._is_temporary(name), name)

    def test_ignored_paths(self):
        project = Project()
        self.addCleanup(project.remove)
        for name in ('logs/a.log', 'src/logs/deep/b.py', 'other/logs', 'a/cache/x'):
            project.write(name, '')
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(project.folder)
        above = os.path.basename(project.base)
        for patterns, fits, fits_not in [
            (['*.log'], ['x.log', 'logs/a.log', 'x.log/y.py'], ['x.log.py']),
            (['logs'], ['logs', 'logs/a.log', 'src/logs/deep/b.py', 'other/logs'], ['logs2', 'xlogs/a']),
            (['logs/'], ['logs', 'logs/a.log', 'src/logs/deep/b.py'], ['other/logs', 'logs2/a']),
            (['./logs', './no/'], ['logs', 'logs/a.log'], ['src/logs', 'src/logs/deep/b.py', 'other/logs', 'no']),
            (['src/logs'], ['src/logs', 'src/logs/deep/b.py'], ['logs', 'other/logs']),
            (['src/logs/'], ['src/logs/deep/b.py'], ['logs/a.log']),
            (['other/logs/'], [], ['other/logs']),
            (['logs/*'], ['logs/a.log', 'logs/.hidden', 'logs/x/y'], ['logs', 'src/logs/deep/b.py']),
            (['src/*/deep'], ['src/logs/deep/b.py'], ['src/a/b/deep']),
            (['src/**/b.py'], ['src/b.py', 'src/logs/deep/b.py'], ['b.py', 'src/logs/c.py']),
            (['logs/**'], ['logs/a.log', 'logs/x/y', 'logs'], ['src/logs/deep']),
            (['../beside'], ['../beside', '../beside/x'], ['beside']),
            (['*/cache/*'], ['a/cache/x', 'cache/x', 'b/a/cache/x/y'], ['cache', 'a/caches/x']),
            (['*/b.py', '*.py*'], ['src/logs/deep/b.py', 'x.pyc'], ['b.txt']),
            ([project.path('src')], ['src/logs/deep/b.py'], ['other/src']),
            (['/*/a.log'], ['logs/a.log'] if not WINDOWS else [], ['logs/b.log']),
            ([above, 'project', '*project', '/'], ['src/project/x'], ['logs/a.log', 'x']),
            (['~/kept'], ['HOME/kept/x'], ['kept', 'HOME/x']),
            (['[ab].py'], ['a.py'], ['[ab].py', 'c.py']),
            ({'one', 'two'}, ['one', 'two'], ['three']),
        ]:
            with mock.patch.dict(os.environ, HOME=project.path('HOME'), USERPROFILE=project.path('HOME')):
                is_ignored = hupper._PathMatcher(patterns)
            for name in [*fits, *fits_not]:
                with self.subTest(patterns=patterns, name=name):
                    path = os.path.normpath(os.path.join(project.folder, name))
                    self.assertIs(is_ignored(path), name in fits, (patterns, name))
        if not WINDOWS:
            os.symlink(project.folder, project.path('link'))
            through_link = os.path.join(project.path('link'), 'logs')
            self.assertTrue(hupper._PathMatcher([through_link])(project.path('logs/a.log')))
            self.assertTrue(hupper._PathMatcher(['./logs'])(os.path.join(through_link, 'a.log')))
            self.assertFalse(hupper._PathMatcher([through_link])(project.path('src/a.log')))
        os.chdir(os.path.dirname(project.write('[x]/logs', '')))
        self.assertTrue(hupper._PathMatcher(['./logs'])(project.path('[x]/logs')))

    def test_seconds(self):
        for value in (1, 0.5, '2', ' 1e-3 '):
            self.assertEqual(hupper._seconds('x', value), float(value))
        for value in (0, -1, '', 'x', None, 'nan', 'inf', [], '0'):
            with self.assertRaisesRegex(ValueError, 'x must'):
                hupper._seconds('x', value)

    def test_printable(self):
        for text, shown in [
            ('a b\u2026\xe9\\', 'a b\u2026\xe9\\'),
            ('\x1b]0;P\x07', r'\x1b]0;P\x07'),
            ('a\n[ERROR] b\r\t\x7f\x9b', r'a\n[ERROR] b\r\t\x7f\x9b'),
            ('\u202egpj.py\u2028\udcff', r'\u202egpj.py\u2028\udcff'),
        ]:
            self.assertEqual(hupper.DefaultLogger._printable(text), shown)

    def test_stop_signal(self):
        for value in () if WINDOWS else ('INT', 'sigint', signal.SIGINT, int(signal.SIGINT)):
            self.assertEqual(hupper._stop_signal('x', value), signal.SIGINT)
        self.assertEqual(hupper._stop_signal('x', 'KILL'), 9)
        for value in ('', 'NONE', 'SIG', 0, 19, None, 1.5, []):
            with self.assertRaisesRegex(ValueError, re.escape(f'not {value!r}')):
                hupper._stop_signal('x', value)

    def test_time_to_stop(self):
        """The shutdown intervals for a reload and for the final exit."""
        for given, times in [
            ({}, (0.5, 8)),
            ({'shutdown_interval': 3}, (3, 3)),
            ({'shutdown_interval': None}, (None, None)),
            ({'stop_signal': 'KILL', 'shutdown_interval': 3}, (None, None)),
        ]:
            reloader = hupper.Reloader('a.b', hupper.PollingFileMonitor, hupper.SilentLogger(), 0.5, **given)
            self.assertEqual((reloader.shutdown_interval, reloader.exit_interval), times)

    def test_second_reloader(self):
        for command, advice in [
            ('-m uvicorn app:app --reload', 'leave out --reload'),
            ('/venv/bin/uvicorn --reload app:app', 'leave out --reload'),
            ('-m uvicorn app:app --reload-dir x', None),
            ('-m flask --debug run', 'add --no-reload'),
            (r'C:\venv\flask.exe run --debug' if WINDOWS else 'flask run --debug', 'add --no-reload'),
            ('flask run --debug --no-reload', None),
            ('flask run', None),
            ('flask --debug shell', None),
            ('site/manage.py runserver 8000', 'add --noreload'),
            ('manage.py runserver --noreload', None),
            ('manage.py migrate', None),
            ('-m django runserver', 'add --noreload'),
            ('app.py --reload', None),
        ]:
            name, *args = command.replace('-m ', '').split()
            with self.subTest(command=command):
                self.assertEqual(hupper._Target.second_reloader(hupper._Target('script', name, args)), advice)

    def test_signature_differs(self):
        """A signature depends on time, size and inode; an absent file has one, too."""
        project = Project()
        self.addCleanup(project.remove)
        path = project.write('file', 'text')
        seen = [hupper._signature(path)]

        def look():
            seen.append(hupper._signature(path))

        os.utime(path, (1, 1))
        look()
        with open(path, 'a') as file:
            file.write('more')
        os.utime(path, (1, 1))
        look()
        project.write('file', 'textmore')  # another inode
        os.utime(path, (1, 1))
        look()
        remove(path)
        look()
        self.assertEqual(len(set(seen)), 5, seen)

    def test_inotify_events(self):
        head = struct.Struct('iIII')
        data = head.pack(1, 2, 0, 0) + head.pack(3, 0x80, 9, 16) + b'caf\xc3\xa9'.ljust(16, b'\0')
        data += head.pack(-1, 0x4000, 0, 0)
        expected = [(1, 2, ''), (3, 0x80, os.fsdecode(b'caf\xc3\xa9')), (-1, 0x4000, '')]
        self.assertEqual(list(hupper._Inotify.parse(data)), expected)

    @needs_linux
    def test_inotify_of_a_program_with_many_files(self):
        """Its descriptor may be one that select.select() does not take; here a file is being written."""
        import fcntl
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 2000:
            self.skipTest('no more than 1024 descriptors')
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        project = Project()
        self.addCleanup(project.remove)
        inotify = hupper._Inotify()
        first, inotify.fd = inotify.fd, hupper._register_fd(fcntl.fcntl(inotify.fd, fcntl.F_DUPFD, 1500))
        hupper._close(first)
        self.addCleanup(inotify.close)
        inotify.add(project.folder, hupper._IN.CHANGES)
        with open(project.path('file'), 'w') as file:
            file.write('x')
            file.flush()
            self.assertTrue(inotify.read()[-1][1] & hupper._IN.MODIFY)
            file.write('x')
        self.assertEqual([mask for _, mask, _ in inotify.read()], [hupper._IN.MODIFY, hupper._IN.CLOSE_WRITE])

    def test_mount_table(self):
        line = rb'36 35 98:0 /mnt1 /mnt\040a\134b rw,noatime master:1 - fuse.sshfs host:/ rw' + b'\n'
        self.assertEqual(hupper._Mounts.parse(line), ('/mnt a\\b', 'fuse.sshfs'))

    def test_command_line_of_python(self):
        for text, expected in {
            'app.py a -m': ([], 'script', 'app.py', ['a', '-m']),
            '-m pkg.app -x': ([], 'module', 'pkg.app', ['-x']),
            '-mpkg x': ([], 'module', 'pkg', ['x']),
            '-Om pkg x': (['-O'], 'module', 'pkg', ['x']),
            '-O -W error -Xdev -X utf8 app.py': (['-O', '-W', 'error', '-Xdev', '-X', 'utf8'], 'script', 'app.py', []),
            '-W error::Warning -m a': (['-W', 'error::Warning'], 'module', 'a', []),
            '-c pass a': ([], 'command', 'pass', ['a']),
            '-IBc pass': (['-IB'], 'command', 'pass', []),
            '--check-hash-based-pycs always a.py': (['--check-hash-based-pycs', 'always'], 'script', 'a.py', []),
        }.items():
            with self.subTest(text):
                self.assertEqual(hupper._Target.split_command_line(text.split()), expected)

    def test_syntax_errors(self):
        project = Project()
        self.addCleanup(project.remove)
        for text, said in {
            'x = 1': None,
            'x = (': 'SyntaxError',
            'if x:\ny': 'IndentationError',
            '# coding: nonsense': None,
            'x = "\\d"': None,
            b'\xff': 'SyntaxError',
        }.items():
            path = project.write('x.py', text)
            told = hupper._Supervisor._syntax_error(path)
            if said is None:
                self.assertIsNone(told, text)
            else:
                self.assertIn(said, told)
                self.assertIn(path, told)
        self.assertIn('null bytes', hupper._Supervisor._syntax_error(project.write('x.py', 'x = 1\0')))
        self.assertIsNone(hupper._Supervisor._syntax_error(project.path('absent.py')))


class Polling(unittest.TestCase):
    """When the polling monitor looks, and what it concludes, with simulated time."""

    def setUp(self):
        self.project = Project()
        self.addCleanup(self.project.remove)
        self.path = self.project.write('file', 'old')
        self.now, self.cost = 1000.0, 0  # cost: how long a look at one folder takes
        clock = mock.Mock(monotonic=lambda: self.now, time_ns=time.time_ns)
        self.enter(mock.patch.object(hupper, 'time', clock))
        glances = hupper._glances
        self.enter(mock.patch.object(hupper, '_glances', lambda *args: (self.spend(), glances(*args))[1]))
        self.monitor = hupper.PollingFileMonitor(print, interval=1)
        self.monitor.add_path(self.path)

    def enter(self, patch):
        patch.start()
        self.addCleanup(patch.stop)

    def spend(self):
        self.now += self.cost

    def step(self):
        """Advance to the next time that the monitor wants; return the changes."""
        self.now = max(self.now, self.monitor.wait_until())
        self.monitor.step()
        while self.monitor._is_busy():
            self.monitor.step()
        return [(change.evidence, round(change.at, 3)) for change in self.monitor.take_changes()]

    def test_pause(self):
        """Pause 100 times as long as the look took, at least 0.1 s, at most the interval."""
        for cost, pause in [(0, 0.1), (0.0005, 0.1), (0.004, 0.4), (0.05, 1), (5, 1)]:
            self.cost = cost
            self.assertEqual(self.step(), [])
            self.assertAlmostEqual(self.monitor.wait_until() - self.now, pause)

    def settle_time(self, evidence):
        proxy = hupper.FileMonitorProxy(hupper.SilentLogger())
        return proxy.settle_time(hupper._Change(self.path, evidence, self.now), hupper._Schedule(1))

    def test_complete_when_it_is_the_same_a_moment_later(self):
        self.step()
        begun = self.now
        put(self.path, 'new text')
        self.assertEqual(self.step(), [(hupper._Change.POLLED, round(begun, 3))])
        self.assertEqual(self.settle_time(hupper._Change.POLLED), 0.02)
        self.assertFalse(self.monitor.recheck(self.path))
        for _ in range(5):
            self.assertEqual(self.step(), [])

    def test_written_in_pieces(self):
        """The file is checked again and again until it stays the same."""
        self.step()
        put(self.path, 'new text')
        self.step()
        for _ in range(5):
            put(self.path, 'x', 'a')
            self.now += 0.02
            self.assertTrue(self.monitor.recheck(self.path))
            changes = [(change.evidence, change.at) for change in self.monitor.take_changes()]
            self.assertEqual(changes, [(hupper._Change.POLLED, self.now)])
        self.assertFalse(self.monitor.recheck(self.path))
        self.assertEqual(self.step(), [])

    def test_restored_between_two_looks(self):
        """The worker has read a version that no look has seen."""
        self.step()
        kept = self.project.path('kept')
        rename(self.path, kept)
        put(self.path, 'read by the worker')
        self.monitor.watch_file(self.path, hupper._signature(self.path))
        self.assertEqual(self.monitor.take_changes(), [])
        replace(kept, self.path)
        self.assertEqual([kind for kind, _ in self.step()], [hupper._Change.POLLED])

    def test_replaced_folder(self):
        self.monitor.add_path(self.project.path('tree'))
        self.project.write('tree/a', '')
        self.project.write('new/a', '')
        self.step(), self.step(), self.step()
        rename(self.project.path('tree'), self.project.path('old'))
        rename(self.project.path('new'), self.project.path('tree'))
        self.assertTrue(self.step() + self.step())
        self.assertIn(self.project.path('tree/a'), self.monitor.files)


class ReadingInSlices(unittest.TestCase):
    """A tree is read in slices; in between, the loop handles signals. No change is lost meanwhile."""

    def check(self, factory):
        project = Project()
        self.addCleanup(project.remove)
        root = project.path('tree')
        for number in range(20):
            project.write(f'tree/{number}/file', '')
        project.write('outside/sub/old', '')
        for folder, _, names in os.walk(project.folder):
            for path in [folder, *(os.path.join(folder, name) for name in names)]:
                os.utime(path, (1, 1))
        wait_until(lambda: hupper._file_clock() > time.time_ns() - 10**8)
        time.sleep(0.02)  # file times advance in ticks
        monitor = factory(print)
        self.addCleanup(monitor.stop)
        monitor._SLICE = 0
        since = hupper._file_clock()
        monitor.add_path(root, since)
        self.assertEqual(monitor.wait_until(), 0)  # there is more to read
        self.assertLess(len(monitor.folders), 5)
        put(project.path('tree/7/file'), 'changed')
        put(project.path('tree/15/new'), 'new')
        rename(project.path('outside'), project.path('tree/3/outside'))
        monitor.add_path(project.path('tree/19/file'))
        while monitor._is_busy():
            monitor.step()
        self.assertEqual(len(monitor.folders), 23)
        changed = {os.path.relpath(change.path, root).replace(os.sep, '/') for change in monitor.take_changes()}
        self.assertEqual(changed, {'7/file', '15/new', '3/outside/sub/old'})

    def test_polling(self):
        self.check(hupper.PollingFileMonitor)

    @needs_linux
    def test_inotify(self):
        self.check(hupper.InotifyFileMonitor)

    def test_new_worker(self):
        """A new worker has read what is older than its start, even in a folder that is new as a whole."""
        project = Project()
        self.addCleanup(project.remove)
        monitor = hupper.PollingFileMonitor(print)
        monitor._SLICE = 0
        monitor.add_path(project.folder)
        while monitor._is_busy():
            monitor.step()
        monitor.take_changes()
        for number in range(5):
            project.write(f'tree/{number}/file', '')
        monitor.rescan(project.folder)
        monitor.new_worker(time.time_ns() + 10**9)
        while monitor._is_busy():
            monitor.step()
        self.assertEqual(monitor.take_changes(), [])
        self.assertIn(project.path('tree/3/file'), monitor.files)


class CtrlC(unittest.TestCase):
    """What Ctrl-C means, with simulated time."""

    def pressed(self, *times):
        ctrl_c = hupper._CtrlC()
        for now in times:
            last = ctrl_c.press(now)
        return ctrl_c, last

    def test_a_worker_that_goes_on(self):
        """After a second the monitor reports that the worker is still running, only once."""
        ctrl_c, _ = self.pressed(5)
        self.assertEqual(ctrl_c.settled_at, 6)
        self.assertFalse(ctrl_c.settles(5.9))
        self.assertTrue(ctrl_c.settles(6))
        self.assertIsNone(ctrl_c.settled_at)
        self.assertFalse(ctrl_c.settles(7))
        ctrl_c.press(8)
        self.assertFalse(ctrl_c.settles(8.5))
        self.assertEqual(ctrl_c.settled_at, 9)
        self.assertFalse(ctrl_c.settles(9))

    def test_three_kill(self):
        for times, kills in [
            ((0,), False),
            ((0, 0.1), False),
            ((0, 1, 2), True),
            ((0, 1, 2.1), False),
            ((0, 1, 2.1, 2.9), True),
            ((0, 3600, 3601), False),
        ]:
            self.assertEqual(self.pressed(*times)[1], kills, times)

    def test_which_end_it_explains(self):
        ctrl_c, _ = self.pressed(0, 100)
        for now, status, explains in [
            (100.1, 1, True),
            (108, 137, True),
            (109, 1, False),  # pdb handled it; an hour later, a crash
            (3600, 1, False),
            (3600, 0, True),  # a server that has finished its work
            (3600, hupper._INTERRUPTED, True),
        ]:
            self.assertEqual(ctrl_c.explains_end(now, status), explains, (now, status))
        self.assertFalse(hupper._CtrlC().explains_end(0, 0))


class Channel(unittest.TestCase):
    """Whatever the worker sends is treated as data."""

    def setUp(self):
        fd, self.end = hupper._pipe()
        self.got = []
        self.channel = hupper._Channel(fd)
        self.garbage = []
        for kind in hupper._Channel.MESSAGES:
            self.channel.handlers[kind] = lambda *fields, kind=kind: self.got.append((kind, *fields))
        self.channel.handlers['garbage'] = self.garbage.append
        self.addCleanup(self.channel.close)

    def send(self, data):
        hupper._write(self.end, data)
        self.channel.step()

    def tearDown(self):
        if self.end is not None:
            hupper._close(self.end)

    GOOD = b'\0\0watch\0/a b\x00123\0\0'

    def test_messages(self):
        self.send(self.GOOD)
        self.send(self.GOOD * 2)
        self.assertEqual(self.got, [('watch', '/a b', 123)] * 3)

    def test_half_messages(self):
        for byte in self.GOOD:
            self.send(bytes([byte]))
        self.assertEqual(self.got, [('watch', '/a b', 123)])

    def test_names_that_are_not_utf8(self):
        """Bytes on POSIX, a lone surrogate on Windows."""
        self.send(b'\0\0watch\0%s\x001\0\0' % os.fsencode('caf\udce9\n'))
        self.assertEqual(self.got[0][1], 'caf\udce9\n')

    def test_garbage_is_survived(self):
        chance = random.Random(1)
        for garbage in [b'x' * 60000, b'watch\0/a\0b\0c', b'watch\0/a\0nan', b'\xff\0\xff\0\xff', b'\0' * 100]:
            self.send(garbage)
        for _ in range(100):
            self.send(bytes(chance.choices(b'\0\0\0watch/1\xff', k=chance.randrange(1, 400))))
        self.got.clear()
        self.send(self.GOOD)
        self.assertIn(('watch', '/a b', 123), self.got)

    def test_message_that_nobody_expects(self):
        """A worker that does not preload sends what only a preloading standby may send."""
        del self.channel.handlers['preload']
        self.send(b'\0\0preload\0x\0\0')
        self.assertEqual(self.garbage, [b'preload'])

    def test_closed(self):
        self.send(self.GOOD[:-4])
        hupper._close(self.end)
        self.end = None
        self.channel.step()
        self.channel.step()
        self.assertEqual(self.got, [])

    def test_a_real_proxy(self):
        """Read messages that the worker's end has written."""
        handshake = hupper._Handshake(1, os.getpid(), self.end, hupper._identity(self.end))
        handshake.send('watch', '/a b', 123)
        handshake.send('reload')
        self.channel.step()
        self.assertEqual(self.got[0], ('watch', '/a b', 123))
        self.assertEqual(self.got[1][0], 'reload')

    def test_each_kind(self):
        """Each message that the worker's end sends arrives with its fields; what cannot be a path is not sent."""
        handshake = hupper._Handshake(1, os.getpid(), self.end, hupper._identity(self.end))
        sent = []
        for kind, types in hupper._Channel.MESSAGES.items():
            sent.append((kind, *['/caf\udce9' if each is hupper.os.fsdecode else 123 for each in types]))
            handshake.send(*sent[-1])
        no_paths = ['a\0b', 'x' * hupper._Handshake.LONGEST_MESSAGE]
        if not WINDOWS:  # there, names may contain a lone surrogate like any character
            no_paths.append('\ud800')
        for bad in no_paths:
            handshake.send('watch', bad, 1)
        self.channel.step()
        self.assertEqual(self.got, sent)
        self.assertEqual(self.garbage, [])

    def test_unknown_kinds_and_fields(self):
        for data in (b'unknown', b'unknown\0/a\0001', b'watch', b'watch\0/a', b'watch\0/a\0x', b'reload\0/a', b'\xff'):
            self.send(b'\0\0' + data + b'\0\0')
        self.assertEqual(self.got, [])
        kinds = [b'unknown', b'unknown', b'watch', b'watch', b'watch', b'reload', b'\xff']
        self.assertEqual(self.garbage, kinds)

    def test_variable_that_is_not_ours(self):
        """Any text in HUPPER_WORKER is either accepted or rejected; no error is raised."""
        good = str(hupper._Handshake(1, 2, 3, 'x')).split()
        bad = [
            '\u00b2',
            '\u0661',
            '-1',
            '',
            'x',
            '1' * 11,
            '9' * 10,
            str(1 << 31),
            '9' * 5000,
            '1.0',
            '0x1',
            '+1',
            '1_0',
        ]
        texts = ['', ' ', '\u00b2', ' '.join(good[:4]), ' '.join(good + ['x'])]
        texts += [' '.join(good[:at] + [each] + good[at + 1 :]) for each in bad for at in (0, 1, 2, 3)]
        for text in texts:
            with self.subTest(text), mock.patch.dict(os.environ, HUPPER_WORKER=text):
                self.assertIsNone(hupper._Handshake.read())
                self.assertFalse(hupper.is_active())
        with mock.patch.dict(os.environ, HUPPER_WORKER=' '.join(good)):
            self.assertEqual(str(hupper._Handshake.read()), ' '.join(good))

    def test_descriptor_taken_by_another_file(self):
        """If an app closes our descriptor and its own file gets the number, that file does not get our messages."""
        with tempfile.TemporaryFile() as file:
            taken = msvcrt.get_osfhandle(file.fileno()) if WINDOWS else file.fileno()
            handshake = hupper._Handshake(1, os.getpid(), taken, hupper._identity(self.end))
            handshake.send('reload')
            self.assertEqual(os.fstat(file.fileno()).st_size, 0)


class WatchdogThatFails(unittest.TestCase):
    """watchdog reports in odd ways that it can't watch a folder: on Windows by queue.Empty."""

    def test_it_is_polled(self):
        asked = []

        class Observer(mock.Mock):
            def schedule(self, handler, path):
                asked.append(path)
                raise queue.Empty

        package = {'watchdog': mock.Mock(), 'watchdog.observers': mock.Mock(Observer=Observer)}
        with mock.patch.dict(sys.modules, package):
            monitor = hupper.WatchdogFileMonitor(print)
        there, absent = os.path.join(HERE, 'x'), os.path.join(HERE, 'absent', 'x')
        for path in there, absent:
            monitor.add_path(path)
            self.assertIn(path, monitor.polled)
        self.assertEqual(asked, [HERE])  # for the absent folder, watchdog would take 2 s


class Distribution(unittest.TestCase):
    """What must agree between the module and the files beside it."""

    def setUp(self):
        if not os.path.exists(os.path.join(HERE, 'pyproject.toml')):
            self.skipTest('there is no pyproject.toml beside the tests')

    def text(self, name):
        with open(os.path.join(HERE, name), encoding='utf-8') as file:
            return file.read()

    def test_version_is_in_one_place(self):
        self.assertEqual(re.findall(r"(?m)^__version__ = '(.*)'$", self.text('hupper.py')), ['1.12.1+onefile.1'])
        self.assertIn('dynamic = ["version"]', self.text('pyproject.toml'))
        self.assertNotRegex(self.text('pyproject.toml'), r'(?m)^version\b')

    def test_metadata(self):
        text = self.text('pyproject.toml')
        self.assertIn('name = "hupper"', text)
        self.assertIn('requires-python = ">=3.8"', text)
        self.assertNotRegex(text, r'(?m)^dependencies\b')

    def test_head_of_the_module_tells_licence_and_origin(self):
        head = self.text('hupper.py')[:2000]
        self.assertIn('SPDX-License-Identifier: MIT', head)
        self.assertIn('Copyright', head)

    def test_readme_tells_whose_it_is(self):
        head = self.text('README.md')[:500]
        self.assertIn('independent', head)
        self.assertIn('Pylons', head)

    def test_only_the_standard_library(self):
        imported = re.findall(r'(?m)^\s*(?:import|from) (\w+)', self.text('hupper.py'))
        foreign = {name for name in imported if name not in STANDARD and name not in ('hupper', 'watchdog')}
        self.assertEqual(foreign, set())


STANDARD = getattr(sys, 'stdlib_module_names', None) or {
    *sys.builtin_module_names,
    *(name.partition('.')[0] for name in os.listdir(os.path.dirname(os.__file__))),
    *('_ctypes fcntl math resource select _socket termios time _winapi msvcrt winreg'.split()),  # extension modules
    *('_frozen_importlib', '_frozen_importlib_external'),
}


# --- command line ------------------------------------------------------------

WAITING = 'Waiting for a file to change before reload.'
OURS = re.compile(r'(\[ERROR\] )?(Starting monitor|Waiting for a file|Worker \d+ ended with status)')
TWO_LINES = 'import hupper; hupper.start_reloader()\n'


class CommandLine(Case):
    """Targets and arguments."""

    def test_module(self):
        self.write_app()
        monitor = self.hupper('-m', 'app')
        self.check_reload(monitor)
        monitor.wait_for(self.path('mod.py') + ' changed; reloading ...')
        self.assertEqual(monitor.text('out').split(), ['app', '1', 'app', '11'])

    def test_the_module_itself_is_edited(self):
        self.write('app.py', "print('app one', flush=True)\n" + IDLE)
        monitor = self.hupper('-m', 'app')
        monitor.wait_for('app one')
        self.write('app.py', "print('app two', flush=True)\n" + IDLE)
        monitor.wait_for('app two')
        monitor.stop()

    def test_package(self):
        self.write_app(name='pkg/__main__.py')
        self.write('pkg/__init__.py', '')
        monitor = self.hupper('-m', 'pkg')
        self.check_reload(monitor)
        mark = monitor.mark()
        self.write('pkg/__init__.py', 'print("in the package", flush=True)')
        monitor.wait_for('in the package', after=mark)
        monitor.stop()

    def test_submodule(self):
        self.write_app(name='pkg/sub/app.py')
        monitor = self.hupper('-m', 'pkg.sub.app')
        self.check_reload(monitor)
        monitor.stop()

    def test_script(self):
        self.write_app()
        monitor = self.hupper('app.py')
        self.check_reload(monitor)
        monitor.stop()

    def test_script_out_of_a_symlinked_folder(self):
        self.write('app.py', 'print("the wrong one", flush=True)\n')
        self.write('real/app.py', 'print("app 1", __file__, flush=True)\n' + IDLE)
        os.mkdir(self.path('real/folder'))
        symlink(self.path('real/folder'), self.path('link'), target_is_directory=True)
        monitor = self.hupper('link/../app.py')
        monitor.wait_for(re.compile('app 1 .*app.py' if sys.version_info < (3, 9) else 'app 1 .*/link/../app.py'))
        self.write('real/app.py', 'print("app 22", flush=True)\n' + IDLE)
        monitor.wait_for('app 22')
        monitor.stop()

    def test_script_in_another_folder(self):
        self.write('there/mod.py', 'VALUE = 1')
        self.write('there/app.py', 'from mod import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.hupper(self.path('there/app.py'))
        monitor.wait_for('app 1')
        self.write('there/mod.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_folder(self):
        self.write('folder/mod.py', 'VALUE = 1')
        self.write('folder/__main__.py', 'from mod import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.hupper('folder')
        monitor.wait_for('app 1')
        self.write('folder/mod.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_zip(self):
        main = 'from inside import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE
        self.write_zip('app.zip', __main__=main, inside='VALUE = 1')
        monitor = self.hupper('app.zip')
        monitor.wait_for('app 1')
        self.write_zip('app.zip', __main__=main, inside='VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_arguments_belong_to_the_app(self):
        args = ['-v', '-x', '--help', '--version', '-w', '-m', 'app', '--', '', 'a b', '-']
        self.write('app.py', 'import sys\nprint(ascii(sys.argv[1:]), flush=True)\n' + IDLE)
        for target in (['-m', 'app'], ['app.py']):
            monitor = self.hupper(*target, *args)
            monitor.wait_for(ascii(args))
            monitor.stop()

    def test_from_another_folder(self):
        self.write_app()
        hupper = os.path.join(self.project.base, 'hupper.py')
        replace(self.path('hupper.py'), hupper)
        monitor = self.start(sys.executable, hupper, '-m', 'app')
        self.check_reload(monitor)
        monitor.stop()

    def test_as_module(self):
        self.write_app()
        monitor = self.start(sys.executable, '-m', 'hupper', '-m', 'app')
        self.check_reload(monitor)
        monitor.stop()

    def test_quiet(self):
        self.write_app()
        monitor = self.hupper('-q', '-m', 'app')
        self.check_reload(monitor)
        self.assertEqual(monitor.text('err'), '')
        monitor.stop()

    def test_verbose(self):
        self.write_app()
        monitor = self.hupper('-v', '-m', 'app')
        monitor.wait_for(re.compile(r'\b(inotify|watchdog|polling)\b'))
        self.check_reload(monitor)
        monitor.wait_for(re.compile(r'\b\d+ files?\b'))
        monitor.wait_for(re.compile(r'\b[\d.]+ ms\b'))  # from the save to the new worker
        monitor.stop()

    def test_version(self):
        for option in ('-V', '--version'):
            result = self.project.python('hupper.py', option)
            self.assertEqual((result.returncode, result.stderr), (0, ''))
            self.assertIn('1.12.1+onefile.1', result.stdout)

    def test_help(self):
        for option in ('-h', '--help'):
            result = self.project.python('hupper.py', option)
            self.assertEqual((result.returncode, result.stderr), (0, ''))
            names = '--watch --ignore --reload-interval --shutdown-interval --monitor --stop-signal --exit-on-crash'
            for name in [*names.split(), '--version']:
                self.assertIn(name, result.stdout)

    def test_intervals_may_be_fractions(self):
        self.write_app()
        options = ['--reload-interval=.25', '--shutdown-interval', '1e1']
        monitor = self.start(sys.executable, 'hupper.py', *options, '-m', 'app')
        self.check_reload(monitor)
        monitor.stop()

    def test_ends_by_itself(self):
        """The monitor reports the exit and its status without -v."""
        self.write('app.py', 'raise SystemExit(3)\n')
        monitor = self.hupper('-m', 'app')
        monitor.wait_for(re.compile(r'^Worker \d+ ended with status 3\.$'))
        monitor.wait_for(WAITING)

    @needs_posix
    def test_many_changes_are_one_line(self):
        self.write_app()
        names = [f'new{number}' for number in range(6)]
        monitor = self.hupper('-w', '.', '-v', '-m', 'app')
        monitor.wait_for('Watching')
        monitor.send(signal.SIGSTOP)  # so that it sees all changes at once
        for name in names:
            self.write(name, '')
        monitor.send(signal.SIGCONT)
        monitor.wait_for(re.compile('^' + re.escape(self.path('new')) + r'\d and 5 more changed; reloading \.\.\.$'))
        monitor.wait_for('app 1', count=2)
        self.assertEqual(monitor.count('changed; reloading'), 1)

    @needs_posix
    def test_names_that_command_a_terminal(self):
        self.write_app()
        monitor = self.hupper('-v', '-w', '.', '-m', 'app')
        monitor.wait_for('Watching')
        self.write('\x1b]0;P\x07\n[ERROR] fake', '')
        monitor.wait_for(self.path(r'\x1b]0;P\x07\n[ERROR] fake') + ' changed; reloading ...')
        monitor.stop()
        self.assertEqual(monitor.count(re.compile('^.ERROR|[\x07\x1b]')), 0, monitor.text())

    def test_program_with_a_reloader_of_its_own(self):
        """Warn once about the app's own reloader, but not if the program itself starts us."""
        self.write_app(name='uvicorn.py')
        monitor = self.hupper('-m', 'uvicorn', 'app:app', '--reload')
        self.check_reload(monitor)
        monitor.stop()
        self.assertEqual(monitor.count('a reloader of its own: leave out --reload'), 1)
        self.write('uvicorn.py', TWO_LINES + self.project.read('uvicorn.py'))
        monitor = self.start(sys.executable, 'uvicorn.py', '--reload')
        monitor.wait_for('app 11')
        monitor.stop()
        self.assertEqual(monitor.count('a reloader of its own'), 0)

    def test_each_monitor_by_name(self):
        self.write_app()
        names = ['polling', 'hupper.polling.PollingFileMonitor'] + ['inotify'] * LINUX
        for value, name in enumerate(names):
            self.write_value(value)
            monitor = self.hupper('--monitor', name, '-m', 'app')
            self.check_reload(monitor, value)
            self.assertEqual(
                monitor.seen and monitor.seen[0], name if name == 'inotify' else LINUX and 'polling' or 'unknown'
            )
            monitor.stop()

    def test_error_of_a_file_monitor(self):
        """The user sees Python's usual traceback."""
        self.write('app.py', '')
        self.write(
            'watcher.py',
            """
            import types

            def make(*args, **options):
                def stop():
                    raise RuntimeError('no stop')
                nothing = lambda *args: None
                return types.SimpleNamespace(add_path=nothing, start=nothing, stop=stop, join=nothing)
            """,
        )
        result = self.project.python(*HUPPER, '--monitor', 'watcher.make', '--exit-on-crash', '-m', 'app')
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertTrue(result.stderr.endswith('RuntimeError: no stop\n'), result.stderr)

    def test_watched_path_that_is_not_there(self):
        """A path that may be a typo is reported; `~` is expanded, which shells don't do in quotes or after `=`."""
        self.write_app()
        self.write('home/there', '')
        args = ['-w', 'nothing', '--watch=~/later', '-w', '~/there', '-w', 'none/*.ini', '-w', '*.toml', '-w', 'mod.py']
        monitor = self.hupper(*args, '-m', 'app', env={'HOME': self.path('home'), 'USERPROFILE': self.path('home')})
        monitor.wait_for('app 1')
        for name in ('nothing', 'home/later', 'none'):
            monitor.wait_for(f'{self.path(name)} does not exist yet')
        self.write('home/later', '')
        monitor.wait_for(self.path('home/later') + ' changed')
        monitor.wait_for('app 1', count=2)
        self.write('home/there', 'changed')
        monitor.wait_for(self.path('home/there') + ' changed')
        self.assertEqual(monitor.count('does not exist'), 3, monitor.text())
        monitor.stop()

    @needs_linux
    def test_signal_while_a_tree_is_read(self):
        self.write_app()
        monitor = self.hupper('-q', '-w', '/', '-m', 'app')
        monitor.wait_for('app 1')
        monitor.stop()

    def test_default_monitor_from_the_environment(self):
        self.write_app()
        monitor = self.hupper('-m', 'app', env={'HUPPER_DEFAULT_MONITOR': 'polling'})
        self.check_reload(monitor)
        if LINUX:
            self.assertEqual(monitor.seen[0], 'polling')
        monitor.stop()


class Refused(Case):
    """Nothing to run: one clear line and exit status 2."""

    def refused(self, *args, says):
        result = self.project.python(*HUPPER, *args)
        lines = [line for line in result.stderr.splitlines() if not line.startswith('Starting monitor')]
        self.assertEqual((result.returncode, len(lines), result.stdout), (2, 1, ''), result.stderr)
        self.assertIn(says, lines[0])

    def test_nothing_given(self):
        self.refused(says='')

    def test_options_but_no_target(self):
        self.refused('-v', says='')

    def test_no_module_name(self):
        self.refused('-m', says='which module')
        self.refused('-m', '', says='which module')

    def test_empty_values(self):
        """As from `-w "$CONF"` where CONF is not set: it would be the current folder."""
        for option in ('-w', '-x', '--preload-except'):
            self.refused(option, '', 'app.py', says="the value ''")

    def test_end_of_options(self):
        self.refused('--', says='nothing to run')
        self.refused('-v', '--', 'nosuch.py', says='nosuch.py')

    def test_unknown_option(self):
        self.refused('--nonsense', '-m', 'app', says='--nonsense')

    def test_bad_reload_interval(self):
        for number in ('x', '0', '-1', 'nan', ''):
            self.refused('--reload-interval', number, '-m', 'app', says='--reload-interval')

    def test_bad_shutdown_interval(self):
        for number in ('x', '-1', 'nan'):
            self.refused('--shutdown-interval', number, '-m', 'app', says='--shutdown-interval')

    def test_bad_stop_signal(self):
        self.write_app()
        for name in ('NONE', 'SIGSTOP', '0', '') + ('INT',) * WINDOWS:
            self.refused('--stop-signal', name, '-m', 'app', says='--stop-signal must be one of')

    def test_unknown_monitor(self):
        self.write_app()
        for name in ('nonsense', 'nonsense.Monitor', 'os.nonsense'):
            self.refused('--monitor', name, '-m', 'app', says=name)

    def test_unknown_monitor_in_the_environment(self):
        self.write_app()
        result = self.project.python('hupper.py', '-m', 'app', env={'HUPPER_DEFAULT_MONITOR': 'nonsense'})
        self.assertEqual((result.returncode, len(result.stderr.splitlines())), (2, 1), result.stderr)
        self.assertIn('nonsense', result.stderr)

    def test_absent_module(self):
        self.refused('-m', 'absent', says='absent')

    def test_absent_submodule(self):
        self.write('pkg/__init__.py', '')
        self.refused('-m', 'pkg.absent', says='pkg.absent')
        self.refused('-m', 'absent.pkg', says='absent')

    def test_absent_submodule_and_a_save(self):
        """A save before the worker has ended stops it, but does not hide that there is nothing to run."""
        save = "    with open('conf', 'a') as file: file.write('+')\n    time.sleep(20)\n"
        self.write('pkg/__init__.py', 'import atexit, time\n@atexit.register\ndef save():\n' + save)
        self.write('conf', '')
        result = self.project.python(*HUPPER, '-w', 'conf', '-m', 'pkg.absent')
        self.assertIn('conf changed; reloading ...', result.stderr)
        self.assertEqual(result.returncode, 2, result.stderr)

    def test_absent_script(self):
        self.refused('absent.py', says='absent.py')
        self.refused(self.path('absent/script.py'), says='script.py')

    def test_package_without_main(self):
        self.write('pkg/__init__.py', '')
        self.refused('-m', 'pkg', says='pkg')

    def test_folder_without_main(self):
        self.write('folder/mod.py', '')
        self.refused('folder', says='folder')

    def test_absent_console_script(self):
        self.refused('no-such-program', 'run', says='no-such-program')


class Failing(Case):
    """Failures of the app look as in plain Python; fixing them starts the app again."""

    def plain(self, *args):
        """Return what plain Python prints to stderr."""
        return self.project.python(*args).stderr

    def check_mended(self, broken, target=('-m', 'app')):
        """Start with broken files, expect plain Python's traceback and the wait, fix them, expect a running app."""
        for name, text in broken.items():
            self.write(name, text)
        monitor = self.hupper(*target)
        monitor.wait_for(WAITING)
        told = [line for line in monitor.text('err').splitlines() if not OURS.match(line)]
        self.assertEqual(told, self.plain(*target).splitlines())
        (self.write_value if 'mod.py' in broken else self.write_app)(1)  # a single save, as two may cause two reloads
        monitor.wait_for('app 1')
        monitor.stop()
        monitor.check_workers(2)

    def test_syntax_error_in_the_app(self):
        self.write_value(1)
        self.check_mended({'app.py': 'def f(:\n'})

    def test_syntax_error_in_a_script(self):
        self.write_value(1)
        self.check_mended({'app.py': 'def f(:\n'}, target=['app.py'])

    def test_syntax_error_in_an_import(self):
        self.write_app()
        self.check_mended({'mod.py': 'VALUE = = 1\n'})

    def test_exception_in_the_app(self):
        self.write_value(1)
        self.check_mended({'app.py': 'def f():\n    1 / 0\n\nf()\n'})

    def test_exception_in_an_import(self):
        self.write_app()
        self.check_mended({'mod.py': 'raise RuntimeError("not today")\n'})

    def test_name_missing_in_an_import(self):
        self.write_app()
        self.check_mended({'mod.py': 'value = 1\n'})

    def check_created(self, *names, **files):
        """An import fails; once its module is created, the app runs."""
        monitor = self.hupper('-m', 'app')
        monitor.wait_for('No module named')
        monitor.wait_for(WAITING)
        for name, text in files.items():
            self.write(name.replace('__', '/') + '.py', text)
        monitor.wait_for('app 1')
        monitor.stop()

    def test_missing_module(self):
        self.write_app()
        remove(self.path('mod.py'))
        self.check_created(mod='VALUE = 1')

    def test_missing_submodule(self):
        self.write('pkg/__init__.py', '')
        self.write('app.py', 'from pkg.mod import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        self.check_created(pkg__mod='VALUE = 1')

    def test_missing_package(self):
        self.write('app.py', 'from pkg.mod import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        self.check_created(pkg__mod='VALUE = 1')

    def test_missing_but_caught(self):
        """If the app catches an ImportError, it is still reloaded once the module exists."""
        self.write('app.py', 'try: import mod\nexcept ImportError: mod = None\nprint("app", mod, flush=True)\n' + IDLE)
        monitor = self.hupper('-m', 'app')
        monitor.wait_for('app None')
        self.write_value(1)
        monitor.wait_for("app <module 'mod'")
        monitor.stop()

    def test_script_deleted_while_it_runs(self):
        self.write_app()
        for target in (['app.py'], ['-m', 'app']):
            monitor = self.hupper(*target)
            monitor.wait_for('app 1')
            remove(self.path('app.py'))
            monitor.wait_for('Waiting for a file to change')
            mark = monitor.mark()
            self.write_app()
            monitor.wait_for('app 1', after=mark)
            monitor.stop()

    def test_ends_at_once(self):
        """With any status: wait for a change, then run again. The monitor exits with the status of the last worker."""
        for status in (0, 3):
            self.write('app.py', f'import sys\nprint("app", flush=True)\nsys.exit({status})')
            monitor = self.hupper('-m', 'app')
            monitor.wait_for(WAITING)
            self.write('app.py', f'import sys\nprint("again", flush=True)\nsys.exit({status})')
            monitor.wait_for('again')
            monitor.wait_for(WAITING, count=2)
            monitor.check_workers(2)
            self.assertEqual(monitor.stop(), status)

    @needs_posix
    def test_status_of_signals(self):
        self.write_app()
        for signum in (signal.SIGTERM, signal.SIGINT):
            monitor = self.hupper('--shutdown-interval', '20', '-m', 'app')
            monitor.wait_for('app 1')
            self.assertEqual(monitor.stop(signum), 128 + signum)

    @needs_posix
    def test_status_of_a_killed_worker(self):
        self.write_app()
        monitor = self.hupper('-m', 'app')
        monitor.wait_for('app 1')
        os.kill(monitor.worker, signal.SIGKILL)
        monitor.wait_for('SIGKILL')
        monitor.wait_for(WAITING)
        self.assertEqual(monitor.stop(), 128 + signal.SIGKILL)

    def test_exit_on_crash(self):
        for status in (0, 3):
            self.write('app.py', f'import sys\nsys.exit({status})')
            monitor = self.hupper('--exit-on-crash', '-m', 'app')
            self.assertEqual(monitor.wait(), status)
            monitor.check_nothing_left()
            self.assertNotIn(WAITING, monitor.text())

    def test_exit_on_crash_is_not_for_reloads(self):
        self.write_app()
        monitor = self.hupper('--exit-on-crash', '-m', 'app')
        monitor.wait_for('app 1')
        self.write_value(22)
        monitor.wait_for('app 22')
        self.write_value(3)
        monitor.wait_for('app 3')
        self.write('mod.py', '1 / 0')
        self.assertEqual(monitor.wait(), 1)

    def test_exit_on_crash_after_a_request_to_reload(self):
        """The app requests a reload and exits before the monitor reloads it."""
        text = """
            import hupper, os, sys
            if not os.path.exists('again'):
                open('again', 'w').close()
                hupper.get_reloader().trigger_reload()
                sys.exit(4)
            sys.exit(5)
            """
        self.write('app.py', textwrap.dedent(text))
        monitor = self.hupper('--exit-on-crash', '-m', 'app')
        self.assertEqual(monitor.wait(), 5, monitor.text())

    @needs_posix
    def test_exit_on_crash_by_a_signal(self):
        self.write_app()
        monitor = self.hupper('--exit-on-crash', '-m', 'app')
        monitor.wait_for('app 1')
        os.kill(monitor.worker, signal.SIGKILL)
        self.assertEqual(monitor.wait(), 128 + signal.SIGKILL)
        self.assertIn('was ended by SIGKILL', monitor.text())  # a shell sees only the monitor's exit


@on_each_backend
class Watching(BackendCase):
    """-w and -x, and what a watched folder excludes."""

    def check_ignored(self, monitor, *changes):
        """None of the changes causes a reload, nor is it named by the reload for a later save of mod.py."""
        mark = monitor.mark()
        for change in changes:
            change()
        self.write_value(22)
        monitor.wait_for('app 22', after=mark)
        monitor.wait_for('mod.py changed', after=mark)  # arrives through another pipe and another thread
        self.assertEqual(re.findall(r'(?m)^(.*) changed; reloading', monitor.text(after=mark)), [self.path('mod.py')])

    def check_counts(self, monitor, *changes):
        """Each of the changes causes a reload."""
        for change in changes:
            counts = {text: monitor.count(text) for text in ('app ', 'changed; reloading')}
            change()
            for text, number in counts.items():
                monitor.wait_for(text, count=number + 1)

    def watch(self, *paths, **options):
        self.write_app()
        monitor = self.run_app(watch=paths, **options)
        monitor.wait_for('app 1')
        return monitor

    def change(self, name, content='changed'):
        return lambda: self.write(name, content)

    def test_file(self):
        self.write('notes.txt', 'old')
        monitor = self.watch('notes.txt')
        self.check_counts(monitor, self.change('notes.txt'))
        self.check_counts(monitor, lambda: remove(self.path('notes.txt')), self.change('notes.txt'))
        monitor.stop()

    def test_file_that_is_not_there_yet(self):
        monitor = self.watch('later/notes.txt')
        self.check_counts(monitor, self.change('later/notes.txt'), self.change('later/notes.txt', 'again'))
        monitor.stop()

    def test_folder(self):
        self.write('conf/a/old.ini', '')
        monitor = self.watch('conf')
        later, deep = self.change('conf/later.ini'), self.change('conf/b/c/deep.ini')
        self.check_counts(
            monitor, self.change('conf/a/old.ini'), later, deep, self.change('conf/b/c/deep.ini', 'again')
        )
        monitor.stop()

    def test_glob(self):
        self.write('conf/old.ini', '')
        monitor = self.watch('conf/**/*.ini')
        self.check_counts(
            monitor, self.change('conf/old.ini'), self.change('conf/new.ini'), self.change('conf/a/b.ini')
        )
        self.check_ignored(monitor, self.change('conf/a/b.txt'))
        monitor.stop()

    def test_several(self):
        self.write('a.txt', '')
        self.write('b c.txt', '')
        monitor = self.watch('a.txt', self.path('b c.txt'))
        self.check_counts(monitor, self.change('a.txt'), self.change('b c.txt'))
        monitor.stop()

    def test_left_out(self):
        """Hidden folders, caches, environments, bytecode, editors' temporary files."""
        left_out = [
            '.git/index',
            '__pycache__/x.txt',
            'node_modules/x.js',
            'env/lib/x.py',
            'x.pyc',
            'x.txt~',
            '.x.txt.swp',
        ]
        left_out += [
            '4913',
            '#x.txt#',
            'sub/.#x.txt',
            'x.txt___jb_tmp___',
            'x.txt___jb_old___',
            'sub/__pycache__/y',
            'x.pyo',
        ]
        self.write('tree/env/pyvenv.cfg', '')
        self.write('tree/sub/file', '')
        for name in left_out[:4]:
            self.write('tree/' + name, '')
        monitor = self.watch('tree')
        self.check_ignored(monitor, *[self.change('tree/' + name) for name in left_out])
        monitor.stop()

    def test_named_itself(self):
        self.write('.env', '')
        self.write('notes.txt~', '')
        self.write('.conf/settings', '')
        monitor = self.watch('.env', 'notes.txt~', '.conf')
        self.check_counts(monitor, self.change('.env'), self.change('notes.txt~'), self.change('.conf/settings'))
        monitor.stop()

    def test_ignore(self):
        self.write('tree/a.log', '')
        self.write('other.py', '')
        self.write_app()
        self.write('app.py', 'import other\n' + self.project.read('app.py'))
        monitor = self.run_app(watch=['tree'], ignore=['*.log', '*/other.py'])
        monitor.wait_for('app 1')
        self.check_ignored(
            monitor, self.change('tree/a.log'), self.change('tree/b.log'), self.change('other.py', 'x = 1')
        )
        monitor.stop()

    def test_ignore_as_people_write_it(self):
        for name in ('logs/a.log', 'sub/logs/b.log', 'data/c.db', 'sub/data/d.txt'):
            self.write(name, '')
        patterns = ['logs/', './data', self.path('abs'), '../beside', '*/cache/*']
        monitor = self.watch('.', '../beside', ignore=patterns)
        ignored = ['logs/a.log', 'logs/new.log', 'sub/logs/b.log', 'data/c.db', 'abs/x', '../beside/y', 'x/cache/z']
        self.check_ignored(monitor, *[self.change(name) for name in ignored])
        self.check_counts(monitor, self.change('sub/data/d.txt'))
        monitor.stop()


@on_each_backend(backends=LONG)
class Observing(BackendCase):
    """What the app imports is watched, however it is imported."""

    # A module that nothing has imported yet; built in, if the interpreter imports such modules through importlib.
    ANOTHER = '_symtable' if sys.implementation.name == 'cpython' else 'colorsys'

    def check_reload(self, text, name='part.py'):
        """An app with this text, which prints `app VALUE`, is reloaded when the named file is saved."""
        self.write(name, 'VALUE = 1')
        self.write('app.py', text + '\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app()
        monitor.wait_for('app 1')
        self.write(name, 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_package(self):
        self.check_reload('from pkg import VALUE', 'pkg/__init__.py')

    def test_namespace_package(self):
        self.check_reload('from space.part import VALUE', 'space/part.py')

    def test_namespace_package_gets_an_init(self):
        """As in an editor: first there is only the folder, which Python takes for a namespace package."""
        self.write('app.py', 'import pkg.deep\nprint("app", pkg.deep.VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app()
        monitor.wait_for('Waiting for a file to change')
        os.makedirs(self.path('pkg/deep'))
        monitor.wait_for("has no attribute 'VALUE'")
        monitor.wait_for('Waiting for a file to change', count=2)
        self.write('pkg/deep/__init__.py', 'VALUE = 1')
        monitor.wait_for('app 1')
        mark = monitor.mark()
        self.write('pkg/__init__.py', 'print("app outer", flush=True)')
        monitor.wait_for('app outer', after=mark)
        monitor.stop()

    @needs_posix
    def test_folder_above_a_link(self):
        """`..` after a link leads to the parent of the link's target."""
        self.write('real/place/x', '')
        symlink('real/place', self.path('link'))
        self.write('real/lib/part.py', 'VALUE = 1')
        text = (
            'import sys; sys.path.insert(0, "link/../lib")\nfrom part import VALUE\nprint("app", VALUE, flush=True)\n'
        )
        self.write('app.py', text + IDLE)
        monitor = self.run_app()
        monitor.wait_for('app 1')
        monitor.wait_for(re.compile(r'Watching \d+ files'))
        self.write('real/lib/part.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.wait_for('part.py changed')
        self.assertEqual(monitor.count(' changed; reloading'), 1, monitor.text())
        monitor.stop()

    def test_relative(self):
        self.write('pkg/__init__.py', 'from .part import VALUE')
        self.check_reload('from pkg import VALUE', 'pkg/part.py')

    def test_import_module(self):
        self.check_reload('import importlib; VALUE = importlib.import_module("part").VALUE')

    def test_path_added_later(self):
        self.check_reload('import sys; sys.path.insert(0, "lib"); from part import VALUE', 'lib/part.py')

    def test_spec_from_file(self):
        text = """
            from importlib.util import spec_from_file_location, module_from_spec
            spec = spec_from_file_location('anything', 'part.py')
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            VALUE = module.VALUE
            """
        self.check_reload(textwrap.dedent(text))

    def test_run_module(self):
        self.check_reload('import runpy; VALUE = runpy.run_module("part")["VALUE"]')

    def test_in_a_thread(self):
        text = """
            import threading, importlib
            thread = threading.Thread(target=importlib.import_module, args=['part'])
            thread.start(); thread.join()
            from part import VALUE
            """
        self.check_reload(textwrap.dedent(text))

    def test_removed_from_sys_modules(self):
        self.check_reload('import sys; from part import VALUE; del sys.modules["part"]')

    def test_late_import(self):
        """The app imports long after its start, when a file appears."""
        self.write('part.py', 'VALUE = 1')
        text = 'import os, time\nprint("app", flush=True)\nwhile not os.path.exists("go"): time.sleep(0.02)\n'
        self.write('app.py', text + 'from part import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app()
        monitor.wait_for('app')
        self.write('go', '')
        monitor.wait_for('app 1')
        self.write('part.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_symlinked_module(self):
        self.write('real/part.py', 'VALUE = 1')
        symlink(self.path('real/part.py'), self.path('part.py'))
        self.write('app.py', 'from part import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app()
        monitor.wait_for('app 1')
        self.write('real/part.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_symlinked_folder(self):
        self.write('real/part.py', 'VALUE = 1')
        symlink(self.path('real'), self.path('pkg'), target_is_directory=True)
        self.write('app.py', 'from pkg.part import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app()
        monitor.wait_for('app 1')
        self.write('real/part.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_own_loader_comes_last(self):
        """A module is made from a spec, and no import follows; its loader reads the file itself."""
        text = """
            from importlib.util import module_from_spec, spec_from_file_location

            class Loader:
                def create_module(self, spec): return None
                def exec_module(self, module):
                    with open(module.__spec__.origin) as file: exec(file.read(), vars(module))

            module = module_from_spec(spec_from_file_location('plug', 'part.py', loader=Loader()))
            module.__spec__.loader.exec_module(module)
            VALUE = module.VALUE
            """
        self.check_reload(textwrap.dedent(text))

    def test_loader_with_load_module_only(self):
        text = """
            import sys, warnings
            from importlib.machinery import ModuleSpec
            warnings.simplefilter('ignore')

            class Finder:
                def find_spec(self, name, path=None, target=None):
                    return ModuleSpec(name, self, origin='part.py') if name == 'plug' else None
                def load_module(self, name):
                    module = sys.modules[name] = type(sys)(name)
                    with open('part.py') as file: exec(file.read(), vars(module))
                    return module

            sys.meta_path.insert(0, Finder())
            from plug import VALUE
            """
        self.check_reload(textwrap.dedent(text))

    def test_put_into_sys_modules_by_hand(self):
        """The module is found at the next import, even if that import reads no source."""
        text = """
            import sys
            module = sys.modules['plug'] = type(sys)('plug')
            module.__file__ = 'part.py'
            with open('part.py') as file: exec(file.read(), vars(module))
            VALUE = module.VALUE
            import ANOTHER
            """
        self.check_reload(textwrap.dedent(text).replace('ANOTHER', self.ANOTHER))

    def test_file_told_after_the_module_was_made(self):
        text = """
            import sys
            from importlib.machinery import ModuleSpec
            from importlib.util import module_from_spec
            module = sys.modules['plug'] = module_from_spec(ModuleSpec('plug', None))
            module.__file__ = 'part.py'
            with open('part.py') as file: exec(file.read(), vars(module))
            VALUE = module.VALUE
            import ANOTHER
            """
        self.check_reload(textwrap.dedent(text).replace('ANOTHER', self.ANOTHER))

    # A tool like coverage: it reads a script itself and makes a __main__ of it.
    TOOL = """
        import sys
        path = {path}
        main = sys.modules['__main__'] = type(sys)('__main__')
        main.__file__ = path
        with open(path) as file: text = file.read()
        exec(compile(text, path, 'exec'), vars(main))
        """

    def check_tool(self, path, *args, extra=''):
        self.write('app.py', textwrap.dedent(self.TOOL.format(path=path)))
        self.write('script.py', extra + 'print("app", 1, flush=True)\n' + IDLE)
        monitor = self.run_app(*args)
        monitor.wait_for('app 1')
        self.write('script.py', extra + 'print("app", 22, flush=True)\n' + IDLE)
        monitor.wait_for('app 22')
        self.write('script.py', extra + 'print("app", 333, flush=True)\n' + IDLE)
        monitor.wait_for('app 333')
        monitor.stop()

    def test_script_of_a_tool(self):
        self.check_tool('sys.argv[1]', 'script.py')

    def test_script_of_a_tool_in_an_option(self):
        self.check_tool('"script.py"', 'run', '--script=script.py')

    def test_module_of_a_tool(self):
        self.check_tool('sys.argv[2] + ".py"', '-m', 'script', extra=f'import {self.ANOTHER}\n')

    def test_script_that_no_argument_names(self):
        self.check_tool('"script.py"', extra=f'import {self.ANOTHER}\n')

    def check_plain(self, *lines):
        """With these lines before an import, the app prints what it prints without us, and its import is watched."""
        text = '\n'.join(textwrap.dedent(each) for each in lines)
        self.write('part.py', 'VALUE = 1')
        self.write('app.py', f'{text}\nimport {self.ANOTHER}, part\nprint("app", part.VALUE, flush=True)\n')
        plain = self.project.python('-m', 'app')
        self.assertEqual(plain.returncode, 0, plain.stderr)
        self.write('app.py', self.project.read('app.py') + IDLE)
        monitor = self.run_app()
        monitor.wait_for('app 1')
        self.assertEqual(monitor.text('out'), plain.stdout)
        self.assertNotIn('Traceback', monitor.text('err'))
        self.write('part.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_lazy_module_stays_lazy(self):
        self.write('lazy.py', 'print("loaded", flush=True)')
        lines = """
            import sys
            from importlib.util import LazyLoader, find_spec, module_from_spec
            spec = find_spec('lazy')
            spec.loader = LazyLoader(spec.loader)
            module = sys.modules['lazy'] = module_from_spec(spec)
            spec.loader.exec_module(module)
            """
        self.check_plain(lines)

    def test_dead_proxy(self):
        self.check_plain('import sys, weakref\nm = type(sys)("t"); sys.modules["t"] = weakref.proxy(m); del m')

    def test_strange_objects(self):
        """Objects that print, import and raise at any access, including access to their class and namespace."""
        lines = """
            import sys
            errors = KeyboardInterrupt, SystemExit, ReferenceError, AttributeError, OSError, RecursionError

            def touched(self, *args):
                print('touched', args, flush=True)
                import colorsys
                raise errors[len(args) % len(errors)]

            names = '__getattr__ __getattribute__ __eq__ __bool__ __len__ __iter__ __str__ __repr__ __fspath__'.split()
            space = dict.fromkeys(names, touched)
            names = '__file__', '__spec__', '__dict__', '__class__'
            space.update(dict.fromkeys(names, property(touched)), __hash__=None)
            Meta = type('Meta', (type,), {'__eq__': touched, '__hash__': type.__hash__, '__getattribute__': touched})
            for number, base in enumerate((object, type(sys), str, dict, Exception)):
                for meta in type, Meta:
                    cls = meta('Strange', (base,), dict(space))
                    sys.modules[f'strange{number}{meta is type}'] = base.__new__(cls)
            """
        self.check_plain(lines, 'assert "colorsys" not in sys.modules')

    def test_nonsense_in_modules(self):
        """Modules with nonsense as file or spec, keys that are no strings, a module that was never initialized."""
        lines = r"""
            import sys
            from importlib.machinery import ModuleSpec

            class Touched(str):
                def __getattribute__(self, *args): print('touched', flush=True); raise SystemExit
                __fspath__ = __str__ = __eq__ = __getattribute__
                __hash__ = str.__hash__

            class Spec(ModuleSpec):
                def __getattribute__(self, *args): print('touched', flush=True); raise KeyboardInterrupt

            spec = ModuleSpec('x', None)
            del spec.origin, spec.loader
            values = [None, 1, b'x', '', 'a\0b', '\ud800', '\ud800/../x', '/', '.', [], spec]
            values += [Touched('part.py'), Spec('x', None)]
            for at, value in enumerate(values):
                for name in '__file__', '__spec__':
                    module = sys.modules[f'nonsense{at}{name}'] = type(sys)('nonsense')
                    setattr(module, name, value)
            sys.modules['new'] = type(sys).__new__(type(sys))
            sys.modules[5] = sys.modules[None] = sys.modules[Touched('key')] = type(sys)('key')
            del module
            """
        self.check_plain(lines)

    def test_nonsense_that_is_imported(self):
        """For odd specs, names and paths, the import system does the same as without us."""
        lines = r"""
            from importlib import import_module
            from importlib.machinery import ModuleSpec, SourceFileLoader
            from importlib.util import module_from_spec
            import io, sys

            class Loader(SourceFileLoader):
                def __getattr__(self, name): raise AttributeError(name)
                def __setattr__(self, *args): print('touched', flush=True)

            def attempt(function, *args):
                try:
                    print(type(function(*args)).__name__)
                except Exception as error:
                    print(type(error).__name__, error)

            for name in 'a\0b', '\ud800', 'a..b', 'x/y', 'json.no':
                attempt(import_module, name)
            for origin in None, '\ud800/../x', 'a\0b', 5, '.', b'x':
                for loader in None, object, 5:
                    attempt(module_from_spec, ModuleSpec('x', loader, origin=origin))
            attempt(module_from_spec, 5)
            attempt(io.open_code, 5)
            sys.path += ['\ud800', 5, None]
            sys.path_importer_cache['\ud800'] = None
            attempt(import_module, 'absent')
            package = sys.modules['package'] = type(sys)('package')
            for package.__path__ in (['a\0b'], '', 'x', (), iter([])):
                sys.path_importer_cache['a\0b'] = None
                attempt(import_module, 'package.absent')
            """
        self.check_plain(lines)

    def test_exception_that_fights_back(self):
        """We find the files that an exception names without calling its methods."""
        lines = """
            class Touched(SyntaxError):
                def __getattribute__(self, name): print('touched', flush=True); raise SystemExit(name)
                __bool__ = __len__ = __eq__ = __getattribute__
                __hash__ = object.__hash__

            def hook(kind, *_):
                print('hook', kind.__name__, flush=True)

            import sys
            sys.excepthook = hook
            error = Touched('x', ('part.py', 1, 1, 'x'))
            raise KeyError from error
            """
        self.write('part.py', '')
        self.write('app.py', textwrap.dedent(lines))
        monitor = self.run_app()
        monitor.wait_for('hook KeyError')
        monitor.wait_for(WAITING)
        self.assertNotIn('touched', monitor.text())
        self.write('part.py', 'x')
        monitor.wait_for('hook KeyError', count=2)
        monitor.stop()

    @unittest.skipIf(sys.version_info < (3, 11), 'exception groups came with Python 3.11')
    def test_files_in_a_group_of_exceptions(self):
        self.write('part.txt', '1/0')
        text = 'code = compile(open("part.txt").read(), "part.txt", "exec")\ntry:\n    exec(code)\n'
        self.write(
            'app.py', text + 'except ZeroDivisionError as error:\n    one = error\nraise ExceptionGroup("", [one])\n'
        )
        monitor = self.run_app()
        monitor.wait_for(WAITING)
        self.write('part.txt', 'print("app", 2, flush=True)')
        monitor.wait_for('app 2')
        monitor.stop()

    def test_traceback_that_names_a_folder(self):
        """Only files that the traceback names are watched, no folders."""
        self.write('tree/deep/file.txt', '')
        self.write('tree/named.txt', '')
        tree = self.path('tree')
        self.write(
            'app.py',
            f'try:\n    exec(compile("1/0", {tree + "/named.txt"!r}, "exec"))\n'
            f'finally:\n    exec(compile("1/0", {tree!r}, "exec"))\n',
        )
        monitor = self.run_app()
        monitor.wait_for(WAITING)
        self.write('tree/deep/file.txt', 'changed')
        self.write('tree/new.txt', 'changed')
        self.write('tree/named.txt', 'changed')
        monitor.wait_for(WAITING, count=2)
        told = re.findall(r'(?m)^(.*) changed; reloading', monitor.text())
        self.assertEqual(set(told), {self.path('tree/named.txt')})
        monitor.stop()

    def test_package_in_a_zip(self):
        self.write_zip('lib.zip', **{'space/__init__': '', 'space/part': 'VALUE = 1'})
        self.write(
            'app.py',
            'import sys\nsys.path.insert(0, "lib.zip")\nfrom space.part import VALUE\n'
            'print("app", VALUE, flush=True)\n' + IDLE,
        )
        monitor = self.run_app()
        monitor.wait_for('app 1')
        self.write_zip('lib.zip', **{'space/__init__': '', 'space/part': 'VALUE = 22'})
        monitor.wait_for('app 22')
        monitor.stop()


class EnvironmentCase(Case):
    """A test with its own virtual environment."""

    def setUp(self):
        super().setUp()
        folder = os.path.join(self.project.base, 'venv')
        self.python = os.path.join(folder, 'Scripts' if WINDOWS else 'bin', 'python')
        if importlib.util.find_spec('venv'):
            self.project.python('-m', 'venv', '--without-pip', folder)
        else:
            self.make_environment(folder)
        code = 'import sysconfig; print(sysconfig.get_path("purelib")); print(sysconfig.get_path("scripts"))'
        self.site, self.scripts = self.project.run(self.python, '-c', code).stdout.splitlines()

    @staticmethod
    def make_environment(folder):
        """Do what venv does, which Python's embeddable package for Windows lacks."""
        home = os.path.dirname(sys.executable)
        for path in 'Lib/site-packages', 'Scripts':
            os.makedirs(os.path.join(folder, path))
        for name in os.listdir(home):
            if re.match(r'python\.exe|(python|vcruntime)\d.*\.dll', name):
                shutil.copy(os.path.join(home, name), os.path.join(folder, 'Scripts'))
        put(os.path.join(folder, 'pyvenv.cfg'), f'home = {home}\n')

    def install(self, name, text):
        path = os.path.join(self.site, *name.split('/'))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        put(path, textwrap.dedent(text))

    def install_script(self, name, target):
        """Make `name` the console script of `target`, with the metadata and the file that pip would write."""
        info = os.path.join(self.site, name + '-1.0.dist-info')
        os.makedirs(info)
        put(os.path.join(info, 'METADATA'), f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
        put(os.path.join(info, 'entry_points.txt'), '[console_scripts]\n{} = {}:{}\n'.format(name, *target.split(':')))
        module, function = target.split(':')
        text = f'#!{self.python}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n'
        put(os.path.join(self.scripts, name), text)
        os.chmod(os.path.join(self.scripts, name), 0o755)


class Environment(EnvironmentCase):
    """Installed, editable and linked code; console scripts."""

    def run_app(self, *target):
        target = target or ('-m', 'app')
        monitor = self.start(self.python, 'hupper.py', '--reload-interval', '0.2', *target)
        monitor.wait_for('app 1')
        return monitor

    @needs_posix
    def test_python_without_ctypes(self):
        """A Python that was built without libffi uses polling."""
        self.install('none.pth', 'import sys; sys.modules["_ctypes"] = None\n')
        self.write_app()
        monitor = self.run_app()
        self.write_value(22)
        monitor.wait_for('app 22')
        monitor.stop()
        self.assertNotIn('Traceback', monitor.text())

    def test_installed_code_is_not_watched(self):
        self.install('installed.py', 'pass')
        self.write_app()
        self.write('app.py', 'import installed\n' + self.project.read('app.py'))
        monitor = self.run_app()
        self.install('installed.py', 'x = 1')
        self.write_value(22)
        monitor.wait_for('app 22')
        self.assertNotIn('installed.py', monitor.text())
        monitor.stop()

    @only_full
    def test_installed_code_is_watched_if_asked_for(self):
        self.install('installed.py', 'VALUE = 1')
        self.write('app.py', 'from installed import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app('-w', os.path.join(self.site, 'installed.py'), '-m', 'app')
        self.install('installed.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_editable_code_is_watched(self):
        """`pip install -e` makes a .pth file that names the folder."""
        self.write('src/lib/__init__.py', 'VALUE = 1')
        self.install('lib.pth', self.path('src') + '\n')
        self.write('app.py', 'from lib import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app()
        self.write('src/lib/__init__.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    @only_full
    @needs_posix
    def test_linked_code_is_watched(self):
        self.write('src/lib/__init__.py', 'VALUE = 1')
        os.symlink(self.path('src/lib'), os.path.join(self.site, 'lib'))
        self.write('app.py', 'from lib import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app()
        self.write('src/lib/__init__.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_project_in_the_environments_folder(self):
        """A project in the environment's own folder, beside bin and lib, is not installed code."""
        inside = os.path.join(os.path.dirname(self.scripts), 'project')
        os.mkdir(inside)
        put(os.path.join(inside, 'app.py'), 'VALUE = 1\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app(os.path.join(inside, 'app.py'))
        put(os.path.join(inside, 'app.py'), 'VALUE = 22\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor.wait_for('app 22')
        monitor.stop()

    TOOL = """
        import sys
        from mod import VALUE

        def main():
            print('app', VALUE, sys.argv[1:], flush=True)
            import time
            while True:
                time.sleep(0.1)
        """

    def test_console_script_by_name(self):
        self.write_value(1)
        self.write('tool.py', self.TOOL)
        self.install('project.pth', self.project.folder + '\n')
        self.install_script('a-tool', 'tool:main')
        monitor = self.run_app('a-tool', 'run', '-v')
        monitor.wait_for("app 1 ['run', '-v']")
        self.write_value(22)
        monitor.wait_for("app 22 ['run', '-v']")
        monitor.stop()

    def test_console_script_with_two_lines(self):
        """A console script whose function begins with start_reloader()."""
        self.write_value(1)
        self.write(
            'tool.py', self.TOOL.replace('def main():', 'def main():\n            ' + TWO_LINES.replace('\n', '; '), 1)
        )
        self.install('project.pth', self.project.folder + '\n')
        self.install_script('a-tool', 'tool:main')
        monitor = self.start(self.python, os.path.join(self.scripts, 'a-tool'), 'run', '-v', cwd=self.project.base)
        monitor.wait_for("app 1 ['run', '-v']")
        self.write_value(22)
        monitor.wait_for("app 22 ['run', '-v']")
        monitor.stop()

    @only_full
    @needs_linux
    def test_work_in_other_interpreters(self):
        """For apps like hypercorn, a message suggests -w, unless -w is given or the app imports its own code."""
        text = """
            def main():
                import subprocess, sys
                if 'self' in sys.argv: sys.path.append('.'); import mod
                print('app 1', flush=True)
                subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])
            """
        self.write_value(1)
        self.install('server.py', text)
        self.install_script('a-server', 'server:main')
        line = '-w . reloads it'
        monitor = self.run_app('a-server')
        monitor.wait_for(line)
        monitor.stop()
        for options in (['-v', '-w', '.', 'a-server'], ['-v', 'a-server', 'self']):
            monitor = self.run_app(*options)
            monitor.wait_for('Watching')
            monitor.stop()
            self.assertEqual(monitor.count(line), 0)

    @only_full
    def test_imported_by_a_pth_file(self):
        """Python imports the module at startup, before we can observe: it is watched; no worker has an old one."""
        self.install('mod.pth', f'{self.path("src")}\nimport mod\n')
        self.write('app.py', 'from mod import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        self.write('two.py', TWO_LINES + self.project.read('app.py'))
        self.install('hupper.py', self.project.read('hupper.py'))
        self.install_script('hupper', 'hupper:main')
        targets = [['hupper.py', '-m', 'app'], ['two.py'], [os.path.join(self.scripts, 'hupper'), '-m', 'app']]
        for mode, target in zip(('fork', 'api', 'fork'), targets):
            self.write('src/mod.py', 'VALUE = 1\n')
            monitor = self.start(self.python, *target)
            monitor.wait_for('app 1')
            self.wait_for_standby(monitor, mode)
            self.write('src/mod.py', 'VALUE = 22\n')
            monitor.wait_for('app 22')
            monitor.stop()

    def check_installed(self, head, *target):
        """A missing package is installed while the monitor runs, as by `pip install -e`; then the app is saved."""
        shutil.rmtree(self.path('src'), ignore_errors=True)
        self.install('lib.pth', '')
        text = 'try: from lib import VALUE\nexcept ImportError: VALUE = 0\nprint("app", VALUE, flush=True)\n' + IDLE
        self.write('app.py', head + text)
        monitor = self.start(self.python, *target)
        monitor.wait_for('app 0')
        monitor.wait_for(re.compile(r'Watching \d+ files'))  # now there may be a standby
        self.write('src/lib.py', 'VALUE = 1')
        self.install('lib.pth', self.path('src') + '\n')
        self.write('app.py', head + text + '\n')
        monitor.wait_for('app 1')
        self.write('src/lib.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_installed_while_it_runs(self):
        self.check_installed('', 'hupper.py', '-v', '-m', 'app')
        self.check_installed('import hupper; hupper.start_reloader(verbose=2)\n', 'app.py')


class Surroundings(Case):
    """Unfriendly surroundings: odd names, missing things, interpreter options."""

    def odd_folder(self, name):
        """Move to a subfolder of this name."""
        folder = os.path.join(self.project.folder, name)
        os.mkdir(folder)
        shutil.move(self.path('hupper.py'), folder)
        self.project.folder = folder

    def check_odd_folder(self, name):
        self.odd_folder(name)
        self.write_app()
        self.write('two.py', TWO_LINES + self.project.read('app.py'))
        targets = [['hupper.py', '-m', 'app'], ['hupper.py', '-w', '.', self.path('app.py')], ['two.py']]
        for number, target in enumerate(targets):
            self.write_value(number)
            monitor = self.start(sys.executable, *target)
            monitor.wait_for(f'app {number}')
            self.write_value(number + 10)
            monitor.wait_for(f'app {number + 10}')
            monitor.stop()

    @only_full
    def test_spaces_in_names(self):
        self.check_odd_folder(' a  b' if WINDOWS else ' a  b ')  # names there cannot end with a blank

    @only_full
    @needs_posix
    def test_newlines_and_quotes_in_names(self):
        self.check_odd_folder('a\nb"c\'d\\e%s{}[x]*')

    @needs_linux
    def test_names_that_are_not_utf8(self):
        self.check_odd_folder(os.fsdecode(b'caf\xe9 \xff'))

    @needs_linux
    def test_arguments_that_are_not_utf8(self):
        self.write('app.py', 'import sys, os\nprint(ascii(sys.argv[1]), flush=True)\n' + IDLE)
        self.write('two.py', TWO_LINES + self.project.read('app.py'))
        for target in (['hupper.py', 'app.py'], ['two.py']):
            monitor = self.start(sys.executable, *target, os.fsdecode(b'caf\xe9'))
            monitor.wait_for(r"'caf\udce9'")
            monitor.stop()

    LOGGING = 'import mod\nwith open("log", "a") as log: log.write(f"app {mod.VALUE};")\n'

    def test_output_that_nobody_reads(self):
        """As in `python hupper.py -m app 2>&1 | head -n 1`: the reader exits, the monitor keeps running."""
        self.write('app.py', self.LOGGING + IDLE)
        self.write_value(1)
        command = [sys.executable, 'hupper.py', '-m', 'app']
        options = dict(
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.project.folder
        )
        with subprocess.Popen(command, env=self.project.environment(), **options) as process:
            try:
                process.stdout.readline()
                process.stdout.close()
                for value in (1, 22, 333):
                    self.write_value(value)
                    wait_until(
                        lambda value=value: (
                            os.path.exists(self.path('log')) and f'app {value};' in self.project.read('log')
                        )
                    )
                self.assertIsNone(process.poll())
                process.terminate()
                self.assertEqual(process.wait(LIMIT), 1 if WINDOWS else 128 + signal.SIGTERM)
                wait_until(lambda: not self.project.processes(), 'something is left')
            finally:
                process.kill()

    @unittest.skipIf(hasattr(os, 'geteuid') and os.geteuid() == 0, 'root ignores the mode of a folder')
    @needs_posix
    def test_read_only_folder(self):
        self.write_app()
        before = sorted(os.listdir(self.project.folder))
        os.chmod(self.project.folder, 0o555)
        self.addCleanup(os.chmod, self.project.folder, 0o755)
        monitor = self.hupper('-m', 'app')
        for value in (1, 2, 3):  # of the same length: bytecode cannot be written, and must not be needed
            put(self.path('mod.py'), f'VALUE = {value}\n')
            monitor.wait_for(f'app {value}')
        monitor.stop()
        self.assertEqual(sorted(os.listdir(self.project.folder)), before)

    def test_no_home(self):
        self.write_app()
        monitor = self.hupper('-m', 'app', env={'HOME': None, 'USERPROFILE': None, 'USER': None, 'LOGNAME': None})
        monitor.wait_for('app 1')
        self.write_value(22)
        monitor.wait_for('app 22')
        monitor.stop()

    def test_empty_environment(self):
        """Empty, except for what Windows itself needs."""
        self.write_app()
        env = {name: None for name in os.environ if name not in ('TMPDIR', 'SYSTEMROOT')}
        monitor = self.start(sys.executable, 'hupper.py', '-m', 'app', env=env)
        monitor.wait_for('app 1')
        self.write_value(22)
        monitor.wait_for('app 22')
        monitor.stop()

    @needs_posix
    def test_stdin_closed(self):
        """None of our descriptors takes the place of stdin, before or after a reload."""
        text = """
            import os, sys
            from mod import VALUE
            try: os.fstat(0)
            except OSError: closed = True
            else: closed = os.readlink('/proc/self/fd/0') if os.path.exists('/proc/self/fd/0') else False
            print('app', VALUE, closed, sys.stdin, flush=True)
            """
        self.write('app.py', textwrap.dedent(text) + IDLE)
        self.write('two.py', TWO_LINES + self.project.read('app.py'))
        for target in ('hupper.py -m app', 'two.py'):
            self.write_value(1)
            monitor = self.start('sh', '-c', f'exec "$0" {target} <&-', sys.executable)
            monitor.wait_for('app 1 True None')
            self.write_value(22)
            monitor.wait_for('app 22 True None')
            monitor.stop()

    @needs_posix
    def test_everything_closed(self):
        self.write('app.py', self.LOGGING + IDLE)
        self.write_value(1)
        monitor = self.start('sh', '-c', 'exec "$0" hupper.py -m app <&- >&- 2>&-', sys.executable)
        wait_until(lambda: os.path.exists(self.path('log')) and 'app 1;' in self.project.read('log'))
        self.write_value(22)
        wait_until(lambda: 'app 22;' in self.project.read('log'))
        monitor.stop()

    def check_flags(self, *flags):
        """The app has the same flags as under plain Python, forked or spawned, and our code causes no warnings."""
        text = """
            import sys
            VALUE = 1
            print('app', VALUE, sys.flags, sys.warnoptions, sorted(sys._xoptions.items()), flush=True)
            """
        text = textwrap.dedent(text) + IDLE
        plain = text.replace('VALUE = 1\n', 'VALUE = 1; print = lambda *x, p=print, **y: (p(*x, **y), sys.exit())\n')
        self.write('plain.py', plain)
        expected = self.project.python(*flags, 'plain.py').stdout.strip()
        two_lines = f'import sys; sys.path.append({self.project.folder!r})\n' + TWO_LINES
        for target, head in ((['hupper.py', 'app.py'], ''), (['app.py'], two_lines)):
            self.write('app.py', head + text)
            monitor = self.start(sys.executable, *flags, *target)
            monitor.wait_for(expected)
            self.write('app.py', head + text.replace('VALUE = 1', 'VALUE = 22'))
            monitor.wait_for(expected.replace('app 1', 'app 22'))
            self.assertNotIn('Traceback', monitor.text())  # before Ctrl-C, which may hit a booting standby on Windows
            monitor.stop()
            self.assertNotIn('Warning', monitor.text('err'))

    def test_flag_isolated(self):
        self.check_flags('-I')

    def test_flag_no_site(self):
        self.check_flags('-S')

    @only_full
    def test_flag_optimized(self):
        self.check_flags('-O')
        self.check_flags('-OO')

    def test_flag_dev(self):
        self.check_flags('-X', 'dev')

    @only_full
    def test_flag_warnings_are_errors(self):
        self.check_flags('-W', 'error')
        self.check_flags('-bb', '-W', 'error::DeprecationWarning')

    @only_full
    def test_flag_others(self):
        self.check_flags('-E', '-s', '-B', '-q', '-u')
        # before 3.10, neither Python nor Windows reports unknown options
        unknown = [] if WINDOWS and sys.version_info < (3, 10) else ['-X', 'nonsense=1']
        self.check_flags('-X', 'utf8', *unknown)

    @needs_posix
    def test_started_in_a_deleted_folder(self):
        self.write('gone/file', '')
        self.write_app()
        script = 'cd gone && rm -r ../gone && exec "$0" "$1"/hupper.py "$1"/app.py'
        monitor = self.start('sh', '-c', script, sys.executable, self.project.folder)
        monitor.wait_for('app 1')
        self.write_value(22)
        monitor.wait_for('app 22')
        monitor.stop()
        self.assertNotIn('Traceback', monitor.text())

    @needs_posix
    def test_folder_deleted_while_it_runs(self):
        """The current folder is deleted and comes back, with the app in it."""
        for target in (['-m', 'app'], ['app.py']):
            name = 'run by ' + target[0]
            work = self.path(name)
            for number in (1, 22):
                self.write(name + '/app.py', f'import os\nprint("app", {number}, os.getcwd(), flush=True)\n' + IDLE)
                if number == 1:
                    monitor = self.start(sys.executable, self.path('hupper.py'), *target, cwd=work)
                monitor.wait_for(f'app {number} {work}')
                if number == 1:
                    rmtree(work)
                    monitor.wait_for('Waiting for a file to change')
            monitor.stop()

    def test_folder_of_the_path_appears(self):
        """The folder did not exist when the monitor searched for its own modules."""
        self.write('app.py', 'import lib\nprint("app", lib.VALUE, flush=True)\n' + IDLE)
        monitor = self.hupper('-m', 'app', env={'PYTHONPATH': self.path('src')})
        monitor.wait_for("No module named 'lib'")
        monitor.wait_for(WAITING)
        self.write('src/lib.py', 'VALUE = 22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_zip_file_in_pythonpath(self):
        for number, target in enumerate((['-m', 'app'], ['app.py'])):
            self.write_zip('../lib.zip', lib=f'VALUE = {number}')
            self.write('app.py', 'import lib\nprint("app", lib.VALUE, flush=True)\n' + IDLE)
            monitor = self.hupper(*target, env={'PYTHONPATH': self.path('../lib.zip')})
            monitor.wait_for(f'app {number}')
            self.write_zip('../lib.zip', lib='VALUE = 22')
            monitor.wait_for('app 22')
            monitor.stop()

    def test_our_own_file_is_away(self):
        """A spawned worker needs our file, and a reload after a change of our file spawns one."""
        self.write_app()
        text = self.project.read('hupper.py')
        monitor = self.hupper('-m', 'app')
        monitor.wait_for('app 1')
        os.remove(self.path('hupper.py'))
        self.write_value(22)
        self.assertIn(repr(self.path('hupper.py')), monitor.wait_for('Cannot start a worker'))
        self.write('hupper.py', text)
        monitor.wait_for('app 22')
        monitor.stop()

    def test_zip_file_imported_last(self):
        def write(text):
            with zipfile.ZipFile(self.path('../new.zip'), 'w') as file:
                file.writestr('lib.py', text)
            replace(self.path('../new.zip'), self.path('lib.zip'))

        write('VALUE = 1')
        self.write('app.py', 'import sys\nsys.path.insert(0, "lib.zip")\nimport lib\nprint("app", lib.VALUE)\n' + IDLE)
        monitor = self.hupper('-m', 'app', env={'PYTHONUNBUFFERED': '1'})
        for value in (1, 22):
            monitor.wait_for(f'app {value}')
            write(f'VALUE = {value + 21}')
        monitor.wait_for('app 43')
        monitor.stop()

    def test_zip_file_that_comes_later(self):
        text = """
            import sys
            sys.path.insert(0, 'lib.zip')
            try:
                import lib
            except ImportError:
                print('app without', flush=True)
            else:
                print('app with', lib.VALUE, flush=True)
            """
        self.write('app.py', textwrap.dedent(text) + IDLE)
        monitor = self.hupper('-m', 'app')
        monitor.wait_for('app without')
        for value in (1, 22):
            self.write_zip('lib.zip', lib=f'VALUE = {value}')
            monitor.wait_for(f'app with {value}')
        monitor.stop()

    def test_brackets_in_the_path(self):
        self.write('a[1]/app.py', 'print("app", open("conf/x.ini").read(), flush=True)\n' + IDLE)
        self.write('a[1]/conf/x.ini', '1')
        work = self.path('a[1]')
        monitor = self.start(sys.executable, self.path('hupper.py'), '-w', 'conf/*.ini', 'app.py', cwd=work)
        monitor.wait_for('app 1')
        self.write('a[1]/conf/x.ini', '22')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_stop_handler_that_asks_for_the_stop(self):
        self.write(
            'app.py',
            """
            import hupper, os, signal, sys, time

            def stop(*_):
                hupper.get_reloader().graceful_shutdown()
                time.sleep(0.2)  # as long as it takes to clean up
                os.write(1, b'clean')  # print() may be what the signal has interrupted
                sys.exit(7)

            signal.signal(signal.POLITE, stop)
            print('app', flush=True)
            while True: time.sleep(0.1)
            """.replace('POLITE', POLITE),
        )
        monitor = self.hupper('--shutdown-interval', '20', '-m', 'app')
        monitor.wait_for('app')
        self.assertEqual(monitor.stop(), 7, monitor.text())
        self.assertIn('clean', monitor.text('out'))

    def test_status_above_128(self):
        self.write('app.py', 'import sys\nsys.exit(143)')
        monitor = self.hupper('-m', 'app')
        monitor.wait_for(WAITING)
        self.assertNotIn('SIGTERM', monitor.text())
        self.assertEqual(monitor.stop(), 143)

    def test_two_monitors_on_one_project(self):
        self.write_app()
        one, two = self.hupper('-m', 'app'), self.hupper('-m', 'app')
        for monitor in (one, two):
            monitor.wait_for('app 1')
        self.write_value(22)
        for monitor in (one, two):
            monitor.wait_for('app 22')
        one.send(signal.SIGTERM)
        one.wait()
        self.write_value(333)
        two.wait_for('app 333')
        two.stop()


# --- API ---------------------------------------------------------------------


class TwoLines(Case):
    """`import hupper; hupper.start_reloader()` makes any script reload, however it was started."""

    def setUp(self):
        super().setUp()
        text = 'import sys\nfrom mod import VALUE\nprint("app", VALUE, ascii(sys.argv[1:]), __name__, flush=True)\n'
        self.text = TWO_LINES + text + IDLE
        self.write_value(1)

    def check(self, *command, **options):
        monitor = self.start(sys.executable, *command, 'a b', '-v', '', **options)
        self.check_reload(monitor)
        monitor.wait_for("app 11 ['a b', '-v', ''] __main__")
        monitor.stop()

    def test_script(self):
        self.write('app.py', self.text)
        self.check('app.py')

    def test_script_from_another_folder(self):
        self.write('app.py', self.text)
        self.check(os.path.join('project', 'app.py'), cwd=self.project.base)

    def test_script_that_has_changed_the_folder(self):
        """The new current folder has another script of that name."""
        self.write('app.py', 'import os; import hupper; os.chdir(os.environ["TMPDIR"])\n' + self.text)
        put(os.path.join(self.project.tmp, 'app.py'), 'print("the wrong one", flush=True)\n')
        self.check('app.py')

    def test_module(self):
        self.write('app.py', self.text)
        self.check('-m', 'app')

    def test_package(self):
        self.write('pkg/__init__.py', '')
        self.write('pkg/__main__.py', self.text)
        self.check('-m', 'pkg')

    def test_submodule_with_relative_import(self):
        self.write('pkg/sub/__init__.py', '')
        self.write('pkg/sub/mod.py', 'from mod import VALUE')
        self.write('pkg/sub/app.py', self.text.replace('from mod', 'from .mod'))
        self.check('-m', 'pkg.sub.app')

    def test_folder(self):
        self.write(
            'folder/__main__.py',
            self.text.replace('import sys', f'import sys; sys.path.append({self.project.folder!r})'),
        )
        self.check('folder', env={'PYTHONPATH': self.project.folder})

    def test_zip(self):
        self.write_zip('app.zip', __main__=self.text)
        self.check('app.zip', env={'PYTHONPATH': self.project.folder})

    def test_interpreter_flags(self):
        self.write('app.py', self.text.replace('print(', 'print(sys.flags.optimize, sys.warnoptions, '))
        monitor = self.start(sys.executable, '-O', '-W', 'ignore::UserWarning', 'app.py')
        monitor.wait_for("1 ['ignore::UserWarning'] app 1")
        self.write_value(22)
        monitor.wait_for("1 ['ignore::UserWarning'] app 22")
        monitor.stop()

    def test_syntax_error_mended(self):
        self.write('app.py', self.text)
        self.write('mod.py', 'VALUE = (')
        monitor = self.start(sys.executable, 'app.py')
        monitor.wait_for(WAITING)
        self.write_value(22)
        monitor.wait_for('app 22')
        monitor.stop()

    def test_arguments_of_start_reloader(self):
        self.write(
            'app.py', self.text.replace('start_reloader()', 'start_reloader(reload_interval="0.2", verbose=False)')
        )
        monitor = self.start(sys.executable, 'app.py')
        self.check_reload(monitor)
        if WINDOWS:  # a standby that is booting may print a traceback for the Ctrl-C
            self.assertEqual(monitor.text('err'), '')
        monitor.stop()
        if not WINDOWS:
            self.assertEqual(monitor.text('err'), '')


class API(Case):
    """start_reloader() with a worker_path, the proxy, the handshake."""

    def start_script(self, body, start="hupper.start_reloader('start.main')"):
        """Run a script that starts the reloader and whose function main has this body."""
        body = textwrap.indent(textwrap.dedent(body).strip('\n'), '    ')
        text = f'import os, sys, time, hupper\n\ndef main(*args, **kwargs):\n{body}\n\n'
        text += f"if __name__ == '__main__':\n    {start}\n    print('after')\n"
        self.write('start.py', text)
        return self.start(sys.executable, 'start.py')

    STAY = 'while True: time.sleep(0.1)\n'

    @needs_posix
    def test_interpreter_missing_at_the_first_start(self):
        """The first worker can't be started either; the file that it needs is waited for."""
        path = self.path('python')
        monitor = self.start_script(
            'print("app", flush=True)\n' + self.STAY, f'sys.executable = {path!r}; hupper.start_reloader("start.main")'
        )
        monitor.wait_for('Cannot start a worker')
        monitor.wait_for(f'{path} does not exist yet')
        os.symlink(sys.executable, path)
        monitor.wait_for('app')
        monitor.stop()

    def test_reload(self):
        self.write_app()
        monitor = self.start_script('import app')
        monitor.wait_for('app 1')
        self.write_value(22)
        monitor.wait_for('app 22')
        self.assertEqual(monitor.stop(), 128 + signal.SIGTERM if not WINDOWS else 1)
        self.assertNotIn('after', monitor.text())

    def test_the_file_of_the_worker_path_is_watched(self):
        monitor = self.start_script('print("app one", flush=True)\n' + self.STAY)
        monitor.wait_for('app one')
        self.write('start.py', self.project.read('start.py').replace('one', 'two'))
        monitor.wait_for('app two')
        monitor.stop()

    def test_arguments(self):
        start = "hupper.start_reloader('start.main', worker_args=[1, {'a'}], worker_kwargs={'b': (2, None)})"
        monitor = self.start_script('print(args, kwargs, flush=True)', start)
        monitor.wait_for("(1, {'a'}) {'b': (2, None)}")
        monitor.wait_for(WAITING)
        self.assertEqual(monitor.stop(), 0)

    def test_paths_and_arguments_of_odd_types(self):
        """Entries of sys.path that are no strings are ignored, as by Python; loaders with such paths work as usual."""
        body = """
            import importlib.machinery, pathlib
            sys.path += [pathlib.Path('lib'), b'lib', None]
            try:
                import nosuch
            except ImportError:
                loader = importlib.machinery.SourceFileLoader('x', 'hupper.py')
                print(sys.argv, len(loader.get_data(pathlib.Path('hupper.py'))) > 1000, flush=True)
            loader = importlib.machinery.SourceFileLoader('y', pathlib.Path('y.py').absolute())
            loader.exec_module(type(sys)('y'))
            """
        start = """
            import pathlib
            class Text(str):
                pass
            sys.path[:0], sys.argv = [pathlib.Path('lib')], [Text('a'), 'b']
            hupper.start_reloader('start.main')
            """
        self.write('y.py', 'print("y", flush=True)\n')
        monitor = self.start_script(textwrap.dedent(body), textwrap.indent(textwrap.dedent(start), '    ').strip())
        monitor.wait_for("['a', 'b'] True")
        monitor.wait_for(re.compile('^y$'))
        monitor.wait_for(WAITING)
        self.assertEqual(monitor.stop(), 0)

    def test_no_standby_can_be_made(self):
        """The interpreter is missing for a while, for example because an environment is being rebuilt."""
        start = """
            class Logger(hupper.DefaultLogger):
                def _write(self, level, msg):
                    super()._write(level, msg)
                    if 'Starting monitor' in msg:
                        sys.executable = sys._base_executable = '/nonexistent'
                    elif 'no standby' in msg:
                        sys.executable, sys._base_executable = python
            python = sys.executable, getattr(sys, '_base_executable', None)
            hupper.start_reloader('start.main', logger=Logger(2))
            """
        start = textwrap.indent(textwrap.dedent(start), '    ').strip()
        monitor = self.start_script('print("app one", flush=True)\n' + self.STAY, start)
        monitor.wait_for('app one')
        monitor.wait_for('There is no standby: ')
        self.write('start.py', self.project.read('start.py').replace('app one', 'app two'))
        monitor.wait_for('app two')
        monitor.stop()

    def test_main_of_the_worker_is_empty(self):
        body = (
            'm = sys.modules["__main__"]; print(m.__name__, m.__spec__, hasattr(m, "__file__"), __name__, flush=True)'
        )
        monitor = self.start_script(body)
        monitor.wait_for('__main__ None False start')
        monitor.stop()

    def test_status(self):
        monitor = self.start_script('sys.exit(3)')
        monitor.wait_for(WAITING)
        monitor.stop()

    def test_cleanup_of_the_monitors_program(self):
        """start_reloader() raises SystemExit, so the program's own cleanup runs."""
        start = "import atexit; atexit.register(print, 'at exit', flush=True)\n    hupper.start_reloader('start.main')"
        monitor = self.start_script('print("app", flush=True)\n' + self.STAY, start)
        monitor.wait_for('app')
        monitor.stop()
        self.assertIn('at exit', monitor.text('out'))

    def test_worker_path_in_main(self):
        """Such a path works, or one line says what is wrong."""
        self.write(
            'app.py',
            """
            import hupper, time

            def main():
                print('app 1', flush=True)
                time.sleep(60)

            if __name__ == '__main__':
                hupper.start_reloader('__main__.main')
            """,
        )
        monitor = self.start(sys.executable, 'app.py')
        if 'Error' in monitor.wait_for(re.compile('app 1|Error: .*__main__')).string:
            self.assertNotEqual(monitor.wait(), 0)

    def test_module_of_the_worker_path_is_absent(self):
        monitor = self.start_script('pass', "hupper.start_reloader('later.main')")
        monitor.wait_for("No module named 'later'")
        monitor.wait_for(WAITING)
        self.write('later.py', 'def main(): print("app 1", flush=True)')
        monitor.wait_for('app 1')
        monitor.stop()

    def check_error(self, start, error):
        monitor = self.start_script('pass', start)
        self.assertEqual(monitor.wait(), 1, monitor.text())
        self.assertRegex(monitor.text('err').splitlines()[-1], error)
        monitor.check_workers(0)

    def test_bad_intervals(self):
        for number in ('0', '-1', '"x"', 'float("nan")'):
            self.check_error(f"hupper.start_reloader('start.main', reload_interval={number})", '^ValueError: ')
        self.check_error("hupper.start_reloader('start.main', shutdown_interval=-1)", '^ValueError: ')

    def test_bad_worker_path(self):
        self.check_error("hupper.start_reloader('main')", "^ValueError: .*'main'")

    def test_bad_monitor(self):
        self.check_error("hupper.start_reloader('start.main', monitor_factory='nonsense')", '^\\w+: .*nonsense')

    def test_outside_a_worker(self):
        result = self.project.python(
            '-c', 'import hupper\nprint(hupper.is_active(), hupper.is_watchman_supported())\nhupper.get_reloader()'
        )
        self.assertEqual((result.returncode, result.stdout), (1, 'False False\n'))
        self.assertRegex(result.stderr.splitlines()[-1], '^RuntimeError: ')

    def test_is_watchdog_supported(self):
        there = importlib.util.find_spec('watchdog') is not None
        result = self.project.python('-c', 'import hupper; print(hupper.is_watchdog_supported())')
        self.assertEqual(result.stdout, f'{there}\n')

    def test_inside_a_worker(self):
        """is_active(), and the proxy from get_reloader() and start_reloader()."""
        body = """
            print(hupper.is_active(), isinstance(hupper.get_reloader(), hupper.interfaces.IReloaderProxy), flush=True)
            print(hupper.start_reloader('start.main') is hupper.get_reloader(), flush=True)
            """
        monitor = self.start_script(body)
        monitor.wait_for('True True')
        monitor.wait_for(WAITING)
        monitor.wait_for('True')
        monitor.stop()

    def watch(self, call, prepare=''):
        """Start a worker that makes this call on its proxy."""
        body = f"{prepare}\nr = hupper.get_reloader()\n{call}\nprint('app', flush=True)\n" + self.STAY
        monitor = self.start_script(body, "hupper.start_reloader('start.main', reload_interval=0.2)")
        monitor.wait_for('app')
        return monitor

    def check_counts(self, monitor, name):
        number = monitor.count(re.compile('^app'))
        self.write(name, f'changed {number}')
        monitor.wait_for(self.path(name) + ' changed; reloading ...')
        monitor.wait_for('app', count=number + 1)

    def test_watch_files_takes_any_iterable(self):
        for name in ('a', 'b', 'c', 'd', 'e', 'f'):
            self.write(name + '.txt', '')
        call = """
            import pathlib
            r.watch_files(['a.txt']); r.watch_files(('b.txt',)); r.watch_files({pathlib.Path('c.txt')})
            r.watch_files(iter(['d.txt'])); r.watch_files([])
            r.watch_files(x for x in ['e.txt', pathlib.Path('f.txt')])
            """
        monitor = self.watch(textwrap.dedent(call))
        for name in ('a', 'b', 'c', 'd', 'e', 'f'):
            self.check_counts(monitor, name + '.txt')
        monitor.stop()

    def test_watch_files_folder_glob_and_absent(self):
        self.write('conf/a.ini', '')
        self.write('glob/a.ini', '')
        monitor = self.watch("r.watch_files(['conf', 'glob/**/*.ini', 'absent/x.txt'])")
        for name in ('conf/a.ini', 'conf/new/b.ini', 'glob/a.ini', 'glob/sub/b.ini', 'absent/x.txt'):
            self.check_counts(monitor, name)
        monitor.stop()

    def test_watch_files_is_relative_to_the_folder_at_the_call(self):
        self.write('sub/a.txt', '')
        monitor = self.watch("os.chdir('sub'); r.watch_files(['a.txt']); os.chdir('/')")
        self.check_counts(monitor, 'sub/a.txt')
        monitor.stop()

    def test_watch_files_of_the_wrong_type(self):
        for call in ('r.watch_files([1])', 'r.watch_files(None)'):
            monitor = self.start_script('r = hupper.get_reloader()\n' + call)
            monitor.wait_for('TypeError')
            monitor.stop()

    def test_trigger_reload(self):
        call = """
            if not os.path.exists('once'):
                open('once', 'w').close()
                r.trigger_reload()
            """
        monitor = self.watch(textwrap.dedent(call))
        monitor.wait_start(2)
        monitor.wait_for('app')
        monitor.stop()

    def test_graceful_shutdown(self):
        monitor = self.start_script('hupper.get_reloader().graceful_shutdown()\n' + self.STAY)
        monitor.wait()
        monitor.check_nothing_left()
        monitor.check_workers(1)

    def test_ignore_files(self):
        self.write('other.py', '')
        self.write_app()
        start = "hupper.start_reloader('start.main', ignore_files={'*/other.py', '*.log'})"
        monitor = self.start_script('import other\nhupper.get_reloader().watch_files(["."])\nimport app', start)
        monitor.wait_for('app 1')
        self.write('other.py', 'x = 1')
        self.write('x.log', '')
        self.write_value(22)
        monitor.wait_for('app 22')
        self.assertEqual(re.findall(r'(?m)^(.*) changed; reloading', monitor.text()), [self.path('mod.py')])
        monitor.stop()

    def test_second_copy_of_the_module(self):
        """A copy under another name, in a worker that the first copy has started, shares the proxy."""
        os.mkdir(self.path('vendor'))
        shutil.copy(self.path('hupper.py'), self.path('vendor/hupper.py'))
        self.write('part.txt', '')
        body = """
            import vendor.hupper
            print(vendor.hupper.is_active(), 'vendor.hupper.reloader' in sys.modules, flush=True)
            vendor.hupper.get_reloader().watch_files(['part.txt'])
            print('app', flush=True)
            """
        start = "hupper.start_reloader('start.main', reload_interval=0.2)"
        monitor = self.start_script(textwrap.dedent(body) + self.STAY, start)
        monitor.wait_for('True False')
        monitor.wait_for('app')
        self.check_counts(monitor, 'part.txt')
        monitor.stop()

    def test_vendored_copy_only(self):
        os.mkdir(self.path('vendor'))
        shutil.move(self.path('hupper.py'), self.path('vendor/hupper.py'))
        self.write_app()
        text = """
            import sys
            from vendor import hupper

            def main():
                print(hupper.is_active(), 'hupper' in sys.modules, 'hupper.reloader' in sys.modules, flush=True)
                import app

            if __name__ == '__main__':
                hupper.start_reloader('start.main')
            """
        self.write('start.py', text)
        monitor = self.start(sys.executable, 'start.py')
        monitor.wait_for('True False False')
        monitor.wait_for('app 1')
        self.write_value(22)
        monitor.wait_for('app 22')
        monitor.stop()

    def test_copy_that_is_on_no_path(self):
        os.mkdir(self.path('vendor'))
        shutil.move(self.path('hupper.py'), self.path('vendor/anything.py'))
        self.write_app()
        text = """
            from importlib.util import spec_from_file_location, module_from_spec
            spec = spec_from_file_location('anything', 'vendor/anything.py')
            hupper = module_from_spec(spec)
            spec.loader.exec_module(hupper)

            def main():
                print(hupper.is_active(), flush=True)
                import app

            if __name__ == '__main__':
                hupper.start_reloader('start.main')
            """
        self.write('start.py', text)
        monitor = self.start(sys.executable, 'start.py')
        monitor.wait_for('True')
        monitor.wait_for('app 1')
        self.write_value(22)
        monitor.wait_for('app 22')
        monitor.stop()

    CHILD = 'import hupper; print("child", hupper.is_active(), flush=True)'

    def check_child(self, body):
        for command in ('start.py', 'hupper.py -m app'):
            self.write('app.py', 'import start\nstart.main()')
            monitor = (
                self.start_script(body + '\nprint("app", hupper.is_active(), flush=True)')
                if command == 'start.py'
                else self.hupper('-m', 'app')
            )
            monitor.wait_for('child False')
            monitor.wait_for('app True')
            monitor.stop()

    def test_child_is_not_active(self):
        self.check_child(f"import subprocess\nsubprocess.run([sys.executable, '-c', {self.CHILD!r}], close_fds=False)")

    @needs_posix
    def test_forked_child_is_not_active(self):
        self.check_child(
            'if os.fork() == 0:\n    print("child", hupper.is_active(), flush=True)\n    os._exit(0)\nos.wait()'
        )

    def test_multiprocessing_child_is_not_active(self):
        body = """
            import multiprocessing
            with multiprocessing.get_context('spawn').Pool(1) as pool:
                print('child', pool.apply(hupper.is_active), flush=True)
            """
        monitor = self.start_script(textwrap.dedent(body) + 'print("app", hupper.is_active(), flush=True)')
        monitor.wait_for('child False')
        monitor.wait_for('app True')
        monitor.stop()

    @needs_posix
    def test_not_active_after_exec(self):
        monitor = self.start_script(f"os.execv(sys.executable, [sys.executable, '-c', {self.CHILD!r}])")
        monitor.wait_for('child False')
        monitor.stop()

    def test_no_monitor_inside_a_monitor(self):
        """start_reloader() in a worker's child starts no monitor, and says so."""
        body = """
            import subprocess
            code = "import hupper; hupper.start_reloader('start.other')"
            result = subprocess.run([sys.executable, '-c', code], stderr=subprocess.PIPE, timeout=10)
            print('child', b'Starting monitor' in result.stderr, b'monitor' in result.stderr, flush=True)
            """
        monitor = self.start_script(textwrap.dedent(body) + '\ndef other(): print("other", flush=True)')
        monitor.wait_for('child False True')
        monitor.stop()

    def test_submodule_names(self):
        code = """
            import hupper, sys
            import hupper.reloader, hupper.cli, hupper.interfaces, hupper.logger, hupper.polling, hupper.watchdog
            from hupper.reloader import Reloader, find_default_monitor_factory, FileMonitorProxy
            from hupper.interfaces import IReloaderProxy, IFileMonitor, IFileMonitorFactory, ILogger
            from hupper.logger import DefaultLogger, SilentLogger, LogLevel
            from hupper.polling import PollingFileMonitor
            from hupper.watchdog import WatchdogFileMonitor
            from hupper.cli import main
            assert hupper.reloader is sys.modules['hupper.reloader'] is hupper, hupper.reloader
            import pickle
            assert pickle.loads(pickle.dumps(Reloader)) is Reloader
            assert Reloader.__module__ == 'hupper'
            print(hupper.__version__, sorted(hupper.__all__))
            """
        result = self.project.python('-c', textwrap.dedent(code))
        self.assertEqual(result.returncode, 0, result.stderr)
        names = ['get_reloader', 'is_active', 'is_watchdog_supported', 'is_watchman_supported', 'start_reloader']
        self.assertLessEqual(set(names), set(re.findall(r"'(\w+)'", result.stdout)))

    def test_submodule_name_without_the_package(self):
        """`import hupper.polling` as the very first import."""
        for name in ('reloader', 'cli', 'interfaces', 'logger', 'polling', 'watchdog'):
            result = self.project.python('-c', f'import hupper.{name}; print(hupper.{name}.__name__)')
            self.assertEqual((result.stdout, result.stderr), ('hupper\n', ''))

    def test_an_unknown_submodule(self):
        result = self.project.python('-c', 'import hupper.nonsense')
        self.assertRegex(result.stderr.splitlines()[-1], '^ModuleNotFoundError: ')

    def test_command_line_called_by_a_program(self):
        """The worker imports again what the program has imported before."""
        self.write_app()
        self.write('start.py', 'import mod, sys\nfrom hupper.cli import main\nsys.exit(main(sys.argv[1:]))\n')
        self.write('folder/script.py', 'import sys; sys.path.append("."); import app')
        for target in (['-m', 'app'], ['folder/script.py']):
            self.write_value(1)
            monitor = self.start(sys.executable, 'start.py', *target)
            self.check_reload(monitor)
            monitor.stop()

    def test_the_program_that_calls_the_command_line_goes_on(self):
        """Only the program continues; the worker inherits nothing from it."""
        self.write('app.py', 'import sys\nprint("app", "start" in sys.argv[0], flush=True)\nsys.exit(3)\n')
        self.write('start.py', 'from hupper.cli import main\nprint("status", main(["--exit-on-crash", "-m", "app"]))\n')
        result = self.project.python('start.py')
        self.assertEqual(result.stdout, 'app False\nstatus 3\n')

    def test_documentation(self):
        """help() lists the functions that users call."""
        names = {'hupper': 'start_reloader is_active get_reloader is_watchdog_supported is_watchman_supported'}
        names['hupper.interfaces.IReloaderProxy'] = 'watch_files trigger_reload graceful_shutdown'
        for thing, functions in names.items():
            result = self.project.python('-c', f'import hupper; help({thing})')
            self.assertEqual((result.returncode, result.stderr), (0, ''))
            for name in functions.split():
                self.assertIn(name + '(', result.stdout)


# --- never miss (ways of saving) ---------------------------------------------


@on_each_backend(backends=LONG)
class Saving(BackendCase):
    """Each way of saving causes a reload with the new code."""

    def saves(self, save):
        self.write_app(1)
        monitor = self.run_app()
        monitor.wait_for('app 1')
        for value in (2, 3):  # of the same length; the second save starts from what the first has left
            self.write_value(value, save)
            monitor.wait_for(f'app {value}')
        monitor.stop()

    for _name, _save in SAVES.items():
        locals()['test_' + _name] = lambda self, save=_save: self.saves(save)


@on_each_backend
class SavingMore(BackendCase):
    """Ways of saving that need more than a path, and what is no save."""

    def start_app(self, **options):
        self.write_app()
        monitor = self.run_app(**options)
        monitor.wait_for('app 1')
        return monitor

    @only_full
    def test_all_ways_in_turn(self):
        """Each of SAVES, starting from what the previous one has left."""
        monitor = self.start_app()
        for number, save in enumerate(SAVES.values(), 10):
            if WINDOWS:
                time.sleep(1)  # Windows does not show who has written: an earlier save might be the app's own
            self.write_value(number, save)
            monitor.wait_for(f'app {number}')
        monitor.stop()
        if 'Traceback' in monitor.text():
            monitor.fail('a worker has failed')

    @only_full
    def test_created_again_after_a_while(self):
        monitor = self.start_app()
        for value, pause in enumerate((0.05, 1, 2), 10):
            remove(self.path('mod.py'))
            time.sleep(pause)
            self.write_value(value, save_in_place)
            monitor.wait_for(f'app {value}')
        monitor.stop()

    def test_time_set_back(self):
        """Written in place with the same length, then the old time restored: only events show the save."""
        if self.backend == 'polling':
            self.skipTest('polling cannot see it')
        monitor = self.start_app()
        self.write_value(2)
        monitor.wait_for('app 2')  # from here on the file is watched; before, it causes no events
        old = os.stat(self.path('mod.py'))
        self.write_value(3, save_in_place)
        os.utime(self.path('mod.py'), ns=(old.st_atime_ns, old.st_mtime_ns))
        monitor.wait_for('app 3')
        monitor.stop()

    def test_through_another_hard_link(self):
        self.write('elsewhere/other.py', 'VALUE = 1\n')
        self.write_app()
        remove(self.path('mod.py'))
        link(self.path('elsewhere/other.py'), self.path('mod.py'))
        monitor = self.run_app()
        monitor.wait_for('app 1')
        for value in (2, 3):
            put(self.path('elsewhere/other.py'), f'VALUE = {value}\n')
            monitor.wait_for(f'app {value}')
        monitor.stop()

    @needs_posix
    def test_through_a_chain_of_links(self):
        """A file behind two links is replaced; then the middle link is switched."""
        self.write('elsewhere/one/mod.py', 'VALUE = 1\n')
        self.write('elsewhere/two/mod.py', 'VALUE = 3\n')
        self.write_app()
        remove(self.path('mod.py'))
        os.symlink('one', self.path('elsewhere/now'))
        os.symlink(os.path.join('elsewhere', 'now', 'mod.py'), self.path('mod.py'))
        monitor = self.run_app()
        monitor.wait_for('app 1')
        self.write('elsewhere/one/mod.py', 'VALUE = 2\n')
        monitor.wait_for('app 2')
        os.symlink('two', self.path('elsewhere/new'))
        replace(self.path('elsewhere/new'), self.path('elsewhere/now'))
        monitor.wait_for('app 3')
        monitor.stop()

    def check_only_second(self, monitor):
        """Writes to the file that mod.py was do not count; writes to the file that it is now do."""
        put(self.path('elsewhere/mod1.py'), 'VALUE = 11\n')
        self.write('sentinel', '2')
        monitor.wait_for('sentinel changed')
        monitor.wait_start(3)
        self.assertEqual(monitor.count('mod.py changed'), 1)
        put(self.path('elsewhere/mod2.py'), 'VALUE = 3\n')
        monitor.wait_for('app 3')
        monitor.stop()

    @needs_posix
    def test_another_hard_link_takes_the_name(self):
        """The name now means another file: writes through its other name count, writes to the previous file do not."""
        for value in (1, 2):
            self.write(f'elsewhere/mod{value}.py', f'VALUE = {value}\n')
        self.write('sentinel', '1')
        self.write_app()
        remove(self.path('mod.py'))
        os.link(self.path('elsewhere/mod1.py'), self.path('mod.py'))
        monitor = self.run_app(watch=['sentinel'])
        monitor.wait_for('app 1')
        monitor.wait_for('Watching')  # from here on there are events
        os.link(self.path('elsewhere/mod2.py'), self.path('new'))
        replace(self.path('new'), self.path('mod.py'))
        monitor.wait_for('app 2')
        self.check_only_second(monitor)

    @needs_posix
    def test_link_leads_elsewhere(self):
        """The former target of the link is no longer watched."""
        for value in (1, 2):
            self.write(f'elsewhere/mod{value}.py', f'VALUE = {value}\n')
        self.write('sentinel', '1')
        self.write_app()
        remove(self.path('mod.py'))
        os.symlink('elsewhere/mod1.py', self.path('mod.py'))
        monitor = self.run_app(watch=['sentinel'])
        monitor.wait_for('app 1')
        monitor.wait_for('Watching')
        os.symlink('elsewhere/mod2.py', self.path('new'))
        replace(self.path('new'), self.path('mod.py'))
        monitor.wait_for('app 2')
        self.check_only_second(monitor)

    def test_touch_counts(self):
        monitor = self.start_app()
        os.utime(self.path('mod.py'))
        monitor.wait_for('app 1', count=2)
        monitor.stop()

    def test_no_save(self):
        """Reading, opening for writing, permissions, another name for the file, and bytecode do not count."""
        monitor = self.start_app(watch=['.'])
        self.check_reload(monitor)
        path = self.path('mod.py')
        with open(path, 'rb') as file:
            file.read()
        with open(path, 'r+b'):
            pass
        with open(path, 'ab'):
            pass
        os.chmod(path, 0o600)
        os.chmod(path, 0o644)
        if not WINDOWS:
            os.link(path, os.path.join(self.project.base, 'another-name'))
        self.project.python('-c', 'import mod')
        self.project.python('-m', 'compileall', '-q', '.')
        time.sleep(0.5)
        self.write_value(22)
        monitor.wait_for('app 22')
        monitor.wait_start(3)  # the worker may print before the monitor reports its start
        self.assertEqual(len(monitor.workers), 3, monitor.text())
        monitor.stop()

    def test_folder_renamed_and_recreated(self):
        self.write('pkg/__init__.py', '')
        self.write('pkg/sub/part.py', 'VALUE = 1\n')
        self.write('app.py', 'from pkg.sub.part import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app()
        monitor.wait_for('app 1')
        for value in (2, 3):
            new = os.path.join(self.project.base, f'pkg-{value}')
            os.makedirs(os.path.join(new, 'sub'))
            put(os.path.join(new, '__init__.py'), '')
            put(os.path.join(new, 'sub', 'part.py'), f'VALUE = {value}\n')
            rename(self.path('pkg'), new + '-old')
            rename(new, self.path('pkg'))
            monitor.wait_for(f'app {value}')
        self.write('pkg/sub/part.py', 'VALUE = 4\n')  # the new folder is watched
        monitor.wait_for('app 4')
        rmtree(self.path('pkg'))
        self.write('pkg/sub/part.py', 'VALUE = 5\n')
        monitor.wait_for('app 5')
        monitor.stop()

    def test_project_folder_renamed_and_recreated(self):
        """The renamed folder is above all watched files and is the monitor's current folder."""
        self.write_app()
        if WINDOWS:  # the current folder of a process can't be renamed there
            options = ['--reload-interval=0.2', f'--monitor={self.backend}']
            monitor = self.start(
                sys.executable, self.path('hupper.py'), *options, self.path('app.py'), cwd=self.project.base
            )
        else:
            monitor = self.run_app()
        monitor.wait_for('app 1')
        new, folder = self.project.folder + '-new', self.project.folder
        copy_tree(folder, new)
        put(os.path.join(new, 'mod.py'), 'VALUE = 2\n')
        rename(folder, folder + '-old')
        rename(new, folder)
        monitor.wait_for('app 2')
        self.write_value(3)
        monitor.wait_for('app 3')
        monitor.stop()


@on_each_backend(backends=LONG)
class Booting(BackendCase):
    """Changes before the monitor can know of the file, and while no worker runs."""

    SAVE = """
        def save(name, text):
            with open(name + '.new', 'w') as file:
                file.write(text)
            while True:
                try:
                    return os.replace(name + '.new', name)
                except PermissionError:  # on Windows: somebody looks at it
                    time.sleep(0.01)
        """

    def run_text(self, text, **options):
        text = 'import os, sys, signal, time\n' + textwrap.dedent(self.SAVE) + textwrap.dedent(text)
        self.write('app.py', text + 'print("app", VALUE, flush=True)\n' + IDLE)
        return self.run_app(**options)

    def test_saved_just_after_the_import(self):
        """The app itself saves, a microsecond after the import."""
        self.write_value(1)
        text = """
            from mod import VALUE
            if VALUE < 4:
                save('mod.py', f'VALUE = {VALUE + 1}\\n')
            """
        monitor = self.run_text(text)
        monitor.wait_for('app 4')
        monitor.stop()

    def test_saved_between_look_and_read(self):
        """The signature is taken before the source is read: a save in between causes another start."""
        self.write_value(1)
        text = """
            from importlib.machinery import SourceFileLoader
            read = SourceFileLoader.get_data
            def get_data(loader, path):
                if path.endswith('mod.py') and not os.path.exists('once'):
                    save('once', '')
                    save('mod.py', 'VALUE = 2\\n')
                return read(loader, path)
            SourceFileLoader.get_data = get_data
            from mod import VALUE
            """
        monitor = self.run_text(text)
        monitor.wait_start(2)  # the first worker may be stopped before it prints anything
        monitor.wait_for('app 2')
        monitor.stop()

    def test_the_app_itself_is_saved_at_its_start(self):
        self.write('new', 'print("app new", flush=True)\n' + IDLE)
        monitor = self.run_text('VALUE = 1\nsave("app.py", open("new").read())\n')
        monitor.wait_for('app new')
        monitor.stop()

    def test_saved_while_it_boots(self):
        """Save from outside at random moments of the boot; no save follows the last one of a round."""
        for number in range(20):
            self.write(f'mod{number}.py', 'import time; time.sleep(0.005); VALUE = 0\n')
        text = '\n'.join(f'import mod{number}' for number in range(20))
        monitor = self.run_text(
            'print("boot", flush=True)\n' + text + '\nVALUE = [mod0.VALUE, mod10.VALUE, mod19.VALUE]\n'
        )
        monitor.wait_for('app [0, 0, 0]')
        values = [0, 0, 0]
        chance = random.Random(SEED)
        for value in range(1, 1 + (100 if FULL else 5)):
            mark = monitor.mark()
            at = chance.randrange(3)
            name = ('mod0.py', 'mod10.py', 'mod19.py')[at]
            self.write(name, 'VALUE = 1000\n')
            monitor.wait_for('boot', after=mark)
            time.sleep(chance.random() * 0.15)
            values[at] = value
            self.write(name, f'VALUE = {value}\n')
            monitor.wait_for(f'app {values}', after=mark)
        monitor.stop()

    def test_saved_while_the_old_worker_stops(self):
        self.write_value(1)
        text = """
            from mod import VALUE
            def stop(*_):
                if VALUE == 1:
                    time.sleep(0.1)
                    save('mod.py', 'VALUE = 33\\n')
                os._exit(0)
            signal.signal(signal.POLITE, stop)
            """
        monitor = self.run_text(text.replace('POLITE', POLITE), shutdown=30)
        monitor.wait_for('app 1')
        self.write_value(22)
        monitor.wait_for('app 33')
        monitor.stop()

    def test_saved_after_a_crash(self):
        """The app saves a file just before it crashes."""
        self.write_value(1)
        monitor = self.run_text(
            "from mod import VALUE\nif VALUE == 1:\n    save('mod.py', 'VALUE = 2\\n'); os._exit(3)\n"
        )
        monitor.wait_for('app 2')
        monitor.stop()

    def test_watch_files(self):
        """A file, a folder and a glob, each changed right after the call."""
        self.write('file.txt', '')
        self.write('conf/a/file.ini', '')
        self.write('glob/a/file.ini', '')
        text = """
            import hupper
            VALUE = 0
            files = {'file.txt': 'file.txt', 'conf/a/file.ini': 'conf', 'glob/a/file.ini': 'glob/**/*.ini'}
            for name, path in files.items():
                if not os.path.exists(path[:4] + '.done'):
                    save(path[:4] + '.done', '')
                    hupper.get_reloader().watch_files([path])
                    save(name, 'new')
                    break
                VALUE += 1
            """
        monitor = self.run_text(text)
        monitor.wait_for('app 3')
        monitor.stop()


@on_each_backend(backends=('inotify',) if LINUX else ('polling',))
class Bytecode(BackendCase):
    """Never stale, always used. (Only the worker uses the cache, so one backend is enough.)"""

    app = 'from mod import VALUE\nimport other\nprint("app", VALUE, flush=True)\n'

    def start_app(self, *flags, **env):
        self.write('app.py', self.app + IDLE)
        self.write('other.py', '')
        options = [*flags, 'hupper.py', '--reload-interval=0.1', '-m', 'app']
        if self.mode == 'api':
            self.write('start.py', START % {'settings': {'reload_interval': 0.1}, 'watch': []})
            options = [*flags, 'start.py']
        return self.start(sys.executable, *options, env=env)

    def cache(self, source='mod.py', *flags, **env):
        """Return where plain Python keeps the bytecode of a source."""
        code = 'import sys, importlib.util as u; print(u.cache_from_source(sys.argv[1]))'
        return self.project.python(*flags, '-c', code, self.path(source), env=env).stdout.strip()

    def age(self, name='mod.py'):
        """Wait until a file is old enough for its bytecode to be trusted: its ctime cannot be set back."""
        wait_until(lambda: time.time() > os.stat(self.path(name)).st_ctime + 2.1)

    def write_stale(self):
        """Make bytecode of VALUE = 1 for mod.py with the same time, however slow this machine is."""
        self.write_cache(self.cache(), 'mod.py', 'VALUE = 1')
        os.utime(self.cache(), ns=(0, os.stat(self.path('mod.py')).st_mtime_ns))

    def write_cache(self, cache, source, text):
        """Write the bytecode of another text as that of a source, with a header that Python accepts."""
        stat = os.stat(self.path(source))
        code = marshal.dumps(compile(text, self.path(source), 'exec'))
        os.makedirs(os.path.dirname(cache), exist_ok=True)
        put(cache, importlib.util.MAGIC_NUMBER + struct.pack('<III', 0, int(stat.st_mtime), stat.st_size) + code)

    def check_same_size(self, monitor, pairs=100 if FULL else 3):
        """Two saves of the same length within a second, the second one as soon as the first has run."""
        for value in range(1000, 1000 + 2 * pairs):
            self.write_value(value)
            monitor.wait_for(f'app {value}')
            if value % 2 and value < 1000 + 2 * pairs - 1:
                second = int(time.time())
                wait_until(lambda second=second: time.time() >= second + 1)
        monitor.stop()

    def test_two_saves_of_one_size(self):
        self.write_value(1)
        self.check_same_size(self.start_app())

    def test_optimized(self):
        self.write_value(1)
        self.check_same_size(self.start_app('-O'), pairs=2)

    @only_full
    def test_with_prefix(self):
        self.write_value(1)
        self.age()
        monitor = self.start_app(PYTHONPYCACHEPREFIX=self.project.tmp)
        monitor.wait_for('app 1')
        self.assertTrue(os.path.exists(self.cache(PYTHONPYCACHEPREFIX=self.project.tmp)))
        self.assertFalse(os.path.exists(self.cache()))
        self.check_same_size(monitor, pairs=2)

    def test_cache_that_cannot_be_written(self):
        self.write_value(1)
        shutil.rmtree(self.path('__pycache__'), ignore_errors=True)
        self.write('__pycache__', 'a file where the folder should be')
        self.check_same_size(self.start_app(), pairs=2)

    def test_stale_before_the_start(self):
        """Bytecode of an older source with the same second and size, which plain Python would run."""
        self.write_value(2)
        self.write_stale()
        plain = self.project.python('-c', 'import mod; print(mod.VALUE)').stdout
        self.assertEqual(plain, '1\n')
        monitor = self.start_app()
        monitor.wait_for('app 2')
        monitor.stop()

    def test_stale_from_another_process(self):
        """Another process compiles the old source while the new one is being saved."""
        self.write_value(1)
        monitor = self.start_app()
        monitor.wait_for('app 1')
        stat = os.stat(self.path('mod.py'))
        self.write('mod.new', 'VALUE = 2\n')
        os.utime(self.path('mod.new'), ns=(0, stat.st_mtime_ns))
        self.write_stale()
        replace(self.path('mod.new'), self.path('mod.py'))
        monitor.wait_for('app 2')
        monitor.stop()

    def check_switched(self, link, target):
        """mod.py becomes another file with the same time and size, older than the bytecode."""
        for value in (1, 2):
            self.write(f'{value}/mod.py', f'VALUE = {value}\n')
            os.utime(self.path(f'{value}/mod.py'), (1e9, 1e9))
        symlink('1', self.path('now'), target_is_directory=True)
        symlink('now/mod.py', self.path('mod.py'))
        for name in ('1/mod.py', '2/mod.py'):
            self.age(name)
        wait_until(lambda: time.time() > os.lstat(self.path('mod.py')).st_ctime + 2.1)
        monitor = self.start_app()
        monitor.wait_for('app 1')
        self.assertTrue(os.path.exists(self.cache()))
        symlink(target, self.path('new'))
        replace(self.path('new'), self.path(link))
        monitor.wait_for('app 2')
        monitor.stop()

    @only_full
    def test_link_is_switched(self):
        self.check_switched('mod.py', '2/mod.py')

    @only_full
    def test_linked_folder_is_switched(self):
        self.check_switched('now', '2')

    @only_full
    def test_linked_package_is_switched(self):
        """With a cache prefix, the old and the new package share the bytecode file."""
        for value in (1, 2):
            name = f'{value}/__init__.py'
            self.write(name, f'VALUE = {value}\n')
            os.utime(self.path(name), (1e9, 1e9))
            self.age(name)
        symlink('1', self.path('mod'), target_is_directory=True)
        wait_until(lambda: time.time() > os.lstat(self.path('mod')).st_ctime + 2.1)
        monitor = self.start_app(PYTHONPYCACHEPREFIX=self.project.tmp)
        monitor.wait_for('app 1')
        symlink('2', self.path('new'))
        replace(self.path('new'), self.path('mod'))
        monitor.wait_for('app 2')
        monitor.stop()

    @only_full
    def test_unchecked_hashes(self):
        """Bytecode from before the save that is marked as not to be checked against its source."""
        self.write_value(1)
        mode = 'py_compile.PycInvalidationMode.UNCHECKED_HASH'
        code = f'import py_compile; py_compile.compile("mod.py", {self.cache()!r}, invalidation_mode={mode})'
        self.project.python('-c', code)
        self.age()
        self.project.python('-c', code)
        self.write_value(2)
        plain = self.project.python('-c', 'import mod; print(mod.VALUE)').stdout
        self.assertEqual(plain, '1\n')
        monitor = self.start_app()
        monitor.wait_for('app 2')
        self.write_value(3)
        monitor.wait_for('app 3')
        monitor.stop()

    def check_used(self, *flags, **env):
        """The cached bytecode is run at the first start and at a reload, and is not written again."""
        self.write_value('source')
        self.age()
        cache = self.cache('mod.py', *flags, **env)
        self.write_cache(cache, 'mod.py', 'VALUE = "cached"')
        written = os.stat(cache).st_mtime_ns
        monitor = self.start_app(*flags, **env)
        monitor.wait_for('app cached')
        self.write('other.py', 'x = 1')
        monitor.wait_for('app cached', count=2)
        self.assertEqual(os.stat(cache).st_mtime_ns, written)
        self.write_value('source')
        monitor.wait_for('app source')
        monitor.stop()

    def test_used(self):
        self.check_used()

    @only_full
    def test_used_when_optimized(self):
        self.check_used('-OO')

    @only_full
    def test_used_with_prefix(self):
        self.check_used(PYTHONPYCACHEPREFIX=self.project.tmp)

    def test_written(self):
        """A module that has not changed for a while is compiled once."""
        self.write_value(1)
        self.age()
        monitor = self.start_app()
        monitor.wait_for('app 1')
        written = os.stat(self.cache()).st_mtime_ns
        self.write('other.py', 'x = 1')
        monitor.wait_for('app 1', count=2)
        self.assertEqual(os.stat(self.cache()).st_mtime_ns, written)
        monitor.stop()

    def flags_of(self, cache):
        with open(cache, 'rb') as file:
            return int.from_bytes(file.read(8)[4:], 'little')

    # The app prints how often mod.py was compiled.
    COUNT = """
        import builtins
        compiled = []
        old = builtins.compile
        def compile(source, path, *args, **kw):
            if str(path).endswith('mod.py'): compiled.append(path)
            return old(source, path, *args, **kw)
        builtins.compile = compile
        from mod import VALUE
        builtins.compile = old
        import other
        print("app", VALUE, len(compiled), flush=True)
        """

    def start_counting(self, *flags, **env):
        self.app = textwrap.dedent(self.COUNT)
        return self.start_app(*flags, **env)

    def write_young(self, text='VALUE = 1\n'):
        """Save a source that stays young as long as a test runs."""
        self.write('mod.py', text)
        os.utime(self.path('mod.py'), (time.time() + 10**6,) * 2)

    def check_compiled_once(self, *flags, flag=3, **env):
        """A module that was just saved is compiled once; later its bytecode becomes an ordinary one."""
        self.write_young()
        cache = self.cache('mod.py', *flags, **env)
        monitor = self.start_counting(*flags, **env)
        monitor.wait_for('app 1 1')
        self.assertEqual(self.flags_of(cache), flag)
        written = os.stat(cache).st_mtime_ns
        self.write('other.py', 'x = 1')
        monitor.wait_for('app 1 0')
        self.assertEqual(os.stat(cache).st_mtime_ns, written)
        self.write('mod.py', 'VALUE = 2\n')
        monitor.wait_for('app 2 1')
        self.age()
        self.write('other.py', 'x = 2')
        monitor.wait_for('app 2 0')
        self.assertEqual(self.flags_of(cache), 0)
        written = os.stat(cache).st_mtime_ns
        self.write('other.py', 'x = 3')
        monitor.wait_for('app 2 0', count=2)
        self.assertEqual(os.stat(cache).st_mtime_ns, written)
        monitor.stop()

    def test_compiled_once(self):
        self.check_compiled_once()

    def test_converted_before_the_next_start(self):
        cache = self.cache()
        self.write('mod.py', 'VALUE = 1\n')
        self.write_hashed(cache, 'mod.py', 'VALUE = "hashed"\n', 3)
        monitor = self.start_counting()
        monitor.wait_for('app hashed 0')
        wait_until(lambda: self.flags_of(cache) == 0)
        self.write('other.py', 'x = 1')
        monitor.wait_for('app hashed 0', count=2)
        monitor.stop()

    @only_full
    def test_compiled_once_optimized(self):
        self.check_compiled_once('-O')

    @only_full
    def test_compiled_once_with_prefix(self):
        self.check_compiled_once(PYTHONPYCACHEPREFIX=self.project.tmp)

    @only_full
    def test_compiled_once_if_hashes_are_always_checked(self):
        self.check_compiled_once('--check-hash-based-pycs', 'always')

    def test_hashes_are_never_checked(self):
        """With this option, bytecode with a hash is neither written nor trusted."""
        flags = '--check-hash-based-pycs', 'never'
        self.write('mod.py', 'VALUE = 1\n')
        self.write_hashed(self.cache(), 'mod.py', 'VALUE = "stale"\n', 3)
        monitor = self.start_counting(*flags)
        monitor.wait_for('app 1 1')
        self.age()
        self.write_hashed(self.cache(), 'mod.py', 'VALUE = "stale"\n', 3)
        self.write('other.py', 'x = 1')
        monitor.wait_for('app 1 1', count=2)
        self.assertEqual(self.flags_of(self.cache()), 0)
        self.write_young('VALUE = 2\n')
        monitor.wait_for('app 2 1')
        self.write('other.py', 'x = 2')
        monitor.wait_for('app 2 1', count=2)
        monitor.stop()

    def write_hashed(self, cache, source, text, flags, hash_of=None):
        """Write bytecode of `text` that has the hash of the source, or of `hash_of`."""
        with open(self.path(source), 'rb') as file:
            digest = importlib.util.source_hash(file.read() if hash_of is None else hash_of)
        os.makedirs(os.path.dirname(cache), exist_ok=True)
        code = marshal.dumps(compile(text, self.path(source), 'exec'))
        put(cache, importlib.util.MAGIC_NUMBER + struct.pack('<I', flags) + digest + code)

    @only_full
    def test_hashed_by_another_process(self):
        """The right hash is trusted, for a young source and an old one."""
        self.write('mod.py', 'VALUE = 1\n')
        self.write_hashed(self.cache(), 'mod.py', 'VALUE = "hashed"\n', 3)
        monitor = self.start_counting()
        monitor.wait_for('app hashed 0')
        self.age()
        self.write_hashed(self.cache(), 'mod.py', 'VALUE = "again"\n', 3)
        self.write('other.py', 'x = 1')
        monitor.wait_for('app again 0')
        self.assertEqual(self.flags_of(self.cache()), 0)
        self.write('other.py', 'x = 2')
        monitor.wait_for('app again 0', count=2)
        monitor.stop()

    @only_full
    def test_wrong_hash(self):
        self.write_young()
        self.write_hashed(self.cache(), 'mod.py', 'VALUE = "stale"\n', 3, b'another')
        monitor = self.start_counting()
        monitor.wait_for('app 1 1')
        self.assertEqual(self.flags_of(self.cache()), 3)
        monitor.stop()
        self.write('mod.py', 'VALUE = 1\n')
        self.age()
        self.write_hashed(self.cache(), 'mod.py', 'VALUE = "stale"\n', 3, b'another')
        monitor = self.start_counting()
        monitor.wait_for('app 1 1')
        self.assertEqual(self.flags_of(self.cache()), 0)
        monitor.stop()

    def test_unchecked_hash_of_a_young_source(self):
        for flags in ([], ['--check-hash-based-pycs', 'always']):
            self.write_young()
            self.write_hashed(self.cache(), 'mod.py', 'VALUE = "stale"\n', 1, b'another')
            monitor = self.start_counting(*flags)
            monitor.wait_for('app 1 1')
            self.assertEqual(self.flags_of(self.cache()), 3)
            monitor.stop()

    @only_full
    def test_damaged_bytecode_of_a_young_source(self):
        head = importlib.util.MAGIC_NUMBER
        for data in (b'', head, head + b'\3\0\0\0', head + b'\xff' * 30, b'\0\0\r\n' + b'\0' * 30):
            self.write_young()
            os.makedirs(os.path.dirname(self.cache()), exist_ok=True)
            put(self.cache(), data)
            monitor = self.start_counting()
            monitor.wait_for('app 1 1')
            self.assertEqual(self.flags_of(self.cache()), 3, data)
            monitor.stop()

    @only_full
    def test_hashed_in_a_cache_that_cannot_be_written(self):
        """A linked .pyc may belong to somebody else, so it is not changed."""
        self.write('mod.py', 'VALUE = 1\n')
        self.write_hashed(self.cache(), 'mod.py', 'VALUE = "hashed"\n', 3)
        link(self.cache(), self.cache() + '.other')
        self.age()
        monitor = self.start_counting()
        monitor.wait_for('app hashed 0')
        self.write('other.py', 'x = 1')
        monitor.wait_for('app hashed 0', count=2)
        self.assertEqual(self.flags_of(self.cache()), 3)
        self.write('mod.py', 'VALUE = 2\n')
        monitor.wait_for('app 2 1')
        monitor.stop()

    @only_full
    def test_no_bytecode_is_written(self):
        self.write('mod.py', 'VALUE = 1\n')
        self.write_hashed(self.cache(), 'mod.py', 'VALUE = "hashed"\n', 3)
        self.age()
        monitor = self.start_counting('-B')
        monitor.wait_for('app hashed 0')
        self.assertEqual(self.flags_of(self.cache()), 3)
        self.write('mod.py', 'VALUE = 2\n')
        monitor.wait_for('app 2 1')
        monitor.stop()

    @only_full
    def test_loader_that_reads_bytecode_by_itself(self):
        """Such a loader does not decide which bytecode is trusted."""
        self.write_value(2)
        self.age()
        self.write_stale()
        self.write(
            'app.py',
            textwrap.dedent("""
            from importlib.machinery import SourceFileLoader
            def get_data(self, path):
                with open(path, 'rb') as file: return file.read()
            SourceFileLoader.get_data = get_data
            from mod import VALUE
            print('app', VALUE, flush=True)
            """)
            + IDLE,
        )
        monitor = self.start(sys.executable, 'hupper.py', '-m', 'app')
        monitor.wait_for('app 2')
        monitor.stop()

    def test_setting_is_that_of_plain_python(self):
        self.write_value(1)
        self.write('mod.py', 'import sys; VALUE = sys.dont_write_bytecode\n')
        for flags, env in (([], {}), (['-B'], {}), ([], {'PYTHONDONTWRITEBYTECODE': '1'})):
            monitor = self.start_app(*flags, **env)
            monitor.wait_for(f'app {bool(flags or env)}')
            monitor.stop()


@on_each_backend(backends=LONG)
class Mending(BackendCase):
    """Whatever keeps the app from starting is watched: fixing it starts the app, at the first start and later."""

    def check(self, *breaks, mend, error):
        """Try each function of `breaks` before the first start and while the app runs; `mend` undoes each."""
        for early in (True, False):
            for each in breaks:
                mend()
                monitor = None
                if not early:
                    monitor = self.run_app()
                    monitor.wait_for('app ')
                each()
                if early:
                    monitor = self.run_app()
                monitor.wait_for(error)
                monitor.wait_for(WAITING)
                mark = monitor.mark()
                mend()
                monitor.wait_for('app ', after=mark)
                monitor.stop()

    def write_pkg(self, text='VALUE = 1\n'):
        self.write('pkg/part.py', text)
        self.write('app.py', 'from pkg.part import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)

    def test_exception_in_an_import(self):
        self.check(lambda: self.write_pkg('1 / 0'), mend=self.write_pkg, error='ZeroDivisionError')

    def test_missing_module(self):
        self.write('pkg/__init__.py', '')
        self.check(lambda: remove(self.path('pkg/part.py')), mend=self.write_pkg, error='No module named')

    def test_missing_package(self):
        self.check(lambda: rmtree(self.path('pkg')), mend=self.write_pkg, error='No module named')

    def test_package_moved_away_and_back(self):
        def away():
            rename(self.path('pkg'), self.path('away'))

        def back():
            if os.path.exists(self.path('away')):
                rename(self.path('away'), self.path('pkg'))
            else:
                self.write_pkg()

        self.check(away, mend=back, error='No module named')

    def test_empty_for_a_moment(self):
        """A new worker finds a source that was just truncated or created and is not written yet."""
        if self.backend != 'inotify':
            self.skipTest('only inotify shows that a file is open')
        self.write('mod.py', 'VALUE = 1\n')
        self.write(
            'app.py', 'print("begun", flush=True)\nfrom mod import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE
        )
        monitor = self.run_app()
        monitor.wait_for('app 1')
        written = threading.Event()

        def write():
            with open(self.path('mod.py'), 'wb', buffering=0) as file:
                while not written.wait(0.01):
                    os.utime(self.path('mod.py'))
                file.write(b'VALUE = 22\n')

        thread = threading.Thread(target=write)
        thread.start()
        try:
            monitor.send(signal.SIGHUP)
            monitor.wait_for('begun', count=2)
            time.sleep(0.05)  # long enough for a worker that does not wait to fail
        finally:
            written.set()
            thread.join()
        monitor.wait_for('app 22')
        monitor.stop()
        self.assertNotIn('Error', monitor.text())

    def test_missing_extension(self):
        """The module appears as an extension module, here an invalid one: the next start fails in another way."""
        self.write('app.py', 'import part\n')
        monitor = self.run_app()
        monitor.wait_for('No module named')
        monitor.wait_for(WAITING)
        self.write('part' + importlib.machinery.EXTENSION_SUFFIXES[0], 'no extension')
        monitor.wait_start(2)
        monitor.wait_for('ImportError')
        monitor.stop()

    def test_new_file_that_does_not_parse(self):
        """Save a new module that does not parse, then the old one, which imports it."""
        self.write_app()
        monitor = self.run_app()
        monitor.wait_for('app 1')
        self.write('new.py', 'VALUE = (\n')
        self.write('mod.py', 'from new import VALUE\n')
        monitor.wait_for('SyntaxError')
        monitor.wait_for(WAITING)
        self.write('new.py', 'VALUE = 22\n')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_name_missing_in_a_module(self):
        self.check(lambda: self.write_pkg('value = 1'), mend=self.write_pkg, error='ImportError')

    def test_broken_and_mended_again_and_again(self):
        """Each save comes soon after a start or its failure; still these are the user's saves, not the app's."""
        self.write_app(0)
        monitor = self.run_app()
        monitor.wait_for('app 0')
        for value in range(1, 6):
            self.write('mod.py', f'raise RuntimeError("not {value}")\n')
            monitor.wait_for(f'not {value}')
            monitor.wait_for(WAITING, count=value)
            self.write_value(value)
            monitor.wait_for(f'app {value}')
        monitor.stop()

    def test_data_file_missing(self):
        """The app asks to watch a file and fails because it is missing."""
        self.write(
            'app.py',
            'import hupper\nhupper.get_reloader().watch_files(["a.txt"])\n'
            'print("app", open("a.txt").read(), flush=True)\n' + IDLE,
        )
        monitor = self.run_app()
        monitor.wait_for('FileNotFoundError')
        monitor.wait_for(WAITING)
        self.write('a.txt', '22')
        monitor.wait_for('app 22')
        monitor.stop()


CONVERGING = """
import os, random, signal, sys, time

def stop(*_):
    time.sleep(random.random() * 0.1)
    os._exit(0)

signal.signal(signal.SIGTERM, stop)
print('boot', flush=True)
from mod import VALUE as a
time.sleep(random.random() * 0.1)
from pkg.part import VALUE as b
time.sleep(random.random() * 0.1)
from pkg.sub.deep import VALUE as c
print('app', a, b, c, flush=True)
"""


@on_each_backend
class Converging(BackendCase):
    """Whatever is saved, however and whenever: in the end, the last saved version runs."""

    FILES = ('mod.py', 'pkg/part.py', 'pkg/sub/deep.py')

    def test_random_saves(self):
        chance, self.values, self.number, done = random.Random(SEED), dict.fromkeys(self.FILES, '000000'), 0, []
        for name in self.FILES:
            self.write(name, "VALUE = '000000'\n")
        self.write('app.py', CONVERGING + IDLE)
        monitor = self.run_app()
        monitor.wait_for('app 000000 000000 000000')
        for number in range(ROUNDS):
            done = done[-20:] + [f'round {number}']
            for _ in range(chance.randint(1, 5)):
                mark = monitor.mark()
                done.append(self.act(chance))
                if chance.random() < 0.2:
                    with contextlib.suppress(AssertionError):
                        monitor.wait_for('boot', after=mark, limit=0.5)
                elif chance.random() < 0.7:
                    time.sleep(chance.random() * 0.3)
            done.append(self.act(chance))
            self.judge(monitor, f'seed {SEED}: ' + ', '.join(done))
        monitor.stop()

    def judge(self, monitor, story):
        """Check that the newest worker runs the newest values."""
        expected = 'app ' + ' '.join(self.values.values())
        limit = (5 + 2 * 0.2) * LIMIT / 30
        try:
            monitor.wait_for(expected, limit=limit)
        except AssertionError as error:
            raise AssertionError(f'{story}\n{error}') from None

    def act(self, chance):
        """Do one random action; return its name."""
        actions = [self.save] * 8 + [self.replace_package, self.move_package, self.save_all]
        return chance.choice(actions)(chance)

    def next_text(self, name):
        self.number += 1
        self.values[name] = f'{self.number:06d}'
        return f'VALUE = {self.values[name]!r}\n'

    def save(self, chance):
        name = chance.choice(self.FILES)
        ways = [way for way in SAVES if self.backend != 'polling' or way != 'same_time']
        way = chance.choice(ways)
        self.write(name, self.next_text(name), SAVES[way])
        return f'{way} {name} {self.values[name]}'

    def save_all(self, chance):
        way = chance.choice(['in_place', 'rename', 'delete_create'])
        for name in self.FILES:
            self.write(name, self.next_text(name), SAVES[way])
        return f'{way} all'

    def replace_package(self, chance):
        """Replace the folder by a copy with two new files."""
        new, old = self.path('pkg-new'), self.path('pkg-old')
        copy_tree(self.path('pkg'), new)
        for name in self.FILES[1:]:
            path = os.path.join(new, *name.split('/')[1:])
            remove(path)
            put(path, self.next_text(name))
        rename(self.path('pkg'), old)
        time.sleep(chance.choice([0, 0.01, 0.15]))
        if os.path.exists(self.path('pkg')):  # Python was just writing bytecode there
            rmtree(self.path('pkg'))
        rename(new, self.path('pkg'))
        rmtree(old)
        return f'replace pkg {self.values}'

    def move_package(self, chance):
        """Move the folder away, change it there, move it back."""
        away = os.path.join(self.project.base, 'away')
        rename(self.path('pkg'), away)
        time.sleep(chance.choice([0, 0.01, 0.15]))
        path = os.path.join(away, 'part.py')
        remove(path)
        put(path, self.next_text('pkg/part.py'))
        while True:
            try:
                rename(away, self.path('pkg'))
                break
            except OSError:  # a worker that was importing has made a __pycache__ there
                rmtree(self.path('pkg'))
        return f'move pkg {self.values}'


# --- trees, backends, storms -------------------------------------------------


@on_each_backend(backends=LONG)
class Trees(BackendCase):
    """Watched folders and globs stay watched."""

    def start_app(self, *paths, **options):
        self.write_app()
        monitor = self.run_app(watch=paths, **options)
        number, watching = 1, re.compile(r'Watching (\d+) files')
        monitor.wait_for('app 1')
        while monitor.wait_for(watching, count=number)[1] == '0':  # reported while a slow interpreter was still booting
            mark, number = monitor.mark(), number + 1
            self.write_value(1)
            monitor.wait_for('app 1', after=mark)
        return monitor  # before this, the monitor could not notice that a folder is moved

    def check(self, monitor, change, path):
        """A change causes a reload that names a path."""
        mark = monitor.mark()
        change()
        monitor.wait_for(re.compile(re.escape(self.path(path)) + r'.* changed; reloading'), after=mark)
        monitor.wait_for('app 1', after=mark)

    def test_subfolder_moved_in(self):
        monitor = self.start_app('tree', 'glob/*/*.ini')
        for root in ('tree', 'glob'):
            self.write('outside/a.ini', '')
            os.makedirs(self.path(root), exist_ok=True)
            self.check(monitor, lambda root=root: rename(self.path('outside'), self.path(root + '/in')), root)
            self.check(monitor, lambda root=root: self.write(root + '/in/a.ini', 'changed'), root + '/in/a.ini')
        monitor.stop()

    @needs_posix
    def test_symlinked_subfolder(self):
        """Files behind a link count, even if the link is new; a link to the folder itself does no harm."""
        self.write('outside/deep/a.ini', '')
        self.write('other/b.ini', '')
        self.write('tree/x.ini', '')
        os.symlink(self.path('outside'), self.path('tree/link'))
        os.symlink(self.path('tree'), self.path('tree/loop'))
        monitor = self.start_app('tree')
        self.check(monitor, lambda: self.write('outside/deep/a.ini', 'changed'), 'tree/link/deep/a.ini')
        self.check(monitor, lambda: os.symlink(self.path('other'), self.path('tree/later')), 'tree/later/b.ini')
        self.check(monitor, lambda: self.write('other/b.ini', 'changed'), 'tree/later/b.ini')
        monitor.stop()

    @needs_posix
    def test_links_that_lead_nowhere(self):
        self.write('tree/a.ini', '')
        for link, target in {'self': 'self', 'below': 'a.ini/none', 'none': 'none', 'one': 'two', 'two': 'one'}.items():
            os.symlink(target, self.path('tree/' + link))
        monitor = self.start_app('tree', 'tree/one/x.ini')
        self.check(monitor, lambda: self.write('tree/a.ini', 'changed'), 'tree/a.ini')
        self.check(monitor, lambda: self.write('tree/none', 'changed'), 'tree/none')
        monitor.stop()

    @needs_posix
    def test_links_that_lead_nowhere_for_a_while(self):
        """A build deletes the folder behind a link and makes it anew; a link is made before what it leads to."""
        self.write('outside/a.ini', '')
        self.write('tree/b.ini', '')
        os.symlink(self.path('outside'), self.path('tree/link'))
        monitor = self.start_app('tree')
        self.check(monitor, lambda: shutil.rmtree(self.path('outside')), 'tree/link/a.ini')
        os.symlink(self.path('later/c.ini'), self.path('tree/c.ini'))
        time.sleep(2.5)  # a polled folder that has changed is read again for two seconds
        self.check(monitor, lambda: self.write('outside/a.ini', 'again'), 'tree/link')
        self.check(monitor, lambda: self.write('later/c.ini', 'new'), 'tree/c.ini')
        monitor.stop()

    @needs_posix
    def test_links_to_files(self):
        """A file of the tree is written through another name, outside the tree."""
        self.write('outside/a.ini', '')
        self.write('outside/b.ini', '')
        self.write('tree/c.ini', '')
        os.symlink(self.path('outside/a.ini'), self.path('tree/a.ini'))
        os.link(self.path('outside/b.ini'), self.path('tree/b.ini'))
        monitor = self.start_app('tree')
        self.check(monitor, lambda: self.write('outside/a.ini', 'changed'), 'tree/a.ini')
        self.check(monitor, lambda: put(self.path('outside/b.ini'), 'changed'), 'tree/b.ini')
        self.check(monitor, lambda: symlink(self.path('outside/b.ini'), self.path('tree/d.ini')), 'tree/d.ini')
        self.check(monitor, lambda: self.write('outside/b.ini', 'again'), 'tree')
        monitor.stop()

    @needs_posix
    def test_folders_that_link_to_each_other(self):
        """As in package workspaces: a link leads to what is read by another name already, until that name is gone."""
        for number in range(16):
            self.write(f'w/p{number}/x.ini', '')
            for other in range(number):
                os.symlink(self.path(f'w/p{other}'), self.path(f'w/p{number}/l{other}'))
        self.write('outside/y.ini', '')
        os.symlink(self.path('outside'), self.path('w/one'))
        os.symlink(self.path('outside'), self.path('w/two'))
        monitor = self.start_app('w', 'w/*/l0/*.ini')
        self.check(monitor, lambda: self.write('w/p0/x.ini', 'changed'), 'w/p0/x.ini')
        self.check(monitor, lambda: self.write('w/p15/x.ini', 'changed'), 'w/p15/x.ini')
        self.check(monitor, lambda: self.write('w/p7/sub/x.ini', 'new'), 'w/p7/sub/x.ini')
        self.check(monitor, lambda: self.write('outside/y.ini', 'changed'), 'w')
        name = re.search(r'/w/(one|two)/y.ini changed', monitor.text('err'))[1]
        self.check(monitor, lambda: remove(self.path('w/' + name)), 'w/' + name)
        self.check(monitor, lambda: self.write('outside/y.ini', 'again'), 'w')
        monitor.stop()

    @needs_posix
    def test_what_a_link_adds_to_a_glob(self):
        """A rule matches a folder only by the name of a link: the folder is read by that name."""
        self.write('w/real/a.ini', '')
        os.makedirs(self.path('w/x'))
        os.symlink(self.path('w/real'), self.path('w/x/conf'))
        monitor = self.start_app('w/*/conf/*.ini')
        self.check(monitor, lambda: self.write('w/real/a.ini', 'changed'), 'w/x/conf/a.ini')
        monitor.stop()

    def test_folders_that_fit_a_glob(self):
        """If the name of a folder matches, everything below the folder counts."""
        self.write('apps/a/conf/deep/x.ini', '')
        monitor = self.start_app('apps/*/conf', '[new].ini')
        self.check(monitor, lambda: self.write('apps/a/conf/deep/x.ini', 'changed'), 'apps/a/conf/deep/x.ini')
        self.check(monitor, lambda: self.write('apps/b/conf/y.ini', 'new'), 'apps/b/conf/y.ini')
        self.check(monitor, lambda: self.write('[new].ini', 'new'), '[new].ini')
        monitor.stop()

    def test_two_rules_for_one_folder(self):
        self.write('conf/sub/a.txt', '')
        monitor = self.start_app('conf/*.ini', 'conf')
        self.check(monitor, lambda: self.write('conf/sub/a.txt', 'changed'), 'conf/sub/a.txt')
        self.check(monitor, lambda: self.write('conf/b.ini', 'new'), 'conf/b.ini')
        monitor.stop()

    def test_folder_of_a_glob_comes_back(self):
        self.write('conf/sub/a.ini', '')
        monitor = self.start_app('conf/**/*.ini')
        self.check(monitor, lambda: rmtree(self.path('conf')), 'conf')
        self.check(monitor, lambda: self.write('conf/sub/a.ini', 'new'), 'conf')
        self.check(monitor, lambda: self.write('conf/sub/a.ini', 'changed'), 'conf/sub/a.ini')
        monitor.stop()

    def test_folder_far_above_is_renamed(self):
        self.write('one/two/three/a.ini', '')
        monitor = self.start_app('one/two/three/a.ini')
        self.check(monitor, lambda: rename(self.path('one'), self.path('other')), 'one')
        self.check(monitor, lambda: self.write('one/two/three/a.ini', 'new'), 'one')
        self.check(monitor, lambda: self.write('one/two/three/a.ini', 'changed'), 'one')
        monitor.stop()

    def test_deleted_and_created_again(self):
        self.write('tree/sub/a.ini', '')
        monitor = self.start_app('tree')
        self.check(monitor, lambda: rmtree(self.path('tree')), 'tree')
        self.check(monitor, lambda: self.write('tree/sub/a.ini', 'new'), 'tree')
        self.check(monitor, lambda: self.write('tree/sub/a.ini', 'changed'), 'tree/sub/a.ini')
        self.check(monitor, lambda: self.write('tree/sub2/a.ini', 'changed'), 'tree/sub2/a.ini')
        monitor.stop()

    def test_subfolder_renamed(self):
        self.write('tree/one/sub/a.ini', '')
        monitor = self.start_app('tree')
        self.check(monitor, lambda: rename(self.path('tree/one'), self.path('tree/two')), 'tree')
        self.check(monitor, lambda: self.write('tree/two/sub/a.ini', 'changed'), 'tree/two/sub/a.ini')
        self.check(monitor, lambda: self.write('tree/one/sub/a.ini', 'changed'), 'tree/one')
        self.check(monitor, lambda: self.write('tree/one/sub/a.ini', 'again'), 'tree/one/sub/a.ini')
        monitor.stop()

    def test_ignored_later(self):
        """Patterns and the default exclusions also apply to what is created later."""
        self.write('tree/a.ini', '')
        monitor = self.start_app('tree', 'glob/**/*.ini', ignore=['*.log', 'build', '*/private/*.ini'])
        starts = monitor.count('app 1')
        for root in ('tree', 'glob'):
            for name in (
                'x.log',
                'build/a.ini',
                'sub/build/deep/a.ini',
                'private/a.ini',
                '.git/a.ini',
                '__pycache__/a.ini',
            ):
                self.write(f'{root}/{name}', 'x')
        time.sleep(0.5)
        self.check(monitor, lambda: self.write('tree/sub/b.ini', ''), 'tree/sub/b.ini')
        self.assertEqual(monitor.count('app 1'), starts + 1, monitor.text())
        monitor.stop()


@needs_linux
class WatchesOfATree(unittest.TestCase):
    """The inotify monitor by itself: whatever happens to the folders, it watches those that exist."""

    def setUp(self):
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix='hupper-'))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.root = os.path.join(self.folder, 'root')
        self.outside = os.path.join(self.folder, 'outside')
        os.mkdir(self.root)
        os.mkdir(self.outside)
        self.changed = set()
        self.monitor = hupper.InotifyFileMonitor(print)
        self.addCleanup(self.monitor.stop)
        self.random = random.Random(SEED)

    def step(self):
        """Let the monitor work until it has nothing left to do; record the changes."""
        self.monitor.step()
        while self.monitor._is_busy():
            self.monitor.step()
        self.changed.update(change.path for change in self.monitor.take_changes())

    def folders(self):
        return [folder for folder, _, _ in os.walk(self.root)]

    def files(self):
        return {os.path.join(folder, name) for folder, _, names in os.walk(self.root) for name in names}

    def grow(self, number, files=1):
        """Make folders with this many files each."""
        folders = [self.root]
        for index in range(number):
            folders.append(os.path.join(self.random.choice(folders), f'd{index}'))
            os.mkdir(folders[-1])
            for name in ['file', *map(str, range(1, files))]:
                put(os.path.join(folders[-1], name), '')

    def act(self):
        folders = self.folders()
        action = self.random.choice(['create', 'delete', 'move', 'move', 'out', 'in', 'write'])
        one, two = self.random.choice(folders[1:] or folders), self.random.choice(folders)
        new = os.path.join(two, f'n{time.monotonic_ns()}')
        if action == 'create' or len(folders) < 20:
            os.makedirs(os.path.join(new, 'a', 'b'))
            put(os.path.join(new, 'a', 'b', 'file'), '')
        elif action == 'delete' and self.files_below(one) < 50:
            shutil.rmtree(one)
        elif action == 'move' and not (two + os.sep).startswith(one + os.sep):
            os.rename(one, new)
        elif action == 'out' and self.files_below(one) < 50:
            os.rename(one, os.path.join(self.outside, os.path.basename(new)))
        elif action == 'in' and os.listdir(self.outside):
            os.rename(os.path.join(self.outside, self.random.choice(os.listdir(self.outside))), new)
        else:
            put(os.path.join(one, 'file'), 'x')

    def files_below(self, folder):
        return sum(len(names) for _, _, names in os.walk(folder))

    def check(self):
        """Watches, folders and files are those of the tree; new writes are noticed."""
        self.monitor.drain()
        self.step()
        folders = set(self.folders())
        self.assertEqual(set(self.monitor.folders), folders, f'seed {SEED}')
        self.assertEqual({path for path in self.monitor.files if os.path.isfile(path)}, self.files(), f'seed {SEED}')
        below = {path for path in self.monitor._masks if path.startswith(self.root)}
        self.assertEqual(below, folders, f'seed {SEED}')
        with open(f'/proc/self/fdinfo/{self.monitor._inotify.fd}') as info:
            kernel = sum(line.startswith('inotify ') for line in info)
        self.assertEqual(kernel, len(self.monitor._watches), f'seed {SEED}')
        self.changed.clear()
        sample = self.random.sample(sorted(folders), min(50, len(folders)))
        for folder in sample:
            put(os.path.join(folder, 'file'), 'changed')
        self.step()
        self.assertEqual(self.changed, {os.path.join(folder, 'file') for folder in sample}, f'seed {SEED}')

    def converge(self, size, seconds, files=1):
        self.grow(size, files)
        self.monitor.add_path(self.root)
        self.check()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(self.random.randint(1, 20)):
                self.act()
                if self.random.random() < 0.3:
                    self.step()
            self.check()

    def test_small(self):
        self.converge(60, 0.5)

    @only_full
    def test_big(self):
        """20,000 files, for a minute."""
        self.converge(2000, 60, files=10)

    def test_links_between_folders(self):
        """Each real folder is read once, by its own name rather than a link's; if that name goes, by another one."""
        outside = os.path.join(self.outside, 'x')
        os.makedirs(os.path.join(outside, 'sub'))
        for number in range(12):
            os.mkdir(os.path.join(self.root, f'p{number}'))
            for other in range(number):
                os.symlink(f'../p{other}', os.path.join(self.root, f'p{number}', f'l{other}'))
            os.symlink(outside, os.path.join(self.root, f'p{number}', 'out'))
        self.monitor.add_path(self.root)
        self.step()
        inside = {self.root, *(os.path.join(self.root, f'p{number}') for number in range(12))}
        for _ in range(3):
            linked = set(self.monitor.folders) - inside
            self.assertLess(inside, set(self.monitor.folders))
            self.assertEqual(len(linked), 2, linked)
            self.changed.clear()
            put(os.path.join(outside, 'sub', 'file'), str(time.monotonic()))
            self.step()
            self.assertEqual({os.path.realpath(path) for path in self.changed}, {os.path.join(outside, 'sub', 'file')})
            os.remove(min(linked))
            self.step()
        for name in os.listdir(self.root):
            shutil.rmtree(os.path.join(self.root, name))
        self.step()
        self.assertEqual(set(self.monitor.folders), {self.root})
        self.assertEqual([*self.monitor._names.values()], [{self.root}])

    def test_link_in_between_leads_elsewhere(self):
        """A folder is read under another name, through a link that is itself in no watched folder."""
        factories = (hupper.InotifyFileMonitor, hupper.PollingFileMonitor)
        for factory, has_read_it in [(factory, has_read_it) for factory in factories for has_read_it in (True, False)]:
            with self.subTest(factory.__name__, has_read_it=has_read_it):
                base = tempfile.mkdtemp(dir=self.folder)
                real, new, middle = (os.path.join(base, name) for name in ('root/real', 'new', 'middle'))
                os.makedirs(real)
                os.makedirs(new)
                put(os.path.join(new, 'file'), '')
                os.symlink(real, middle)
                os.symlink(middle, os.path.join(base, 'root', 'link'))
                path = os.path.join(base, 'root', 'link', 'file')
                monitor = factory(print, interval=0.01)
                self.addCleanup(monitor.stop)
                monitor._SLICE = LIMIT if has_read_it else 0
                monitor.add_path(os.path.join(base, 'root'))
                self.assertNotIn(os.path.dirname(path), monitor.folders)
                os.symlink(new, middle + '2')
                os.rename(middle + '2', middle)
                self.wait_for(monitor, path)
                put(path, 'again')
                self.wait_for(monitor, path)

    def wait_for(self, monitor, path):
        def come():
            monitor.step()
            return path in [change.path for change in monitor.take_changes()]

        wait_until(come)

    def test_folder_that_is_held_open(self):
        """A folder is deleted and comes back, with a file that is watched by name, while a process is in it."""
        folder = os.path.join(self.root, 'folder')
        path = os.path.join(folder, 'file')
        os.mkdir(folder)
        put(path, '1')
        self.monitor.add_path(self.root)
        self.monitor.add_path(path)
        self.step()
        self.addCleanup(os.close, os.open(folder, os.O_RDONLY))  # as a current folder does, it keeps the inode
        for text in ('2', '3'):
            shutil.rmtree(folder)
            self.step()
            self.changed.clear()
            os.mkdir(folder)
            put(path, text)
            self.step()
            self.assertEqual(self.changed, {path})

    def test_link_to_itself(self):
        """Nothing behind the link has to be polled."""
        os.symlink('self', os.path.join(self.root, 'self'))
        self.monitor.add_path(self.root)
        self.monitor.watch_file(os.path.join(self.root, 'self'), 0)
        self.step()
        self.assertIsNone(self.monitor.wait_until())
        self.assertEqual(self.monitor.polled, set())

    def test_folders_made_while_a_path_is_followed(self):
        for number in range(1000 if FULL else 50):
            top = os.path.join(self.folder, str(number))
            path = os.path.join(top, 'a', 'b', 'c', 'file')
            self.monitor.add_path(path)

            def make(path=path):
                os.makedirs(os.path.dirname(path))
                put(path, '')

            maker = threading.Thread(target=make)
            maker.start()
            while maker.is_alive():
                self.step()
            maker.join()
            self.step()
            self.assertIn(path, self.changed)

    @only_full
    def test_overflow(self):
        """More events than the kernel queues: everything is compared again."""
        with open('/proc/sys/fs/inotify/max_queued_events') as file:
            limit = int(file.read())
        if limit > 100_000:
            self.skipTest(f'the queue is too long: {limit}')
        self.grow(5)
        self.monitor.add_path(self.root)
        self.step()
        self.changed.clear()
        flood(self.root, limit)
        put(os.path.join(self.root, 'd1-new'), 'x')
        os.makedirs(os.path.join(self.root, 'new', 'sub'))
        put(os.path.join(self.root, 'new', 'sub', 'file'), 'x')
        self.step()
        self.assertEqual(
            self.changed, {os.path.join(self.root, 'd1-new'), os.path.join(self.root, 'new', 'sub', 'file')}
        )
        self.check()


@needs_linux
class Limits(Case):
    """inotify's own limits, in our own namespace: one message with advice, then polling."""

    @contextlib.contextmanager
    def limited(self, name, number):
        """Run monitors with this limit lowered."""
        self.command = ['unshare', '--user', '--map-root-user', 'sh', '-c']
        self.command.append(f'echo {number} > /proc/sys/user/{name} && exec "$@"')
        if self.project.run(*self.command, 'sh', 'true').returncode:
            self.skipTest('no user namespaces here')
        yield

    def start_limited(self, *args):
        self.write_app()
        monitor = self.start(*self.command, 'sh', sys.executable, 'hupper.py', '--reload-interval', '0.2', *args)
        monitor.wait_for('app 1')
        return monitor

    def check(self, monitor, told):
        monitor.wait_for(told)
        self.check_reload(monitor)
        mark = monitor.mark()
        self.write('tree/d7/file', 'changed')
        monitor.wait_for(self.path('tree/d7/file') + ' changed', after=mark)
        monitor.wait_for('app 11', after=mark)
        mark = monitor.mark()
        self.write('tree/later/file', 'new')
        monitor.wait_for(self.path('tree/later/file') + ' changed', after=mark)
        self.assertEqual(monitor.count(told), 1, monitor.text())
        monitor.stop()

    @needs_program('unshare')
    def test_no_more_watches(self):
        for number in range(10):
            self.write(f'tree/d{number}/file', '')
        with self.limited('max_inotify_watches', 8):
            self.check(self.start_limited('-w', 'tree', '-m', 'app'), 'max_user_watches')

    @needs_program('unshare')
    def test_no_more_instances(self):
        self.write('tree/d7/file', '')
        with self.limited('max_inotify_instances', 0):
            self.check(self.start_limited('-w', 'tree', '-m', 'app'), 'max_user_instances')

    def test_overflow(self):
        """While the monitor is stopped, more events happen than the kernel queues."""
        with open('/proc/sys/fs/inotify/max_queued_events') as file:
            limit = int(file.read())
        if limit > 100_000:
            self.skipTest(f'the queue is too long: {limit}')
        self.write('tree/file', '')
        self.write_app()
        monitor = self.hupper('-w', 'tree', '-m', 'app')
        self.check_reload(monitor)
        os.kill(monitor.pid, signal.SIGSTOP)
        flood(self.path('tree'), limit)
        self.write_value(33)
        os.kill(monitor.pid, signal.SIGCONT)
        monitor.wait_for('app 33')
        monitor.stop()


@needs_root
@needs_linux
@needs_program('unshare')
@needs_program('nsenter')
class Mounts(Case):
    """Mounts, each in its own namespace."""

    def start_in_namespace(self, commands, *args):
        """Run shell commands in a new mount namespace, then hupper there."""
        script = f'set -e; {commands}; exec "$0" hupper.py --reload-interval 0.2 "$@"'
        return self.start('unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, sys.executable, *args)

    def inside(self, monitor, *command):
        result = self.project.run('nsenter', '--mount', f'--target={monitor.pid}', *command)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_bind_mounted_file(self):
        """A single file, mounted as by `docker run -v`; it is saved on the other side."""
        self.write_app()
        real = os.path.join(self.project.base, 'real.py')
        put(real, 'VALUE = 1\n')
        monitor = self.start_in_namespace(f'mount --bind {real} mod.py', '-m', 'app')
        monitor.wait_for('app 1')
        for value in (2, 3):
            put(real, f'VALUE = {value}\n')
            monitor.wait_for(f'app {value}')
        monitor.stop()

    def check_unmounted(self, commands):
        self.write_app()
        self.write('mnt/part.py', 'VALUE = 1\n')
        self.write(
            'app.py',
            'import sys; sys.path.append("mnt"); from part import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE,
        )
        os.makedirs(os.path.join(self.project.base, 'other'))
        put(os.path.join(self.project.base, 'other', 'part.py'), 'VALUE = 2\n')
        monitor = self.start_in_namespace(commands, '-v', '-w', 'mnt', '-m', 'app')
        monitor.wait_for('app 2')
        monitor.wait_for(re.compile(r'Watching \d+ files'))
        self.inside(monitor, 'umount', '--lazy', self.path('mnt'))
        monitor.wait_for('app 1')
        self.write('mnt/part.py', 'VALUE = 3\n')
        monitor.wait_for('app 3')
        self.inside(monitor, 'mount', '--bind', os.path.join(self.project.base, 'other'), self.path('mnt'))
        self.write('app.py', self.project.read('app.py') + '\n')
        monitor.wait_for('app 2', count=2)
        monitor.stop()

    def test_bind_mount_goes_away(self):
        """This unmount causes no event: the monitor notices it at the next reload."""
        self.write_app()
        self.write('mnt/part.txt', 'old')
        os.makedirs(os.path.join(self.project.base, 'other'))
        monitor = self.start_in_namespace('mount --bind ../other mnt', '-v', '-w', 'mnt', '-m', 'app')
        monitor.wait_for(re.compile(r'Watching \d+ files'))
        self.inside(monitor, 'umount', '--lazy', self.path('mnt'))
        self.check_reload(monitor)
        mark = monitor.mark()
        self.write('mnt/part.txt', 'new')
        monitor.wait_for(self.path('mnt/part.txt') + ' changed', after=mark)
        monitor.stop()

    def test_mount_goes_away(self):
        self.check_unmounted('mount -t tmpfs none mnt && cp ../other/part.py mnt/')

    @needs_program('bindfs')
    def test_fuse(self):
        """A filesystem that does not report changes made on its other side: one message, then polling."""
        if not os.path.exists('/dev/fuse'):
            self.skipTest('there is no /dev/fuse')
        self.write_app()
        self.write('side/part.py', 'VALUE = 1\n')
        os.mkdir(self.path('mnt'))
        self.write(
            'app.py',
            'import sys; sys.path.append("mnt"); from part import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE,
        )
        mount = self.project.run('bindfs', '-o', 'attr_timeout=0,entry_timeout=0', self.path('side'), self.path('mnt'))
        if mount.returncode:
            self.skipTest(f'bindfs does not work here: {mount.stderr}')
        self.addCleanup(self.project.run, 'umount', '--lazy', self.path('mnt'))
        monitor = self.hupper('-w', 'mnt', '-m', 'app')
        monitor.wait_for('app 1')
        monitor.wait_for(re.compile(r'mnt \(fuse.*polled'))
        for value in (2, 3):
            self.write('side/part.py', f'VALUE = {value}\n')
            monitor.wait_for(f'app {value}')
        mark = monitor.mark()
        self.write('side/new.txt', '')
        monitor.wait_for(self.path('mnt/new.txt') + ' changed', after=mark)
        self.assertEqual(monitor.count('polled'), 1, monitor.text())
        monitor.send(signal.SIGTERM)
        monitor.wait()


@on_each_backend(backends=LONG)
class Parsing(BackendCase):
    """A save that does not parse leaves the running worker alone."""

    def start_app(self, **options):
        self.write('other.py', 'VALUE = 1\n')
        self.write_value(1)
        self.write('app.py', 'import sys, mod, other\nprint("app", mod.VALUE, other.VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app(**options)
        monitor.wait_for('app 1 1')
        return monitor

    def break_it(self, monitor, text='VALUE = (\n', error='SyntaxError'):
        mark = monitor.mark()
        self.write('mod.py', text)
        monitor.wait_for('does not parse; still running the code of ', after=mark)
        monitor.wait_for(error, after=mark)

    def test_found_by_way_of_the_folder_above(self):
        """As in a program that puts `../lib` on sys.path."""
        self.write('lib/mod.py', 'VALUE = 1\n')
        self.write('bin/x', '')
        self.write(
            'app.py',
            'import sys; sys.path.insert(0, "bin/../lib")\nfrom mod import VALUE\nprint("app", VALUE, flush=True)\n'
            + IDLE,
        )
        monitor = self.run_app()
        monitor.wait_for('app 1')
        self.write('lib/mod.py', 'VALUE = (\n')
        monitor.wait_for(self.path('lib/mod.py') + ' does not parse; still running the code of ')
        self.write('lib/mod.py', 'VALUE = 22\n')
        monitor.wait_for('app 22')
        monitor.stop()

    def test_message(self):
        """Each broken save shows path, line and caret as CPython does; then the fixed code runs after one start."""
        monitor = self.start_app()
        self.break_it(monitor, 'x = 1\nVALUE = 3 +\n')
        self.project.write('plain/mod.py', 'x = 1\nVALUE = 3 +\n')
        plain = self.project.python(self.path('plain/mod.py')).stderr.replace('plain' + os.sep, '').splitlines()
        told = monitor.text('err').splitlines()
        at = next(index for index, line in enumerate(told) if 'does not parse' in line)
        self.assertIn(self.path('mod.py'), told[at])
        self.assertRegex(told[at], r'still running the code of \d\d:\d\d:\d\d\.$')
        self.assertEqual(told[at + 1 : at + 1 + len(plain)], plain)
        self.break_it(monitor, 'VALUE = )\n')
        self.write_value(2)
        monitor.wait_for('app 2 1')
        monitor.stop()
        self.assertEqual(len(monitor.workers), 2, monitor.text())

    def check_dots(self, lib):
        """The app puts `scripts/../lib` on sys.path, as many apps do; this leads to the folder `lib`."""
        self.write(lib + '/mod.py', 'VALUE = 1\n')
        path = 'import os, sys\nsys.path.insert(0, os.path.join(os.path.abspath("scripts"), "..", "lib"))\n'
        self.write('app.py', path + 'from mod import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app()
        monitor.wait_for('app 1')
        monitor.wait_for('Watching')
        self.write(lib + '/mod.py', 'VALUE = (\n')
        monitor.wait_for('mod.py does not parse')
        self.write(lib + '/mod.py', 'VALUE = 2\n')
        monitor.wait_for('app 2')
        monitor.wait_start(2)
        monitor.check_workers(2)
        monitor.stop()

    def test_path_with_dots(self):
        os.mkdir(self.path('scripts'))
        self.check_dots('lib')

    def test_path_with_dots_after_a_link(self):
        """After a link, dots lead to the parent of its target."""
        os.makedirs(self.path('real/scripts'))
        symlink(self.path('real/scripts'), self.path('scripts'), target_is_directory=True)
        self.check_dots('real/lib')

    def test_others_wait(self):
        """Good saves wait until all files parse."""
        monitor = self.start_app()
        self.break_it(monitor)
        self.write('other.py', 'VALUE = (\n')
        monitor.wait_for('does not parse', count=2)
        self.write_value(2)
        self.write('app.py', self.project.read('app.py') + '\n')
        self.write('other.py', 'VALUE = 2\n')
        monitor.wait_for('app 2 2')
        monitor.stop()
        self.assertEqual(len(monitor.workers), 2, monitor.text())

    def test_what_is_waited_for(self):
        """The monitor says what it waits for when one of two files is fixed, and at a good save of a third one."""
        monitor = self.start_app()
        self.break_it(monitor)
        self.write('other.py', 'VALUE = (\n')
        monitor.wait_for('does not parse', count=2)
        line = 'The reload waits until these parse: {}.'
        self.write_value(2)
        monitor.wait_for(line.format(self.path('other.py')))
        self.write('app.py', self.project.read('app.py') + '\n')
        monitor.wait_for(line.format(self.path('other.py')), count=2)
        self.write('other.py', 'VALUE = 2\n')
        monitor.wait_for('app 2 2')

    def test_the_old_text_comes_back(self):
        monitor = self.start_app()
        self.break_it(monitor)
        self.write_value(1)
        monitor.wait_for('app 1 1', count=2)
        monitor.stop()

    def test_deleted_after_that(self):
        monitor = self.start_app()
        self.break_it(monitor)
        remove(self.path('mod.py'))
        monitor.wait_for('No module named')
        self.write_value(2)
        monitor.wait_for('app 2 1')
        monitor.stop()

    @needs_posix
    def test_sighup_overrides(self):
        monitor = self.start_app()
        self.break_it(monitor)
        monitor.send(signal.SIGHUP)
        monitor.wait_for(WAITING)
        self.write_value(2)
        monitor.wait_for('app 2 1')
        monitor.stop()

    def test_the_worker_overrides(self):
        trigger = """
            import hupper, os, threading, time

            def wait():
                while True:
                    try:
                        os.remove('go')
                        break
                    except OSError:
                        time.sleep(0.02)
                hupper.get_reloader().trigger_reload()

            threading.Thread(target=wait, daemon=True).start()
            """
        self.write('trigger.py', trigger)
        self.write_value(1)
        self.write('app.py', 'import trigger, mod\nprint("app", mod.VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app()
        monitor.wait_for('app 1')
        self.break_it(monitor)
        self.write('go', '')
        monitor.wait_for(WAITING)
        monitor.stop()

    def test_warnings_neither_stop_nor_print(self):
        """The monitor parses the source without printing: Python's usual warnings appear once, from the worker."""
        monitor = self.start_app(env={'PYTHONUNBUFFERED': '1'})  # else Python 3.8 buffers output to a pipe
        self.write('mod.py', r"VALUE = len('\d') is 2; assert (1, 'x')" + '\n')
        monitor.wait_for('app ', count=2)
        monitor.stop()
        plain = self.project.python('-c', 'import mod', env={'PYTHONPYCACHEPREFIX': self.project.tmp}).stderr
        self.assertGreater(plain.count('Warning'), 0)
        self.assertEqual(monitor.text('err').count('Warning'), plain.count('Warning'), monitor.text())

    def test_what_counts_as_parsing(self):
        """Only the new worker reports what compiling cannot show: an unknown encoding, too much for the compiler."""
        monitor = self.start_app()
        for text in (b'# coding: no-such-encoding\n', b'VALUE = ' + b'-' * 100_000 + b'1\n'):
            mark = monitor.mark()
            self.write('mod.py', text)
            monitor.wait_for(WAITING, after=mark)
            self.write_value(1)
            monitor.wait_for('app 1 1', after=mark)
        monitor.stop()
        self.assertNotIn('does not parse', monitor.text())

    def test_encodings(self):
        monitor = self.start_app()
        self.write('mod.py', '# coding: latin-1\nVALUE = ascii("\xe9")\n'.encode('latin-1'))
        monitor.wait_for(r"app '\xe9' 1")
        self.write('mod.py', b'\xef\xbb\xbfVALUE = 2\r\n')
        monitor.wait_for('app 2 1')
        monitor.stop()

    def test_not_at_the_first_start(self):
        self.write_app()
        self.write('mod.py', 'VALUE = (\n')
        monitor = self.run_app()
        monitor.wait_for(WAITING)
        self.assertNotIn('does not parse', monitor.text())
        self.write('mod.py', 'VALUE = )\n')
        monitor.wait_for(WAITING, count=2)
        self.write_value(2)
        monitor.wait_for('app 2')
        monitor.stop()

    def check_never_judged(self, setup, name='mod.lang', text='VALUE := 22\n', watch=()):
        """A file in a language on top of Python, which never parses as Python, reloads like any file."""
        self.write(name, 'VALUE := 1\n')
        self.write('setup.py', textwrap.dedent(setup))
        self.write('app.py', 'from setup import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app(watch=watch)
        monitor.wait_for('app 1')
        for value in (22, 333):
            self.write(name, text.replace('22', str(value)))
            monitor.wait_for(f'app {value}')
        self.assertNotIn('does not parse', monitor.text())
        monitor.stop()

    def test_patched_class(self):
        setup = """
            from importlib.machinery import SourceFileLoader
            old = SourceFileLoader.source_to_code
            SourceFileLoader.source_to_code = lambda self, data, path, **kw: old(self, data.replace(b':=', b'='), path)
            VALUE = SourceFileLoader('mod', 'mod.lang').load_module().VALUE
            """
        self.check_never_judged(setup)

    def test_patched_instance(self):
        setup = """
            from importlib.machinery import SourceFileLoader
            loader = SourceFileLoader('mod', 'mod.lang')
            old = loader.source_to_code
            loader.source_to_code = lambda data, path, **kw: old(data.replace(b':=', b'='), path)
            VALUE = loader.load_module().VALUE
            """
        self.check_never_judged(setup)

    SUBCLASS = """
        from importlib.machinery import SourceFileLoader
        from importlib.util import module_from_spec, spec_from_file_location

        class Loader(SourceFileLoader):
            def {}

        spec = spec_from_file_location('mod', 'mod.py', loader=Loader('mod', 'mod.py'))
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        VALUE = module.VALUE
        """

    def test_subclass_that_transforms(self):
        method = (
            "source_to_code(self, data, path, **kw): return super().source_to_code(data.replace(b':=', b'='), path)"
        )
        self.check_never_judged(self.SUBCLASS.format(method), 'mod.py')

    def test_subclass_that_transforms_in_a_watched_folder(self):
        """The bytecode looks as if Python had compiled the unchanged file."""
        method = (
            "source_to_code(self, data, path, **kw): return super().source_to_code(data.replace(b':=', b'='), path)"
        )
        self.check_never_judged(self.SUBCLASS.format(method), 'mod.py', watch=['.'])

    def test_subclass_that_reads_another_text(self):
        method = """get_data(self, path):
                data = super().get_data(path)
                return data.replace(b':=', b'=') if path.endswith('.py') else data"""
        self.check_never_judged(self.SUBCLASS.format(method), 'mod.py')

    def test_code_that_is_run_by_itself(self):
        setup = """
            VALUE = None
            with open('mod.lang') as file: exec(compile(file.read().replace(':=', '='), 'mod.lang', 'exec'))
            import hupper
            hupper.get_reloader().watch_files(['mod.lang'])
            """
        self.check_never_judged(setup)

    def start_server(self, **env):
        """Start a server like `uvicorn --workers 2`: another interpreter imports the module."""
        self.write_value(1)
        text = 'import subprocess, sys\nsubprocess.call([sys.executable, "-c", "import child"])\n'
        self.write('child.py', 'import os, mod\nprint("app", mod.VALUE, flush=True)\n')
        self.write('app.py', text + IDLE)
        monitor = self.run_app(watch=['.'], ignore=['__pycache__', 'start.py'], env=env)
        monitor.wait_for('app 1')
        return monitor

    def test_imported_by_another_interpreter(self):
        """A file in a watched folder with bytecode is Python source, whichever process imports it."""
        monitor = self.start_server()
        self.break_it(monitor)
        self.write_value(22)
        monitor.wait_for('app 22')
        monitor.stop()
        self.assertEqual(len(monitor.workers), 2, monitor.text())

    def test_imported_by_another_interpreter_that_leaves_no_sign(self):
        monitor = self.start_server(PYTHONDONTWRITEBYTECODE='1')
        self.write('mod.py', 'VALUE = (\n')
        monitor.wait_for('SyntaxError')
        self.write_value(22)
        monitor.wait_for('app 22')
        self.assertNotIn('does not parse', monitor.text())
        monitor.stop()

    def test_a_template_in_a_watched_folder(self):
        self.write('tree/template.py', 'class {{ name }}:\n')
        monitor = self.start_app(watch=['tree'])
        self.write('tree/template.py', 'class {{ name }}: pass\n')
        monitor.wait_for('app 1 1', count=2)
        monitor.stop()
        self.assertNotIn('does not parse', monitor.text())

    def test_a_template_is_no_source(self):
        """A file that ends in .py but was not imported reloads like any file."""
        self.write('template.py', 'class {{ name }}:\n')
        monitor = self.start_app(watch=['template.py'])
        self.write('template.py', 'class {{ name }}: pass\n')
        monitor.wait_for('app 1 1', count=2)
        monitor.stop()
        self.assertNotIn('does not parse', monitor.text())


@on_each_backend(backends=LONG)
class Storms(BackendCase):
    """Many changes at once, and changes without end."""

    def start_app(self, *paths, **options):
        self.write_app()
        monitor = self.run_app(watch=paths, **options)
        monitor.wait_for('app 1')
        return monitor

    def test_many_files(self):
        """300 files within half a second: two reloads, if the machine keeps up; the last one has the last file."""
        for number in range(300):
            self.write(f'tree/f{number}', '')
        monitor = self.start_app('tree', interval=1)
        begin = time.monotonic()
        for number in range(300):
            self.write(f'tree/f{number}', 'x')
            time.sleep(max(0, begin + number / 600 - time.monotonic()))
        seconds = time.monotonic() - begin
        allowed = 2 if seconds < 0.75 else 7 + int(seconds)  # on a slow machine there are moments of quiet
        self.write_value(2)
        monitor.wait_for('app 2')
        self.assertLessEqual(monitor.count('app '), 1 + allowed, monitor.text())
        monitor.stop()

    def test_formatter(self):
        """A formatter rewrites the file 200 ms after the save."""
        monitor = self.start_app()
        for value in (20, 30):
            self.write_value(value, save_in_place)
            time.sleep(0.2)
            self.write_value(value + 1, save_in_place)
            monitor.wait_for(f'app {value + 1}')
        self.assertLessEqual(monitor.count('app '), 5)
        monitor.stop()

    def check_endless(self, pause, starts_after_quiet=0):
        """A file is written again and again: about one reload per interval, and other changes still count."""
        self.write('tree/log', '')
        monitor = self.start_app('tree', interval=0.5)
        end, begin = threading.Event(), time.monotonic()

        def write():
            while not end.wait(pause):
                put(self.path('tree/log'), 'x', 'a')

        writer = threading.Thread(target=write)
        writer.start()
        try:
            monitor.wait_start(3)
            mark = monitor.mark()
            self.write_value(22)
            monitor.wait_for('app 22', after=mark)
            monitor.wait_for('app 22', after=mark, count=2)
        finally:
            end.set()
            writer.join()
        most = 3 + starts_after_quiet + (time.monotonic() - begin) / 0.5
        self.assertLessEqual(monitor.count('app '), most, monitor.text())
        monitor.stop()

    def test_written_every_50_ms(self):
        self.check_endless(0.05)

    def test_written_every_200_ms(self):
        self.check_endless(0.2, starts_after_quiet=hupper._Schedule.BURST - 1)

    def test_kept_open(self):
        """A file that is written to and never closed."""
        self.write('tree/log', '')
        monitor = self.start_app('tree')
        with open(self.path('tree/log'), 'ab', buffering=0) as file:
            file.write(b'x')
            monitor.wait_for('app 1', count=2)
            file.write(b'x')
            monitor.wait_for('app 1', count=3)
        monitor.stop()

    def check_boot_writer(self, text, name):
        """The app writes a watched file at each boot: soon its reloads are held, others are not."""
        self.write(name, '')
        self.write_value(1)
        self.write('app.py', text + '\nfrom mod import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        monitor = self.run_app(watch=[name])
        line = monitor.wait_for('changes at each start: the next reload waits ')
        self.assertIn(self.path(name), line)
        self.assertIn('-x ' + name, line)
        self.assertIn('SIGHUP', line)
        monitor.check_workers(6)
        self.write_value(22)
        monitor.wait_for('app 22')
        monitor.wait_for('changes at each start: the next reload waits')  # the save has not ended the streak
        if not WINDOWS:
            monitor.send(signal.SIGHUP)
            monitor.wait_for('Received SIGHUP')
        monitor.stop()

    @needs_cpython
    def test_boot_writer(self):
        self.check_boot_writer('import time; open("state.txt", "w").write(str(time.time()))', 'state.txt')

    @needs_posix
    @needs_cpython
    def test_boot_writer_by_a_child(self):
        """A write by a child of the app is no save by the user either."""
        code = '\'import time; open("state.txt", "w").write(str(time.time()))\''
        self.check_boot_writer(f'import subprocess, sys; subprocess.run([sys.executable, "-Sc", {code}])', 'state.txt')

    @needs_cpython
    def test_lock_that_is_only_created(self):
        self.check_boot_writer('open("state.lock", "w").close()', 'state.lock')

    @needs_cpython
    def test_new_name_at_each_boot(self):
        """A new name counts as well, and no save is lost because of it."""
        self.write_value(1)
        text = 'import os\nwith open(f"run/{os.getpid()}.log", "w") as file: file.write("hello")\n'
        self.write('app.py', text + 'from mod import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)
        self.write('run/notes', '')
        monitor = self.run_app(watch=['run'])
        monitor.wait_for('.log changes at each start: the next reload waits ')
        self.write_value(22)
        monitor.wait_for('app 22')
        self.write('run/notes', 'changed')
        monitor.wait_for('app 22', count=2)
        monitor.stop()

    @only_full
    def test_saves_of_a_program_that_writes_a_lot(self):
        """A user who saves repeatedly is not mistaken for a boot writer, even if the app writes a lot elsewhere."""
        log = os.path.join(self.project.tmp, 'log')
        text = f'with open({log!r}, "a") as file: file.write("x" * 9000)\nprint("value %d", flush=True)\n{IDLE}'
        self.write('app.py', text % 0)
        monitor = self.run_app(interval=1)
        for value in range(8):
            monitor.wait_for(f'value {value}')
            self.write('app.py', text % (value + 1))
        monitor.wait_for('value 8')
        monitor.stop()

    def test_boot_writer_that_crashes(self):
        """The app exits just after its write: this causes no loop either."""
        self.write('state.txt', '')
        self.write('app.py', 'import time; open("state.txt", "w").write(str(time.time()))\nprint("app", flush=True)\n')
        monitor = self.run_app(watch=['state.txt'])
        monitor.wait_for('changes at each start: the next reload waits')
        self.write('app.py', 'print("app new", flush=True)\n')
        monitor.wait_for('app new')
        monitor.stop()


@on_each_backend(backends=LONG)
class Git(BackendCase):
    """Real git: few reloads, and no traceback for a file that is missing for a moment."""

    def setUp(self):
        if not shutil.which('git'):
            self.skipTest('there is no git')
        super().setUp()

    def git(self, *args):
        config = [
            '-c',
            'user.name=x',
            '-c',
            'user.email=x@example.org',
            '-c',
            'commit.gpgsign=false',
            '-c',
            'init.defaultBranch=main',
        ]
        result = self.project.run('git', *config, *args, env={'GIT_CONFIG_NOSYSTEM': '1', 'HOME': self.project.tmp})
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def commit(self, value, branch=None, files=300):
        """Commit a new text of mod.py and of the package."""
        if branch:
            self.git('checkout', '-q', '-b', branch)
        for number in range(files):
            self.write(f'pkg/m{number}.py', f'VALUE = {value!r}\n')
        self.write_value(value)
        self.git('add', 'mod.py', 'pkg')
        self.git('commit', '-q', '-m', f'value {value}')

    def start_app(self, files=300):
        self.git('init', '-q')
        self.commit(1, files=files)
        imports = '\n'.join(f'import pkg.m{number}' for number in range(files))
        self.write(
            'app.py',
            f'from mod import VALUE\n{imports}\nprint("app", VALUE, pkg.m{files - 1}.VALUE, flush=True)\n' + IDLE,
        )

    def check(self, *steps):
        """steps: git's arguments, the value that the app prints afterwards, and the number of reloads allowed."""
        monitor = self.run_app(interval=1)
        monitor.wait_for('app ')
        for args, value, allowed in steps:
            mark, number = monitor.mark(), monitor.count('app ')
            begin = time.monotonic()
            self.git(*args)
            allowed += int(time.monotonic() - begin)  # on a slow machine
            monitor.wait_for(f'app {value} {value}', after=mark)
            self.assertLessEqual(monitor.count('app ') - number, allowed, monitor.text())
        monitor.stop()
        if 'Traceback' in monitor.text():
            monitor.fail('a worker has failed')

    def test_checkout_of_one_module(self):
        self.start_app(1)
        self.commit(2, files=1)
        self.write('app.py', 'from mod import VALUE\nprint("app", VALUE, VALUE, flush=True)\n' + IDLE)
        self.check((['checkout', 'HEAD~', '--', 'mod.py'], 1, 1), (['checkout', 'HEAD', '--', 'mod.py'], 2, 1))

    @only_full
    def test_branches_and_stash(self):
        self.start_app()
        self.commit(2, branch='other')
        for number in range(300):
            self.write(f'pkg/m{number}.py', 'VALUE = 3\n')
        self.write_value(3)
        checkouts = (['checkout', 'main'], 1, 2), (['checkout', 'other'], 2, 2)
        self.check((['stash'], 2, 2), *checkouts, (['stash', 'pop'], 3, 2))

    def test_rebase(self):
        """Rebase three commits onto another one."""
        self.start_app(3)
        self.git('checkout', '-q', '-b', 'topic')
        for value in (2, 3, 4):
            self.commit(value, files=3)
        self.git('checkout', '-q', 'main')
        self.write('README', 'x')
        self.git('add', 'README')
        self.git('commit', '-q', '-m', 'readme')
        self.git('checkout', '-q', 'topic')
        self.check((['rebase', 'main'], 4, 4))


# --- processes and signals ---------------------------------------------------


MODES = ('fork', 'api') if FULL else ('fork',)  # for tests in which the two hardly differ


def in_each_mode(*modes):
    """Class decorator: replace a ModeCase by a TestCase per way of starting workers, named ThisFork and so on."""

    def replace(cls):
        for mode in modes or ('fork', 'api'):
            name = cls.__name__ + mode.title()
            space = {'mode': mode, '__module__': cls.__module__, '__qualname__': name}
            sys.modules[cls.__module__].__dict__[name] = type(name, (cls,), space)

    return replace


class ModeCase(Case):
    """A test that in_each_mode() repeats; run_app() starts the module app with the best file monitor.

    fork: the command line. spawn: the command line with a foreign file monitor, which rules out a fork.
    api: a script with start_reloader(); the worker's function imports app as a module.
    """

    mode = None
    windows = False  # whether the test makes sense there; both modes spawn
    FACTORY = """
        import sys

        def factory(callback, **kw):
            return sys.modules['__main__'].PollingFileMonitor(callback, **kw)
        """

    def setUp(self):
        if WINDOWS and not self.windows:
            self.skipTest('signals, process groups, forks or terminals of POSIX')
        super().setUp()

    def command(self, *target, interval=0.2, shutdown=5, **settings):
        """Return the command that runs a target in this mode, and its environment; shutdown=None means the default."""
        settings.update(reload_interval=interval, shutdown_interval=shutdown)
        settings = {name: value for name, value in settings.items() if value is not None}
        if self.mode == 'api':
            settings['verbose'] = 2
            self.write('start.py', START % {'settings': settings, 'watch': []})
            return [sys.executable, 'start.py', *target[2:]], {}
        flags = ['-v', *(f'--{name.replace("_", "-")}={value}' for name, value in settings.items())]
        if self.mode == 'spawn':
            flags += ['--monitor=spawning.factory']
        return [sys.executable, *HUPPER, *flags, *target], self.library()

    def library(self):
        """Return the environment in which mode spawn finds its factory."""
        folder = os.path.join(self.project.base, 'library')
        os.makedirs(folder, exist_ok=True)
        put(os.path.join(folder, 'spawning.py'), textwrap.dedent(self.FACTORY))
        return {'PYTHONPATH': folder} if self.mode == 'spawn' else {}

    def run_app(self, *args, interval=0.2, shutdown=5, stop_signal=None, start=None, **options):
        settings = dict(interval=interval, shutdown=shutdown, stop_signal=stop_signal)
        command, env = self.command('-m', 'app', *args, **settings)
        return (start or self.start)(*command, env={**env, **options.pop('env', {})}, **options)

    def write_app(self, body='', value=1):
        """Write an app that executes `body`, prints `app VALUE` and keeps running."""
        super().write_app(value)
        text = self.project.read('app.py')
        self.write('app.py', 'import os, signal, sys, time\n' + textwrap.dedent(body) + '\n' + text)


@in_each_mode()
class MonitorKilled(ModeCase):
    """kill -9 of the monitor also ends the worker."""

    def check(self, body):
        self.write_app(body)
        monitor = self.run_app()
        monitor.wait_for('app 1')
        monitor.wait_start(1)
        if LINUX and (_mode(monitor) == 'fork') != (FORKS and self.mode == 'fork'):
            monitor.fail(f'the worker is {_command_line(monitor.worker)!r}')
        monitor.process.kill()
        monitor.check_nothing_left()

    def test_deaf_worker(self):
        self.check('for name in "SIGINT", "SIGTERM", "SIGHUP": signal.signal(getattr(signal, name), signal.SIG_IGN)')

    @needs_linux
    def test_worker_in_c_code(self):
        """The worker never returns from C code to Python."""
        library = 'getattr(ctypes, "PyDLL", ctypes.CDLL)(None)'  # PyPy has only CDLL
        self.check(f'import mod, ctypes\nprint("app", mod.VALUE, flush=True)\n{library}.pause()')

    @needs_linux
    def test_standby(self):
        """The standby ends, too."""
        self.write_app()
        monitor = self.run_app()
        self.wait_for_standby(monitor, self.mode)
        monitor.process.kill()
        monitor.check_nothing_left()

    @needs_linux
    def test_at_once(self):
        """The monitor is killed as soon as there is a second process."""
        self.write_app()
        for _ in range(20 if FULL else 3):
            monitor = self.run_app()
            wait_until(lambda: len(self.project.processes()) > 1)
            monitor.process.kill()
            monitor.check_nothing_left()

    def test_before_the_worker_is_armed(self):
        """A process whose parent has died already exits at once."""
        code = 'import hupper, os; hupper._set_parent_death_signal(os.getppid() + 1); print("alive")'
        result = self.project.python('-c', code)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (1, '', ''))


@in_each_mode(*MODES)
class Children(ModeCase):
    """Processes that the app has started end with their worker, at a reload and at the stop."""

    SLEEP = '[sys.executable, "-c", "import time; time.sleep(600)"]'

    def check(self, body, **options):
        """Run an app that starts with `body`; reload it, stop it, return the monitor."""
        self.write_app(body)
        monitor = self.run_app(**options)
        self.check_reload(monitor)
        monitor.stop()
        return monitor

    @needs_cpython
    def test_server_on_a_port(self):
        """A child holds the port that the next worker needs."""
        import socket

        with socket.socket() as server:
            server.bind(('127.0.0.1', 0))
            port = server.getsockname()[1]
        body = f"""
            import socket, subprocess
            server = socket.socket()
            server.bind(('127.0.0.1', {port}))
            server.listen()
            server.set_inheritable(True)
            subprocess.Popen({self.SLEEP}, close_fds=False)
            """
        monitor = self.check(body)
        line = 'Ended what the worker left behind: .*python'
        self.assertEqual(monitor.count(re.compile(r'^\[DEBUG\] ' + line)), 1)  # at the reload
        self.assertEqual(monitor.count(re.compile('^' + line)), 1)

    @needs_linux
    def test_killed_at_a_reload(self):
        """A child that had to be killed is reported, not only with -v."""
        deaf = (
            'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)'
        )
        body = f"""
            import subprocess
            subprocess.Popen([sys.executable, '-c', {deaf!r}], stdout=subprocess.PIPE).stdout.readline()
            """
        self.write_app(body)
        monitor = self.run_app(shutdown=0.2)
        self.check_reload(monitor)
        monitor.wait_for(re.compile('^Ended what the worker left behind: .*(python|pypy)'))
        monitor.stop()

    @needs_linux
    def test_grandchildren(self):
        """Grandchildren end even if the process in between has exited."""
        body = f"""
            import subprocess
            code = 'import subprocess, sys; subprocess.Popen({self.SLEEP})'
            subprocess.run([sys.executable, '-c', code])
            """
        monitor = self.check(body)
        self.assertEqual(monitor.count('Ended what the worker left behind: '), 2)

    def test_pools(self):
        """multiprocessing, and its shared memory, which its resource tracker removes."""
        body = """
            import multiprocessing
            from multiprocessing.shared_memory import SharedMemory
            fork = multiprocessing.get_context('fork').Pool(2)
            print(fork.map(abs, [-1, -2]))
            lock = multiprocessing.get_context('spawn').Lock()
            memory = SharedMemory(create=True, size=10)
            print('memory', memory.name, flush=True)
            """
        monitor = self.check(body)
        for name in re.findall(r'(?m)^memory (.*)$', monitor.text('out')):
            self.assertFalse(os.path.exists('/dev/shm/' + name.lstrip('/')), monitor.text())
        self.assertNotIn('Traceback', monitor.text('err'))

    @needs_linux
    def test_forkserver(self):
        """The fork server ends after its children, which look like it."""
        body = """
            import multiprocessing
            if __name__ != '__mp_main__':
                multiprocessing.get_context('forkserver').Process(target=time.sleep, args=(600,)).start()
            """
        self.check(body, shutdown=600)

    def test_forked_child_that_does_not_listen(self):
        """The child holds our pipe and ignores the polite signal."""
        body = """
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            """
        self.check(body, shutdown=0.3)

    def test_stopped_child(self):
        """A child that was stopped by Ctrl-Z or a debugger gets the polite signal, too."""
        body = f"""
            import subprocess
            child = subprocess.Popen({self.SLEEP})
            os.kill(child.pid, signal.SIGSTOP)
            """
        self.check(body, shutdown=600)

    def test_children_end_with_a_worker_that_ends(self):
        body = f'import subprocess\nprint("child", subprocess.Popen({self.SLEEP}).pid, flush=True)\nsys.exit(3)'
        self.write_app(body)
        monitor = self.run_app()
        monitor.wait_for('Waiting for a file')
        child = int(monitor.wait_for(re.compile(r'^child (\d+)'))[1])
        self.assertRaises(ProcessLookupError, os.kill, child, 0)
        monitor.stop()

    @needs_linux
    def test_sessions_and_groups_of_their_own_live_on(self):
        body = f"""
            import subprocess
            if not os.path.exists('started'):
                open('started', 'w').close()
                quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                one = subprocess.Popen({self.SLEEP}, start_new_session=True, **quiet)
                two = subprocess.Popen({self.SLEEP}, preexec_fn=lambda: os.setpgid(0, 0), **quiet)
                print('living', one.pid, two.pid, flush=True)
            """
        self.write_app(body)
        monitor = self.run_app()
        self.check_reload(monitor)
        monitor.send(signal.SIGTERM)
        monitor.wait()
        living = set(map(int, monitor.wait_for(re.compile(r'living (\d+) (\d+)')).groups()))
        wait_until(lambda: set(self.project.processes()) == living)
        self.assertNotIn('Ended what', monitor.text())
        self.project.kill_all()

    def test_children_of_the_monitors_program(self):
        """The program's own children existed before, so we do not end them."""
        if self.mode != 'api':
            self.skipTest('the command line has no other children')
        self.write_app()
        text = f"""
            import subprocess, sys
            import hupper

            if __name__ == '__main__':
                child = subprocess.Popen({self.SLEEP}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    hupper.start_reloader('app.main', reload_interval=0.2)
                finally:
                    print('child', child.poll(), flush=True)
            """
        self.write('start.py', text)
        monitor = self.start(sys.executable, 'start.py')
        self.check_reload(monitor)
        monitor.send(signal.SIGTERM)
        monitor.wait()
        monitor.wait_for('child None')
        self.project.kill_all()


@in_each_mode()
class Stopping(ModeCase):
    """How long a worker may take to stop, and signals to the monitor in each of its states."""

    windows = True
    CLEAN = """
        import mod
        def end(*_):
            os.write(1, b'cleaning up\\n')
            while not os.path.exists('go'): time.sleep(0.01)
            os.write(1, b'clean\\n')
            sys.exit(5)
        signal.signal(signal.POLITE, end)
        """
    CLEAN = CLEAN.replace('POLITE', POLITE)
    DEAF = f'signal.signal(signal.{POLITE}, lambda *_: os.write(1, b"deaf\\n"))\n'

    def test_deaf_worker_is_killed(self):
        self.write_app(self.DEAF)
        monitor = self.run_app(shutdown=0.3)
        self.check_reload(monitor)
        monitor.wait_for('--shutdown-interval')
        if not WINDOWS:  # there, a test can only press Ctrl-C, which has no time limit
            self.assertIn(monitor.stop(), KILLED)

    def test_time_to_clean_up(self):
        self.write_app(self.CLEAN)
        monitor = self.run_app(shutdown=600)
        monitor.wait_for('app 1')
        self.write_value(22)
        monitor.wait_for('cleaning up')
        self.write('go', '')
        monitor.wait_for('clean')
        monitor.wait_for('app 22')
        self.assertEqual(monitor.stop(), 5)

    def test_no_time_is_lost(self):
        """If a worker exits at once, the next one starts at once, whatever the limit."""
        self.write_app()
        monitor = self.run_app(shutdown=600)
        self.check_reload(monitor)
        self.assertIn(monitor.stop(), STOPPED)

    @needs_posix
    def test_default_time_at_the_end(self):
        """The default is longer than at a reload: an app that needs more than the reload interval exits by itself."""
        self.write_app('def end(*_):\n    time.sleep(0.5)\n    sys.exit(5)\nsignal.signal(signal.SIGTERM, end)')
        monitor = self.run_app(shutdown=None)
        self.check_reload(monitor)
        monitor.wait_for('did not stop within 0.2 s (--shutdown-interval)')
        self.assertEqual(monitor.stop(), 5)

    @needs_posix
    def test_stop_signal(self):
        """For programs that ignore SIGTERM, or clean up only at SIGINT."""
        self.write_app(self.CLEAN.replace('SIGTERM', 'SIGINT') + 'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n')
        monitor = self.run_app(stop_signal='INT')
        self.write('go', '')
        self.check_reload(monitor)
        monitor.wait_for('clean')
        self.assertEqual(monitor.stop(), 5)

    def test_no_polite_stop(self):
        self.write_app(self.CLEAN)
        monitor = self.run_app(stop_signal='KILL', shutdown=None)
        self.check_reload(monitor)
        if not WINDOWS:
            self.assertIn(monitor.stop(), KILLED)
        self.assertNotIn('clean', monitor.text())

    def check_signals(self, prepare, statuses, **options):
        for signum, status in zip((signal.SIGTERM, signal.SIGINT), statuses):
            monitor = self.run_app(**options)
            prepare(monitor)
            self.assertIn(monitor.stop(signum), status, monitor.text())
            self.assertNotIn('hupper.py"', monitor.text(), 'a traceback shows our frames')

    @needs_posix  # on Windows, Python itself prints a traceback for a Ctrl-C while it boots
    def test_while_booting(self):
        self.write_app()
        self.check_signals(lambda monitor: monitor.wait_start(1), (STOPPED, {130}))

    @needs_posix  # on Windows, a Ctrl-C has no time limit
    def test_while_an_old_worker_stops(self):
        self.write_app(self.DEAF)

        def prepare(monitor):
            monitor.wait_for('app')
            self.write_value(22)
            monitor.wait_for('deaf')

        self.check_signals(prepare, (KILLED, KILLED), shutdown=0.5)

    def test_while_waiting_after_a_crash(self):
        self.write_app('sys.exit(7)')
        self.check_signals(lambda monitor: monitor.wait_for('Waiting for a file'), ({7}, {7}))

    def test_while_a_reload_is_pending(self):
        self.write_app()
        # a file monitor that looks more often than reloads may happen
        put(os.path.join(self.project.base, 'quick.py'), textwrap.dedent(self.QUICK))
        env = {'HUPPER_DEFAULT_MONITOR': 'quick.factory', 'PYTHONPATH': self.project.base} if WINDOWS else {}

        def prepare(monitor):
            monitor.wait_for('app')
            for number in range(2):
                mark = monitor.mark()
                self.write_value(time.monotonic())
                if number == 0:
                    monitor.wait_for('app', after=mark)

        # for the second reload, the worker may already have been asked to stop
        self.check_signals(prepare, (STOPPED, STOPPED | {130}), interval=600, env=env)

    QUICK = """
        import sys

        def factory(callback, interval, **kw):
            main = sys.modules['__main__']  # is hupper.py, or a script that has imported it
            hupper = main if hasattr(main, 'PollingFileMonitor') else sys.modules['hupper']
            return hupper.PollingFileMonitor(callback, 0.1, **kw)
        """

    @needs_posix
    def test_two_interrupts(self):
        """The second SIGINT that a process sends kills the worker."""
        self.write_app('signal.signal(signal.SIGINT, lambda *_: os.write(1, b"deaf\\n"))')
        monitor = self.run_app(shutdown=600)
        monitor.wait_for('app 1')
        monitor.send(signal.SIGINT)
        monitor.wait_for('deaf')
        self.assertIn(monitor.stop(signal.SIGINT), KILLED)

    @needs_cpython  # PyPy prints no traceback then
    @needs_posix
    def test_interrupt_after_the_end(self):
        """SIGINT arrives while we examine the exception that has ended the app: no line of ours is shown."""
        text = """
            import os, signal

            class Late(KeyboardInterrupt):
                @property
                def __cause__(self):
                    del Late.__cause__
                    os.kill(os.getpid(), signal.SIGINT)

            raise Late
            """
        self.write('app.py', textwrap.dedent(text))
        monitor = self.run_app()
        monitor.wait_for(WAITING)
        self.assertIn(monitor.stop(), {1, 130})  # CPython ends by SIGINT only for KeyboardInterrupt itself
        self.assertIn('raise Late', monitor.text())
        self.assertNotIn('hupper.py"', monitor.text())

    @needs_posix
    def test_quit(self):
        """SIGQUIT is passed on; the worker decides what to do."""
        self.write_app('import mod\nif mod.VALUE == 1: signal.signal(signal.SIGQUIT, lambda *_: os.write(1, b"no\\n"))')
        monitor = self.run_app('-v')
        monitor.wait_for('app 1')
        monitor.send(signal.SIGQUIT)
        monitor.wait_for('no')
        self.check_reload(monitor)
        self.assertEqual(monitor.stop(signal.SIGQUIT), 131)

    @needs_posix
    def test_hang_up_without_a_terminal(self):
        self.write_app()
        monitor = self.run_app()
        for number in (1, 2, 3):
            monitor.wait_for('app 1', count=number)
            monitor.send(signal.SIGHUP)
        monitor.wait_start(4)
        self.assertEqual(monitor.stop(), 143)

    @needs_posix
    @needs_cpython
    def test_hang_up_under_nohup(self):
        self.write_app('if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN: sys.exit("SIGHUP is not ignored")')

        def start(*command, **options):
            return self.start('sh', '-c', 'trap "" HUP; exec "$@"', 'sh', *command, **options)

        monitor = self.run_app(start=start)
        monitor.wait_for('app 1')
        for pid in monitor.pid, monitor.worker:
            os.kill(pid, signal.SIGHUP)
        self.write_value(22)
        monitor.wait_for('app 22')
        monitor.stop()
        self.assertEqual(len(monitor.workers), 2)
        self.assertNotIn('SIGHUP', monitor.text())

    @needs_linux
    @needs_root
    @needs_program('unshare')
    def test_as_the_first_process_of_a_container(self):
        """Processes that nobody else waits for are reaped."""
        if self.project.run('unshare', '-pf', '--mount-proc', 'true').returncode:
            self.skipTest('unshare does not work here')
        body = """
            read, write = os.pipe()
            if os.fork() == 0:
                orphan = os.fork()
                while not orphan and os.getppid() != 1: time.sleep(0.01)
                if orphan: os.write(write, b'%d' % orphan)
                os._exit(0)
            os.wait()
            orphan = int(os.read(read, 10))
            while os.path.exists(f'/proc/{orphan}'): time.sleep(0.01)
            print('same group', os.getpgrp() == os.getpgid(os.getppid()), flush=True)
            """
        self.write_app(body)

        def start(*command, **options):
            return self.start('unshare', '-pf', '--mount-proc', *command, **options)

        monitor = self.run_app(start=start)
        self.check_reload(monitor)
        monitor.wait_for('same group True', count=2)  # Ctrl-C reaches the worker, though the group's number is 0 here
        first = next(pid for pid in self.project.processes() if 'unshare' not in _command_line(pid))
        os.kill(first, signal.SIGTERM)
        self.assertEqual(monitor.wait(), 143)
        monitor.check_nothing_left()


@in_each_mode(*MODES)
class Ending(ModeCase):
    """When a worker exits by itself, one line reports it and the monitor waits for a change; there is no loop."""

    windows = True

    def check(self, body, status, line):
        self.write_app(body)
        monitor = self.run_app()
        monitor.wait_for('Waiting for a file')
        self.assertEqual(monitor.count(re.compile(line)), 1, monitor.text())
        self.write('app.py', 'print("mended", flush=True)\n' + IDLE)
        monitor.wait_for('mended')
        monitor.stop()
        self.assertEqual(len(monitor.workers), 2)

    @needs_posix
    def test_killed(self):
        self.check('import mod\nos.kill(os.getpid(), signal.SIGKILL)', 137, r'SIGKILL')

    @needs_posix
    def test_segmentation_fault(self):
        no_core = 'import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n'
        self.check(no_core + 'os.kill(os.getpid(), signal.SIGSEGV)', 139, r'SIGSEGV')

    def test_hard_exit(self):
        self.check('os._exit(1)', 1, r'status 1\b')


@in_each_mode(*MODES)
class RoughApps(ModeCase):
    """Whatever the app does to its process, reload and stop work."""

    windows = True

    def check(self, body):
        """Run `body` after the import of mod. It may do anything to stdout, so the app reports to a file."""
        self.write('mod.py', 'VALUE = 1\n')
        text = f'import os, sys, time\nfrom mod import VALUE\nreport = {self.path("report")!r}\n'
        text += textwrap.dedent(body) + '\nos.makedirs(os.path.dirname(report), exist_ok=True)\n'
        self.write('app.py', text + 'with open(report, "a") as file: print("app", VALUE, file=file)\n' + IDLE)
        self.write('report', '')
        os.chmod(self.project.base, 0o777)
        os.chmod(self.path('report'), 0o666)
        monitor = self.run_app(shutdown=600)
        for line in ('app 1\n', 'app 22\n'):
            wait_until(lambda line=line: line in self.project.read('report'), lambda: monitor.fail('no report'))
            if not WINDOWS or line == 'app 1\n':  # on Windows, Ctrl-C must not hit a booting interpreter
                self.write_value(22)
        self.assertIn(monitor.stop(), STOPPED)
        return monitor

    def test_all_descriptors_closed(self):
        self.check('os.closerange(3, 1000)')

    def test_output_closed(self):
        self.check('os.close(1)\nos.close(2)')

    def test_own_files_under_our_numbers(self):
        """The app's files stay empty: none of our messages gets into them."""
        os.mkdir(self.path('files'))
        body = """
            os.closerange(3, 100)
            for number in range(20): open(f'files/{number}', 'w').fileno() and None
            files = [os.open(f'files/{number}', os.O_RDWR) for number in range(20)]
            import late
            """
        self.write('late.py', '')
        self.check(body)
        self.assertEqual({os.path.getsize(self.path(f'files/{number}')) for number in range(20)}, {0})

    @needs_posix
    def test_another_folder_that_is_deleted(self):
        self.check('import tempfile\nos.chdir(tempfile.mkdtemp())\nos.rmdir(os.getcwd())')

    @needs_root
    def test_another_user(self):
        self.check('os.setgid(65534)\nos.setuid(65534)')

    @needs_posix
    def test_session_of_its_own(self):
        self.check('os.setsid()')

    def test_garbage_in_the_channel(self):
        """Garbage is reported and survived, like half a message and a closed channel."""
        body = """
            fd = int(os.environ['HUPPER_WORKER'].split()[3])
            if os.name == 'nt':
                import msvcrt
                fd = msvcrt.open_osfhandle(fd, os.O_BINARY)
            for data in b'x' * 9000, bytes(range(256)) * 9, b'\\0\\0reload\\0', b'\\0\\0imp':
                os.write(fd, data)
            os.close(fd)
            """
        monitor = self.check(body)
        self.assertIn('an unknown message', monitor.text('err'))

    @needs_posix
    def test_signals_blocked(self):
        """If the app blocks all signals, only SIGKILL ends it."""
        self.write_app('signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))')
        monitor = self.run_app(shutdown=0.2)
        self.check_reload(monitor)
        self.assertEqual(monitor.stop(), 137)


@in_each_mode(*MODES)
class ManyReloads(ModeCase):
    """No resource of the monitor grows."""

    @needs_linux
    @needs_cpython
    def test_nothing_grows(self):
        self.write_app()
        monitor = self.run_app(interval=0.01)

        def reload(number):
            monitor.send(signal.SIGHUP)
            monitor.wait_for('app 1', count=number)

        def state():
            status = open(f'/proc/{monitor.pid}/status')
            with status:
                memory = next(int(line.split()[1]) for line in status if line.startswith('VmRSS'))
            files = sorted(os.listdir(f'/proc/{monitor.pid}/fd'))
            return files, len(os.listdir(f'/proc/{monitor.pid}/task')), memory

        monitor.wait_for('app 1')
        last = 310 if FULL else 18
        for number in range(2, last):
            reload(number)
            if number == last // 3:
                before = state()
        after = state()
        self.assertLessEqual(len(after[0]), len(before[0]) + 3)
        self.assertEqual(after[1], before[1])
        self.assertLess(after[2], before[2] + 500)
        monitor.stop()


@in_each_mode(*MODES)
class Requests(ModeCase):
    """trigger_reload() and graceful_shutdown() from wherever an app may call them."""

    windows = True
    CALLS = """
        import atexit, threading
        from hupper import get_reloader

        def by_thread(call):
            threading.Thread(target=call).start()

        def by_signal(call):
            number = getattr(signal, 'SIGUSR1', signal.SIGINT)
            former = signal.signal(number, lambda *_: call())
            signal.raise_signal(number)
            signal.signal(number, former)

        def twice(call):
            call(), call()

        def at_the_end(call):
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
            atexit.register(call)
            get_reloader().trigger_reload()

        def now(call):
            call()

        def step():
            with open('steps', 'a+') as file:
                file.write('x')
                return file.tell()
        """

    def test_reload(self):
        body = """
            ways = [now, by_thread, by_signal, twice, at_the_end]
            number = step()
            print('step', number, flush=True)
            if number <= len(ways):
                ways[number - 1](get_reloader().trigger_reload)
                time.sleep(600)
            """
        self.write_app(textwrap.dedent(self.CALLS) + textwrap.dedent(body))
        monitor = self.run_app()
        monitor.wait_for('step 6')
        monitor.wait_for('app 1')
        self.assertIn(monitor.stop(), STOPPED)
        self.assertEqual(len(monitor.workers), 6)

    def test_shutdown(self):
        self.write_app(textwrap.dedent(self.CALLS) + 'globals()[sys.argv[1]](get_reloader().graceful_shutdown)')
        for way in ('now', 'by_thread', 'by_signal', 'twice', 'at_the_end'):
            monitor = self.run_app(way)
            self.assertIn(monitor.wait(), STOPPED | {'at_the_end': {0}, 'twice': KILLED}.get(way, set()))
            monitor.check_nothing_left()
            self.assertEqual(len(monitor.workers), 1)


@unittest.skipUnless(WINDOWS, 'Windows only')
class Windows(Case):
    """Processes and signals on Windows: jobs, a console's Ctrl-C, a byte in a pipe for the polite stop."""

    APP = """
        import subprocess, sys, time
        from mod import VALUE
        child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
        print('app', VALUE, 'child', child.pid, flush=True)
        try:
            time.sleep(600)
        finally:
            print('ended', VALUE, flush=True)
        """

    def run_app(self, app=APP):
        self.write('mod.py', 'VALUE = 1\n')
        self.write('app.py', app)
        return self.hupper('-v', '--shutdown-interval', '5', '-m', 'app')

    def check_gone(self, *pids):
        def left():
            return [pid for pid in pids if _is_alive(pid)]

        wait_until(lambda: not left(), lambda: f'left behind: {left()}')

    def test_reload_is_polite_and_silent(self):
        monitor = self.run_app()
        child = int(monitor.wait_for(re.compile('app 1 child (.+)'))[1])
        self.write_value(22)
        monitor.wait_for('ended 1')
        monitor.wait_for('app 22')
        self.assertNotIn('KeyboardInterrupt', monitor.text())
        self.assertIn(f'[DEBUG] Ended what the worker left behind: PID {child}.', monitor.text('err'))
        self.check_gone(child, monitor.workers[0])

    def test_interrupt(self):
        monitor = self.run_app()
        child = int(monitor.wait_for(re.compile('app 1 child (.+)'))[1])
        self.assertEqual(monitor.stop(), 0xC000013A)  # STATUS_CONTROL_C_EXIT, as for any Python
        monitor.wait_for('ended 1')
        self.check_gone(child, *monitor.workers)

    def test_interrupt_after_a_crash(self):
        monitor = self.run_app('import sys\nsys.exit(3)\n')
        monitor.wait_for(WAITING)
        monitor.stop()

    def test_monitor_is_killed(self):
        """The worker and its children end."""
        monitor = self.run_app()
        child = int(monitor.wait_for(re.compile('app 1 child (.+)'))[1])
        monitor.process.kill()
        self.check_gone(child, *monitor.workers)

    def test_deaf_worker_is_killed(self):
        monitor = self.run_app('import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n' + self.DEAF)
        monitor.wait_for('app 1')
        self.write_value(22)
        monitor.wait_for('--shutdown-interval')
        monitor.wait_for('app 22')

    DEAF = 'import time\nfrom mod import VALUE\nprint("app", VALUE, flush=True)\nwhile True: time.sleep(1)\n'

    def test_worker_that_reads(self):
        """The polite stop interrupts input()."""
        self.write('mod.py', 'VALUE = 1\n')
        self.write('app.py', 'from mod import VALUE\nprint("app", VALUE, flush=True)\ninput()\nprint("read")\n')
        monitor = self.hupper('--shutdown-interval', '600', '-m', 'app', stdin=subprocess.PIPE)
        self.addCleanup(monitor.process.stdin.close)
        self.check_reload(monitor)
        # before 3.10, a canceled read raises OSError, whose traceback is shown
        unwanted = 'ERROR|read' if sys.version_info < (3, 10) else 'ERROR|Traceback|read'
        self.assertEqual(monitor.count(re.compile(unwanted)), 0, monitor.text())

    def test_name_in_another_case(self):
        self.write_app()
        for target in (['app.py'], ['-m', 'app']):
            monitor = self.start(sys.executable, 'HUPPER.PY', '--reload-interval', '0.2', *target)
            self.write_value(1)
            self.check_reload(monitor)
            monitor.stop()

    def test_ended_by_the_system(self):
        """As after a fault: Windows calls such statuses exceptions."""
        monitor = self.run_app('import os, mod\nos._exit(0xC0000005 - 2**32)\n')
        monitor.wait_for('was ended by exception 0xC0000005')
        monitor.wait_for(WAITING)

    def test_requests(self):
        monitor = self.run_app("""
            import os, time
            from hupper import get_reloader
            with open('steps', 'a+') as steps:
                steps.write('x')
                step = steps.tell()
            print('step', step, flush=True)
            getattr(get_reloader(), 'trigger_reload' if step < 3 else 'graceful_shutdown')()
            time.sleep(600)
            """)
        monitor.wait_for('step 3')
        monitor.wait()
        self.check_gone(*monitor.workers)

    def test_child_is_below_the_monitor(self):
        """A child of the worker starts no monitor of its own, but its code runs."""
        self.write('two.py', TWO_LINES + 'print("two", flush=True)\n')
        monitor = self.run_app('import subprocess, sys, mod\nsubprocess.run([sys.executable, "two.py"])\n' + IDLE)
        monitor.wait_for('no monitor inside a monitor')
        monitor.wait_for('two')


def _is_alive(pid):
    import _winapi

    try:
        handle = _winapi.OpenProcess(0x100000, False, pid)  # SYNCHRONIZE
    except OSError:
        return False
    try:
        return _winapi.WaitForSingleObject(handle, 0) == _winapi.WAIT_TIMEOUT
    finally:
        _winapi.CloseHandle(handle)


# --- kept sockets ------------------------------------------------------------


class KeptSocketsDecisions(unittest.TestCase):
    """When the monitor gives up a socket that it keeps, with simulated time and a simulated worker."""

    def setUp(self):
        if WINDOWS:
            self.skipTest('POSIX only')
        self.now = 100.0
        self.lines = []
        logger = mock.Mock(error=self.lines.append)
        clock = mock.patch.object(hupper.time, 'monotonic', lambda: self.now)
        clock.start()
        self.addCleanup(clock.stop)
        self.kept = hupper._KeptSockets(logger, True)
        self.addCleanup(self.kept.close)
        self.holder = None  # the process that has the app's sockets open, as far as the monitor can see
        self.kept._holder = lambda kept: self.holder if kept.pid else None
        self.kept.worker_started(1)

    def bind(self, pid=1, name='localhost', listen=True, times=1):
        """Act as a worker: ask for the socket of an address, or else bind a new one; return the inode."""
        with socket.socket() as sock:
            sock.bind(('127.0.0.1', 0))
            for _ in range(times):
                _, found = self.request(f'bind\0{pid}\080\0{name}', sock.fileno())
            if listen:
                sock.listen()
            inode = os.fstat((found or [sock.fileno()])[0]).st_ino
            for fd in found:
                os.close(fd)
            return inode

    def request(self, text, *fds):
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                hupper._send_fds(self.kept.worker_fd, text.encode(), theirs.fileno(), *fds)
                self.kept.step()
            return hupper._receive_fds(ours.fileno())

    def send(self, *fields):
        hupper._send_fds(self.kept.worker_fd, '\0'.join(fields).encode())
        self.kept.step()

    def pass_time(self, seconds):
        """Let time pass and the loop handle what is due; return the number of kept sockets."""
        self.now += seconds
        until = self.kept.wait_until()
        if until is not None and until <= self.now:
            self.kept.step()
        return len(self.kept._sockets)

    def test_closed_by_the_running_app(self):
        self.bind()
        self.assertIsNone(self.kept.wait_until())
        self.send('closed', '80', 'localhost')
        self.assertEqual(self.pass_time(4.9), 1)
        self.assertEqual(self.pass_time(0.2), 0)
        self.assertIsNone(self.kept.wait_until())

    def test_closed_but_open_elsewhere(self):
        """Open in the worker: no need to look again. Open in a child, whose exit nobody reports: look again."""
        self.bind()
        self.holder = 1
        self.send('closed', '80', 'localhost')
        self.assertEqual(self.pass_time(5.1), 1)
        self.assertIsNone(self.kept.wait_until())
        self.holder = 2
        self.send('closed')
        for _ in range(3):
            self.assertEqual(self.pass_time(5.1), 1)
        self.holder = None
        self.assertEqual(self.pass_time(5.1), 0)

    def test_bound_by_a_child(self):
        self.bind(pid=2)
        self.holder = 2
        self.assertEqual(self.pass_time(5.1), 1)
        self.holder = None
        self.assertEqual(self.pass_time(5.1), 0)

    def test_closed_without_having_listened(self):
        """As in a client that binds its port: the peer must see the end of the connection."""
        self.bind(listen=False)
        self.send('closed', '80', 'localhost')
        self.assertEqual(self.pass_time(0), 0)

    def test_closed_in_a_crash(self):
        self.bind()
        self.send('closed', '80', 'localhost')
        self.now += 4
        self.kept.worker_ended()
        self.assertEqual(self.pass_time(10_000), 1)

    def test_closed_because_it_was_asked_to_stop(self):
        self.bind()
        self.kept.worker_stopping()
        self.send('closed', '80', 'localhost')
        self.assertEqual(self.pass_time(10), 1)
        self.kept.worker_ended()
        self.assertEqual(self.pass_time(10), 1)

    def test_closed_just_before_it_was_asked_to_stop(self):
        self.bind()
        self.send('closed', '80', 'localhost')
        self.now += 4
        self.kept.worker_stopping()
        self.assertEqual(self.pass_time(10), 1)

    def test_not_bound_again(self):
        """The time limit starts when the new worker has booted, however long that takes."""
        self.bind()
        self.kept.worker_ended()
        self.kept.worker_started(2)
        self.assertEqual(self.pass_time(1000), 1)
        self.kept.worker_booted()
        self.assertEqual(self.pass_time(29.9), 1)
        self.assertEqual(self.pass_time(0.2), 0)

    def test_bound_again(self):
        inode = self.bind()
        self.kept.worker_ended()
        self.kept.worker_started(2)
        self.kept.worker_booted()
        self.holder = 2
        self.assertEqual(self.bind(pid=2), inode)
        self.assertEqual(self.pass_time(100), 1)

    def test_another_address_of_the_port(self):
        inode = self.bind()
        self.kept.worker_ended()
        self.assertNotEqual(self.bind(name='::', times=2), inode)  # the system refuses the first attempt
        self.assertEqual([kept.name for kept in self.kept._sockets], ['::'])

    def test_not_to_be_kept(self):
        """A socket with SO_REUSEPORT is not kept, and the kept one without it is in its way."""
        self.bind()
        self.kept.worker_ended()
        self.bind(name='')
        self.assertEqual(self.kept._sockets, [])

    def test_which_ports_wait(self):
        """A port no longer waits once any address of it has been bound."""
        self.bind(name='::')
        self.bind()
        self.assertEqual(self.request('waiting')[0], b'')
        self.kept.worker_ended()
        self.assertEqual(self.request('waiting')[0], b'80')
        self.bind()
        self.assertEqual(self.request('waiting')[0], b'')

    @needs_linux
    def test_two_addresses_of_a_port(self):
        """Neither gets in the way of the other."""
        self.holder = 1
        names = '0.0.0.0', '::'
        inodes = [self.bind(name=name) for name in names]
        self.kept.worker_ended()
        self.assertEqual([self.bind(name=name) for name in names], inodes)

    def test_bound_twice(self):
        inode = self.bind()
        self.holder = 1
        self.assertNotEqual(self.bind(), inode)
        self.assertIn(inode, [kept.inode for kept in self.kept._sockets])

    def test_messages_that_are_none(self):
        before = os.listdir('/dev/fd')
        with open(os.devnull) as file:
            for text in ('', 'bind', 'bind\0x\0y\0z', 'closed\0x', 'closed\0x\0y\0z\0', 'bye\0\0', '\0' * 900):
                for fds in ((), (file.fileno(),), (file.fileno(),) * 2, (file.fileno(),) * 9):
                    hupper._send_fds(self.kept.worker_fd, text.encode(), *fds)
                    self.kept.step()
        self.assertEqual([self.pass_time(0), len(self.lines)], [0, 1])
        self.assertEqual(os.listdir('/dev/fd'), before)

    def test_limit(self):
        for number in range(100):
            self.bind(name=f'host {number}', listen=False)
            self.holder = 1
        self.assertEqual(len(self.kept._sockets), hupper._KeptSockets._LIMIT)


NET = """
import os, socket, sys, time
from mod import VALUE

PORT = int(os.environ['PORT'])


def bind(host='127.0.0.1', port=PORT):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    return sock


def listen(*address):
    sock = bind(*address)
    sock.listen()
    return sock


def serve(sock):
    print('app', VALUE, flush=True)
    while True:
        connection, _ = sock.accept()
        connection.sendall(str(VALUE).encode())
        connection.close()
"""

SERVERS = {
    'plain': 'from net import *\nserve(listen())\n',
    'http.server': """
        from net import *
        import http.server
        class Handler(http.server.BaseHTTPRequestHandler):
            def handle(self): self.wfile.write(str(VALUE).encode())
        server = http.server.HTTPServer(('127.0.0.1', PORT), Handler)
        print('app', VALUE, flush=True)
        server.serve_forever()
        """,
    'dual stack': """
        from net import *
        import socketserver
        class Handler(socketserver.StreamRequestHandler):
            def handle(self): self.wfile.write(str(VALUE).encode())
        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True
            address_family = socket.AF_INET6
            def server_bind(self):
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                super().server_bind()
        server = Server(('::', PORT), Handler)
        print('app', VALUE, flush=True)
        server.serve_forever()
        """,
    'asyncio': """
        from net import *
        import asyncio, signal
        async def answer(reader, writer):
            writer.write(str(VALUE).encode())
            writer.close()
        async def main():
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            async with await asyncio.start_server(answer, 'localhost', PORT):
                print('app', VALUE, flush=True)
                await stop.wait()
        asyncio.run(main())
        """,
    'registered before it is bound': """
        from net import *
        import selectors
        selector = selectors.DefaultSelector()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
        sock.bind(('127.0.0.1', PORT))
        sock.listen()
        print('app', VALUE, flush=True)
        while True:
            selector.select()
            try: connection, _ = sock.accept()
            except BlockingIOError: continue
            connection.sendall(str(VALUE).encode())
            connection.close()
        """,
    'forked before': """
        from net import *
        sock = listen()
        for _ in range(2):
            if os.fork() == 0:
                serve(sock)
        os.wait()
        """,
    'TLS, by another object': """
        from net import *
        import ssl
        sock = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(bind(), server_side=True)
        sock.listen()
        copy = socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        sock.close()
        serve(socket.socket(fileno=copy.detach()))
        """,
    'shut down at its end': """
        from net import *
        import signal
        def end(*_):
            sock.shutdown(socket.SHUT_RDWR)
            sock.close()
            time.sleep(0.2)
            sys.exit()
        signal.signal(signal.SIGTERM, end)
        sock = listen()
        serve(sock)
        """,
}


def ask(port, host='127.0.0.1'):
    """Return the answer of the server at a port; raise OSError if there is none."""
    with socket.create_connection((host, port), LIMIT) as connection:
        return b''.join(iter(lambda: connection.recv(100), b'')).decode()


class Client(threading.Thread):
    """A context manager that sends one request after the other until it exits."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.answers = collections.Counter()  # or the names of exceptions
        self.is_over = False

    def run(self):
        while not self.is_over:
            try:
                self.answers[ask(self.port) or 'nothing'] += 1
            except OSError as error:
                self.answers[type(error).__name__] += 1
            time.sleep(0.001)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.is_over = True
        self.join()


@in_each_mode(*MODES)
class KeptSockets(ModeCase):
    """--keep-sockets: the app's listening sockets outlive the worker."""

    def setUp(self):
        super().setUp()
        self.port = free_port()
        self.write('net.py', NET)
        self.write_value(1)

    def serve(self, app='from net import *\nserve(listen())\n', **options):
        self.write('app.py', app)
        env = {'PORT': str(self.port), 'HUPPER_KEEP_SOCKETS': '1', **options.pop('env', {})}
        return self.run_app(env=env, **options)

    def wait_for_answer(self, value):
        def is_answered():
            with contextlib.suppress(OSError):
                return ask(self.port) == str(value)

        wait_until(is_answered, f'the answer is not {value!r}')

    def is_refused(self):
        try:
            ask(self.port)
        except OSError as error:
            return isinstance(error, ConnectionRefusedError)  # otherwise it was given up while we waited
        return False

    def wait_until_free(self):
        def is_free():
            with socket.socket() as sock, contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(('127.0.0.1', self.port))
                return True

        wait_until(is_free, 'the port is not free')

    def ask_later(self):
        """Send a request; return a function that waits for the answer."""
        answers = queue.Queue()

        def run():
            try:
                answers.put(ask(self.port))
            except OSError as error:
                answers.put(repr(error))

        threading.Thread(target=run, daemon=True).start()
        return lambda: answers.get(timeout=LIMIT)

    def check_servers(self, *names, **options):
        for name in names:
            with self.subTest(name):
                self.write_value(1)
                monitor = self.serve(SERVERS[name], **options)
                monitor.wait_for('app 1')
                with Client(self.port) as client:
                    for value in range(2, 12 if FULL else 5):
                        self.write_value(value)
                        wait_until(lambda value=value: client.answers[str(value)], f'{name} does not answer')
                bad = {text: count for text, count in client.answers.items() if not text.isdigit()}
                self.assertLessEqual(set(bad), {'ConnectionResetError', 'nothing'})  # requests that were cut off
                self.assertLessEqual(sum(bad.values()), 2 * value)
                monitor.stop()
                self.wait_until_free()

    def test_nobody_is_refused(self):
        self.check_servers('plain', 'http.server', 'asyncio')

    @needs_linux  # for epoll
    def test_nobody_is_refused_by_one_that_waits_early(self):
        self.check_servers('registered before it is bound')

    @only_full
    def test_nobody_is_refused_by_others(self):
        self.check_servers('forked before', 'TLS, by another object', 'shut down at its end')

    def test_nobody_is_refused_by_a_dual_stack(self):
        try:
            with socket.socket(socket.AF_INET6) as sock:
                sock.bind(('::1', 0))
        except OSError:
            self.skipTest('no IPv6 here')
        self.check_servers('dual stack')

    def test_polling(self):
        self.check_servers('plain', env={'HUPPER_DEFAULT_MONITOR': 'polling'})

    # 1. How an app with one port binds it.

    def test_tried_first(self):
        """Each worker binds and closes the port, with or without listening, before it binds the port for good."""
        for trial in ('listen().close()', 'bind().close()'):
            with self.subTest(trial):
                self.write_value(1)
                monitor = self.serve(f'from net import *\n{trial}\n{trial}\nserve(listen())\n')
                for value in (1, 2, 3):
                    self.write_value(value)
                    monitor.wait_for(f'app {value}')
                    self.wait_for_answer(value)
                monitor.stop()

    @needs_linux  # elsewhere a socket has no inode
    def test_tried_by_another_name(self):
        """Another name of the same address: the socket is kept."""
        for name, address in ('localhost', '127.0.0.1'), ('', '0.0.0.0'):
            app = f"""
                from net import *
                bind({name!r}).close()
                sock = listen({address!r})
                print('inode', os.fstat(sock.fileno()).st_ino, flush=True)
                serve(sock)
                """
            with self.subTest(address):
                monitor = self.serve(app)
                for value in (1, 2, 3):
                    self.write_value(value)
                    monitor.wait_for(f'app {value}')
                monitor.stop()
                self.assertEqual(len(set(re.findall('inode.*', monitor.text()))), 1)

    def test_asked_first(self):
        """A program that connects to find a free port finds it free, until the app listens there."""
        app = """
            from net import *
            def connect():
                with socket.socket() as blocking, socket.socket() as other:
                    other.settimeout(10)
                    try: result = blocking.connect(('localhost', PORT))
                    except OSError as error: result = type(error).__name__
                    return result, other.connect_ex(('127.0.0.1', PORT))
            print('before', VALUE, *connect(), flush=True)
            sock = listen()
            print('after', VALUE, *connect(), flush=True)
            serve(sock)
            """
        monitor = self.serve(app)
        for value in (1, 2, 3):
            self.write_value(value)
            monitor.wait_for(f'before {value} ConnectionRefusedError {errno.ECONNREFUSED}')
            monitor.wait_for(f'after {value} None 0')
            self.wait_for_answer(value)
        monitor.stop()

    def test_asked_first_by_another_address(self):
        """A program that listens on all addresses may ask at any address of this machine."""
        app = """
            from net import *
            def connect():
                with socket.socket() as first, socket.socket() as second:
                    return first.connect_ex(('127.0.0.1', PORT)), second.connect_ex(('', PORT))
            print('before', VALUE, *connect(), flush=True)
            sock = listen('')
            print('after', VALUE, *connect(), flush=True)
            serve(sock)
            """
        monitor = self.serve(app)
        for value in (1, 2):
            self.write_value(value)
            monitor.wait_for(f'before {value} {errno.ECONNREFUSED} {errno.ECONNREFUSED}')
            monitor.wait_for(f'after {value} 0 0')
        monitor.stop()

    def test_asked_after_it_was_closed(self):
        """A program that waits until nobody listens any more (CherryPy, at its end) need not wait."""
        app = """
            from net import *
            import signal
            def end(*_):
                sock.close()
                os.write(1, f'end {VALUE} {connect()}\\n'.encode())  # print() may be under way
                sys.exit()
            def connect():
                with socket.socket() as client:
                    return client.connect_ex(('127.0.0.1', PORT))
            signal.signal(signal.SIGTERM, end)
            listen().close()
            closed = connect()
            sock = listen()
            print('closed', VALUE, closed, connect(), flush=True)
            serve(sock)
            """
        monitor = self.serve(app)
        for value in (1, 2):
            monitor.wait_for(f'closed {value} {errno.ECONNREFUSED} 0')
            self.write_value(value + 1)
            monitor.wait_for(f'end {value} {errno.ECONNREFUSED}')
        monitor.stop()

    def test_bound_twice(self):
        app = """
            from net import *
            sock = listen()
            for host in '127.0.0.1', 'localhost':
                try: listen(host)
                except OSError as error: print(host, error.errno, flush=True)
            serve(sock)
            """
        monitor = self.serve(app)
        for value in (1, 2):
            self.write_value(value)
            monitor.wait_for(f'app {value}')
            self.assertEqual(ask(self.port), str(value))
        self.assertEqual(monitor.count(f'127.0.0.1 {errno.EADDRINUSE}'), 2)
        self.assertEqual(monitor.count(f'localhost {errno.EADDRINUSE}'), 2)
        monitor.stop()

    def test_port_of_somebody_else(self):
        with socket.socket() as sock:
            sock.bind(('127.0.0.1', self.port))
            sock.listen()
            monitor = self.serve()
            monitor.wait_for('Address already in use')
            monitor.wait_for('Waiting for a file')
        self.write_value(2)
        monitor.wait_for('app 2')
        self.assertEqual(ask(self.port), '2')
        monitor.stop()

    # 2. Closed by the app.

    @only_full
    @needs_linux
    def test_closed_while_it_runs(self):
        """However the app closes the socket, noticed or not, connections are finally refused, as without us."""
        ways = [
            'sock.close()',
            'sock.shutdown(socket.SHUT_RDWR)',
            'os.close(sock.detach())',
            'copy = sock.dup(); sock.close(); copy.close()',
            'os.close(sock.fileno()); sock.detach()',
        ]
        if LINUX:
            ways.append('del sock')
        for way in ways:
            app = f'from net import *\nsock = listen()\n{way}\nprint("app", flush=True)\nwhile True: time.sleep(0.1)\n'
            self.write('app.py', app)
            with self.subTest(way):
                monitor = self.serve(app)
                monitor.wait_for('app')
                wait_until(self.is_refused)
                monitor.stop()

    def test_options_are_those_of_the_new_code(self):
        app = """
            from net import *
            sock = socket.socket()
            options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.IPPROTO_TCP, socket.TCP_NODELAY)]
            for option in options:
                sock.setsockopt(*option, VALUE % 2)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(('127.0.0.1', PORT))
            sock.listen()
            are_set = [bool(sock.getsockopt(*option)) for option in options]
            print('app', VALUE, are_set, flush=True)
            serve(sock)
            """
        monitor = self.serve(app)
        for value in 1, 2, 3:
            if value > 1:
                self.write_value(value)
            monitor.wait_for(f'app {value} {[value % 2 == 1] * 2}')
        monitor.stop()

    def test_closed_in_its_end(self):
        app = """
            from net import *
            with listen() as sock:
                print('app', VALUE, flush=True)
                if VALUE == 2: raise RuntimeError
                serve(sock)
            """
        monitor = self.serve(app)
        monitor.wait_for('app 1')
        self.write_value(2)
        monitor.wait_for('Waiting for a file')
        answer = self.ask_later()
        self.write_value(3)
        self.assertEqual(answer(), '3')
        monitor.stop()

    # 3. See KeptSocketsDecisions.test_not_bound_again.

    # 4. The new code binds an overlapping address; a child binds.

    def test_overlapping_addresses(self):
        self.write_value('127.0.0.1')
        monitor = self.serve('from net import *\nserve(listen(VALUE))\n')
        for host in ('127.0.0.1', '', 'localhost', '127.0.0.1', '0.0.0.0'):
            self.write_value(host)
            self.wait_for_answer(host)
        monitor.stop()

    def test_child_is_made_again(self):
        app = """
            from net import *
            while True:
                pid = os.fork()
                if not pid:
                    sock = listen()
                    print('inode', os.fstat(sock.fileno()).st_ino, flush=True)
                    connection, _ = sock.accept()
                    connection.sendall(str(VALUE).encode())
                    connection.close()
                    os._exit(1)
                os.waitpid(pid, 0)
            """
        monitor = self.serve(app)
        monitor.wait_for('inode')
        self.assertEqual([ask(self.port) for _ in range(5)], ['1'] * 5)
        self.write_value(2)
        self.wait_for_answer(2)
        inodes = set(re.findall(r'inode (\d+)', monitor.text()))
        self.assertEqual(len(inodes), 1, inodes)
        monitor.stop()

    # 5. While the monitor waits.

    def test_kept_while_it_waits(self):
        failures = {'crash': 'raise RuntimeError', 'syntax': 'VALUE = (', 'module': 'import none', 'exit': 'exit(3)'}
        monitor = self.serve()
        monitor.wait_for('app 1')
        for number, (name, text) in enumerate(failures.items(), 11):
            with self.subTest(name):
                mark = monitor.mark()
                self.write('mod.py', text + '\n')
                monitor.wait_for('still running' if name == 'syntax' else 'Waiting for a file', after=mark)
                answer = self.ask_later()
                if name == 'syntax':
                    self.assertEqual(answer(), str(number - 1))
                self.write_value(number)
                monitor.wait_for(f'app {number}')
                if name != 'syntax':
                    self.assertEqual(answer(), str(number))
        monitor.stop()

    def test_given_up_with_the_end_of_the_program(self):
        monitor = self.serve(
            'from net import *\nsock = listen()\nprint("app", flush=True)\ninput()\n', stdin=subprocess.PIPE
        )
        monitor.wait_for('app')
        monitor.process.stdin.write(b'\n')
        monitor.process.stdin.close()
        monitor.wait_for('Waiting for a file')
        wait_until(self.is_refused)
        monitor.stop()

    # 6. The port is free at the end.

    @only_full
    def test_free_at_the_end(self):
        for signum in ('SIGTERM', 'SIGINT', 'SIGKILL'):
            for text in ('VALUE = 1', 'raise RuntimeError') if signum != 'SIGKILL' or LINUX else ():
                with self.subTest(signum, text=text):
                    self.write_value(1)
                    monitor = self.serve()
                    monitor.wait_for('app 1')
                    self.write('mod.py', text)
                    monitor.wait_for('app 1', count=2) if text == 'VALUE = 1' else monitor.wait_for('Waiting for a')
                    monitor.send(getattr(signal, signum))
                    monitor.wait()
                    self.wait_until_free()

    # 7. Descriptors and connections.

    @needs_linux
    def test_inherited_as_in_plain_python(self):
        app = """
            from net import *
            import subprocess
            sock = socket.socket()
            sock.settimeout(VALUE or None)
            sock.set_inheritable(VALUE in (1, 2))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(('127.0.0.1', PORT))
            sock.listen()
            lists = subprocess.check_output(['sh', '-c', 'exec ls -l /proc/self/fd'], close_fds=False, text=True)
            facts = lists.count('socket:'), os.get_blocking(sock.fileno()), sock.gettimeout()
            print('sockets', VALUE, *facts, flush=True)
            while True: time.sleep(0.1)
            """
        monitor = self.serve(app)
        for value in (1, 0, 2):
            self.write_value(value)
            line = monitor.wait_for(f'sockets {value}')
            expected = f'sockets {value} {int(value > 0)} {value == 0} {float(value) if value else None}'
            self.assertEqual(line, expected)
        monitor.stop()

    def test_queue_is_answered_by_the_next_worker(self):
        app = """
            from net import *
            sock = listen()
            if VALUE == 1:
                print('app 1', flush=True)
                time.sleep(100)
            serve(sock)
            """
        monitor = self.serve(app)
        monitor.wait_for('app 1')
        connections = [socket.create_connection(('127.0.0.1', self.port), LIMIT) for _ in range(20)]
        self.write_value(2)
        for connection in connections:
            with connection:
                self.assertEqual(connection.recv(10), b'2')
        monitor.stop()

    @only_full
    def test_many_wait(self):
        """More connections than the app's own backlog holds."""
        monitor = self.serve('from net import *\nsock = bind()\nsock.listen(2)\nserve(sock)\n')
        monitor.wait_for('app 1')
        self.write('mod.py', 'raise RuntimeError\n')
        monitor.wait_for('Waiting for a file')
        connections = [socket.create_connection(('127.0.0.1', self.port), LIMIT) for _ in range(50)]
        self.write_value(2)
        for connection in connections:
            with connection:
                self.assertEqual(connection.recv(10), b'2')
        monitor.stop()

    @only_full
    @needs_linux
    def test_no_descriptor_grows(self):
        monitor = self.serve(interval=0.01)

        def descriptors(pid):
            return len(os.listdir(f'/proc/{pid}/fd'))

        counts = []
        for number in range(1, 300 if FULL else 15):
            monitor.wait_for('app 1', count=number)
            monitor.wait_start(number)  # that line arrives through another pipe
            self.assertEqual(ask(self.port), '1')
            counts.append((descriptors(monitor.pid), descriptors(monitor.worker)))
            monitor.send(signal.SIGHUP)
        self.assertLessEqual(counts[-1][0], counts[2][0] + 3)
        self.assertLessEqual(counts[-1][1], counts[0][1])  # the first worker has made its own socket
        monitor.stop()

    # 9. What an app may do to our descriptor.

    OURS = """
        from net import *
        def ours():
            for name in os.listdir('/proc/self/fd'):
                try:
                    sock = socket.socket(fileno=os.dup(int(name)))
                except OSError:
                    continue
                if sock.type == socket.SOCK_DGRAM:
                    return sock, int(name)
        """

    @needs_linux
    def test_flood(self):
        app = """
            import threading
            def flood():
                while True: pair.send(b'bind' * 100)
            pair, _ = ours()
            for _ in range(3): threading.Thread(target=flood, daemon=True).start()
            serve(listen())
            """
        monitor = self.serve(textwrap.dedent(self.OURS) + textwrap.dedent(app))
        monitor.wait_for('app 1')
        self.write_value(2)
        monitor.wait_for('app 2')
        self.wait_for_answer(2)
        self.assertEqual(monitor.count('unknown message about sockets'), 1)
        monitor.stop()

    @needs_linux
    def test_closed_pair(self):
        """The app puts its own socket under the number of ours: from then on, it runs as without the option."""
        app = """
            pair, number = ours()
            pair.close()
            own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            other.setblocking(False)
            os.dup2(own.fileno(), number)
            sock = listen()
            print('select', select.select([other], [], [], 0)[0], flush=True)
            serve(sock)
            """
        monitor = self.serve(textwrap.dedent(self.OURS) + 'import select\n' + textwrap.dedent(app))
        for value in (1, 2):
            self.write_value(value)
            monitor.wait_for(f'app {value}')
            self.wait_for_answer(value)
        self.assertEqual(monitor.count('select []'), 2)
        monitor.stop()

    # The option.

    def test_without_it(self):
        """Nothing is imported, nothing replaced."""
        app = """
            import sys
            names = sorted({'_socket', 'socket'}.intersection(sys.modules))
            import socket
            print('modules', names, socket.socket.__mro__[1] is socket.SocketType, flush=True)
            import time
            while True: time.sleep(0.1)
            """
        self.write('app.py', app)
        with self.start(sys.executable, 'app.py') as process:
            plain = process.wait_for('modules')
        for value in ('0', ''):
            monitor = self.serve(app, env={'HUPPER_KEEP_SOCKETS': value})
            self.assertEqual(monitor.wait_for('modules'), plain)
            monitor.stop()


@needs_posix
class KeptSocketsOption(Case):
    def test_command_line(self):
        self.write('net.py', NET)
        self.write_value(1)
        self.write('app.py', SERVERS['plain'])
        port = free_port()
        monitor = self.hupper('--keep-sockets', 'app.py', env={'PORT': str(port), 'HUPPER_KEEP_SOCKETS': '0'})
        monitor.wait_for('app 1')
        self.write('mod.py', 'import none\n')
        monitor.wait_for('Waiting for a file')
        with socket.create_connection(('127.0.0.1', port), LIMIT) as connection:
            self.write_value(2)
            self.assertEqual(connection.recv(10), b'2')
        monitor.stop()

    def test_argument_wins(self):
        with mock.patch.dict(os.environ, HUPPER_KEEP_SOCKETS='1'):
            for argument, expected in ((None, True), (False, False)):
                config = hupper.Reloader('app.main', None, hupper.SilentLogger(), keep_sockets=argument)
                self.assertIs(config.keep_sockets, expected)

    def test_bad_value(self):
        self.write('start.py', TWO_LINES)
        for command in (['hupper.py', 'start.py'], ['start.py']):
            for name in ('HUPPER_KEEP_SOCKETS', 'HUPPER_PRELOAD'):
                result = self.project.python(*command, env={name: 'yes'})
                self.assertEqual(result.returncode, 2)
                self.assertEqual(result.stderr, f"[ERROR] {name} must be 1 or 0, not 'yes'\n")


class KeptSocketsElsewhere(unittest.TestCase):
    @needs_linux
    def test_open_files_of_a_busy_process(self):
        """A file that is closed while we look does not hide the others."""
        code = 'import os, socket\nsock = socket.socket()\nprint(os.fstat(sock.fileno()).st_ino, flush=True)\n'
        code += 'while True:\n    for fd in [os.dup(1) for _ in range(50)]: os.close(fd)\n'
        with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE) as process:
            self.addCleanup(process.kill)
            name = f'socket:[{int(process.stdout.readline())}]'
            missed = sum(name not in hupper._KeptSockets._open_files(process.pid) for _ in range(300))
            process.kill()
        self.assertEqual(missed, 0)

    @needs_posix
    def test_default_timeout(self):
        """The program's default timeout does not apply to our own sockets: we wait for a slow monitor."""
        code = 'import hupper, socket, threading\nours, theirs = socket.socketpair()\n'
        code += 'socket.setdefaulttimeout(0.05)\nthreading.Timer(0.5, theirs.send, [b"x"]).start()\n'
        code += 'import _socket\nhupper._socket = _socket\nprint(hupper._receive_fds(ours.fileno()))\n'
        result = subprocess.run([sys.executable, '-c', code], cwd=HERE, stdout=subprocess.PIPE, timeout=LIMIT)
        self.assertEqual(result.stdout.decode().strip(), "(b'x', [])")

    def test_no_posix(self):
        logger = mock.Mock()
        with mock.patch.object(hupper, 'os', mock.Mock(spec=['environ'], environ={})):
            self.assertIsNone(hupper._KeptSockets(logger, False).worker_fd)
            with self.assertRaises(SystemExit) as caught:
                hupper._KeptSockets(logger, True)
        self.assertEqual(caught.exception.code, 2)
        self.assertIn('POSIX', logger.error.call_args[0][0])


@in_each_mode(*MODES)
class SocketActivation(ModeCase):
    """`man 3 sd_listen_fds`: the worker gets what systemd gives to the monitor."""

    START_ACTIVATED = """
        import os, socket, sys
        sock = socket.socket()
        sock.bind(('127.0.0.1', 0))
        sock.listen()
        print('port', sock.getsockname()[1], flush=True)
        os.dup2(sock.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_PIDFDID='1')
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
        """

    def test_socket_activation(self):
        app = """
            import os, socket
            from mod import VALUE
            assert os.environ.pop('LISTEN_PID') == str(os.getpid()) and 'LISTEN_PIDFDID' not in os.environ
            sock = socket.socket(fileno=3)
            print('app', VALUE, flush=True)
            while True:
                connection, _ = sock.accept()
                connection.sendall(str(VALUE).encode())
                connection.close()
            """
        for option in ('0', '1'):
            self.write_value(1)
            self.write('app.py', app)
            self.write('activate.py', self.START_ACTIVATED)
            command, env = self.command('-m', 'app')
            env['HUPPER_KEEP_SOCKETS'] = option
            monitor = self.start(command[0], 'activate.py', *command[1:], env=env)
            port = int(monitor.wait_for('port').split()[1])
            for value in (1, 2, 3):
                self.write_value(value)
                monitor.wait_for(f'app {value}')
                wait_until(lambda port=port, value=value: ask(port) == str(value))
            monitor.stop()


# --- terminal ----------------------------------------------------------------


class Terminal(Monitor):
    """A command on its own pseudo-terminal, as in a window or a login.

    Marks are positions in `output`; wait_for() finds a text or pattern anywhere, even in a prompt.
    """

    CONTROL = (
        'import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])'
    )

    def __init__(self, project, *command, **options):
        self.project, self.seen, self.output = project, None, ''
        self._news = threading.Condition()
        self.master, slave = os.openpty()
        self._stop_reader, self._stop = os.pipe()
        options['env'] = project.environment(**{'TERM': 'dumb', **options.pop('env', {})})
        command = [sys.executable, '-ISc', self.CONTROL, *command]
        streams = dict(stdin=slave, stdout=slave, stderr=slave)
        self.process = subprocess.Popen(command, cwd=project.folder, start_new_session=True, **streams, **options)
        self.pid = self.process.pid
        os.close(slave)
        self._readers = [threading.Thread(target=self._read_terminal, daemon=True)]
        self._readers[0].start()

    def _read_terminal(self):
        while self._stop_reader not in select.select([self.master, self._stop_reader], [], [])[0]:
            try:
                text = os.read(self.master, 1 << 16).decode('utf-8', 'backslashreplace')
            except OSError:
                text = ''
            with self._news:
                self.output += text
                self._news.notify_all()
            if not text:
                break  # no process has it open any more

    @property
    def lines(self):
        return [('err', line) for line in self.output.splitlines()]

    def mark(self):
        return len(self.output)

    def text(self, stream=None, after=0):
        return self.output[after:].replace('\r\n', '\n')

    def wait_for(self, what, after=0, count=1, limit=None):
        pattern = what if hasattr(what, 'search') else re.compile(re.escape(what))
        deadline = time.monotonic() + (limit or LIMIT)
        with self._news:
            while True:
                found = list(pattern.finditer(self.output, after))
                if len(found) >= count:
                    return found[count - 1]
                if time.monotonic() > deadline or not self._readers[0].is_alive():
                    self.fail(f'{pattern.pattern!r} did not appear')
                self._news.wait(0.1)

    @property
    def workers(self):
        return [int(pid) for pid in re.findall(r'Starting monitor for PID (\d+)\.', self.output)]

    def wait_start(self, number):
        wait_until(lambda: len(self.workers) >= number, lambda: self.fail(f'worker {number} did not start'))

    def type(self, text):
        os.write(self.master, text.encode())

    def modes(self):
        """Return whether it echoes, and whether it passes on whole lines."""
        import termios

        flags = termios.tcgetattr(self.master)[3]
        return bool(flags & termios.ECHO), bool(flags & termios.ICANON)

    def hang_up(self):
        """Close the window."""
        if self.master is not None:
            os.close(self._stop)
            self._readers[0].join()
            os.close(self._stop_reader)
            os.close(self.master)
            self.master = None

    def kill(self):
        super().kill()
        self.hang_up()


class TerminalCase(ModeCase):
    """A test on a pseudo-terminal: run_app() starts the monitor on one, shell() a shell with job control."""

    def open(self, *command, **options):
        terminal = Terminal(self.project, *command, **options)
        self.addCleanup(terminal.kill)
        return terminal

    def run_app(self, *args, start=None, **options):
        return super().run_app(*args, start=start or self.open, **options)

    def shell(self, suffix=''):
        """Run the app from a shell's prompt; return the terminal and the monitor's pid."""

        def start(*command, env):
            shell = self.open('bash', '--norc', '--noprofile', '-i', env={'PS1': '$ ', **env})
            shell.wait_for('$ ')
            shell.type(' '.join(map(shlex.quote, command)) + suffix + '\n')
            return shell

        shell = self.run_app(start=start)
        shell.wait_start(1)
        with open(f'/proc/{shell.pid}/task/{shell.pid}/children') as file:
            return shell, int(file.read())


def _state(pid):
    with open(f'/proc/{pid}/stat') as file:
        return file.read().rpartition(')')[2].split()[0]


@in_each_mode(*MODES)
class Typing(TerminalCase):
    """Only the app gets what is typed, before and after a reload; at the end, the terminal is as before."""

    MODES = """
        import termios
        flags = termios.tcgetattr(0)[3]
        print('modes', bool(flags & termios.ECHO), bool(flags & termios.ICANON), flush=True)
        """

    def check(self, body, dialog):
        """Run an app with this body; in two workers, wait for each first text in `dialog`, then type the second one."""
        self.write('mod.py', 'VALUE = 1\n')
        self.write('app.py', 'from mod import VALUE\n' + textwrap.dedent(self.MODES) + textwrap.dedent(body) + IDLE)
        terminal = self.run_app(shutdown=600)
        for value in (1, 22):
            mark = terminal.mark()
            self.write_value(22) if value == 22 else None
            terminal.wait_for('modes True True', after=mark)
            for shown, typed in dialog:
                mark = terminal.wait_for(shown.replace('VALUE', str(value)), after=mark).end()
                terminal.type(typed)
        self.assertEqual(terminal.stop(), 143, terminal.text())
        self.assertEqual(terminal.modes(), (True, True))
        self.assertEqual(len(terminal.workers), 2)
        self.assertEqual(terminal.text().count('modes True True'), 2)
        return terminal

    def test_input(self):
        body = 'while True: print("got", repr(input("name? ")), VALUE, flush=True)\n'
        self.check(body, [('name? ', 'Ann\n'), ("got 'Ann' VALUE", 'Bob\n'), ("got 'Bob' VALUE", '')])

    @needs_cpython
    def test_readline(self):
        """With line editing, ^A is a key and ^H deletes a letter."""
        body = 'import readline\nwhile True: print("got", repr(input("name? ")), VALUE, flush=True)\n'
        self.check(body, [('name? ', 'nx\bn\1A\n'), ("got 'Ann' VALUE", ''), ('name? ', '')])

    def test_pdb(self):
        body = 'import pdb\nx = "value is " + str(VALUE)\npdb.set_trace()\nprint("after", VALUE, flush=True)\n'
        self.check(body, [('(Pdb) ', 'p x\n'), ("'value is VALUE'", 'c\n'), ('after VALUE', '')])

    def test_breakpoint_left_open(self):
        """A reload while pdb waits for a command."""
        self.check('x = VALUE\nbreakpoint()\n', [('(Pdb) ', 'p "x", x\n'), ("('x', VALUE)", ''), ('(Pdb) ', '')])

    def test_getpass(self):
        body = 'from getpass import getpass\nwhile True: print("got", len(getpass("secret? ")), VALUE, flush=True)\n'
        terminal = self.check(body, [('secret? ', 'xyzzy\n'), ('got 5 VALUE', ''), ('secret? ', 'xyz')])
        self.assertNotIn('xyz', terminal.text())

    def test_raw_mode(self):
        self.check('import tty\ntty.setraw(0)\nprint("raw", VALUE, flush=True)\n', [('raw VALUE', 'x')])

    def test_non_blocking(self):
        """asyncio makes stdin non-blocking; the next worker starts with input()."""
        body = 'print("got", input("name? "), VALUE, flush=True)\nos.set_blocking(0, False)\n'
        self.check('import os\n' + body, [('name? ', 'Ann\n'), ('got Ann VALUE', '')])

    def test_foreground_is_given_back(self):
        """The app has given the foreground to a group that no longer exists."""
        body = """
            import subprocess
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            read, write = os.pipe()
            os.set_inheritable(read, True)
            child = subprocess.Popen(['sh', '-c', f'read line <&{read}'], preexec_fn=os.setpgrp, close_fds=False)
            os.tcsetpgrp(0, child.pid)
            os.write(write, b'go\\n')
            child.wait()
            sys.exit(3)
            """
        self.write_app(body)
        terminal = self.run_app()
        terminal.wait_for('Press ENTER')
        terminal.type('\n')
        terminal.wait_start(2)
        terminal.wait_for('Press ENTER', count=2)
        self.assertEqual(terminal.stop(), 3)


@in_each_mode(*MODES)
class Interrupt(TerminalCase):
    """Ctrl-C raises one KeyboardInterrupt in the app, and none in our code."""

    @property
    def interrupted(self):
        """The monitor's status after Ctrl-C has ended the worker; the command line ends by SIGINT as well."""
        return 130 if self.mode == 'api' else -signal.SIGINT

    def test_interrupt(self):
        self.write_app()
        terminal = self.run_app(shutdown=600)
        terminal.wait_for('app 1')
        self.wait_for_standby(terminal, self.mode)  # until all processes that Ctrl-C reaches exist
        terminal.type('\3')
        self.assertEqual(terminal.wait(), self.interrupted)
        terminal.check_nothing_left()
        self.assertEqual(terminal.text().count('Traceback'), 1, terminal.text())
        self.assertEqual(terminal.text().count('KeyboardInterrupt\n'), 1)
        self.assertNotIn('hupper.py"', terminal.text())

    def test_quit(self):
        self.write_app('import faulthandler\nimport mod\nif mod.VALUE == 1: faulthandler.register(signal.SIGQUIT)\n')
        terminal = self.run_app(shutdown=600)
        terminal.wait_for('app 1')
        terminal.type('\x1c')
        terminal.wait_for('most recent call first')
        self.check_reload(terminal)
        self.wait_for_standby(terminal, self.mode)
        terminal.type('\x1c')
        self.assertEqual(terminal.wait(), 131)
        terminal.check_nothing_left()

    def test_quit_by_another_process(self):
        """A SIGQUIT to the monitor alone is passed on, although a typed one would reach the worker, too."""
        self.write_app()
        terminal = self.run_app(shutdown=600)
        terminal.wait_for('app 1')
        self.wait_for_standby(terminal, self.mode)
        terminal.send(signal.SIGQUIT)
        self.assertEqual(terminal.wait(), 131)
        terminal.check_nothing_left()

    def test_after_a_reload(self):
        self.write_app()
        terminal = self.run_app(shutdown=600)
        self.check_reload(terminal)
        terminal.type('\3')
        self.assertEqual(terminal.wait(), self.interrupted)
        self.assertEqual(terminal.text().count('Traceback'), 1, terminal.text())
        self.assertNotIn('hupper.py"', terminal.text())

    def test_during_a_reload(self):
        """At any moment: the new worker gets the signal, if necessary from the monitor."""
        self.write_app()
        for _ in range(25 if FULL else 5):
            terminal = self.run_app(shutdown=600)
            terminal.wait_for('app 1')
            self.write_value(22)
            time.sleep(random.random() / 20)
            terminal.type('\3')
            self.assertIn(terminal.wait(), (self.interrupted, 143), terminal.text())
            self.assertNotIn('hupper.py"', terminal.text())
            self.write_value(1)

    def test_in_a_group_of_its_own(self):
        """The app is in its own group, like programs that end all of their children with killpg()."""
        self.write_app('os.setpgrp()')
        terminal = self.run_app(shutdown=600)
        terminal.wait_for('app 1')
        terminal.type('\3')
        self.assertEqual(terminal.wait(), self.interrupted)
        terminal.check_nothing_left()

    def test_stdin_is_something_else(self):
        """The app still gets one KeyboardInterrupt."""
        self.write_own_status()

        def start(*command, **options):
            return self.open('sh', '-c', 'exec "$@" </dev/null', 'sh', *command, **options)

        terminal = self.run_app(shutdown=600, start=start)
        terminal.wait_for('app 1')
        terminal.type('\3')
        self.assertEqual(terminal.wait(), 41)

    def write_own_status(self):
        text = """
            import time
            times = 0
            try:
                print('app 1', flush=True)
                while True: time.sleep(0.1)
            except KeyboardInterrupt:
                times += 1
            try:
                time.sleep(0.2)
            except KeyboardInterrupt:
                times += 1
            raise SystemExit(times + 40)
            """
        self.write('app.py', text)

    def test_own_status(self):
        self.write_own_status()
        terminal = self.run_app(shutdown=600)
        terminal.wait_for('app 1')
        terminal.type('\3')
        self.assertEqual(terminal.wait(), 41)
        self.assertNotIn('Traceback', terminal.text())

    def test_after_a_crash(self):
        self.write_app('sys.exit(7)')
        terminal = self.run_app()
        terminal.wait_for('Press ENTER')
        terminal.type('\3')
        self.assertEqual(terminal.wait(), 7)
        self.assertNotIn('Traceback', terminal.text())

    DEAF = 'signal.signal(signal.SIGINT, lambda *_: os.write(1, b"deaf\\n"))\n'

    def test_three_times(self):
        """The third Ctrl-C kills; the second one is the app's own."""
        self.write_app(self.DEAF)
        terminal = self.run_app(shutdown=0.2)
        terminal.wait_for('app 1')
        terminal.type('\3')
        terminal.wait_for('deaf')
        terminal.wait_for(re.compile(r'Worker \d+ is still running; three Ctrl-C within two seconds kill it\.'))
        while terminal.process.poll() is None:
            mark = terminal.mark()
            terminal.type('\3')
            wait_until(lambda mark=mark: terminal.process.poll() is not None or 'deaf' in terminal.output[mark:])
        self.assertEqual(terminal.wait(), 137, terminal.text())
        terminal.check_nothing_left()
        self.assertEqual(terminal.text().count('is still running'), 1)

    def test_goes_on(self):
        """The app is watched and reloaded as usual; then the Ctrl-C is forgotten."""
        self.write_app(self.DEAF)
        terminal = self.run_app(shutdown=600)
        terminal.wait_for('app 1')
        terminal.type('\3')
        terminal.wait_for('is still running')
        self.check_reload(terminal)
        self.write('app.py', 'raise SystemExit(7)\n')
        terminal.wait_for('Press ENTER')
        self.assertEqual(terminal.stop(), 7)

    def test_takes_its_time(self):
        """The app may take as long as it wants to finish its work."""
        self.write_app(self.DEAF + 'import mod\nwhile not os.path.exists("go"): time.sleep(0.01)\nsys.exit(0)\n')
        terminal = self.run_app(shutdown=0.2)
        terminal.wait_start(1)
        terminal.wait_for('Watching')
        terminal.type('\3')
        terminal.wait_for('is still running')
        self.write('go', '')
        self.assertEqual(terminal.wait(), 0)
        self.assertEqual(len(terminal.workers), 1)

    def test_saves_something_at_its_end(self):
        """A file that the app itself writes as it exits causes no new start."""
        text = """
            import hupper, time
            from mod import VALUE
            hupper.get_reloader().watch_files(['state'])
            try:
                print('app', VALUE, flush=True)  # Ctrl-C may come before this returns
                time.sleep(600)
            except KeyboardInterrupt:
                with open('state', 'w') as file: file.write('x')
                time.sleep(0.5)
            """
        self.write('mod.py', 'VALUE = 1\n')
        self.write('app.py', text)
        terminal = self.run_app()
        terminal.wait_for('app 1')
        terminal.wait_for('Watching')
        terminal.type('\3')
        self.assertEqual(terminal.wait(), 0)
        self.assertEqual(len(terminal.workers), 1)

    def test_pdb(self):
        """Ctrl-C interrupts the running app; then a save reloads it."""
        if self.mode == 'api':
            self.skipTest('the same as on the command line')
        self.write_app()
        command, env = self.command('-m', 'pdb', 'app.py')
        terminal = self.open(*command, env=env)
        terminal.wait_for('(Pdb) ')
        terminal.type('c\n')
        terminal.wait_for('app 1')
        terminal.type('\3')
        terminal.wait_for('(Pdb) ', count=2)
        terminal.wait_for('is still running')
        self.write_value(22)
        terminal.wait_for('(Pdb) ', count=3)
        terminal.type('c\n')
        terminal.wait_for('app 22')
        terminal.stop()

    @needs_linux
    def test_sent_by_a_process(self):
        """SIGINT goes only to the monitor, in the foreground; the monitor passes it on."""
        self.write_app()
        terminal = self.run_app(shutdown=600)
        terminal.wait_for('app 1')
        terminal.send(signal.SIGINT)
        self.assertEqual(terminal.wait(), 130)
        self.assertEqual(terminal.text().count('KeyboardInterrupt\n'), 1)

    def test_a_program_reads_it(self):
        """As in prompt_toolkit: the app sets raw mode, and exits by its own KeyboardInterrupt."""
        self.write_app(
            'import mod, tty\ntty.setraw(0)\nprint("raw", flush=True)\n'
            'if os.read(0, 1) == b"\\3": raise KeyboardInterrupt'
        )
        terminal = self.run_app()
        terminal.wait_for('raw')
        terminal.type('\3')
        self.assertEqual(terminal.wait(), self.interrupted)
        self.assertNotIn('[ERROR]', terminal.text())
        self.assertEqual(terminal.modes(), (True, True))

    def test_while_the_worker_is_stopped_for_a_reload(self):
        """There is no new start, and the worker may take as long as at a final stop."""
        end = """
            def end(*_):
                os.write(1, b'ending\\n')
                while not os.path.exists('go'): time.sleep(0.01)
                os._exit(5)

            signal.signal(signal.SIGTERM, end)
            import mod
            """
        self.write_app(self.DEAF + textwrap.dedent(end))
        terminal = self.run_app(shutdown=600)
        terminal.wait_for('app 1')
        self.write_value(22)
        terminal.wait_for('ending')
        terminal.type('\3')
        terminal.wait_for('deaf')
        self.write('go', '')
        self.assertEqual(terminal.wait(), 5, terminal.text())
        self.assertEqual(len(terminal.workers), 1)

    def test_before_the_start_of_the_next_worker(self):
        """A Ctrl-C that has reached the waiting standby has no effect on it."""
        self.write_app('import mod\nif mod.VALUE == 1: ' + self.DEAF)
        terminal = self.run_app()
        terminal.wait_for('app 1')
        self.wait_for_standby(terminal, 'spawn')
        terminal.type('\3')
        terminal.wait_for('is still running')
        self.check_reload(terminal)
        terminal.wait_for('Watching', after=terminal.wait_for('app 11').end())
        self.assertEqual(len(terminal.workers), 2)
        terminal.type('\3')
        self.assertEqual(terminal.wait(), self.interrupted)
        self.assertEqual(terminal.text().count('KeyboardInterrupt\n'), 1)

    def test_shell_script(self):
        """The shell script stops as well, as it does with plain Python."""
        if self.mode == 'api':
            self.skipTest('only on the command line')

        def start(*command, **options):
            return self.open('sh', '-c', '"$@"; echo went "on"', 'sh', *command, **options)

        self.write_app()
        terminal = self.run_app(start=start)
        terminal.wait_for('app 1')
        terminal.type('\3')
        self.assertIn(terminal.wait(), (130, -signal.SIGINT))
        self.assertNotIn('went on', terminal.text())
        terminal.check_nothing_left()

    def test_pipeline(self):
        def start(*command, **options):
            return self.open('sh', '-c', '"$@" 2>&1 | tee log', 'sh', *command, **options)

        self.write_app()
        terminal = self.run_app(start=start)
        terminal.wait_for('app 1')
        self.write_value(22)
        terminal.wait_for('app 22')
        terminal.type('\3')
        terminal.wait()
        terminal.check_nothing_left()


@in_each_mode(*MODES)
class Enter(TerminalCase):
    """ENTER reloads after a crash, if a user can press it."""

    def test_enter(self):
        self.write_app('sys.exit(7)')
        terminal = self.run_app()
        for number in (1, 2, 3):
            terminal.wait_for('Press ENTER or change a file to reload.', count=number)
            terminal.type('\n')
        terminal.wait_start(4)
        terminal.wait_for('Press ENTER', count=4)
        self.assertEqual(terminal.stop(), 7)

    def test_what_is_typed_before_the_crash(self):
        """The app gets what is typed; what it leaves unread causes no reload."""
        self.write_app('sys.exit(input())')
        terminal = self.run_app()
        terminal.wait_start(1)
        terminal.type('one\n')
        terminal.wait_for('Press ENTER')
        self.assertEqual(terminal.stop(), 1)
        self.assertEqual(len(terminal.workers), 1)

    @needs_linux
    def test_no_terminal(self):
        """With stdin closed or at its end, the monitor waits for a change, asleep."""
        self.write_app('sys.exit(7)')
        read, write = os.pipe()
        os.close(write)
        self.addCleanup(os.close, read)
        for stdin in ('<&-', f'</dev/fd/{read}'):  # a shell redirects only one-digit numbers

            def start(*command, stdin=stdin, **options):
                return self.start('sh', '-c', f'exec "$@" {stdin}', 'sh', *command, pass_fds=[read], **options)

            monitor = self.run_app(start=start)
            monitor.wait_for('Waiting for a file to change before reload.')
            wait_until(lambda monitor=monitor: _state(monitor.pid) == 'S')
            before = _turns(monitor.pid)
            time.sleep(0.1)
            self.assertLess(_turns(monitor.pid), before + 5, 'it does not sleep')
            self.assertEqual(monitor.stop(), 7, monitor.text())


def _turns(pid):
    """Return the number of context switches of a process so far."""
    with open(f'/proc/{pid}/status') as file:
        return sum(int(line.split()[1]) for line in file if 'ctxt_switches' in line)


@in_each_mode(*MODES)
class Lines(TerminalCase):
    """On a terminal, our lines stand out from the app's, and name files as a user there does."""

    def run_app(self, log=None, **env):
        """Reload an app, then break it; `log`: the file with our lines, if they do not go to the terminal."""
        self.write_app()
        terminal = super().run_app(env={'TERM': 'xterm', 'NO_COLOR': None, **env}, start=self.begin)
        self.check_reload(terminal)
        lines = lambda: self.project.read(log) if log else terminal.output  # noqa: E731
        wait_until(lambda: 'Watching' in lines().rpartition('Starting monitor')[2])
        self.write('mod.py', 'VALUE = (\n')
        return terminal

    def begin(self, *command, **options):
        return self.open(*command, **options)

    def test_colors(self):
        terminal = self.run_app()
        terminal.wait_for(re.compile(r'(?m)^\x1b\[36mStarting monitor for PID \d+\.\x1b\[m'))
        terminal.wait_for(re.compile(r'(?m)^\x1b\[36mmod.py changed; reloading \.\.\.\x1b\[m'))
        terminal.wait_for(
            re.compile(r'(?m)^\x1b\[31m\[ERROR\] mod.py does not parse; [^\x1b]*  File "mod.py"[^\x1b]*\x1b\[m')
        )

    def check_plain(self, **env):
        terminal = self.run_app(**env)
        terminal.wait_for(re.compile(r'(?m)^mod.py changed; reloading \.\.\.\r'))
        terminal.wait_for(re.compile(r'(?m)^\[ERROR\] mod.py does not parse; '))
        self.assertNotRegex(terminal.output, r'\x1b\[[1-9]')

    def test_no_color(self):
        self.check_plain(NO_COLOR='1')

    def test_dumb_terminal(self):
        self.check_plain(TERM='dumb')

    def test_file(self):
        """stderr is a file; stdin and stdout are the terminal."""

        def begin(*command, **options):
            return self.open('sh', '-c', 'exec "$@" 2>log', 'sh', *command, **options)

        self.begin = begin
        self.run_app('log')
        wait_until(lambda: self.path('mod.py') + ' does not parse' in self.project.read('log'))
        self.assertIn(self.path('mod.py') + ' changed; reloading ...\n', self.project.read('log'))
        self.assertNotIn('\x1b', self.project.read('log'))

    def test_logger(self):
        """A logger formats its own lines, but gets no line that contains a terminal command."""
        if self.mode != 'api':
            self.skipTest('there is no logger on the command line')
        begin = self.begin
        logger = "__import__('logging').getLogger()"
        basic = "__import__('logging').basicConfig(level='DEBUG')"

        def with_logger(*command, **options):
            text = (
                self.project.read('start.py').replace('\nif', f'\n{basic}\nif').replace('**{', f'logger={logger}, **{{')
            )
            self.write('start.py', text.replace('watch_files([])', r"watch_files(['\x1b\n[ERROR]'])"))
            return begin(*command, **options)

        self.begin = with_logger
        terminal = self.run_app()
        terminal.wait_for('INFO:root:' + self.path('mod.py') + ' changed; reloading ...\r\n')
        terminal.wait_for(f'ERROR:root:{self.path("mod.py")} does not parse; ')
        self.write_value(3)
        terminal.wait_for('app 3')
        self.write('\x1b\n[ERROR]', '')
        terminal.wait_for(r'\x1b\n[ERROR]')
        self.assertNotRegex(terminal.output, r'\x1b\[[1-9]|\n\[ERROR\]')


@in_each_mode(*MODES)
class FullScreen(TerminalCase):
    """What a full-screen program has done to the terminal is undone if our signal keeps the program from doing so."""

    BEGIN = 'sys.stdout.write("\\x1b[?1049h\\x1b[?1000h\\x1b[?25l")'
    APP = f"""
        import os, signal, sys, time
        from mod import VALUE
        {BEGIN}
        try:
            print('app', VALUE, flush=True)
            while True: time.sleep(0.1)
        finally:
            print("\\x1b[?25h\\x1b[?1000l\\x1b[?1049l", flush=True)
        """
    UNDONE = (
        '\x1b[?1047l',
        '\x1b[?1000l',
        '\x1b[?1004l',
        '\x1b[?2048l',
        '\x1b[?1l',
        '\x1b[?2004l',
        '\x1b[?25h',
        '\x1b[m',
    )
    POLITE = 'signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))'
    TERM = 'xterm'

    def open(self, *command, env=None, **options):
        return super().open(*command, env={'TERM': self.TERM, 'NO_COLOR': '1', **(env or {})}, **options)

    def write_app(self, body=''):
        self.write('mod.py', 'VALUE = 1\n')
        self.write('app.py', textwrap.dedent(self.APP).replace('try:', body + '\ntry:'))

    def fail_next(self, terminal, body=''):
        """Edit the app so that the next worker fails in an import."""
        self.write_app(body)
        terminal = self.run_app(**terminal)
        terminal.wait_for('app 1')
        self.write('mod.py', 'raise ValueError\n')
        terminal.wait_for('ValueError')
        return terminal

    def check(self, number, body='', **terminal):
        terminal = self.fail_next(terminal, body)
        terminal.wait_for('change')
        terminal.type('\3')
        terminal.wait()
        before, after = terminal.output.split('Traceback', 1)
        self.assertEqual([before.count(text) for text in self.UNDONE], [number] * len(self.UNDONE), terminal.output)
        self.assertEqual(after.count('\x1b['), 0, terminal.output)

    def test_undone(self):
        self.check(1)

    def test_killed(self):
        self.check(1, 'signal.signal(signal.SIGTERM, signal.SIG_IGN)', shutdown=0.2)

    def test_dumb(self):
        """A terminal without control sequences, such as Emacs's, would show them."""
        self.TERM = 'dumb'
        self.write('mod.py', 'VALUE = 1\n')
        app = 'import time\nfrom mod import VALUE\nprint("app", VALUE, flush=True)\nwhile True: time.sleep(0.1)\n'
        self.write('app.py', app)  # not one long sleep: PyPy may handle a signal only after it
        terminal = self.run_app()
        terminal.wait_for('app 1')
        self.write_value(22)
        terminal.wait_for('app 22')
        terminal.type('\3')
        terminal.wait()
        self.assertEqual(terminal.output.count('\x1b'), 0, terminal.output)

    def test_it_has_ended_by_itself(self):
        self.write_app(self.POLITE)
        terminal = self.run_app()
        terminal.wait_for('app 1')
        self.write_value(22)
        terminal.wait_for('app 22')
        terminal.stop()
        self.assertEqual(terminal.output.count('\x1b[?1047l'), 0, terminal.output)

    def test_output_goes_elsewhere(self):
        def start(*command, **options):
            return self.open('sh', '-c', '"$@" 2>&1 | cat', 'sh', *command, **options)

        self.write_app()
        terminal = self.run_app(start=start)
        terminal.wait_for('app 1')
        self.write_value(22)
        terminal.wait_for('app 22')
        terminal.type('\3')
        terminal.wait()
        self.assertEqual(terminal.output.count('\x1b[?1047l'), 0, terminal.output)

    @needs_program('tmux')
    def test_in_tmux(self):
        """What a real terminal shows."""
        tmux = [shutil.which('tmux'), '-L', 'hupper', '-f', os.devnull]
        # SHELL, because tmux runs commands in the user's login shell, which a system account lacks.
        env = {'TMUX': None, 'TMUX_TMPDIR': self.project.tmp, 'TERM': 'screen', 'SHELL': '/bin/sh'}

        def start(*command, env=env, **options):
            result = self.project.run(*tmux, 'new-session', '-d', '-x120', '-y24', shlex.join(command), env=env)
            self.assertEqual(result.returncode, 0, result.stderr)

        def shown(what, *options):
            return self.project.run(*tmux, what, '-p', *options, env=env).stdout

        self.write_app()
        self.run_app(start=start, env=env)
        flags = '#{alternate_on} #{mouse_any_flag} #{cursor_flag}'
        wait_until(
            lambda: 'app 1' in shown('capture-pane') and shown('display', flags) == '1 1 0\n',
            lambda: shown('capture-pane'),
        )
        self.write('mod.py', 'raise ValueError\n')
        wait_until(lambda: 'ValueError' in shown('capture-pane'), lambda: shown('capture-pane'))
        self.assertEqual(shown('display', flags), '0 0 1\n')
        self.assertIn('Starting monitor', shown('capture-pane'))  # on the plain screen, as before


@in_each_mode(*MODES)
@needs_program('bash')
@needs_linux
class JobControl(TerminalCase):
    """From a shell's prompt: Ctrl-Z, fg and bg."""

    def test_suspend_and_go_on(self):
        self.write_app()
        shell, monitor = self.shell()
        shell.wait_for('app 1')
        worker = shell.worker
        shell.type('\x1a')
        shell.wait_for('Stopped')
        wait_until(lambda: {_state(monitor), _state(worker)} == {'T'})
        self.write_value(22)
        shell.type('fg\n')
        shell.wait_for('app 22')
        shell.type('\3')
        shell.wait_for('KeyboardInterrupt')
        shell.type('echo status $?\n')
        shell.wait_for('status 130')

    def test_background(self):
        """The job neither stops nor reads the shell's input, whatever the workers do."""
        self.write_app()
        shell, monitor = self.shell(' &')
        shell.wait_for('app 1')
        self.write_value(22)
        shell.wait_for('app 22')
        self.write('mod.py', 'raise SystemExit(7)')
        shell.wait_for('Waiting for a file')
        shell.type('echo one t""wo\n')
        shell.wait_for('one two')
        self.write_value(33)
        shell.wait_for('app 33')
        self.assertNotIn(_state(monitor), 'TZ')
        shell.type('kill %1; wait %1; echo status $?\n')
        shell.wait_for('status 143')

    def test_crash_then_foreground(self):
        """If a monitor is moved to the foreground, a user can press ENTER."""
        self.write_app('sys.exit(7)')
        shell, monitor = self.shell(' &')
        shell.wait_for('Waiting for a file')
        shell.type('fg\n')
        shell.wait_for(re.compile(r'fg\r\n'))
        wait_until(lambda: os.tcgetpgrp(shell.master) == os.getpgid(monitor))
        shell.type('\n')
        shell.wait_start(2)
        shell.type('\3')

    def test_foreground_then_raw_mode(self):
        """In the background, the monitor could not record the modes."""
        wait = 'import time, tty\nwhile os.tcgetpgrp(0) != os.getpgrp(): time.sleep(0.01)\n'
        self.write_app(wait + 'tty.setraw(0)\nsys.exit(7)')
        shell, _ = self.shell(' &')
        shell.type('fg\n')
        shell.wait_for('Press ENTER')
        wait_until(lambda: shell.modes() == (True, True))
        shell.type('\3')


@in_each_mode(*MODES)
class HangUp(TerminalCase):
    """The window is closed, or ssh drops."""

    def test_closed(self):
        self.write_app()
        terminal = self.run_app()
        terminal.wait_for('app 1')
        terminal.hang_up()
        terminal.check_nothing_left()

    def test_closed_on_a_deaf_worker(self):
        self.write_app('for each in signal.SIGHUP, signal.SIGTERM: signal.signal(each, signal.SIG_IGN)')
        terminal = self.run_app(shutdown=0.2)
        terminal.wait_for('app 1')
        terminal.hang_up()
        terminal.check_nothing_left()

    def test_closed_after_a_crash(self):
        self.write_app('sys.exit(7)')
        terminal = self.run_app()
        terminal.wait_for('Press ENTER')
        terminal.hang_up()
        terminal.check_nothing_left()

    @needs_linux
    @needs_program('bash')
    def test_closed_on_a_shell(self):
        self.write_app()
        shell, _ = self.shell()
        shell.wait_for('app 1')
        shell.hang_up()
        shell.check_nothing_left()

    @needs_cpython
    def test_nohup(self):
        self.write_app()

        def start(*command, **options):
            return self.open('sh', '-c', 'trap "" HUP; exec "$@" >log 2>&1 </dev/null', 'sh', *command, **options)

        terminal = self.run_app(start=start)
        wait_until(lambda: os.path.exists(self.path('log')) and 'app 1\n' in self.project.read('log'))
        terminal.hang_up()
        self.write_value(22)
        wait_until(lambda: 'app 22\n' in self.project.read('log'), lambda: self.project.read('log'))
        terminal.send(signal.SIGTERM)
        self.assertEqual(terminal.process.wait(LIMIT), 143)
        terminal.check_nothing_left()


# --- fidelity ----------------------------------------------------------------

# What an app can find out about its process. It records the loaded modules before it imports any.
FACTS = r"""
import sys
MODULES = set(sys.modules)

def main_facts(names):
    main = sys.modules['__main__']
    return {'is this one': vars(main) is names, 'builtins': type(names['__builtins__']).__name__,
            **{name: repr(value) for name, value in names.items() if name != '__builtins__'}}

def signal_facts():
    import signal
    lines = [line.split(':\t') for line in open('/proc/self/status')]
    names = 'SigPnd', 'ShdPnd', 'SigBlk', 'SigIgn', 'SigCgt'
    status = {n: hex(int(mask, 16) & ~(3 << 31)) for n, mask in lines if n in names}  # 32, 33: the C library's own
    fd = signal.set_wakeup_fd(-1)
    return {'handlers': {n: str(signal.getsignal(n)) for n in range(1, 64)}, 'wake-up': fd, 'system': status,
            'blocked': sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), 'timer': signal.getitimer(0)}

def process_facts():
    import os, resource, threading
    os.umask(os.umask(0))
    umask = next(line for line in open('/proc/self/status') if line.startswith('Umask'))
    return {'cwd': os.getcwd(), 'umask': umask, 'threads': len(os.listdir('/proc/self/task')),
            'Threads': [type(thread).__name__ for thread in threading.enumerate()], 'nice': os.nice(0),
            'limits': [(n, resource.getrlimit(getattr(resource, n))) for n in dir(resource) if n.startswith('RLIMIT_')],
            'in the group of its parent or leading one': os.getpgrp() in (os.getpid(), os.getpgid(os.getppid())),
            'environment': {n: v for n, v in os.environ.items() if not n.startswith(('HUPPER_', 'HOW'))}}

def stream_facts():
    names = 'name mode encoding errors line_buffering newlines closed'.split()
    return {n: [repr(getattr(getattr(sys, n), a, None)) for a in names] for n in ('stdin', 'stdout', 'stderr')}

def interpreter_facts():
    import atexit, builtins, faulthandler, gc, locale, warnings
    names = ('argv orig_argv path executable prefix exec_prefix base_prefix flags warnoptions _xoptions path_hooks '
             'dont_write_bytecode pycache_prefix ps1 last_type last_value last_traceback tracebacklimit').split()
    facts = {n: repr(getattr(sys, n, None)) for n in names}
    hooks = 'excepthook displayhook breakpointhook unraisablehook'.split()
    facts.update({n: getattr(sys, n, None) is getattr(sys, '__' + n + '__', None) for n in hooks})
    return {**facts, 'atexit': atexit._ncallbacks(), 'builtins': sorted(vars(builtins)), 'trace': repr(sys.gettrace()),
            'faulthandler': faulthandler.is_enabled(), 'profile': repr(sys.getprofile()),
            'gc': (gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.get_freeze_count()),
            'locale': locale.setlocale(locale.LC_ALL), 'filters': repr(warnings.filters),
            'recursion': sys.getrecursionlimit(), 'switch': sys.getswitchinterval(),
            'async': repr(sys.get_asyncgen_hooks())}

def descriptor_facts():
    import fcntl, os
    facts = {}
    for fd in map(int, os.listdir('/proc/self/fd')):
        try:
            facts[fd] = os.readlink('/proc/self/fd/%d' % fd).split(':')[0], bool(fcntl.fcntl(fd, fcntl.F_GETFD))
        except OSError:
            pass  # that of listdir
    return facts

def frames(frame):
    found = []
    while frame:
        found.append(frame.f_code.co_filename)
        frame = frame.f_back
    return found

def tell():
    import os
    if os.environ['HOW'] == 'api':
        import hupper
        hupper.start_reloader(reload_interval=0.2, verbose=2)
    descriptors, meta = descriptor_facts(), [getattr(each, '__name__', type(each).__name__) for each in sys.meta_path]
    facts = {'main': main_facts(sys._getframe(1).f_globals), 'signals': signal_facts(), 'process': process_facts(),
             'streams': stream_facts(), 'interpreter': interpreter_facts(), 'descriptors': descriptors,
             'meta_path': meta, 'frames': frames(sys._getframe(1)), 'modules': sorted(MODULES)}
    import json, re, time
    print('FACTS', re.sub('0x[0-9a-f]+', '0x', json.dumps(facts, sort_keys=True)), flush=True)
    time.sleep(600)
"""


def _flat(facts, path=''):
    """Flatten nested dictionaries into one of paths and values."""
    if not isinstance(facts, dict):
        return {path: facts}
    return {name: value for key, each in facts.items() for name, value in _flat(each, f'{path}/{key}').items()}


LIBRARY = os.path.dirname(os.__file__)


@needs_linux
class Facts(ModeCase):
    """An app finds the same in its process as under plain Python.

    Allowed differences, each of which a check limits: an entry at the end of sys.meta_path, a descriptor that children
    do not inherit, modules of the standard library (in API mode also the one that the program itself imports), the
    frames that run the app.
    """

    SURROUNDINGS = 'umask 027; trap "" USR1; exec 7</dev/null; ulimit -n 500; exec "$@"'

    def facts(self, mode, *target, options=(), stdin=''):
        """Return the facts that the app prints: once under plain Python, else in two workers in a row."""
        self.mode = mode
        command, env = [sys.executable, *target], {'PYTHONPATH': os.path.join(self.project.base, 'library')}
        if mode in ('fork', 'spawn'):
            command, _ = self.command(*target)
        command[1:1] = options
        monitor = self.start('sh', '-c', self.SURROUNDINGS + stdin, 'sh', *command, env={'HOW': mode, **env})
        pattern = re.compile('^FACTS (.*)$')
        found = [json.loads(monitor.wait_for(pattern)[1])]
        if mode != 'plain':
            monitor.wait_start(1)
            self.assertEqual(_mode(monitor), 'fork' if mode == 'fork' else 'spawn', monitor.text('err'))
            self.wait_for_standby(monitor, mode)  # the second worker must be the standby
            monitor.send(signal.SIGHUP)
            found.append(json.loads(monitor.wait_for(pattern, count=2)[1]))
        monitor.kill()
        return found

    def check(self, *target, modes=('fork', 'spawn', 'api'), **options):
        put(os.path.join(self.library_folder(), 'facts.py'), FACTS)
        put(os.path.join(self.library_folder(), 'hupper.py'), self.project.read('hupper.py'))
        plain = self.facts('plain', *target, **options)[0]
        for mode in modes:
            for number, ours in enumerate(self.facts(mode, *target, **options), 1):
                with self.subTest(mode=mode, worker=number):
                    self.compare(plain, ours, mode)

    def library_folder(self):
        self.library()
        return os.path.join(self.project.base, 'library')

    def compare(self, plain, ours, mode):
        plain, ours = dict(plain), dict(ours)
        self.check_meta_path(plain.pop('meta_path'), ours.pop('meta_path'))
        self.check_descriptors(plain.pop('descriptors'), ours.pop('descriptors'))
        self.check_modules(set(plain.pop('modules')), set(ours.pop('modules')), mode)
        self.check_frames(plain.pop('frames'), ours.pop('frames'))
        plain, ours = _flat(plain), _flat(ours)
        different = {name for name in {*plain, *ours} if plain.get(name) != ours.get(name)}
        self.assertEqual({name: plain.get(name) for name in different}, {name: ours.get(name) for name in different})

    def check_meta_path(self, plain, ours):
        self.assertEqual(ours, [*plain, '_Observer'])

    def check_descriptors(self, plain, ours):
        self.assertEqual({fd: each for fd, each in ours.items() if fd in plain}, plain)
        extra = {fd: each for fd, each in ours.items() if fd not in plain}
        self.assertEqual(list(extra.values()), [['pipe', True]], extra)
        self.assertGreater(min(map(int, extra)), 2)

    def check_modules(self, plain, ours, mode):
        self.assertEqual(plain - ours, set())
        extra = {name.partition('.')[0] for name in ours - plain}
        origins = {name: importlib.util.find_spec(name).origin for name in extra - {'hupper'}}
        strange = {n for n, o in origins.items() if o not in (None, 'built-in', 'frozen') and not o.startswith(LIBRARY)}
        self.assertEqual(strange, set())
        self.assertEqual('hupper' in extra, mode == 'api')
        self.assertLess(len(extra), 50)

    def check_frames(self, plain, ours):
        """Below the app is one frame of ours, with the file name of plain Python's outermost frame."""
        self.assertEqual(ours, [*plain, plain[-1]])

    @needs_cpython
    def test_module(self):
        self.write('pkg/__init__.py', '')
        self.write('pkg/__main__.py', 'import facts\nfacts.tell()\n')
        self.check('-m', 'pkg', '-v', 'a b')

    @only_full
    @needs_cpython
    def test_submodule(self):
        self.write('pkg/__init__.py', '')
        self.write('pkg/part.py', '"""Documented."""\nfrom facts import tell\ntell()\n')
        self.check('-m', 'pkg.part', modes=('fork', 'spawn'))

    @needs_cpython
    def test_script(self):
        self.write('scripts/script.py', 'import facts\nfacts.tell()\n')
        self.check('scripts/script.py', '-m', '--help', '')

    @only_full
    @needs_cpython
    def test_names_with_dots(self):
        """`__file__` keeps the dots, because after a link they lead to another folder."""
        self.write('real/script.py', 'import facts\nfacts.tell()\n')
        self.write('real/folder/__main__.py', 'import facts\nfacts.tell()\n')
        os.symlink('real/folder', self.path('link'))
        self.write('__main__.py', 'import facts\nfacts.tell()\n')
        for name in ('./real/script.py', 'link/../script.py', './real/folder/', '.'):
            with self.subTest(name):
                self.check(name, modes=('fork', 'spawn'))

    @needs_cpython
    def test_folder_without_stdin(self):
        """Our descriptors do not take the place of stdin either."""
        self.write('folder/__main__.py', 'import facts\nfacts.tell()\n')
        self.check('folder', 'x', modes=('fork', 'spawn'), stdin=' <&-')

    @needs_cpython
    def test_zip(self):
        self.write_zip('app.zip', __main__='import facts\nfacts.tell()\n')
        self.check('app.zip', 'x', modes=('fork', 'spawn'))

    @needs_cpython
    def test_options(self):
        self.write('script.py', 'import facts\nfacts.tell()\n')
        options = ['-OBs', '-W', 'error::UserWarning', '-X', 'faulthandler', '-X', 'utf8', '-b']
        self.check('script.py', modes=('fork', 'spawn'), options=options)


@needs_posix
@unittest.skipIf(
    'select' in sys.builtin_module_names, 'select is built into this interpreter, so no module can shadow it'
)
class OwnModules(Case):
    """The project's own module takes precedence over the standard library's, which the monitor may use."""

    def check(self, *target, **env):
        monitor = self.hupper(*target, env=env)
        for number in (1, 2):
            monitor.wait_for('app mine', count=number)
            if number == 1:
                monitor.send(signal.SIGHUP)
        monitor.stop()

    APP = 'import select\nprint("app", select.whose, flush=True)\n'
    MINE = 'whose = "mine"\n'

    @needs_cpython
    def test_module(self):
        self.write('app.py', self.APP)
        self.write('select.py', self.MINE)
        self.check('-m', 'app')

    @needs_cpython
    def test_module_of_a_fork_alone(self):
        """The monitor has not loaded `types`, as it has no options to parse, but the fork needs it for runpy."""
        code = 'import sys; print("types" in sys.modules)'
        if subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, env=environment()).stdout != b'False\n':
            self.skipTest('a .pth file imports types at the start')
        self.write('folder/app.py', self.APP.replace('select', 'types'))
        self.write('folder/types.py', self.MINE)
        monitor = self.start(sys.executable, 'hupper.py', 'folder/app.py')
        monitor.wait_for('app mine')
        monitor.stop()

    @needs_linux
    @needs_cpython
    @unittest.skipIf(sys.version_info >= (3, 11), 'runpy is frozen here: a project cannot have its own')
    def test_api(self):
        self.write('two.py', 'import hupper\nif __name__ == "__main__": hupper.start_reloader("app.main")\n')
        self.write(
            'app.py',
            'def main():\n    import runpy, time\n    print("app", runpy.whose, flush=True)\n    time.sleep(60)\n',
        )
        self.write('runpy.py', self.MINE)
        monitor = self.start(sys.executable, 'two.py')
        monitor.wait_for('app mine')
        self.wait_for_standby(monitor, 'api')  # the standby itself uses runpy
        monitor.send(signal.SIGHUP)
        monitor.wait_for('app mine', count=2)
        monitor.stop()

    @only_full
    @needs_cpython
    def test_in_pythonpath(self):
        for name in ('select', 'ctypes', 'argparse', 'fnmatch', 'subprocess'):
            with self.subTest(name):
                folder = name + '_is_own'
                self.write(f'{folder}/app.py', self.APP.replace('select', name))
                self.write(f'{folder}/{name}.py', self.MINE)
                self.check('-v', '-m', 'app', PYTHONPATH=folder)

    def test_imported_at_the_start_of_python(self):
        """sitecustomize.py imports a module: it is watched, and new in the next worker, whether a fork or a standby."""
        self.write('sitecustomize.py', 'import mod\n')
        self.write_app()
        self.write('start.py', TWO_LINES + self.project.read('app.py'))
        for number, target in enumerate((['hupper.py', '-m', 'app'], ['start.py'])):
            self.write_value(number)
            monitor = self.start(sys.executable, *target, env={'PYTHONPATH': '.'})
            for value in (number, 22):
                self.write_value(value)
                monitor.wait_for(f'app {value}')
            monitor.stop()

    def test_hupper(self):
        """The project has a module of this name, and another, installed hupper is run."""
        self.write('lib/anything.py', '')
        shutil.move(self.path('hupper.py'), self.path('lib/hupper.py'))
        self.write('hupper.py', 'whose = "mine"\n')
        self.write('app.py', self.APP.replace('select', 'hupper') + IDLE)
        self.write('bin/hupper', 'import sys\nfrom hupper import main\nsys.exit(main())\n')
        monitor = self.start(sys.executable, 'bin/hupper', '-m', 'app', env={'PYTHONPATH': 'lib'})
        monitor.wait_for('app mine')
        monitor.stop()

    @needs_cpython
    def test_folder(self):
        self.write('folder/__main__.py', self.APP)
        self.write('folder/select/__init__.py', self.MINE)
        self.check('folder')

    @needs_cpython
    def test_zip(self):
        self.write_zip('app.zip', __main__=self.APP, select=self.MINE)
        self.check('app.zip')


@in_each_mode(*('fork', 'spawn')[: 2 if FULL else 1])
class WorksInside(ModeCase):
    """What programs do in their process also works in the worker, and after a reload."""

    windows = True

    def check(self, text, *args, options=(), name='app.py', target=('-m', 'app')):
        """Run an app that prints `fine VALUE` at the end, with only our own lines on stderr."""
        self.write('mod.py', 'VALUE = 1\n')
        self.write(name, textwrap.dedent(text))
        command, env = self.command(*target, *args)
        monitor = self.start(command[0], *options, *command[1:], env=env)
        for number, value in enumerate((1, 22), 1):
            monitor.wait_for(f'fine {value}')
            if IDLE not in text:
                monitor.wait_for('Waiting for a file', count=number)
            if value == 1:
                self.write_value(22)
        text = monitor.text('err')
        monitor.stop()
        text = text if WINDOWS else monitor.text('err')  # a standby that boots may print a traceback for the Ctrl-C
        self.assertEqual('is started by spawn' in text, self.mode == 'spawn' or not FORKS)
        strange = [line for line in text.splitlines() if not self.OURS.search(line)]
        self.assertEqual(strange, [], monitor.text())
        return monitor

    OURS = re.compile(
        r'^(\[DEBUG\] |Starting monitor for |Waiting for a file|Worker \d+ ended with status 0|Ended what the worker |'
        r'.* changed; reloading)'
    )
    IMPORTS = 'import os, signal, subprocess, sys\nfrom mod import VALUE\n'

    def test_multiprocessing(self):
        """Functions of __main__, with each start method."""
        text = """
            import multiprocessing, sys
            from mod import VALUE

            def double(x):
                return 2 * x

            if __name__ == '__main__':
                for method in multiprocessing.get_all_start_methods():
                    with multiprocessing.get_context(method).Pool(1) as pool:
                        assert pool.map(double, [VALUE]) == [2 * VALUE]
                print('fine', VALUE, flush=True)
            """
        self.check(text)

    def test_imports_while_functions_are_patched(self):
        """As tests do. importlib itself calls none of these."""
        names = 'lstat stat open fstat getpid getcwd fsencode fsdecode path.join path.abspath path.exists path.isdir'
        names = [f'os.{name}' for name in names.split()] + 'time.time_ns time.monotonic builtins.open'.split()
        for number in range(len(names)):
            self.write(f'sub{number}.py', '')
        installed = 'colorsys cmd codeop stringprep timeit wave getopt optparse pprint textwrap tabnanny shlex netrc'
        installed = [*installed.split(), 'filecmp', 'fileinput', 'sched', 'cgi'][: len(names)]
        text = f"""
            import importlib
            from unittest import mock
            from mod import VALUE
            for number, (name, installed) in enumerate(zip({names}, {installed})):
                with mock.patch(name, side_effect=RuntimeError(name)):
                    importlib.import_module(f'sub{{number}}')
                    importlib.import_module(installed)
            print('fine', VALUE, flush=True)
            """
        self.check(text)

    def test_loaders_are_as_ever(self):
        self.write('pack/__init__.py', '')
        text = """
            import pickle, pkgutil
            from importlib.machinery import SourceFileLoader
            from importlib.util import spec_from_file_location
            from mod import VALUE
            import pack
            assert pickle.loads(pickle.dumps(pack.__spec__)) == pack.__spec__
            assert pack.__loader__ == SourceFileLoader('pack', pack.__file__)
            try:
                pkgutil.get_data('pack', 'none.pyc')
            except FileNotFoundError:
                print('fine', VALUE, flush=True)
            """
        self.check(text)

    def test_process_pool(self):
        text = """
            from concurrent.futures import ProcessPoolExecutor
            from mod import VALUE

            def double(x):
                return 2 * x

            if __name__ == '__main__':
                with ProcessPoolExecutor(2) as pool:
                    assert list(pool.map(double, [1, 2])) == [2, 4]
                print('fine', VALUE, flush=True)
            """
        self.check(text)

    @needs_posix
    def test_fork_without_a_warning(self):
        text = """
            if os.fork() == 0:
                os._exit(0)
            os.wait()
            print('fine', VALUE, flush=True)
            """
        self.check(self.IMPORTS + textwrap.dedent(text), options=['-W', 'error'])

    def test_asyncio(self):
        text = """
            import asyncio

            async def main():
                process = await asyncio.create_subprocess_exec(sys.executable, '-c', 'print(1)', stdout=subprocess.PIPE)
                assert (await process.communicate())[0].split() == [b'1']
                assert process.returncode == 0
                print('fine', VALUE, flush=True)

            asyncio.run(main())
            """
        self.check(self.IMPORTS + textwrap.dedent(text))

    @needs_posix
    def test_own_handlers(self):
        """The app waits for its children itself, and wakes its own loop."""
        text = """
            import socket, time
            ended = []
            signal.signal(signal.SIGCHLD, lambda *_: ended.append(os.waitpid(-1, os.WNOHANG)[0]))
            read, write = socket.socketpair()
            write.setblocking(False)
            assert signal.set_wakeup_fd(write.fileno()) == -1
            child = subprocess.Popen([sys.executable, '-c', ''])
            while not ended: time.sleep(0.01)
            assert ended == [child.pid], ended
            assert read.recv(1) == bytes([signal.SIGCHLD])
            print('fine', VALUE, flush=True)
            """
        self.check(self.IMPORTS + textwrap.dedent(text) + IDLE)

    def test_pickle(self):
        """Objects of __main__, even at exit."""
        text = """
            import atexit, pickle
            from mod import VALUE

            class Point:
                x = VALUE

            def check():
                assert type(pickle.loads(pickle.dumps(Point()))) is Point
                print('fine', VALUE, flush=True)

            atexit.register(check)
            """
        self.check(text)

    @needs_cpython
    def test_end_by_sys_exit(self):
        """sys.exit() releases the app's objects before Python shuts down."""
        text = """
            import sys
            from mod import VALUE

            def tell():
                print('fine', VALUE, flush=True)

            class Guard:
                def __del__(self):
                    tell()

            def main():
                guard = Guard()
                sys.exit()

            main()
            """
        self.check(text)

    def test_annotations(self):
        """The annotations of __main__ are those of its code, even if Python makes them lazily."""
        self.check(
            'import __main__\nfrom mod import VALUE\nx: int = 1\nassert __main__.__annotations__ == {"x": int}\n'
            'print("fine", VALUE, flush=True)'
        )

    def test_compile(self):
        """An app may compile what it has just saved, which only imports avoid; that does not make the file watched."""
        text = """
            import py_compile
            from mod import VALUE
            with open('new.py', 'w') as file:
                file.write('x = 1')
            py_compile.compile('new.py', doraise=True)
            print('fine', VALUE, flush=True)
            """
        monitor = self.check(text)
        self.assertEqual(monitor.count('changed; reloading'), 1)

    def test_relative_import(self):
        self.write('pkg/__init__.py', '')
        self.write('pkg/part.py', 'from mod import VALUE')
        self.check('from .part import VALUE\nprint("fine", VALUE)', name='pkg/__main__.py', target=('-m', 'pkg'))

    @needs_posix
    @needs_cpython
    def test_faulthandler(self):
        no_core = 'import os, signal, resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n'
        self.write('app.py', no_core + 'os.kill(os.getpid(), signal.SIGSEGV)')
        command, env = self.command('-m', 'app')
        monitor = self.start(command[0], '-X', 'faulthandler', *command[1:], env=env)
        monitor.wait_for('(most recent call first)')
        monitor.wait_for('SIGSEGV')
        self.assertEqual(monitor.stop(), 139)

    @needs_cpython
    @unittest.skipIf(WINDOWS, 'output of C code to a pipe appears at the end there')
    def test_importtime(self):
        self.write_app()
        command, env = self.command('-m', 'app')
        monitor = self.start(command[0], '-X', 'importtime', *command[1:], env=env)
        monitor.wait_for(re.compile(r'^import time: .*\| mod$'))
        monitor.wait_for('app 1')
        monitor.stop()

    @needs_cpython
    @needs_posix
    def test_tracebacks_that_the_app_prints(self):
        """Also the traceback of an extension module that can't be loaded."""
        self.write('broken' + importlib.machinery.EXTENSION_SUFFIXES[0], 'x')
        text = """
            import traceback
            from mod import VALUE
            try:
                import broken
            except ImportError:
                assert 'hupper.py' not in traceback.format_exc(), traceback.format_exc()
            print('fine', VALUE, flush=True)
            """
        self.check(text)

    def test_unittest(self):
        text = """
            import unittest
            from mod import VALUE

            class Test(unittest.TestCase):
                def test(self):
                    print('fine', VALUE, flush=True)
            """
        self.write_value(1)
        self.write('test_app.py', text)
        command, env = self.command('-m', 'unittest', 'test_app')
        monitor = self.start(*command, env=env)
        for value in 1, 22:
            monitor.wait_for(f'fine {value}')
            monitor.wait_for('OK', count=1 if value == 1 else 2)
            self.write_value(22)
        monitor.stop()

    @unittest.skipUnless(importlib.util.find_spec('pytest'), 'the package pytest is not installed')
    def test_pytest(self):
        self.write_value(1)
        self.write('test_app.py', 'from mod import VALUE\ndef test(): print("fine", VALUE)\n')
        command, env = self.command('-m', 'pytest', '-s', '-q', 'test_app.py')
        monitor = self.start(*command, env=env)
        monitor.wait_for('fine 1')
        monitor.wait_for('1 passed')
        self.write_value(22)
        monitor.wait_for('fine 22')
        monitor.stop()

    @unittest.skipUnless(importlib.util.find_spec('coverage'), 'the package coverage is not installed')
    def test_coverage(self):
        self.write_value(1)
        self.write('app.py', 'from mod import VALUE\nprint("fine", VALUE, flush=True)\n')
        command, env = self.command('-m', 'coverage', 'run', 'app.py')
        monitor = self.start(*command, env=env)
        monitor.wait_for('fine 1')
        monitor.wait_for('Waiting for a file')
        self.write_value(22)
        monitor.wait_for('fine 22')
        monitor.wait_for('Waiting for a file', count=2)
        monitor.stop()
        report = self.project.python('-m', 'coverage', 'report', '-m').stdout
        self.assertRegex(report, r'app\.py +2 +0 +100%')
        self.assertNotIn('hupper.py', report)

    def test_second_copy(self):
        """Copies of the module share the proxy; none is active in a child of any kind."""
        os.mkdir(self.path('vendor'))
        shutil.copy(self.path('hupper.py'), self.path('vendor'))
        text = """
            import multiprocessing
            import hupper, vendor.hupper
            assert hupper.is_active() and vendor.hupper.is_active() and hupper is not vendor.hupper
            assert hupper.start_reloader('nonsense.main') and vendor.hupper.get_reloader()
            vendor.hupper.get_reloader().watch_files(['mod.py'])
            code = 'import hupper, vendor.hupper, sys; sys.exit(hupper.is_active() or vendor.hupper.is_active())'
            assert subprocess.call([sys.executable, '-c', code], close_fds=False) == 0
            if hasattr(os, 'fork'):
                pid = os.fork()
                if pid == 0:
                    os._exit(hupper.is_active() or vendor.hupper.is_active())
                assert os.waitpid(pid, 0)[1] == 0
                with multiprocessing.get_context('fork').Pool(1) as pool:
                    assert not pool.apply(hupper.is_active)
            print('fine', VALUE, flush=True)
            """
        self.check(self.IMPORTS + textwrap.dedent(text))


@needs_posix
@in_each_mode(*('fork', 'spawn')[: 2 if FULL else 1])
class Endings(ModeCase):
    """What Python prints at the end of a program, and its status, are the same as under plain Python."""

    ENDS = {
        'exception': 'import part',
        'cause': 'try:\n    import part\nexcept ValueError as error:\n    raise KeyError(2) from error',
        'context': 'try:\n    import missing\nexcept ImportError as error:\n    import part',
        'interrupt': 'raise KeyboardInterrupt',
        'own hook': 'import sys\nsys.excepthook = lambda *args: print("hook", args[0], args[2].tb_lineno)\nimport part',
        'thread': 'import threading\nthread = threading.Thread(target=int, args="x")\nthread.start()\nthread.join()',
        'atexit': 'import atexit\natexit.register(int, "x")',
        'group': 'raise ExceptionGroup("several", [ValueError(1), KeyError(2)])',
        'hook that raises': 'import sys\nsys.excepthook = lambda *args: 1 / 0\nimport part',
        'hook that exits': 'import sys\nsys.excepthook = lambda *args: sys.exit(7)\nimport part',
        'handled in the hook': 'import sys\nsys.excepthook = lambda *args: print(sys.exc_info())\nimport part',
        'text': 'import sys\nsys.exit("text")',
        'none': 'import sys\nsys.exit()',
        'number': 'import sys\nsys.exit(300)',
        'last': 'import atexit, sys\natexit.register(lambda: print(sys.last_value, sys.last_type))\nimport part',
        'nothing last': 'import sys\nprint([name for name in vars(sys) if name.startswith("last")])',
        'interrupt of its own': 'class Own(KeyboardInterrupt): pass\nraise Own',
        'interrupt after an eval': 'import collections\ncollections.namedtuple("T", "x")\nraise KeyboardInterrupt',
        'what an exception holds': 'import sys\ndef hook(kind, error, trace):\n    while trace:\n'
        '        print(trace.tb_frame.f_code.co_name)\n        trace = trace.tb_next\n'
        '    print(error.__context__, error.__cause__)\nsys.excepthook = hook\nimport part',
        'thread that goes on': 'import threading, time\nthreading.Timer(0.1, print, ["x"]).start()',
        'trace': 'import sys\ndef trace(frame, *_):\n    if "hupper" in frame.f_code.co_filename:\n'
        '        print(frame.f_code)\n    return trace\nsys.settrace(trace)\nsys.exit(3)',
        'warning of nobody': 'import warnings\nwarnings.warn("x", DeprecationWarning, stacklevel=9)',
    }
    NEEDS_CPYTHON = 'hook that raises', 'hook that exits', 'interrupt of its own', 'last'

    def test_output_and_status(self):
        self.write('part.py', 'def f(): raise ValueError(1)\nf()\n')
        self.write('app.py', 'import ends, sys\nexec(ends.ENDS[sys.argv[1]])\n')
        self.write('ends.py', f'ENDS = {self.ENDS!r}\n')
        names = (
            self.ENDS if FULL else 'cause interrupt trace text last thread'.split() + ['own hook', 'hook that raises']
        )
        if sys.implementation.name != 'cpython':
            names = set(names).difference(self.NEEDS_CPYTHON)
        for name in names:
            with self.subTest(name):
                plain = self.project.python('app.py', name)
                command, env = self.command('app.py', name)
                at = command.index('-v')
                command[at:at] = ['--exit-on-crash', '-q']
                command.remove('-v')
                ours = self.project.run(*command, env=env)
                lines = [line for line in ours.stderr.splitlines(True) if not line.startswith('[ERROR] Worker ')]
                is_same = plain.returncode >= 0 or (plain.returncode == -signal.SIGINT and self.mode != 'api')
                status = plain.returncode if is_same else 128 - plain.returncode
                self.assertEqual((ours.stdout, ''.join(lines), ours.returncode), (plain.stdout, plain.stderr, status))

    @needs_cpython
    def test_order_of_output(self):
        """What a script has printed to a pipe comes before its traceback or last words; a module's comes after."""
        for name, end in {'crash': '1 / 0', 'exit': 'raise SystemExit("last words")'}.items():
            self.write(f'{name}.py', f'print("first")\n{end}\n')
            for target in ([f'{name}.py'], ['-m', name]):
                with self.subTest(target):
                    command, env = self.command(*target)
                    command[command.index('-v')] = '--exit-on-crash'
                    plain, ours = (
                        self.project.run('sh', '-c', '"$@" 2>&1', 'sh', *each, env=env).stdout
                        for each in ([sys.executable, *target], command)
                    )
                    first = 'Traceback' if name == 'crash' else 'last words'
                    self.assertEqual(ours.index('first') < ours.index(first), plain.index('first') < plain.index(first))


# --- preloading --------------------------------------------------------------


class PreloadParts(unittest.TestCase):
    """The decisions of --preload, without processes."""

    def setUp(self):
        self.project = Project()
        self.addCleanup(self.project.remove)

    def names(self, text):
        names, _ = hupper._SourceImports._in_source(self.project.write('x.py', text))
        return names

    def test_imported_names(self):
        for text, names in {
            'import a': {'a'},
            'import a.b.c as d': {'a', 'a.b', 'a.b.c'},
            'from a.b import c, d': {'a', 'a.b', 'a.b.c', 'a.b.d'},
            'from a import *': {'a', 'a.*'},
            'from . import a': {'.a'},
            'from .a import b': {'.a', '.a.b'},
            'from ..a.b import c': {'..a', '..a.b', '..a.b.c'},
            'def f():\n  class C:\n    import a\n  return lambda: __import__("b")': {'a'},
            'try:\n  import a\nexcept ImportError:\n  a = None': {'a'},
            'if x:\n  pass\nelif y:\n  import a\nelse:\n  import b': {'a', 'b'},
            'for x in y:\n  with x:\n    import a\nelse:\n  import b; import c': {'a', 'b', 'c'},
            'try:\n  x\nfinally:\n  async def f():\n    import a': {'a'},
            '# -*- coding: latin-1 -*-\nimport a': {'a'},
            **({'match x:\n  case 1:\n    import a': {'a'}} if sys.version_info >= (3, 10) else {}),
        }.items():
            with self.subTest(text[-60:]):
                self.assertEqual(self.names(text), names)

    def test_names_of_relative_imports(self):
        for name, modules, expected in [
            ('a.b', ['a.b'], True),
            ('a.b', ['a'], False),
            ('a.b', ['ns.a.b'], False),
            ('.x', ['ns.pack.x'], True),
            ('..x', ['ns.x'], True),
            ('.x.y', ['ns.x.y'], True),
            ('.x.y', ['ns.x', 'ns.y'], False),
            ('.x', ['x'], False),
            ('.x', ['ns.yx'], False),
        ]:
            with self.subTest(name=name, modules=modules):
                self.assertIs(hupper._Preload._is_named(name, modules, []), expected)
        for name, source, expected in [
            ('a.b', '/p/a/b.py', True),
            ('a.b', '/p/a/b/__init__.py', True),
            ('a.b', '/p/b.py', False),
            ('.b', '/p/a/b.py', True),
            ('..a.b', '/p/a/b.py', True),
            ('.b', '/p/a/bb.py', False),
            ('a.*', '/p/a/b.py', False),
        ]:
            with self.subTest(name=name, source=source):
                self.assertIs(hupper._Preload._is_named(name, [], [source.replace('/', os.sep)]), expected)

    def imports(self, path):
        imports, signature = hupper._SourceImports(), hupper._signature(path)
        imports.add(path, signature)
        while imports._unread:
            imports.step()
        return imports, signature

    def test_imports_taken_away(self):
        path = self.project.write('x.py', 'import a, b.c\n')
        imports, signature = self.imports(path)
        self.project.write('x.py', 'import a, b\ndef f(): import d\n')
        self.assertEqual(imports.differences(path, signature), ({'b.c'}, set()))
        second = hupper._signature(path)
        self.project.write('x.py', 'import a')
        self.assertEqual(imports.differences(path, signature), ({'b', 'b.c'}, set()), 'compared with the running code')
        self.assertEqual(imports.differences(path, second), ({'b', 'd'}, set()), 'compared with the last save')
        remove(path)
        self.assertEqual(imports.differences(path, signature), ({'a', 'b', 'b.c'}, set()))

    def test_setup_statements(self):
        """A statement that sets up what packages see counts if it has come, gone or changed; others don't."""
        one, two = 'os.environ["X"] = "1"', 'os.environ["X"] = "2"'
        for before, after, expected in [
            (one, one, set()),
            (one, two, {one, two}),
            ('', two, {two}),
            (one, '', {one}),
            (one + '\ny = 1', 'y = 2\n\nif y:\n    ' + one, set()),
            ('environ.update(X="1")', '', {'environ.update(X="1")'}),
            (
                'environ.update(\n  X="1",\n)',
                'environ.update(\n  X="2",\n)',
                {f'environ.update( X="{x}", )' for x in (1, 2)},
            ),
            ('import sys', 'import sys\nsys.path.append("y")', {'sys.path.append("y")'}),
            ('warnings.simplefilter("error")', '', {'warnings.simplefilter("error")'}),
            ('environment = 1', 'environment = 2', set()),
        ]:
            with self.subTest(before=before, after=after):
                path = self.project.write('x.py', before)
                imports, signature = self.imports(path)
                self.project.write('x.py', after)
                self.assertEqual(imports.differences(path, signature), (set(), {line.encode() for line in expected}))

    def test_warnings_of_the_compiler(self):
        """The worker reports an invalid escape sequence; the monitor does not."""
        path = self.project.write('x.py', 'os.environ["X"] = "\\d"')
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            imports, signature = self.imports(path)
            imports.differences(path, signature)
        self.assertEqual(caught, [])

    def test_imports_not_known(self):
        path = self.project.write('x.py', 'import a\n')
        imports, signature = self.imports(path)
        self.assertIsNone(imports.differences(path, signature + 1), 'another version')
        self.project.write('x.py', 'import (')
        self.assertIsNone(imports.differences(path, signature), 'it does not compile')
        imports = hupper._SourceImports()
        imports.add(path, signature)  # the file has changed meanwhile
        while imports._unread:
            imports.step()
        self.assertIsNone(imports.differences(path, signature))

    def preload(self, *names, excepted=(), target='app'):
        """Return a _Preload to which a worker has reported these modules."""
        self.lines = []
        logger = SimpleNamespace(debug=self.lines.append, info=self.lines.append)
        preload = hupper._Preload(True, excepted, SimpleNamespace(kind='module', name=target), logger)
        preload.note_start(None)
        for name in names:
            preload.handlers()['module'](name, f'{os.sep}{name.replace(".", os.sep)}.py')
        preload.note_boot()
        return preload

    def planned(self, preload, watched=()):
        plan = preload.plan(lambda: set(map(os.path.normcase, watched)))
        return [name for name, *_ in plan[0]] if plan else []

    def test_plan(self):
        for names, excepted, expected in [
            ('a a.b c', '', 'a a.b c'),
            ('a a.b c', 'a', 'c'),
            ('a a.b ab c', 'a.b', 'a ab c'),
            ('a app c', '', 'a c'),
            ('a gevent c', '', ''),
            ('a opentelemetry.instrumentation.flask', '', ''),
            ('a opentelemetry.trace', '', 'a opentelemetry.trace'),
        ]:
            with self.subTest(names=names, excepted=excepted):
                preload = self.preload(*names.split(), excepted=excepted.split())
                self.assertEqual(self.planned(preload), expected.split())
        self.assertEqual(self.planned(self.preload('a', 'b'), watched=[os.sep + 'a.py']), ['b'])

    def test_crash_keeps_the_list(self):
        preload = self.preload('a', 'b')
        for status, expected in ((1, ['a', 'b']), (0, ['c'])):
            preload.note_start(None)
            preload.handlers()['module']('c', '/c.py')
            preload.note_exit(None, status)
            self.assertEqual(self.planned(preload), expected)

    def test_environment_of_each_import(self):
        preload = self.preload()
        preload.note_start(None)
        for kind, *fields in [
            ('argv0', '=app'),
            ('module', 'a', '/a.py'),
            ('environ', 'X', '=1=2'),
            ('environ', 'X', '+=3'),
            ('environ', 'Y', '-'),
            ('module', 'b', '/b.py'),
            ('module-gone', 'b'),
        ]:
            preload.handlers()[kind](*fields)
        preload.note_boot()
        plan = [('a', '/a.py', {}, False), ('b', '/b.py', {'X': '1=2=3', 'Y': None}, True)]
        self.assertEqual(preload.plan(set), (plan, [], 'app'))

    def test_long_variable(self):
        """It is sent in messages that fit into a pipe of macOS, too."""
        value, sent = '\u20ac' * 1000, []
        with mock.patch.object(hupper._Handshake, 'LONGEST_MESSAGE', 512):
            recorder = hupper._ImportRecorder(mock.Mock(send=lambda *fields: sent.append(fields)))
            with mock.patch.dict(os.environ, LONG=value):
                recorder.end()
        pieces = [fields for fields in sent if fields[:2] == ('environ', 'LONG')]
        self.assertEqual(''.join(text[1:] for *_, text in pieces), value)
        self.assertLess(max(len('\0'.join(fields).encode()) for fields in pieces), 500)

    def test_environment_of_the_next_run(self):
        """What an app sets that has preloaded is for the next standby; a new variable requires a plain start."""

        def run(*messages):
            preload.note_start(worker)
            for kind, *fields in messages:
                preload.handlers()[kind](*fields)
            preload.note_boot()
            plan = preload.plan(set)
            preload.note_exit(worker, 0)
            return {name: environ for name, _, environ, _ in plan[0]} if plan else {}

        preload, worker = self.preload(), None
        both = [('environ', 'X', '=1'), ('module', 'a', '/a.py'), ('environ', 'X', '=2'), ('module', 'b', '/b.py')]
        self.assertEqual(run(*both), {'a': {'X': '1'}, 'b': {'X': '2'}})
        for messages, expected in [
            ([], {'a': {'X': '1'}, 'b': {'X': '2'}}),
            ([('environ', 'X', '=3')], {'a': {'X': '1'}, 'b': {'X': '3'}}),
            ([('environ', 'X', '=3'), ('module', 'c', '/c.py')], {'a': {'X': '1'}, 'b': {'X': '3'}, 'c': {'X': '3'}}),
            ([('environ', 'Y', '=1')], {}),
        ]:
            worker = SimpleNamespace(channel=SimpleNamespace(handlers={}))
            preload.note_standby(worker)
            self.assertEqual(run(*messages), expected)

    @staticmethod
    def standby(preload):
        """Let a new standby preload; return the handlers of its messages."""
        standby = SimpleNamespace(channel=SimpleNamespace(handlers={}))
        preload.note_standby(standby)
        return standby.channel.handlers

    def test_what_fails_is_left_out(self):
        preload = self.preload('a', 'a.b', 'c', 'd')
        standby = self.standby(preload)
        standby['preload']('a')
        standby['preload-failed']('a', 'it broke')
        standby['preload']('c')
        standby['preload-end'](3, 0, 0)
        self.assertEqual(preload.deadline, 0)
        self.assertTrue(preload.is_hopeless(1))
        preload.reject()
        self.assertEqual(preload.plan(set)[1], ['a'])
        self.assertEqual(self.planned(preload), ['c', 'd'])
        standby = self.standby(preload)
        standby['preload']('c')
        with mock.patch.object(hupper.time, 'monotonic', return_value=preload.deadline + 1):
            preload.reject()  # the import hangs
        self.assertEqual(self.planned(preload), ['d'])
        standby = self.standby(preload)
        standby['preload']('d')
        preload.reject()  # the standby has died
        self.assertEqual(self.planned(preload), [])
        self.assertEqual([line for line in self.lines if 'any more' in line], [self.lines[-1]])
        self.assertIn('d: it ends the process', self.lines[-1])
        self.assertIn('c is not preloaded: it takes longer than 10 s.', self.lines)
        preload.retry_all()
        self.assertEqual(self.planned(preload), [], 'the next start is plain')
        preload.note_start(None)
        preload.handlers()['module']('a', '/a.py')
        preload.note_boot()
        self.assertEqual(self.planned(preload), ['a'])

    def test_late_messages(self):
        """Messages from a discarded standby set no deadline."""
        preload = self.preload('a')
        standby = self.standby(preload)
        preload.note_standby(None)
        standby['preload']('a')
        standby['preload-file']('/a.py', 1)
        standby['preload-end'](1, 0, 0)
        self.assertIsNone(preload.deadline)

    def test_installed_files(self):
        """A change is noticed with and without inotify; other changes in the folder do not count."""
        for works in (True, False):
            with self.subTest(works=works):
                paths = [self.project.write(name, '') for name in ('pack/a.py', 'pack/b.py', 'c.py')]
                signatures = {path: hupper._signature(path) for path in paths}
                with contextlib.ExitStack() as stack:
                    if not works:
                        stack.enter_context(mock.patch.object(hupper, '_Inotify', side_effect=OSError))
                    files = hupper._InstalledFiles(signatures)
                self.addCleanup(files.close)
                self.project.write('pack/other.py', '')
                self.assertIsNone(files.changed())
                put(paths[1], 'x = 1')
                self.assertEqual(files.changed(), paths[1])
                self.assertEqual(files.changed(), paths[1])
                files = hupper._InstalledFiles({path: hupper._signature(path) for path in paths})
                self.addCleanup(files.close)
                rename(self.project.path('pack'), self.project.path('gone'))
                self.assertIn(files.changed(), paths[:2])
                rename(self.project.path('gone'), self.project.path('pack'))
                self.assertIsNone(files.changed())
                remove(paths[0])
                self.assertEqual(files.changed(), paths[0])

    def test_what_fails_and_the_last_run_did_not_import(self):
        """The failure is no obstacle if the import fails in the running worker as well, as an optional part may."""
        for fails in (True, False):
            with self.subTest(fails=fails):
                preload = self.preload('a')
                standby = self.standby(preload)
                for kind, *fields in [
                    ('preload', 'a'),
                    ('preload-unlisted', 'b', f'{os.sep}b.py'),
                    ('preload-lost', 'b'),
                    ('preload-end', 2, 0, 0),
                    ('module', 'b', f'{os.sep}b.py'),
                    *([('module-gone', 'b')] if fails else []),
                ]:
                    {**preload.handlers(), **standby}[kind](*fields)
                self.assertFalse(preload.is_hopeless(1))
                self.assertEqual(preload.obstacle(), None if fails else 'b has failed in it')

    def test_what_the_last_run_did_not_import(self):
        """The running worker may still import the module; if not, the import that has led to it is excluded."""
        for late, expected in (([], ['c']), (['b'], ['a', 'c', 'b']), (['x', 'y'], ['c', 'x', 'y'])):
            with self.subTest(late=late):
                preload = self.preload('a', 'c')
                standby = self.standby(preload)
                standby['preload']('a')
                standby['preload-unlisted']('b', f'{os.sep}b.py')
                standby['preload-end'](2, 0, 0)
                self.assertFalse(preload.is_hopeless(1), 'the running worker may still import it')
                self.assertIn('b was not imported', preload.obstacle())
                for name in late:
                    preload.handlers()['module'](name, f'{os.sep}{name}.py')
                    hopeless = preload.is_hopeless(2)
                    self.assertFalse(hopeless)
                if preload.deadline and preload.is_hopeless(3):
                    preload.reject()
                self.assertEqual(self.planned(preload), expected)

    def test_environment_is_undone(self):
        preloader = hupper._Preloader(None, [], [], '')
        with mock.patch.dict(os.environ, {'SAME': '1', 'OURS': '1', 'GONE': '1'}):
            os.environ.pop('NEW', None)
            preloader._set_environ({'SAME': '1', 'OURS': '2', 'GONE': None, 'NEW': '3', 'ITS': 'a'})
            found = [os.environ.get(name) for name in ('SAME', 'OURS', 'GONE', 'NEW', 'ITS')]
            self.assertEqual(found, ['1', '2', None, '3', 'a'])
            os.environ['SAME'] = os.environ['ITS'] = 'changed by an import'
            preloader._set_environ({'OURS': '4', 'GONE': None})
            self.assertEqual([os.environ.get(name) for name in ('OURS', 'GONE', 'NEW')], ['4', None, None])
            preloader._set_environ({})
            found = [os.environ.get(name) for name in ('SAME', 'OURS', 'GONE', 'NEW', 'ITS')]
            self.assertEqual(found, ['changed by an import', '1', '1', None, 'changed by an import'])
            del os.environ['ITS']

    def test_switch(self):
        for value, argument, wanted in [
            ('1', None, True),
            ('0', None, False),
            ('', None, False),
            (None, None, False),
            ('1', False, False),
            ('0', True, True),
        ]:
            with self.subTest(value=value, argument=argument), mock.patch.dict(os.environ):
                os.environ.pop('HUPPER_PRELOAD', None)
                os.environ.update({} if value is None else {'HUPPER_PRELOAD': value})
                reloader = hupper.Reloader('a.b', None, hupper.SilentLogger(), preload=argument)
                self.assertIs(reloader.preload, wanted)
        with self.assertRaisesRegex(TypeError, "not 'numpy': put it in a list"):
            hupper.Reloader('a.b', None, hupper.SilentLogger(), preload_except='numpy')

    def test_package_that_puts_an_extension_in_its_place(self):
        """It may come from elsewhere than the package, whose name it has: cv2."""
        spec = importlib.machinery.ModuleSpec('lib', None, origin='/site/lib/lib.so')
        preloader = hupper._Preloader(mock.Mock(), [('lib', '/site/lib/__init__.py', {}, False)], [], '')
        with mock.patch.object(hupper, '_is_installed', return_value=True):
            self.assertIn('was not imported from', preloader._obstacle('lib', spec))
            preloader.note({'name': 'lib'})
            self.assertIsNone(preloader._obstacle('lib', spec))


@in_each_mode(*MODES)
class Preload(EnvironmentCase):
    """--preload: the next worker imports installed packages ahead of time."""

    mode = None

    def setUp(self):
        super().setUp()
        os.mkdir(os.path.join(self.site, '__pycache__'))  # created later, it would look like an installation

    def write_app(self, value=1, body='import lib'):
        """Write an app that prints whether lib was loaded before it executes `body`."""
        begin = 'import sys\nbefore = "preloaded" if "lib" in sys.modules else "plain"\n'
        end = f'print("app", {value}, before, flush=True)\n'
        self.write('app.py', begin + textwrap.dedent(body) + '\n' + end + IDLE)

    def run_app(self, watch=(), excepted=(), preload=True, options=(), **more):
        if self.mode == 'api':
            settings = dict(reload_interval=0.2, verbose=2, preload=preload, preload_except=list(excepted))
            self.write('start.py', START % {'settings': settings, 'watch': list(watch)})
            return self.start(self.python, *options, 'start.py', **more)
        flags = ['-v', '--reload-interval=0.2', *['--preload'] * bool(preload)]
        flags += [f'--preload-except={name}' for name in excepted] + [f'--watch={path}' for path in watch]
        return self.start(self.python, *options, 'hupper.py', *flags, '-m', 'app', **more)

    def start_preloaded(self, **options):
        """Run the app and wait until its standby has preloaded."""
        monitor = self.run_app(**options)
        monitor.wait_for('app 1 plain')
        monitor.wait_for('Preloaded ')
        return monitor

    def save(self, monitor, value, how, body='import lib', standby=True):
        """Save the app; check how it starts; then wait until the next standby is ready."""
        ready = monitor.count('Preloaded ')
        self.write_app(value, body)
        monitor.wait_for(f'app {value} {how}')
        if standby:
            monitor.wait_for('Preloaded ', count=ready + 1)

    def test_life(self):
        """Edit, crash, fix, stop."""
        self.install('lib.py', '')
        self.write_app()
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded')
        self.save(monitor, 3, 'preloaded')
        ready = monitor.count('Preloaded ')
        self.write_app(4, 'import lib\n1 / 0')
        monitor.wait_for('ZeroDivisionError')
        monitor.wait_for('Preloaded ', count=ready + 1)
        self.save(monitor, 5, 'preloaded', standby=False)
        monitor.stop()
        self.assertNotIn('[ERROR]', monitor.text())

    def test_off_by_default(self):
        self.install('lib.py', '')
        self.write_app()
        monitor = self.run_app(preload=None)
        monitor.wait_for('app 1 plain')
        monitor.wait_for('Watching ')
        self.write_app(2)
        monitor.wait_for('app 2 plain')
        monitor.stop()
        self.assertNotIn('reloaded ', monitor.text('err'))

    @only_full
    def test_variable(self):
        self.install('lib.py', '')
        self.write_app()
        monitor = self.start_preloaded(preload=None, env={'HUPPER_PRELOAD': '1'})
        self.save(monitor, 2, 'preloaded', standby=False)
        monitor.stop()

    def test_import_taken_away(self):
        """The next start is plain and lacks what is no longer imported; the other modules are preloaded again."""
        self.install('lib.py', '')
        self.install('pack/__init__.py', '')
        self.install('pack/sub.py', '')
        both = 'import lib, pack\nfrom pack import sub\nassert "pack.sub" in sys.modules'
        one = 'import lib, pack\nassert "pack.sub" not in sys.modules'
        self.write_app(1, both)
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded', both)
        self.save(monitor, 3, 'plain', one)
        self.assertIn('no longer imports pack.sub', monitor.text())
        self.save(monitor, 4, 'preloaded', one)
        self.save(monitor, 5, 'preloaded', both)
        self.save(monitor, 6, 'plain', one, standby=False)
        monitor.stop()

    def test_import_of_the_project_taken_away(self):
        """What only a module of the project imported goes with it; what other modules import is preloaded again."""
        self.install('lib.py', '')
        self.install('other.py', '')
        self.write('helper.py', 'import other')
        self.write('part/__init__.py', '')
        self.write('part/one.py', 'from . import two')
        self.write('part/two.py', 'import other')
        self.write_app(1, 'import lib, helper')
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded', 'import lib, helper')
        self.save(monitor, 3, 'plain', 'import lib\nassert "other" not in sys.modules')
        self.save(monitor, 4, 'preloaded', 'import lib\nfrom part import one')
        self.write('part/one.py', '')
        monitor.wait_for('app 4 plain')
        monitor.wait_for('Preloaded ', count=5)
        self.save(monitor, 5, 'plain', 'import lib', standby=False)
        monitor.stop()

    @only_full
    def test_import_taken_away_in_a_crash(self):
        """The monitor still knows that the list has a module that is no longer imported."""
        self.install('lib.py', '')
        self.install('other.py', '')
        self.write_app(1, 'import lib, other')
        monitor = self.start_preloaded()
        self.write_app(2, 'import lib\n1 / 0')
        monitor.wait_for('ZeroDivisionError')
        monitor.wait_for('Waiting for a file')
        self.save(monitor, 3, 'plain', 'import lib\nassert "other" not in sys.modules')
        self.save(monitor, 4, 'preloaded', 'import lib\nassert "other" not in sys.modules', standby=False)
        monitor.stop()

    @only_full
    def test_imports_added(self):
        self.install('lib.py', '')
        self.install('other.py', '')
        self.write_app()
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded', 'import lib, other')
        self.save(monitor, 3, 'preloaded', 'before += str("other" in sys.modules)\nimport lib, other', standby=False)
        monitor.wait_for('app 3 preloadedTrue')
        monitor.stop()

    @only_full
    def test_deleted_source(self):
        self.install('lib.py', '')
        self.install('other.py', '')
        self.write('helper.py', 'import other')
        body = 'import lib\ntry: import helper\nexcept ImportError: print("without", "other" in sys.modules)'
        self.write_app(1, body)
        monitor = self.start_preloaded()
        remove(self.path('helper.py'))
        monitor.wait_for('without False')
        monitor.wait_for('app 1 plain', count=2)
        monitor.stop()

    @only_full
    @needs_posix
    def test_asked_for(self):
        """SIGHUP causes a plain start."""
        self.install('lib.py', '')
        self.write_app()
        monitor = self.start_preloaded()
        monitor.send(signal.SIGHUP)
        monitor.wait_for('app 1 plain', count=2)
        monitor.stop()

    @only_full
    def test_imports_of_the_project(self):
        """A package that imports the project is not preloaded; others are."""
        self.install('lib.py', '')
        self.install('django_like.py', 'try:\n    import conf\nexcept ImportError:\n    conf = None')
        self.write('conf.py', 'DEBUG = True')
        body = (
            'late = "django_like" not in sys.modules\nimport lib, django_like\nassert late and django_like.conf.DEBUG'
        )
        self.write_app(1, body)
        monitor = self.start_preloaded()
        self.assertIn('django_like is not preloaded: conf leads into the project', monitor.text())
        self.save(monitor, 2, 'preloaded', body)
        self.write('conf.py', 'DEBUG = 2')
        monitor.wait_for('app 2 preloaded', count=2)
        monitor.stop()

    @only_full
    def test_code_that_is_not_installed(self):
        """Code that the environment only refers to belongs to the project."""
        self.install('lib.py', '')
        self.write('src/editable.py', '')
        self.install('editable.pth', self.path('src') + '\n')
        body = 'late = "editable" not in sys.modules\nimport lib, editable\nassert late'
        self.write_app(1, body)
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded', body)
        self.write('src/editable.py', 'x = 1')
        monitor.wait_for('app 2 preloaded', count=2)
        monitor.stop()

    def test_what_a_package_starts_and_changes(self):
        """SIGTERM can end a process that a package starts; the current folder stays where the package went."""
        self.install(
            'lib.py',
            """
            import os, subprocess, sys
            code = 'import time; print("started", flush=True); time.sleep(60)'
            process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
            process.stdout.readline()
            os.chdir(os.path.dirname(__file__))
            """,
        )
        body = """
            import lib, os
            lib.process.terminate()
            lib.process.wait(20)
            assert os.path.samefile(os.curdir, os.path.dirname(lib.__file__))
            """
        self.write_app(1, textwrap.dedent(body))
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded', textwrap.dedent(body), standby=False)
        monitor.stop()

    def test_found_by_a_finder_of_an_editable_project(self):
        """As setuptools installs it: an installed package that imports the project must see what is on disk."""
        self.write('src/editable.py', 'VALUE = 1')
        self.install('finder.pth', 'import finder')
        self.install(
            'finder.py',
            f"""
            import sys
            from importlib.util import spec_from_file_location

            class Finder:
                @staticmethod
                def find_spec(name, path=None, target=None):
                    if name == 'editable':
                        return spec_from_file_location(name, {self.path('src/editable.py')!r})

            sys.meta_path.append(Finder)
            """,
        )
        self.install('lib.py', 'import editable\ndef value(): return editable.VALUE')
        self.install('other.py', '')
        self.write_app(1, 'import other, lib\nprint("lib", lib.value())')
        monitor = self.start_preloaded()
        for value in 2, 3:
            self.write('src/editable.py', f'VALUE = {value}')
            monitor.wait_for('app 1 plain', count=value)
            self.assertIn(f'lib {value}', monitor.text())
            monitor.wait_for('Preloaded ', count=value)
        monitor.stop()

    def test_project_gets_a_module_of_that_name(self):
        self.install('lib.py', 'WHOSE = "installed"')
        body = 'import lib\nprint("lib", lib.WHOSE)'
        self.write_app(1, body)
        monitor = self.start_preloaded()
        self.write('lib.py', 'WHOSE = "project"')
        self.write_app(2, body)
        monitor.wait_for('app 2 plain')
        self.assertIn('lib project', monitor.text())
        monitor.stop()

    def test_project_gets_a_part_of_a_namespace(self):
        self.install('space/lib.py', '')
        self.write_app(1, 'import space.lib')
        monitor = self.run_app()
        monitor.wait_for('app 1 plain')
        monitor.wait_for('Preloaded ')
        self.write('space/more.py', 'print("more")')
        self.write_app(2, 'import space.lib, space.more')
        monitor.wait_for('app 2 ')
        self.assertIn('more\n', monitor.text())
        self.write('space/lib.py', 'print("own lib")')
        self.write('space/__init__.py', '')
        self.write_app(3, 'import space.lib')
        monitor.wait_for('app 3 plain')
        self.assertIn('own lib\n', monitor.text())
        monitor.stop()

    def test_project_has_data_of_that_name(self):
        """A folder that is no package and files that are no code shadow no module."""
        self.install('lib/__init__.py', '')
        self.write('lib.ini', '')
        self.write('lib/data.txt', '')
        self.write_app()
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded', standby=False)
        monitor.stop()

    def test_what_fails_ahead_of_time(self):
        """The standby continues, to find all imports that fail; the next standby excludes them."""
        self.install('lib.py', '')
        for name in ('one', 'two'):
            self.install(f'{name}.py', 'import sys\nif not hasattr(sys, "ready"): raise RuntimeError("not ready")')
        body = 'sys.ready = True\nlate = not {"one", "two"} & set(sys.modules)\nimport one, lib, two\nassert late'
        self.write_app(1, body)
        monitor = self.start_preloaded()
        for name in ('one', 'two'):
            self.assertIn(f'{name} is not preloaded: RuntimeError: not ready', monitor.text())
        self.save(monitor, 2, 'preloaded', body, standby=False)
        monitor.stop()

    def test_failure_that_is_caught(self):
        """An import that also fails in the plain run is no obstacle; one that fails only ahead of time is."""
        self.install('lib.py', 'try:\n    import never\nexcept ImportError:\n    never = None')
        self.install('never.py', 'raise ImportError')
        self.install('half.py', 'try:\n    import accelerator\nexcept ImportError:\n    accelerator = None')
        self.install('accelerator.py', 'import sys\nif not hasattr(sys, "ready"): raise ImportError')
        body = 'sys.ready = True\nimport lib, half\nassert half.accelerator and not lib.never'
        self.write_app(1, body)
        monitor = self.start_preloaded()
        self.assertIn('half is not preloaded: accelerator has failed in it', monitor.text())
        self.assertNotIn('never', monitor.text())
        self.save(monitor, 2, 'preloaded', body, standby=False)
        monitor.stop()

    @unittest.skipUnless(sys.implementation.name == 'cpython', 'nothing reports at once that an import has ended')
    def test_failure_of_the_last_import(self):
        self.install('lib.py', 'try:\n    import never\nexcept ImportError:\n    never = None')
        self.install('never.py', 'raise ImportError')
        self.write_app()
        monitor = self.start_preloaded()
        self.assertNotIn('never', monitor.text())
        self.save(monitor, 2, 'preloaded')
        monitor.stop()

    def test_package_that_fails(self):
        """The modules that the package had imported stay, but can't be imported without it."""
        self.install('lib.py', '')
        self.install('never/__init__.py', 'from . import one, two\nraise ImportError')
        self.install('never/one.py', '')
        self.install('never/two.py', '')
        body = 'try:\n    import never\nexcept ImportError:\n    import lib'
        self.write_app(1, body)
        monitor = self.start_preloaded()
        self.assertNotIn('never', monitor.text())
        self.save(monitor, 2, 'preloaded', body)
        monitor.stop()

    def test_import_that_ends_the_process(self):
        self.install('lib.py', '')
        self.install('deadly.py', 'import os, sys\nif not hasattr(sys, "ready"): os._exit(3)')
        body = 'sys.ready = True\nimport lib, deadly'
        self.write_app(1, body)
        monitor = self.start_preloaded()
        self.assertIn('deadly is not preloaded: it ends the process', monitor.text())
        self.save(monitor, 2, 'preloaded', body, standby=False)
        monitor.stop()

    @only_full
    def test_import_that_hangs(self):
        self.install('lib.py', '')
        self.install('slow.py', 'import sys, time\nif not hasattr(sys, "ready"): time.sleep(3600)')
        self.write_app(1, 'sys.ready = True\nimport lib, slow')
        monitor = self.start_preloaded()
        self.assertIn('slow is not preloaded: it takes longer than 10 s', monitor.text())
        monitor.stop()

    @only_full
    def test_who_catches_that_the_project_is_imported(self):
        """What is left out is found in one go, also where a package on the way has caught that: Django's settings."""
        for name, text in ('a', 'import b'), ('b', 'import c'), ('c', 'try: import settings\nexcept ImportError: pass'):
            self.install(f'{name}.py', text)
        self.install('d.py', 'import c')
        self.install('lib.py', '')
        self.write('settings.py', '')
        body = 'import a, d, lib'
        self.write_app(1, body)
        monitor = self.start_preloaded()
        for name in 'abc':
            self.assertIn(f'{name} is not preloaded: settings leads into the project.', monitor.text())
        self.assertIn('d is not preloaded: c is left out.', monitor.text())
        self.assertIn('Preloaded 1 modules', monitor.text())
        self.save(monitor, 2, 'preloaded', body, standby=False)
        monitor.stop()

    @only_full
    def test_three_failures(self):
        """After three failures nothing is preloaded any more, and one line says why."""
        self.install('lib.py', '')
        for number in range(3):
            self.install(f'deadly{number}.py', 'import os, sys\nif not hasattr(sys, "ready"): os._exit(3)')
        body = 'sys.ready = True\nimport deadly0, deadly1, deadly2, lib'
        self.write_app(1, body)
        monitor = self.run_app()
        monitor.wait_for('Nothing is preloaded any more (deadly2: it ends the process).')
        self.save(monitor, 2, 'plain', body, standby=False)
        monitor.stop()
        self.assertEqual(monitor.count('Nothing is preloaded'), 1)

    @only_full
    @needs_posix
    def test_children_of_a_standby_that_is_thrown_away(self):
        self.install('lib.py', '')
        text = """
            import subprocess, sys
            if not hasattr(sys, 'ready'):
                child = subprocess.Popen(['sleep', '4321'])
                1 / 0
        """
        self.install('starter.py', text)
        self.write_app(1, 'sys.ready = True\nimport lib, starter')
        monitor = self.start_preloaded()
        self.assertIn('starter is not preloaded: ZeroDivisionError', monitor.text())

        def left():
            return [pid for pid in self.project.processes() if '4321' in _command_line(pid)]

        wait_until(lambda: not left(), 'its child is still running')
        monitor.stop()

    SEEN = """
        import os, sys
        main = sys.modules['__main__']
        SEEN = [sys.argv[:], sys.path[:], os.getcwd(), main.__name__]
        SEEN += [os.environ.get(name) for name in ('CHOSEN', 'LATER', 'TMPDIR')]
        STREAMS = sys.stdout, sys.stderr, sys.stdout.isatty()
        os.environ['ITS_OWN'] = 'set'
    """

    def test_script_beside_the_script(self):
        """A console script has the name of its package and comes before the library, but it is no module."""
        self.install('lib.py', '')
        self.write('lib', '')
        self.write_app()
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded', standby=False)
        monitor.stop()

    def test_what_a_package_sees(self):
        """A package sees the same as in a plain run, and so does the app after it."""
        self.install('lib.py', self.SEEN)
        body = """
            import os
            state = [os.environ.get(name) for name in ('CHOSEN', 'TMPDIR', 'LATER')]
            own = os.environ.get('ITS_OWN')
            os.environ['CHOSEN'] = 'by the app'
            os.environ['LONG'] = '\\xe9' * 5000  # more than one message holds
            del os.environ['TMPDIR']
            import lib, other
            os.environ['LATER'] = '1'
            print('seen', lib.SEEN, state, other.CHOSEN)
            print('own', own)
            assert lib.STREAMS == (sys.stdout, sys.stderr, False) and sys.stdout.line_buffering is False
            if before == 'preloaded':
                assert sys.modules['__main__'] is lib.main or lib.main.__name__ != '__main__'
        """
        self.install('other.py', 'import os\nCHOSEN = os.environ["CHOSEN"], len(os.environ["LONG"])')
        self.write_app(1, body)
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded', body, standby=False)
        first, second = (line for _, line in monitor.lines if line.startswith('seen '))
        self.assertEqual(first, second)
        self.assertIn("'by the app', None, None", first)
        self.assertEqual([line for _, line in monitor.lines if line.startswith('own ')], ['own None', 'own set'])
        monitor.stop()

    def test_environment_that_changes(self):
        """A package sees what a changed statement sets at once, what the app reads from a file with the next reload."""
        self.install('lib.py', 'import os\nSEEN = os.environ["X"], os.environ["Y"]')
        self.write('other.py', '')
        self.write('y.txt', '1')
        body = """
            import os
            os.environ["X"] = "%s"
            os.environ["Y"] = open("y.txt").read()
            import lib, other
            print("seen", *lib.SEEN)
        """
        self.write_app(1, body % 1)
        monitor = self.start_preloaded()
        monitor.wait_for('seen 1 1')
        self.save(monitor, 2, 'preloaded', body % 1)
        self.save(monitor, 3, 'plain', body % 2)
        monitor.wait_for('seen 2 1')
        self.write('y.txt', '2')
        self.save(monitor, 4, 'preloaded', body % 2)
        self.save(monitor, 5, 'preloaded', body % 2)
        monitor.wait_for('seen 2 2')
        self.save(monitor, 6, 'preloaded', body % 2, standby=False)
        monitor.wait_for('seen 2 2', count=2)
        monitor.stop()

    def test_environment_of_a_script_that_ends(self):
        """What it has set is known at its end, even if it has imported nothing that was not preloaded."""
        self.install('lib.py', 'import os\nSEEN = os.environ["Y"]')
        self.write('y.txt', '1')
        text = 'import os\nos.environ["Y"] = open("y.txt").read()\nimport lib\nprint("app", %d, lib.SEEN)\n'
        self.write('app.py', text % 1)
        monitor = self.run_app()
        monitor.wait_for('app 1 1')
        monitor.wait_for('Preloaded ')
        self.write('y.txt', '2')
        for value, seen in ((2, 1), (3, 2)):
            self.write('app.py', text % value)
            monitor.wait_for(f'app {value} {seen}')
            monitor.wait_for('Preloaded ', count=value)
        monitor.stop()

    def test_output_waits(self):
        """Output of an import appears when the worker starts, that of a standby that never starts does not appear."""
        text = 'import logging\nprint("lib says so", flush=True)\nlogging.getLogger("lib").warning("lib warns")'
        self.install('lib.py', text)
        self.write_app()
        monitor = self.start_preloaded()
        self.assertEqual((monitor.count('lib says so'), monitor.count('lib warns')), (1, 1))
        self.save(monitor, 2, 'preloaded')
        self.assertEqual((monitor.count('lib says so'), monitor.count('lib warns')), (2, 2))
        monitor.stop()
        self.assertEqual((monitor.count('lib says so'), monitor.count('lib warns')), (2, 2))

    @only_full
    def test_unbuffered(self):
        """`python -u` keeps its effect."""
        self.install('lib.py', '')
        self.write_app(1, 'import lib\nprint(sys.stdout.write_through, sys.stderr.line_buffering)')
        monitor = self.start_preloaded(options=['-u'])
        self.save(
            monitor, 2, 'preloaded', 'import lib\nprint(sys.stdout.write_through, sys.stderr.line_buffering)', False
        )
        lines = [line for _, line in monitor.lines if line.startswith(('True', 'False'))]
        self.assertEqual(lines, lines[:1] * 2)
        monitor.stop()

    def test_installation(self):
        """A new version of a package, an edit inside one, a new .pth: what was preloaded is not used."""
        self.install('pack/__init__.py', 'from .part import VERSION')
        self.install('pack/part.py', 'VERSION = 1')
        self.install('lib.py', '')
        body = 'import lib, pack\nprint("version", pack.VERSION)'
        self.write_app(1, body)
        monitor = self.start_preloaded()
        self.install('pack/part.py', 'VERSION = 2')
        self.save(monitor, 2, 'plain', body)
        self.assertEqual(monitor.count('version 2'), 1)
        self.save(monitor, 3, 'preloaded', body)
        shutil.rmtree(os.path.join(self.site, 'pack'))
        self.install('pack/__init__.py', 'VERSION = 3')
        self.save(monitor, 4, 'plain', body)
        self.assertEqual(monitor.count('version 3'), 1)
        self.install('some.pth', '# new\n')
        self.save(monitor, 5, 'plain', body, standby=False)
        monitor.stop()

    def test_optional_parts(self):
        """Looking for a module does not import it, and what fails in the worker may also fail ahead of time."""
        self.install('other.py', '')
        self.install('needy.py', 'import no_such_module')
        self.install('instead.py', '')
        self.install(
            'lib.py',
            'from importlib.util import find_spec\nassert find_spec("other")\n'
            'try:\n    import needy\nexcept ImportError:\n    import instead\n'
            'from importlib.util import LazyLoader, module_from_spec\nspec = find_spec("other")\n'
            'spec.loader = LazyLoader(spec.loader)\nspec.loader.exec_module(module_from_spec(spec))\n',
        )
        self.write_app()
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded')
        monitor.stop()

    def test_watched_by_request(self):
        self.install('lib.py', 'VALUE = 1')
        self.install('other.py', '')
        body = 'import lib, other\nprint("value", lib.VALUE)'
        self.write_app(1, body)
        monitor = self.start_preloaded(watch=[os.path.join(self.site, 'lib.py')])
        self.save(monitor, 2, 'plain', body)
        self.install('lib.py', 'VALUE = 22')
        monitor.wait_for('value 22')
        monitor.stop()

    @only_full
    def test_excepted(self):
        """Neither the package nor what imports it is preloaded."""
        self.install('lib.py', '')
        self.install('device/__init__.py', '')
        self.install('device/port.py', '')
        self.install('user.py', 'import device.port')
        body = 'late = not {"device", "device.port", "user"} & set(sys.modules)\nimport user, lib\nassert late'
        self.write_app(1, body)
        monitor = self.start_preloaded(excepted=['device'])
        self.save(monitor, 2, 'preloaded', body, standby=False)
        monitor.stop()

    def test_patchers(self):
        self.install('lib.py', '')
        self.install('gevent/__init__.py', '')
        self.write_app(1, 'import gevent, lib')
        monitor = self.run_app()
        monitor.wait_for('Nothing is preloaded: gevent patches or measures')
        self.save(monitor, 2, 'plain', standby=False)
        monitor.stop()

    @only_full
    def test_rewritten_modules(self):
        """A module that a custom loader has loaded, for example pytest's, is not preloaded, nor what imports it."""
        finder = """
            from importlib.machinery import PathFinder, SourceFileLoader
            class Loader(SourceFileLoader):
                pass
            class Finder:
                def find_spec(name, path=None, target=None):
                    if name == 'rewritten':
                        spec = PathFinder.find_spec(name, path)
                        spec.loader = Loader(name, spec.origin)
                        return spec
            sys.meta_path.insert(0, Finder)
            late = not {'rewritten', 'user'} & set(sys.modules)
            import lib, user
            assert late and type(user.rewritten.__loader__) is Loader
        """
        self.install('lib.py', '')
        self.install('rewritten.py', '')
        self.install('user.py', 'import rewritten')
        self.write_app(1, finder)
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded', finder, standby=False)
        monitor.stop()

    SLOW = """
import os, sys, time
if not hasattr(sys, 'ready'):
    os.makedirs('began', exist_ok=True)
    while not os.path.exists('go'): time.sleep(0.01)
"""

    def test_start_while_it_preloads(self):
        """The worker starts with what is loaded once the current import has ended, and imports the rest itself."""
        self.install('slow.py', self.SLOW)
        self.install('lib.py', '')
        body = 'sys.ready = True\nbefore += str("slow" in sys.modules)\nimport slow, lib'
        self.write_app(1, body)
        monitor = self.run_app()
        monitor.wait_for('app 1 plain')
        wait_until(lambda: os.path.isdir(self.path('began')), 'there is no standby')
        self.write_app(2, body)
        monitor.wait_for('The new worker began')
        os.mkdir(self.path('go'))
        monitor.wait_for('app 2 plainTrue')
        monitor.wait_for('Preloaded ', count=2)
        self.save(monitor, 3, 'preloadedTrue', body, standby=False)
        monitor.stop()

    def test_saved_again_at_once(self):
        """A change that waits for quiet leaves time to preload, even if the worker has not booted."""
        if self.mode == 'api' or not FORKS:
            self.skipTest('a new interpreter takes too long for this')
        self.install('lib.py', '')
        self.write_app()
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded', standby=False)
        for value in range(3, 30):
            self.write_app(value)
            monitor.wait_for(f'app {value} ')
            if f'app {value} preloaded' in monitor.text():
                break
        else:
            self.fail(monitor.text())
        monitor.stop()

    @only_full
    def test_failure_after_the_start(self):
        """A standby is started during an import, which then fails: another one takes over."""
        self.install('slow.py', self.SLOW + '    sys.ready\n')
        self.install('lib.py', '')
        body = 'sys.ready = True\nimport slow, lib'
        self.write_app(1, body)
        monitor = self.run_app()
        monitor.wait_for('app 1 plain')
        wait_until(lambda: os.path.isdir(self.path('began')), 'there is no standby')
        self.write_app(2, body)
        monitor.wait_for('The new worker began')
        os.mkdir(self.path('go'))
        monitor.wait_for('app 2 plain')
        monitor.wait_for('Preloaded ')
        self.save(monitor, 3, 'preloaded', body, standby=False)
        self.assertNotIn('[ERROR]', monitor.text())
        monitor.stop()

    def test_script_that_ends(self):
        self.install('lib.py', '')
        self.write('app.py', 'import sys\nprint("app", 1, "lib" in sys.modules)\nimport lib\n')
        monitor = self.run_app()
        monitor.wait_for('Preloaded ')
        self.write('app.py', 'import sys\nprint("app", 2, "lib" in sys.modules)\nimport lib\n')
        monitor.wait_for('app 2 True')
        monitor.stop()

    def test_script_that_exits_with_a_status(self):
        """As after a failed test run: what the app has imported becomes the list, also after a plain start."""
        self.install('lib.py', '')
        self.install('other.py', '')
        text = 'import sys\nprint("app", %d, "lib" in sys.modules)\nimport lib\n%s\nsys.exit(3)\n'
        self.write('app.py', text % (1, 'import other'))
        monitor = self.run_app()
        monitor.wait_for('Preloaded ')
        self.write('app.py', text % (2, ''))
        monitor.wait_for('app 2 False')
        monitor.wait_for('Preloaded ', count=2)
        self.write('app.py', text % (3, ''))
        monitor.wait_for('app 3 True')
        monitor.stop()

    @only_full
    @needs_posix
    def test_ends_while_it_preloads(self):
        """After kill -9 of the monitor, or Ctrl-C, no process is left."""
        self.install('lib.py', 'import sys, time\nif not hasattr(sys, "ready"): time.sleep(3600)')
        self.write_app(1, 'sys.ready = True\nimport lib')
        for signum in (signal.SIGKILL, signal.SIGINT):
            monitor = self.run_app()
            monitor.wait_for('app 1 plain')
            wait_until(lambda: len(self.project.processes()) == 3, 'there is no standby')
            monitor.send(signum)
            monitor.wait()
            monitor.check_nothing_left()

    @only_full
    @needs_posix
    def test_forked_children_do_not_count(self):
        """What any process imports after the first fork is not preloaded."""
        self.install('lib.py', '')
        self.install('other.py', '')
        body = """
            import os
            late = 'other' not in sys.modules
            import lib
            if os.fork():
                os.wait()
            else:
                os._exit(0)
            import other
            assert late
        """
        self.write_app(1, body)
        monitor = self.start_preloaded()
        self.save(monitor, 2, 'preloaded', body, standby=False)
        monitor.stop()

    @only_full
    def test_traced(self):
        self.install('lib.py', '')
        self.write_app()
        monitor = self.run_app(options=['-X', 'importtime'])
        monitor.wait_for('app 1 plain')
        monitor.wait_for('Watching ')
        self.write_app(2)
        monitor.wait_for('app 2 plain')
        monitor.stop()

    def test_module_that_runs(self):
        """A module of a package that is run with -m is not preloaded: runpy would warn about that."""
        if self.mode == 'api':
            self.skipTest('only the command line has -m')
        self.install('lib.py', '')
        self.install('pack/__init__.py', '')
        text = """
            import sys
            before = 'lib' in sys.modules
            import lib, app, pack.run
            print('run', app.VALUE, before, flush=True)
        """
        self.install('pack/run.py', text)
        self.write('app.py', 'VALUE = 1')
        monitor = self.start(self.python, '-W', 'error', 'hupper.py', '-v', '--preload', '-m', 'pack.run')
        monitor.wait_for('run 1 False')
        monitor.wait_for('Preloaded ')
        self.write('app.py', 'VALUE = 22')
        monitor.wait_for('run 22 True')
        self.assertNotIn('Warning', monitor.text())
        monitor.stop()


# --- main --------------------------------------------------------------------


JOBS = int(os.environ.get('HUPPER_TEST_JOBS') or min(8, 4 * (os.cpu_count() or 1)))


class Result(unittest.TextTestResult):
    """unittest's own result, which also reports what really ran."""

    def printErrors(self):
        super().printErrors()
        ran = ', '.join(f'{backend} {mode} {number}' for (backend, mode), number in sorted(RAN.items()))
        self.stream.writeln(f'Monitors that ran, by backend and start of the worker: {ran or "none"}')


class Runner(unittest.TextTestRunner):
    """unittest's own runner; it gives the tests to several processes, but runs a few itself."""

    resultclass = Result

    def run(self, test):
        tests = list(_each_test(test))
        return super().run(Parallel(tests) if len(tests) > 3 and JOBS > 1 else test)


def _each_test(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _each_test(test)
        else:
            yield test


class Parallel(unittest.TestSuite):
    """A suite whose tests are run by JOBS processes, each of which takes the next test."""

    def run(self, result, debug=False):
        self._result, self._lock, self._waiting = result, threading.Lock(), queue.Queue()
        for test in self:
            self._waiting.put(test)
        threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(JOBS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return result

    def _serve(self):
        process = None
        with contextlib.suppress(queue.Empty):
            while not self._result.shouldStop:
                test = self._waiting.get_nowait()
                process = process or _helper()
                process.stdin.write(test.id().split('.', 1)[1] + '\n')
                process.stdin.flush()
                answer = process.stdout.readline()
                if not answer:
                    with process:
                        text = f'the process that ran it exited with status {process.wait()}'
                    process, answer = None, json.dumps([[['error', text]], []])
                with self._lock:
                    self._note(test, *json.loads(answer))
        if process:
            with process:
                process.stdin.close()

    def _note(self, test, outcomes, ran):
        result = self._result
        result.startTest(test)
        for kind, text in outcomes:
            if kind == 'skip':
                result.addSkip(test, text)
            elif kind == 'success':
                result.addSuccess(test)
            else:
                add = result.addFailure if kind == 'failure' else result.addError
                add(test, (InHelper, InHelper('\n' + text), None))
        result.stopTest(test)
        RAN.update({(backend, mode): number for backend, mode, number in ran})


class InHelper(Exception):
    """A test's traceback, from the process that ran it."""


def _helper():
    command = [sys.executable, os.path.abspath(__file__), '--helper']
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, universal_newlines=True)


def _help():
    """Run the tests named on stdin, one per line; answer each with a line of JSON on the original stdout."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for name in sys.stdin:
        faulthandler.dump_traceback_later((5 if WINDOWS else 10) * LIMIT, exit=True)  # a process may hang in Wine
        RAN.clear()
        result = unittest.TestResult()
        try:
            unittest.defaultTestLoader.loadTestsFromName(name.strip(), sys.modules['__main__']).run(result)
        except Exception:
            result.errors.append((name, traceback.format_exc()))
        outcomes = [['failure', text] for _, text in result.failures] + [['error', text] for _, text in result.errors]
        outcomes += [['skip', reason] for _, reason in result.skipped]
        ran = [[*pair, number] for pair, number in RAN.items()]
        answers.write(json.dumps([outcomes or [['success', '']], ran]) + '\n')
        answers.flush()
        faulthandler.cancel_dump_traceback_later()


def main():
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell ignores it for commands that it starts with `&`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[1:] == ['--helper']:
        _help()
    else:
        unittest.main(testRunner=Runner)


if __name__ == '__main__':
    main()
