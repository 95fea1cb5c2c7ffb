#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of hupper.py: real monitors run real apps in temporary folders.

    python test_hupper.py                     all tests, several at a time
    python test_hupper.py -v -k rename        as any unittest program; so does
    python -m pytest test_hupper.py           pytest, if you have it

Nothing has to be installed. What needs something that is absent (the package watchdog, Linux, root, git) is skipped by
name. A test never sleeps in the hope that something has happened: it waits for the event, LIMIT seconds at most.

    HUPPER_TEST_FULL=1        also the long ways round, and each test on every backend in both modes
    HUPPER_TEST_JOBS=N        tests at a time
    HUPPER_TEST_PATIENCE=N    multiplies every limit, for slow machines
    HUPPER_TEST_ROUNDS=N, HUPPER_TEST_SEED=N    length and seed of the random sequences

Sections, in this order: harness; pure parts; command line; API; never miss (ways of saving); trees, backends, storms;
processes and signals; terminal; fidelity; compatibility with hupper 1.x; performance guards; main.
"""

import atexit
import collections
import contextlib
import faulthandler
import importlib.util
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
FULL = os.environ.get('HUPPER_TEST_FULL', '') not in ('', '0')
LIMIT = 30 * float(os.environ.get('HUPPER_TEST_PATIENCE', 1))  # seconds to wait for anything
LINUX = sys.platform.startswith('linux')
WINDOWS = sys.platform == 'win32'

# --- harness -----------------------------------------------------------------

RAN = collections.Counter()  # (backend, mode) as seen in real monitors -> how many
IDLE = f'import time\nwhile True: time.sleep({0.1 if WINDOWS else 60})\n'  # the end of an app that goes on running

needs_posix = unittest.skipIf(WINDOWS, 'POSIX only')
needs_linux = unittest.skipUnless(LINUX, 'Linux only')
needs_root = unittest.skipUnless(hasattr(os, 'geteuid') and os.geteuid() == 0, 'root only')
only_full = unittest.skipUnless(FULL, 'only with HUPPER_TEST_FULL=1')


def needs_program(name):
    return unittest.skipUnless(shutil.which(name), f'there is no {name}')


def environment(**changes):
    """This process's environment without what steers Python or hupper; a change to None removes a variable."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(('PYTHON', 'HUPPER_', 'COVERAGE_'))}
    env.update(changes)
    return {name: value for name, value in env.items() if value is not None}


def wait_until(condition, message='it did not come true', limit=None):
    """Return the first true value of condition(); after the limit fail with the message (text, or a function's)."""
    deadline = time.monotonic() + (limit or LIMIT)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(message() if callable(message) else message)
        time.sleep(0.01)


class Project:
    """A temporary folder with a copy of hupper.py in it, and a folder of its own for temporary files."""

    def __init__(self):
        self.base = os.path.realpath(tempfile.mkdtemp(prefix='hupper-'))
        self.folder = os.path.join(self.base, 'project')
        self.tmp = os.path.join(self.base, 'tmp')
        os.mkdir(self.folder)
        os.mkdir(self.tmp)
        shutil.copy(os.path.join(HERE, 'hupper.py'), self.folder)
        atexit.register(self.remove)  # for Ctrl-C: unittest does no cleanup then

    def path(self, name):
        return os.path.join(self.folder, *name.split('/'))

    def write(self, name, content, save=None):
        """Save a file as an editor does (by an atomic rename, or by one of SAVES); folders are made."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        (save or save_rename)(path, textwrap.dedent(content) if isinstance(content, str) else content)
        return path

    def read(self, name):
        with open(self.path(name), encoding='utf-8') as file:
            return file.read()

    def environment(self, **changes):
        """TMPDIR is ours: it keeps temporary files together and marks every process of this project."""
        return environment(**{'TMPDIR': self.tmp, **changes})

    def run(self, *command, **options):
        """Run a command to its end; the result has returncode, stdout and stderr as text."""
        options.setdefault('cwd', self.folder)
        options.setdefault('stdin', subprocess.DEVNULL)
        options['env'] = self.environment(**options.pop('env', {}))
        options = {'encoding': 'utf-8', 'errors': 'backslashreplace', 'timeout': LIMIT, **options}
        return subprocess.run(command, capture_output=True, **options)

    def python(self, *args, **options):
        return self.run(sys.executable, *args, **options)

    def processes(self):
        """Pids of this project's processes: on Linux all that carry its TMPDIR, zombies left out."""
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


