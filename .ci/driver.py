"""Shared by the checks of real programs: environments, and a program that is run, asked over HTTP and stopped.

A check is a function that raises if something is wrong. Nothing here sleeps in the hope that something has happened:
it waits for the event, for at most LIMIT seconds. The one pause, before an edit, is part of the checks.
"""

import collections
import contextlib
import hashlib
import http.client
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get('HUPPER_CI_CACHE') or Path(tempfile.gettempdir(), f'hupper-ci-{os.getuid()}'))
LIMIT = 30.0  # seconds to wait for any event; most take milliseconds, but the machine may be busy
PAUSE = 0.3  # seconds between the first answer and the edit: faster than a person, slower than a script


class Unreachable(Exception):
    """The package index cannot be reached, so there is nothing to run."""


# ---------------------------------------------------------------- environments


def environment(name, requirements):
    """Return the bin folder of a virtual environment with *requirements*; one is kept for each set of them."""
    wanted = '\n'.join([sys.version, *requirements])
    folder = CACHE / f'{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}'
    if not (folder / 'complete').exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
        pip(folder / 'bin', 'install', *requirements)
        (folder / 'complete').touch()
    return folder / 'bin'


def pip(bin, *args):
    """Run pip in an environment; raise Unreachable if it fails and the index does not respond at all."""
    command = [bin / 'python', '-m', 'pip', '--disable-pip-version-check', '-q', *args]
    if subprocess.run(command, env=clean_environ()).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        probe = [bin / 'python', '-m', 'pip', '-q', 'download', '--no-deps', '--no-cache-dir', '-d', folder, 'waitress']
        if subprocess.run(probe, stderr=subprocess.DEVNULL).returncode:
            raise Unreachable('PyPI cannot be reached')
    raise RuntimeError('pip failed: ' + ' '.join(map(str, command)))


def clean_environ(bin=None, **more):
    """Return this process's environment without variables for Python or hupper, and with *bin* first on the path."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'HUPPER', 'VIRTUAL_ENV', 'PYENV'))}
    path = [p for p in environ.get('PATH', os.defpath).split(os.pathsep) if 'shims' not in p]
    environ['PATH'] = os.pathsep.join([*([str(bin)] if bin else []), *path])
    environ.update(more)
    return environ


# ---------------------------------------------------------------- files


def write(folder, files):
    """Write a dict of path: text below *folder*."""
    for name, text in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def save_in_place(path, text):
    with open(path, 'w') as file:
        file.write(text)


def save_by_rename(path, text):
    temporary = Path(path).with_name(f'.{Path(path).name}.tmp')
    temporary.write_text(text)
    os.replace(temporary, path)


# ---------------------------------------------------------------- a running program


class Program:
    """A command that runs in *folder* and serves HTTP on *port*; as a context manager, it never outlives its check."""

    def __init__(self, command, folder, bin, port=None, **environ):
        self.port = port
        self.mark = f'CI_PROGRAM={uuid.uuid4().hex}'
        self.output = tempfile.NamedTemporaryFile(prefix='hupper-ci-log-')  # not in *folder*, which may be watched
        key, value = self.mark.split('=')
        environ = clean_environ(bin, **environ, **{key: value})
        command = shlex.split(command)
        self.process = subprocess.Popen(
            [shutil.which(command[0], path=environ['PATH']), *command[1:]],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        if kind is not None:
            lines = [line for line in self.log().splitlines() if 'GET /' not in line]  # no access log
            print('--- output of the program', *lines[-60:], '---', sep='\n')
        self.output.close()

    def log(self):
        return Path(self.output.name).read_text(errors='backslashreplace')

    def alive(self):
        return running(self.mark)

    def get(self, path='/'):
        """Return the answer's text, whatever its status, or None if there is no answer."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=10)
        try:
            connection.request('GET', path)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def wait(self, question, what):
        """Wait until *question* is true and return its answer."""

        def answered():
            answer = question()
            if not answer and self.process.poll() is not None:
                raise AssertionError(f'the program exited with status {self.process.returncode} before {what}')
            return answer

        return wait_until(answered, what)

    def wait_for_answer(self, text, path='/'):
        """Wait until the answer to GET *path* contains *text*; return it."""
        return self.wait(lambda: (lambda a: a if a and text in a else None)(self.get(path)), f'the answer {text!r}')

    def wait_for_log(self, text, times=1):
        """Wait until *text* has been printed this many times."""
        self.wait(lambda: self.log().count(text) >= times, f'{text!r}, {times} times')

    def wait_for_end(self):
        """Wait until the program exits and assert that it leaves nothing behind; return its status."""
        try:
            status = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            raise AssertionError('the program does not exit') from None
        left = self.alive()
        assert not left, f'left behind: {[(pid, command_line(pid)) for pid in left]}'
        if self.port:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is not a listener
                probe.bind(('127.0.0.1', self.port))
        return status

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.wait_for_end()


class Client(threading.Thread):
    """A context manager that requests / repeatedly, one request at a time, and counts the outcomes."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port = port
        self.outcomes = collections.Counter()
        self.answers = collections.Counter()
        self._is_over = False

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._is_over = True
        self.join()

    def run(self):
        while not self._is_over:
            self.outcomes[self._ask()] += 1
            time.sleep(0.001)

    def _ask(self):
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=LIMIT)
        try:
            connection.request('GET', '/', headers={'Connection': 'close'})
            self.answers[connection.getresponse().read().decode()] += 1
            return 'answered'
        except ConnectionRefusedError:
            return 'refused'
        except socket.timeout:
            return 'timed out'
        except (OSError, http.client.HTTPException):
            return 'cut off'
        finally:
            connection.close()


def count_outcomes(program, path, reloads=10, requests=100, pause=PAUSE):
    """Return the outcomes of requests while the file at *path*, with `GREETING = ...`, is saved *reloads* times."""
    with Client(program.port) as client:
        for number in range(reloads):
            time.sleep(pause)
            save_by_rename(path, f"GREETING = 'greeting {number}'\n")
            program.wait(
                lambda n=number: client.answers[f'greeting {n}'] >= requests, f'the answers after save {number}'
            )
    return client.outcomes


def wait_until(question, what):
    end = time.monotonic() + LIMIT
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f'waited {LIMIT:.0f} s for {what}')
        time.sleep(0.05)


def running(mark):
    """Return the pids of all processes with *mark*, a NAME=value, in their initial environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            if mark.encode() in Path('/proc', pid, 'environ').read_bytes().split(b'\0'):
                found.append(int(pid))
    return found


def command_line(pid):
    with contextlib.suppress(OSError):
        return Path('/proc', str(pid), 'cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')


def free_port():
    """Return a free port, below those that the system assigns to clients."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(('127.0.0.1', port))
            return port


# ---------------------------------------------------------------- running checks


def run_checks(checks):
    """Run (name, function) pairs, each in an empty folder; print a line for each; return how many failed."""
    wanted = sys.argv[1:]  # parts of names: run only those
    failed = 0
    for name, check in checks:
        if wanted and not any(word in name for word in wanted):
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix='hupper-ci-') as folder:
            try:
                check(Path(folder).resolve())
                verdict = 'ok  '
            except Exception:
                traceback.print_exc(limit=-2, file=sys.stdout)
                verdict = 'FAIL'
                failed += 1
        print(f'{verdict} {time.monotonic() - start:5.1f} s  {name}', flush=True)
    return failed