class Monitor:
    """A running monitor. Its output is collected line by line; whatever fails shows all of it."""

    def __init__(self, project, *command, **options):
        """Start a command in the project's folder. options: those of Popen; env holds changes to the environment."""
        self.project = project
        self.lines = []  # of (stream, line), stream being 'out' or 'err'
        self.seen = None  # (backend, mode)
        self._news = threading.Condition()
        options.setdefault('cwd', project.folder)
        options.setdefault('stdin', subprocess.DEVNULL)
        options.setdefault('start_new_session', not WINDOWS)
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
        """The number of lines so far, for wait_for(..., after=mark)."""
        return len(self.lines)

    def text(self, stream=None, after=0):
        return ''.join(line + '\n' for name, line in self.lines[after:] if stream in (None, name))

    def count(self, what):
        """How many lines have the text or match the compiled pattern."""
        return sum(1 for _, line in self.lines if _find(what, line))

    def wait_for(self, what, after=0, count=1, limit=None):
        """Wait until count lines since the mark have the text (or match the compiled pattern); return the last (match)."""
        deadline = time.monotonic() + (limit or LIMIT)
        with self._news:
            while True:
                found = [found for found in (_find(what, line) for _, line in self.lines[after:]) if found]
                if len(found) >= count:
                    break
                if time.monotonic() > deadline or not any(reader.is_alive() for reader in self._readers):
                    self.fail(f'{getattr(what, "pattern", what)!r} did not come', after)
                self._news.wait(0.1)
        self._look()
        return found[count - 1]

    def fail(self, message, after=0):
        status = self.process.poll()
        ended = 'running' if status is None else f'ended with status {status}'
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

    def wait_start(self, number):
        """Wait for the worker of that number, counted from 1."""
        self.wait_for('Starting monitor for PID ', count=number)

    def _look(self):
        """Note once which backend and mode this monitor really uses, by what the system tells of it."""
        if self.seen is None and self.workers and self.text('out'):
            with contextlib.suppress(OSError, ImportError):
                self.seen = _backend(self), _mode(self)
                RAN[self.seen] += 1

    def send(self, signum):
        self.process.send_signal(signum)

    def wait(self, limit=None):
        """Wait for the monitor's end, return its status."""
        try:
            status = self.process.wait(limit or LIMIT)
        except subprocess.TimeoutExpired:
            self.fail('the monitor did not end')
        for reader in self._readers:
            reader.join(LIMIT)
        return status

    def stop(self, signum=signal.SIGTERM):
        """Stop the monitor politely, check that nothing is left; return the status."""
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
    """A test with a project; the monitors it starts are gone after it."""

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
        """Start `python hupper.py ARGS`, quick to reload unless told."""
        return self.start(sys.executable, 'hupper.py', '--reload-interval', '0.2', *args, **options)

    def write_app(self, value=1, name='app.py'):
        """An app of two modules that says `app VALUE` and goes on running."""
        self.write('mod.py', f'VALUE = {value!r}\n')
        self.write(name, 'from mod import VALUE\nprint("app", VALUE, flush=True)\n' + IDLE)

    def write_value(self, value, save=None):
        self.write('mod.py', f'VALUE = {value!r}\n', save)


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
            return self.start(sys.executable, 'hupper.py', *flags, '-m', 'app', *args, **options)
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
    """Class decorator: replace a BackendCase by one TestCase per backend and mode, named ThisInotifyCli and so on.

    The short run takes COMBINATIONS alone; full=True takes all of the backends and modes.
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


# Ways of saving: what editors and tools do to a file, each a function of a path and the new text.

SAVES = {}


def saving(function):
    SAVES[function.__name__.replace('save_', '')] = function
    return function


def put(path, content, mode='w'):
    """Write a file in place. Newlines stay as they are."""
    content = content.encode('utf-8') if isinstance(content, str) else content
    with open(path, mode + 'b') as file:
        file.write(content)


@saving
def save_in_place(path, text):
    put(path, text)


@saving
def save_slowly(path, text):
    """Truncated first, then in pieces."""
    with open(path, 'wb', buffering=0) as file:
        for part in re.findall('(?s).{1,8}', text):
            time.sleep(0.02)
            file.write(part.encode('utf-8'))


@saving
def save_rename(path, text):
    """Atomic: a new file renamed onto the name."""
    put(path + '.tmp', text)
    os.replace(path + '.tmp', path)


@saving
def save_backup_rename(path, text):
    """The old file becomes the backup, then the new one is renamed to the name."""
    put(path + '.new', text)
    if os.path.exists(path):
        os.replace(path, path + '.bak')
    os.rename(path + '.new', path)


@saving
def save_vim(path, text):
    """Probe the folder with a file 4913, move the old file to `name~`, write the name anew, remove the backup."""
    probe = os.path.join(os.path.dirname(path), '4913')
    put(probe, '')
    os.remove(probe)
    existed = os.path.exists(path)
    if existed:
        os.replace(path, path + '~')
    put(path, text)
    if existed:
        os.remove(path + '~')


@saving
def save_pycharm(path, text):
    """Safe write: the new text beside it, the old file away, the new one onto the name."""
    put(path + '___jb_tmp___', text)
    if os.path.exists(path):
        os.replace(path, path + '___jb_old___')
    os.rename(path + '___jb_tmp___', path)
    with contextlib.suppress(FileNotFoundError):
        os.remove(path + '___jb_old___')


@saving
def save_emacs(path, text):
    """A lock link `.#name` that points nowhere, a backup `name~` by renaming, then the name written anew."""
    folder, name = os.path.split(path)
    lock = os.path.join(folder, '.#' + name)
    with contextlib.suppress(OSError):  # Windows may not allow links
        os.symlink('user@host.1:1', lock)
    if os.path.exists(path):
        os.replace(path, path + '~')
    put(path, text)
    with contextlib.suppress(FileNotFoundError):
        os.remove(lock)


@saving
def save_vscode(path, text):
    """In place, opened without truncation, cut to the length at the end."""
    if not os.path.exists(path):
        put(path, '')
    with open(path, 'r+b') as file:
        file.write(text.encode('utf-8'))
        file.truncate()


@saving
def save_hard_link(path, text):
    """The name is unlinked, then links to a new file."""
    put(path + '.new', text)
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    os.link(path + '.new', path)
    os.remove(path + '.new')


@saving
def save_delete_create(path, text):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    put(path, text)


# --- pure parts --------------------------------------------------------------

# --- command line ------------------------------------------------------------


class CommandLine(Case):
    def test_reload(self):
        self.write_app(1)
        monitor = self.hupper('-m', 'app')
        monitor.wait_for('app 1')
        self.write_value(2)
        monitor.wait_for('app 2')
        monitor.wait_for(self.path('mod.py') + ' changed; reloading ...')
        self.assertEqual(monitor.stop(), 128 + signal.SIGTERM)


# --- API ---------------------------------------------------------------------

# --- never miss (ways of saving) ---------------------------------------------


@on_each_backend
class Saving(BackendCase):
    """Each way of saving leads to the new code."""

    def saves(self, save):
        self.write_app(1)
        monitor = self.run_app()
        monitor.wait_for('app 1')
        self.write_value(22, save)
        monitor.wait_for('app 22')
        monitor.stop()

    for _name, _save in SAVES.items():
        locals()['test_' + _name] = lambda self, save=_save: self.saves(save)


# --- trees, backends, storms -------------------------------------------------

# --- processes and signals ---------------------------------------------------

# --- terminal ----------------------------------------------------------------

# --- fidelity ----------------------------------------------------------------

# --- compatibility with hupper 1.x -------------------------------------------

# --- performance guards ------------------------------------------------------

# --- main --------------------------------------------------------------------

JOBS = int(os.environ.get('HUPPER_TEST_JOBS') or min(8, 2 * (os.cpu_count() or 1) + 2))


class Result(unittest.TextTestResult):
    """unittest's own result, which also tells what was really run."""

    def printErrors(self):
        super().printErrors()
        ran = ', '.join(f'{backend} {mode} {number}' for (backend, mode), number in sorted(RAN.items()))
        self.stream.writeln(f'Monitors that ran, by backend and start of the worker: {ran or "none"}')


class Runner(unittest.TextTestRunner):
    """unittest's own runner, with the tests handed to several processes; a few are run right here."""

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
    """A suite whose tests are run, one after the other, by JOBS processes that each take the next one."""

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
                        text = f'the process that ran it ended with status {process.wait()}'
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
    """Run the tests named on stdin, one a line; answer each by a line of JSON on what was stdout."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for name in sys.stdin:
        faulthandler.dump_traceback_later(10 * LIMIT, exit=True)
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
    if sys.argv[1:] == ['--helper']:
        _help()
    else:
        unittest.main(testRunner=Runner)


if __name__ == '__main__':
    main()
