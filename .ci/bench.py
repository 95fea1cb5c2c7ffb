#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compare hupper.py with other reloaders: same apps, same interpreter, one run, in rotation.

    python .ci/bench.py                  everything, about 20 minutes
    python .ci/bench.py --quick          the same with few samples, under two minutes
    python .ci/bench.py --only start,idle --rows hupper.py,entr

It prints one Markdown table and asserts nothing. The first run installs the other reloaders from PyPI (and entr from
Debian) into their own environment in ~/.cache/hupper-bench. Linux only: it reads /proc.

How the figures are made:

start     from just before the launch of the program to the time that the app writes in its first line.
reload    from just before the rename (or the open, for a save in place) of the changed module to the time that the
          new worker writes in its first line. All contenders run at once, each with its own copy of the app. Each is
          saved 2 to 6 s after its last reload; a save waits until the previous one is done, but only for half a second.
big       the same with an app that imports 2,000 modules, saved atomically.
checkout  the second reload after all 2,000 sources were touched at once: another module is saved 3 s after the first
          reload.
boot      the app has read its module and boots for another half second; meanwhile the module is saved. Lost: the new
          code does not run within 7 s.
same      two saves of one size in one second. Stale: the second one's code does not run within 7 s.
idle      context switches and CPU time (schedstat) of all threads of the tree in 10 s, while the app sleeps.
memory    PSS of the tree; nothing else on the machine runs this copy of the interpreter.
growth    the tree after the last of 300 reloads, minus the tree after the 20th (fewer if 2 minutes are too short).
real      real apps, from just before the save to the first answer over HTTP with the new code (for a script that exits,
          to the time that it writes). All contenders run at once; each is saved 5 s after its last answer, and
          sometimes again 0.3 s after such a save. "stop" is how long the bare app takes to exit after SIGTERM. A second
          table has the memory after the last answer, and the CPU time of one reload, until 3 s after it.

All times are CLOCK_MONOTONIC. "bare" is `python -m app` without any reloader, launched between the others' turns;
the number after x is the ratio of the median to bare's.
"""

import argparse
import collections
import concurrent.futures
import glob
import math
import os
import platform
import random
import select
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CACHE = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'hupper-bench')
PACKAGES = ['hupper==1.12.1', 'watchfiles', 'watchdog[watchmedo]', 'werkzeug', 'django']
REAL_PACKAGES = ['flask', 'fastapi', 'uvicorn', 'sqlalchemy', 'pandas']
DEADLINE = 7.0  # seconds after which a save counts as lost: 5 plus two intervals of a polling reloader

# ---------------------------------------------------------------- environment


class Environment:
    """A virtual environment with the other reloaders, and the variables of every process of the benchmark."""

    def __init__(self):
        self.root = os.path.join(CACHE, 'python' + platform.python_version())
        self.python = os.path.join(self.root, 'bin', 'python')
        if not os.path.exists(os.path.join(self.root, 'complete')):
            self._install()
        self.entr = shutil.which('entr') or self._entr()
        # Not inherited, because PYTHON* and others would change the results.
        self.variables = {
            'PATH': os.path.join(self.root, 'bin') + ':/usr/local/bin:/usr/bin:/bin',
            'HOME': os.path.expanduser('~'),
            'LANG': 'C.UTF-8',
            'LD_LIBRARY_PATH': os.path.join(self.root, 'lib'),
        }

    def _install(self):
        say('making an environment in', self.root)
        shutil.rmtree(self.root, ignore_errors=True)
        clean = self._clean()
        # Copy the interpreter, so that its pages are not shared (PSS!) with this process and others.
        base = getattr(sys, '_base_executable', sys.executable)
        subprocess.run([base, '-m', 'venv', '--copies', self.root], check=True, env=clean)
        library = os.path.join(sysconfig.get_config_var('LIBDIR'), sysconfig.get_config_var('INSTSONAME') or '')
        if '.so' in os.path.basename(library) and os.path.exists(library):
            shutil.copy2(library, os.path.join(self.root, 'lib'))
        subprocess.run([self.python, '-m', 'pip', 'install', '-q', *PACKAGES], check=True, env=clean)
        open(os.path.join(self.root, 'complete'), 'w').close()

    @staticmethod
    def _clean():
        return {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}

    def add_real_packages(self):
        """Install what only the real apps need; without them, the environment stays small."""
        mark = os.path.join(self.root, 'complete-real')
        if not os.path.exists(mark):
            command = [self.python, '-m', 'pip', 'install', '-q', *REAL_PACKAGES]
            subprocess.run(command, check=True, env=self._clean())
            open(mark, 'w').close()

    def _entr(self):
        """Return the path of entr, unpacked from its Debian package but not installed; None if it cannot be fetched."""
        found = os.path.join(CACHE, 'entr', 'usr', 'bin', 'entr')
        if not os.path.exists(found) and shutil.which('apt-get'):
            os.makedirs(CACHE, exist_ok=True)
            subprocess.run(['apt-get', 'download', '-q', 'entr'], cwd=CACHE, stdout=subprocess.DEVNULL)
            for package in glob.glob(os.path.join(CACHE, 'entr_*.deb')):
                subprocess.run(['dpkg', '-x', package, os.path.join(CACHE, 'entr')])
        return found if os.path.exists(found) else None

    def describe(self):
        code = 'from importlib.metadata import version as v; print(", ".join(n + " " + v(n) for n in %r))'
        names = ['hupper', 'watchfiles', 'watchdog', 'werkzeug', 'django']
        versions = subprocess.run([self.python, '-c', code % names], env=self.variables, stdout=subprocess.PIPE)
        interpreter = f'{platform.python_implementation()} {platform.python_version()}'
        system = f'{os.cpu_count()} cores, Linux {platform.release()}, {time.strftime("%B %Y")}'
        return f'{interpreter}, {system}; {versions.stdout.decode().strip()}'


# ---------------------------------------------------------------- contenders

SERVE_HUPPER = "import hupper\nhupper.start_reloader('app.main')\n"

SERVE_WERKZEUG = """\
from werkzeug._reloader import run_with_reloader
def main():
    import app
    app.main()
if __name__ == '__main__':
    run_with_reloader(main, reloader_type='stat')
"""

SERVE_DJANGO = """\
from django.utils.autoreload import run_with_reloader
def main():
    import django
    from django.conf import settings
    settings.configure(DEBUG=True)
    django.setup()
    import app
    app.main()
if __name__ == '__main__':
    run_with_reloader(main)
"""


class Peer:
    """How to start one contender: words between bars, in which PYTHON, BIN, ENTR and COMMAND are replaced."""

    def __init__(self, name, command, serve=None, variables=None, ours=False, files=False):
        self.name, self.command = name, command.split('|')
        self.serve = serve  # the text of a serve.py
        self.variables = variables or {}
        self.ours = ours  # needs our hupper.py in its folder
        self.files = files  # needs the files to watch on stdin

    def watching(self, path):
        """Return the same command line of ours with one more path to watch."""
        return Peer(self.name, '|'.join([*self.command[:-2], '-w', path, *self.command[-2:]]), ours=True)


def hupper1(kind):
    return {'HUPPER_DEFAULT_MONITOR': f'hupper.{kind}.{kind.capitalize()}FileMonitor'}


BARE = Peer('bare', 'PYTHON|-m|app')
OURS = [
    Peer('`python hupper.py -m app`', 'PYTHON|hupper.py|-m|app', ours=True),
    Peer('`python -m hupper -m app`', 'PYTHON|-m|hupper|-m|app', ours=True),
    Peer('hupper.py API', 'PYTHON|serve.py', SERVE_HUPPER, ours=True),
    Peer('hupper.py polling', 'PYTHON|hupper.py|--monitor|polling|-m|app', ours=True),
]
OTHERS = [
    Peer('entr', 'ENTR|-nr|PYTHON|-m|app', files=True),
    Peer('watchfiles', 'BIN/watchfiles|--filter|python|COMMAND|.'),
    Peer('watchmedo', 'BIN/watchmedo|auto-restart|-d|.|-p|*.py|-R|--|PYTHON|-m|app'),
    Peer('hupper 1.12 watchdog', 'BIN/hupper|-m|app', variables=hupper1('watchdog')),
    Peer('hupper 1.12 polling', 'BIN/hupper|-m|app', variables=hupper1('polling')),
    Peer('hupper 1.12 API', 'PYTHON|serve.py', SERVE_HUPPER),
    # Its watchdog reloader watches the whole library: with watchdog 7, overflows keep it busy and it misses every save.
    Peer('werkzeug stat', 'PYTHON|serve.py', SERVE_WERKZEUG),
    Peer('Django', 'PYTHON|serve.py', SERVE_DJANGO),
]

# Rows of the real apps, after BARE; PROGRAM is the app's command line, OWN the one with its framework's reloader.
REAL_ROWS = [
    Peer("the framework's own", 'OWN'),
    Peer('watchfiles', 'BIN/watchfiles|--filter|python|COMMAND|.'),
    Peer('hupper.py', 'PYTHON|hupper.py|PROGRAM', ours=True),
    Peer('hupper.py --preload', 'PYTHON|hupper.py|--preload|PROGRAM', ours=True),
    Peer('hupper.py --preload --stop-signal KILL', 'PYTHON|hupper.py|--preload|--stop-signal|KILL|PROGRAM', ours=True),
]

# ---------------------------------------------------------------- apps

APP = """\
import os, time
import part
%s
def main():
    os.write(1, b'APP %%d %%s\\n' %% (time.monotonic_ns(), part.VALUE.encode()))
    while True:
        time.sleep(3600)
if __name__ == '__main__':
    main()
"""
SLOW_BOOT = "os.write(1, b'BOOT\\n')\ntime.sleep(0.5)"
BIG_COUNT = 2000
LONG_AGO = time.time() - 86400


def small_app(folder, extra=''):
    write(os.path.join(folder, 'app.py'), APP % extra)
    write(os.path.join(folder, 'part.py'), part('first'))


def big_app(folder):
    """Write two thousand small modules in forty packages, and one that imports them all."""
    imports = []
    for p in range(40):
        write(os.path.join(folder, f'pack{p}', '__init__.py'), '')
        for m in range(BIG_COUNT // 40 - 1):
            write(os.path.join(folder, f'pack{p}', f'mod{m}.py'), MODULE % {'n': m})
            imports.append(f'import pack{p}.mod{m}\n')
    small_app(folder, ''.join(imports))


def many_files(folder):
    """Write the small app beside 20,000 files that it does not import."""
    for number in range(20_000):
        write(os.path.join(folder, 'data', str(number // 100), f'{number}.txt'), '')
    small_app(folder)


MODULE = """\
LIMIT = %(n)d
class Thing:
    def __init__(self, value):
        self.value = value
    def double(self):
        return self.value * 2
def make(value):
    return Thing(value + LIMIT)
"""


def part(value):
    return f'VALUE = {value!r}\n'


def write(path, text, mtime=LONG_AGO):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as file:
        file.write(text)
    os.utime(path, (mtime, mtime))


class RealApp:
    """A real app: its files, which show the VALUE of part.py; its command line; that with the framework's reloader."""

    def __init__(self, name, files, program, own=None, serves=True):
        self.name, self.files, self.serves = name, files, serves
        self.program, self.own = program.split(), own and own.split()

    def make(self, folder):
        for name, text in {'part.py': part('first'), **self.files}.items():
            write(os.path.join(folder, name), text)


DJANGO_SETTINGS = """\
SECRET_KEY = 'none'
DEBUG = True
ALLOWED_HOSTS = ['*']
ROOT_URLCONF = 'urls'
INSTALLED_APPS = ['django.contrib.' + name for name in 'admin auth contenttypes sessions messages staticfiles'.split()]
MIDDLEWARE = [
    'django.contrib.sessions.middleware.SessionMiddleware',
    'django.contrib.auth.middleware.AuthenticationMiddleware',
    'django.contrib.messages.middleware.MessageMiddleware',
]
TEMPLATES = [{
    'BACKEND': 'django.template.backends.django.DjangoTemplates',
    'APP_DIRS': True,
    'OPTIONS': {'context_processors': [
        'django.template.context_processors.request',
        'django.contrib.auth.context_processors.auth',
        'django.contrib.messages.context_processors.messages',
    ]},
}]
DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'db.sqlite3'}}
STATIC_URL = 'static/'
DEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'
"""
DJANGO_URLS = """\
from django.contrib import admin
from django.http import HttpResponse
from django.urls import path
import part
urlpatterns = [path('admin/', admin.site.urls), path('', lambda request: HttpResponse(part.VALUE))]
"""
DJANGO_MANAGE = """\
import os, sys
os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'settings')
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
FLASK_APP = """\
import flask, sqlalchemy, sqlalchemy.orm
import part
app = flask.Flask(__name__)
engine = sqlalchemy.create_engine('sqlite://')
@app.route('/')
def index():
    return part.VALUE
"""
# With watchdog 7 installed, overflows would keep it busy: see werkzeug above.
FLASK_OWN = """\
from flask.cli import main
from werkzeug import _reloader
_reloader.reloader_loops['auto'] = _reloader.reloader_loops['stat']
main()
"""
FASTAPI_APP = """\
import fastapi, fastapi.responses, sqlalchemy, sqlalchemy.orm
import part
app = fastapi.FastAPI()
engine = sqlalchemy.create_engine('sqlite://')
@app.get('/', response_class=fastapi.responses.PlainTextResponse)
def index():
    return part.VALUE
"""
PANDAS_SCRIPT = """\
import os, time
import pandas, sqlalchemy
import part
os.write(1, b'APP %d %s\\n' % (time.monotonic_ns(), part.VALUE.encode()))
"""
UVICORN = 'BIN/uvicorn --no-access-log --port PORT app:app'

REAL_APPS = [
    RealApp(
        'Django',
        {'manage.py': DJANGO_MANAGE, 'settings.py': DJANGO_SETTINGS, 'urls.py': DJANGO_URLS},
        'manage.py runserver --noreload PORT',
        'PYTHON manage.py runserver PORT',
    ),
    RealApp(
        'Flask',
        {'app.py': FLASK_APP, 'own.py': FLASK_OWN},
        'BIN/flask --app app run --port PORT',
        'PYTHON own.py --app app run --reload --port PORT',
    ),
    RealApp('FastAPI', {'app.py': FASTAPI_APP}, UVICORN, UVICORN + ' --reload'),
    RealApp('pandas', {'script.py': PANDAS_SCRIPT}, 'script.py', serves=False),
]


class Projects:
    """Makes a folder for each run: a copy of the app with its bytecode, and the files that the contender needs."""

    def __init__(self, environment, keep=False):
        self.environment = environment
        self.root = tempfile.mkdtemp(prefix='hupper-bench-')
        self.keep = keep
        self._templates = {}
        self._count = 0

    def template(self, make, *arguments):
        key = (make, arguments)
        if key not in self._templates:
            folder = os.path.join(self.root, f'template{len(self._templates)}')
            make(folder, *arguments)
            command = [self.environment.python, '-m', 'compileall', '-q', '.']
            subprocess.run(command, cwd=folder, env=self.environment.variables, stdout=subprocess.DEVNULL)
            self._templates[key] = folder
        return self._templates[key]

    def make(self, peer, make=small_app, *arguments):
        template = self.template(make, *arguments)
        self._count += 1
        folder = os.path.join(self.root, f'p{self._count}', 'project')
        shutil.copytree(template, folder)
        soon = time.time() + 10  # hupper.py wants bytecode that is younger than its source, which was just copied
        for path in glob.glob(os.path.join(folder, '**', '*.pyc'), recursive=True):
            os.utime(path, (soon, soon))
        if peer.serve:
            write(os.path.join(folder, 'serve.py'), peer.serve)
        if peer.ours:
            shutil.copy2(os.path.join(CHECKOUT, 'hupper.py'), folder)
        return folder

    def remove(self):
        for name in os.listdir('/proc'):  # after an interruption
            if name.isdigit() and f'BENCH_RUN={os.getpid()}.' in proc(name, 'environ'):
                kill(int(name))
        if not self.keep:
            shutil.rmtree(self.root, ignore_errors=True)


# ---------------------------------------------------------------- one contender at work


class Run:
    """One contender started in one project; it finds its processes by a variable in their environment."""

    def __init__(self, environment, peer, folder):
        self.environment, self.peer, self.folder = environment, peer, folder
        self.saves = 0
        self._lines = b''

    def command(self):
        python = self.environment.python
        words = {
            'PYTHON': python,
            'ENTR': self.environment.entr,
            'COMMAND': shlex.join([python, '-m', 'app']),
        }
        return [words.get(w, w.replace('BIN/', os.path.dirname(python) + '/')) for w in self.peer.command]

    def start(self):
        command = self.command()
        self.marker = f'BENCH_RUN={os.getpid()}.{id(self)}'
        variables = dict(self.environment.variables, BENCH_RUN=self.marker.split('=')[1], **self.peer.variables)
        stdin = open(os.devnull)
        if self.peer.files:
            stdin = tempfile.TemporaryFile('w+')
            names = glob.glob(os.path.join(self.folder, '**', '*.py'), recursive=True)
            stdin.write('\n'.join(names) + '\n')
            stdin.flush()
            stdin.seek(0)
        log = open(os.path.join(os.path.dirname(self.folder), 'log'), 'a')
        self.began = time.monotonic_ns()
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=variables,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            start_new_session=True,
        )
        stdin.close()
        log.close()
        self.fd = self.process.stdout.fileno()
        return self

    def read(self, wanted, timeout):
        """Return the words of the first line that starts with one of wanted; None if none arrives within timeout."""
        end = time.monotonic() + timeout
        while True:
            while b'\n' in self._lines:
                line, self._lines = self._lines.split(b'\n', 1)
                words = line.decode('utf-8', 'replace').split()
                if words and words[0] in wanted:
                    return words
            left = end - time.monotonic()
            if not select.select([self.fd], [], [], max(left, 0))[0]:
                return None
            data = os.read(self.fd, 65536)
            if not data:
                time.sleep(min(0.1, max(left, 0)))  # all writers are gone, and so is the contender
                if left <= 0:
                    return None
            self._lines += data

    def wait(self, value=None, timeout=DEADLINE):
        """Return the time at which the app wrote (this value), or None after timeout seconds."""
        end = time.monotonic() + timeout
        while True:
            words = self.read(('APP',), end - time.monotonic())
            if words is None:
                return None
            if value is None or words[2] == value:
                return int(words[1])

    def save(self, value, in_place=False, name='part.py', text=None):
        """Save a module as an editor does; return the time just before that."""
        path = os.path.join(self.folder, name)
        text = part(value) if text is None else text
        if in_place:
            began = time.monotonic_ns()
            with open(path, 'w') as file:
                file.write(text)
            return began
        with open(path + '.tmp', 'w') as file:
            file.write(text)
        began = time.monotonic_ns()
        os.rename(path + '.tmp', path)
        return began

    def next_value(self):
        """Return a value of another length than the last, so that no older bytecode fits this source."""
        self.saves += 1
        return f'{self.saves}-' + 'x' * (self.saves % 37 + 1)

    def pids(self):
        found = []
        for name in os.listdir('/proc'):
            if name.isdigit() and self.marker in proc(name, 'environ').split('\0'):
                found.append(int(name))
        return found

    def stop(self):
        """Kill the tree; this is not measured."""
        kill(self.process.pid)
        self.process.wait()
        for _ in range(100):
            left = self.pids()
            for pid in left:
                kill(pid)
            if not left:
                break
            time.sleep(0.01)
        self.process.stdout.close()

    __enter__ = start

    def __exit__(self, *exc):
        self.stop()


class RealRun(Run):
    """One contender that runs a real app."""

    def __init__(self, environment, peer, folder, app):
        super().__init__(environment, peer, folder)
        self.app = app
        single = []
        self.samples = {'5 s': single, '0.3 s': single if peer is BARE else [], 'stop': [], 'CPU': []}
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            self.port = probe.getsockname()[1]

    def command(self):
        words, spliced = [], {'PROGRAM': self.app.program, 'OWN': self.app.own}
        for word in self.peer.command:
            words += spliced.get(word, [word])
        program = ['PYTHON'] * self.app.program[0].endswith('.py') + self.app.program
        if self.peer is BARE:
            words = program
        return [self._fill(shlex.join(map(self._fill, program)) if word == 'COMMAND' else word) for word in words]

    def _fill(self, word):
        bin = os.path.dirname(self.environment.python) + os.sep
        word = bin + 'python' if word == 'PYTHON' else word
        return word.replace('BIN/', bin).replace('PORT', str(self.port))

    def wait(self, value=None, timeout=DEADLINE):
        """Return the time at which the app answers or writes (this value); None after timeout seconds."""
        if not self.app.serves:
            return super().wait(value, timeout)
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            answer = self._ask()
            if answer and value in (None, answer):
                return time.monotonic_ns()
            time.sleep(0.001)
        return None

    def _ask(self):
        """Return the body of the app's answer; '' if there is none."""
        try:
            with socket.create_connection(('127.0.0.1', self.port), 5) as connection:
                connection.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
                received = b''.join(iter(lambda: connection.recv(65536), b''))
        except OSError:
            return ''
        head, _, body = received.partition(b'\r\n\r\n')
        return body.decode() if b' 200 ' in head[:20] else ''

    def save_and_wait(self):
        """Return the milliseconds from a save to the new answer; infinity if there is none."""
        value = self.next_value()
        began = self.save(value)
        answered = self.wait(value)
        return (answered - began) / 1e6 if answered else math.inf

    def cpu(self):
        """Return the milliseconds of CPU time of the tree and of the processes it has waited for."""
        stats = [proc(pid, 'stat').rpartition(')')[2].split() for pid in self.pids()]
        return sum(int(ticks) for stat in stats for ticks in stat[11:15]) * 1000 / os.sysconf('SC_CLK_TCK')

    def is_up(self):
        return self.process.poll() is None

    def launch(self):
        """Measure a launch of the bare app, and how long it takes to stop."""
        self.start()
        answered = self.wait(timeout=20)
        self.samples['5 s'].append((answered - self.began) / 1e6 if answered else math.inf)
        if self.app.serves:
            began = time.monotonic_ns()
            self.process.terminate()
            self.process.wait()
            self.samples['stop'].append((time.monotonic_ns() - began) / 1e6)
        self.stop()


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def proc(*names):
    """Return the text of a file below /proc; empty if it is gone."""
    try:
        with open(os.path.join('/proc', *map(str, names)), errors='replace') as file:
            return file.read()
    except OSError:
        return ''


def fields(text):
    """Return {name: number} of lines like 'name: number ...'."""
    pairs = (line.split(':', 1) for line in text.splitlines() if ':' in line)
    return {name: int(rest.split()[0]) for name, rest in pairs if rest.split() and rest.split()[0].isdigit()}


def threads(run):
    for pid in run.pids():
        try:
            for tid in os.listdir(f'/proc/{pid}/task'):
                yield os.path.join(str(pid), 'task', tid)
        except OSError:
            pass


def activity(run):
    """Return the context switches and CPU nanoseconds of all threads of the tree so far."""
    switches = cpu = 0
    for task in threads(run):
        status = fields(proc(task, 'status'))
        switches += status.get('voluntary_ctxt_switches', 0) + status.get('nonvoluntary_ctxt_switches', 0)
        cpu += int((proc(task, 'schedstat').split() or ['0'])[0])
    return switches, cpu


def belongings(run):
    """Return what a leak would make grow: {descriptors, threads, zombies, KiB}."""
    count = collections.Counter()
    pids = run.pids()
    for pid in pids:
        try:
            count['descriptors'] += len(os.listdir(f'/proc/{pid}/fd'))
        except OSError:
            pass
        memory = fields(proc(pid, 'smaps_rollup'))
        count['KiB'] += memory.get('Pss_Anon', memory.get('Pss', 0))
    count['threads'] = len(list(threads(run)))
    for name in os.listdir('/proc'):
        state = proc(name, 'stat').rpartition(')')[2].split() if name.isdigit() else ''
        if state and state[0] == 'Z' and int(state[1]) in pids:
            count['zombies'] += 1
    return count


# ---------------------------------------------------------------- measurements
# Each takes the bench (peers, amounts) and returns {column: {name of the peer: samples or text}}.


class Bench:
    """What all measurements share."""

    def __init__(self, environment, projects, options, rows):
        self.environment, self.projects, self.quick, self.apps = environment, projects, options.quick, options.apps
        self.peers = peers = choose(environment, rows, options.rows)
        self.real_peers = choose(environment, REAL_ROWS, options.rows)
        self.reloaders = [p for p in peers if p is not BARE]

    def amount(self, full, quick):
        return quick if self.quick else full

    def run(self, peer, *app):
        return Run(self.environment, peer, self.projects.make(peer, *app))

    def up(self, peers, *app):
        """Start these one after the other, wait for each, report those that do not start; return the runs."""
        runs = []
        fresh = [self.run(p, *app) for p in peers]
        time.sleep(2.2)  # hupper.py reads sources that have just changed without their bytecode
        for run in fresh:
            p = run.start().peer
            if run.wait(timeout=20) is None:
                say(p.name, 'does not start; see', os.path.join(os.path.dirname(run.folder), 'log'))
                self.projects.keep = True
                run.stop()
            else:
                runs.append(run)
        return runs

    def trials(self, drill, count):
        """Return {name: [failed?, ...]} of a drill(run) on fresh runs, several at once."""
        results = {p.name: [] for p in self.reloaders}
        self.projects.template(*(drill.app or (small_app,)))  # made here, not in many threads
        todo = [p for p in self.reloaders for _ in range(count)]
        random.shuffle(todo)

        def once(p):
            run = self.run(p, *drill.app)
            failed = True
            try:
                failed = drill(run)
            finally:
                run.stop()
                if not (failed and self.projects.keep):
                    shutil.rmtree(os.path.dirname(run.folder), ignore_errors=True)
            return p.name, failed

        with concurrent.futures.ThreadPoolExecutor(self.amount(8, 16)) as pool:
            for name, failed in pool.map(once, todo):
                if failed is not None:
                    results[name].append(failed)
        return results


def measure_start(bench):
    """Launches in rotation; the first of each is not counted (it may write bytecode)."""
    folders = {p: bench.projects.make(p) for p in bench.peers}
    time.sleep(2.2)  # as in `up`
    samples = {p.name: [] for p in bench.peers}
    for turn in range(bench.amount(30, 5) + 1):
        for p in random.sample(bench.peers, len(bench.peers)):
            with Run(bench.environment, p, folders[p]) as run:
                wrote = run.wait(timeout=20)
            if turn and wrote:
                samples[p.name].append((wrote - run.began) / 1e6)
    return {'start': samples}


def measure_reload(bench):
    count = bench.amount(15, 2)
    atomic, in_place = reloads(bench, count, 2, small_app)
    return {'reload, atomic': atomic, 'reload, in place': in_place}


def measure_big(bench):
    return {'reload, 2,000 modules': reloads(bench, bench.amount(15, 2), 1, big_app)[0]}


def measure_checkout(bench):
    """The second reload after 2,000 sources were touched: the first one has compiled them, this one need not."""
    samples = {p.name: [] for p in bench.peers}
    for run in bench.up(bench.peers, big_app):
        for _ in range(bench.amount(9, 2)):
            if run.peer is BARE:
                run.stop()
                run.start()
                wrote, began = run.wait('first', timeout=20), run.began
            else:
                for path in glob.glob(os.path.join(run.folder, 'pack*', '*.py')):
                    os.utime(path)
                if run.wait(timeout=20) is None:
                    break
                while run.wait(timeout=3):
                    pass  # some reload several times in such a storm
                value = run.next_value()
                began = run.save(value)
                wrote = run.wait(value, timeout=20)
                time.sleep(2)  # the next storm shall not look as if the app had caused it
            samples[run.peer.name].append((wrote - began) / 1e6 if wrote else math.inf)
        run.stop()
    return {'second reload after a checkout of 2,000 modules': samples}


def reloads(bench, count, kinds, app):
    """Return the milliseconds of each reload: ({name: [...]} for atomic saves, {name: [...]} for saves in place)."""
    samples = [{p.name: [] for p in bench.peers} for _ in range(2)]
    runs = bench.up(bench.peers, app)
    gap = bench.amount((2, 6), (2, 3))
    due = {run: time.monotonic() + random.uniform(*gap) for run in runs}
    left = {run: max(count, 5) * kinds if run.peer is BARE else count * kinds for run in runs}
    pending = {}  # run: (start of the save in ns, its value, kind, its start in s)
    quiet = 0  # no save until then, as it would disturb the others
    while due or pending:
        now = time.monotonic()
        ready = [run for run in due if due[run] <= now]
        if ready and now >= quiet:
            run = min(ready, key=due.get)
            kind = left[run] % kinds
            if run.peer is BARE:
                run.stop()
                run.start()
                pending[run] = (run.began, 'first', kind, now)
            else:
                value = run.next_value()
                pending[run] = (run.save(value, in_place=kind == 1), value, kind, now)
            del due[run]
            quiet = now + 0.5
        fds = {run.fd: run for run in pending}
        wake = min([quiet if ready else min(due.values(), default=now + 1)], default=now + 1)
        for fd in select.select(list(fds), [], [], min(1, max(0.001, wake - time.monotonic())))[0]:
            run = fds[fd]
            began, value, kind, _ = pending[run]
            wrote = run.wait(value, timeout=0)
            if wrote:
                samples[kind][run.peer.name].append((wrote - began) / 1e6)
                done(run, pending, due, left, gap)
                quiet = time.monotonic()
        for run in [r for r in pending if time.monotonic() - pending[r][3] > 10]:
            samples[pending[run][2]][run.peer.name].append(math.inf)
            done(run, pending, due, left, gap)
    for run in runs:
        run.stop()
    samples[0][BARE.name] = samples[1][BARE.name] = samples[0][BARE.name] + samples[1][BARE.name]
    return samples


def done(run, pending, due, left, gap):
    del pending[run]
    left[run] -= 1
    if left[run]:
        due[run] = time.monotonic() + random.uniform(*gap)


def measure_boot(bench):
    columns = {'save at first boot: lost': bench.trials(save_at_boot, bench.amount(20, 1))}
    if not bench.quick:
        columns["save at a reload's boot: lost"] = bench.trials(save_at_reboot, 20)
    return columns


def save_at_boot(run):
    """Return whether a save is lost while the app boots, after it has read the module."""
    run.start()
    return save_while_booting(run)


def save_at_reboot(run):
    """Return the same for a boot that is caused by an earlier save."""
    run.start()
    if run.wait(timeout=20) is None:
        return True
    time.sleep(2.2)
    run.save('second-one')
    return save_while_booting(run)


def save_while_booting(run):
    if run.read(('BOOT',), 20) is None:
        return True
    time.sleep(random.uniform(0, 0.45))
    run.save('the-last-one')
    return run.wait('the-last-one') is None


save_at_boot.app = save_at_reboot.app = (small_app, SLOW_BOOT)


def measure_same(bench):
    return {'same size in one second: stale': bench.trials(same_size, bench.amount(20, 1))}


def same_size(run):
    """Return whether the second of two saves of one length in one second does not run; None if it came too late."""
    run.start()
    if run.wait(timeout=20) is None:
        return True
    for _ in range(5):
        time.sleep(1.2)
        time.sleep(1.03 - time.time() % 1)
        second = int(time.time())
        run.save('aaaa')
        run.wait('aaaa', max(0, second + 0.7 - time.time()))
        time.sleep(random.uniform(0, 0.05))
        run.save('bbbb')
        if int(os.stat(os.path.join(run.folder, 'part.py')).st_mtime) == second:
            return run.wait('bbbb') is None
        run.wait('bbbb')
    return None


same_size.app = ()


def measure_idle(bench):
    """Small and big apps, and ours with a big watched folder, all asleep."""
    runs = {'small': bench.up(bench.peers), 'big': bench.up(bench.peers, big_app)}
    ours = [p.watching('data') for p in bench.peers if p.ours and not p.serve]
    runs['many'] = bench.up(ours, many_files)
    time.sleep(bench.amount(6, 4))
    before = {run: activity(run) for size in runs.values() for run in size}
    time.sleep(10)
    after = {run: activity(run) for size in runs.values() for run in size}
    columns = {}
    for size, name in (('small', ''), ('big', ', 2,000 modules'), ('many', ', 20,000 files')):
        switches, cpu = columns['idle switches' + name], columns['idle CPU' + name] = {}, {}
        for run in runs[size]:
            switches[run.peer.name] = str(after[run][0] - before[run][0])
            cpu[run.peer.name] = f'{(after[run][1] - before[run][1]) / 1e6:.1f} ms'
            run.stop()
    return columns


def measure_memory(bench):
    samples = {p.name: [] for p in bench.peers}
    for p in bench.peers:
        folder = bench.projects.make(p)
        for turn in range(bench.amount(3, 1) + 1):  # the first one may write bytecode
            with Run(bench.environment, p, folder) as run:
                if run.wait(timeout=20) and turn:
                    time.sleep(bench.amount(3, 1))
                    pss = sum(fields(proc(pid, 'smaps_rollup')).get('Pss', 0) for pid in run.pids())
                    samples[p.name].append(pss / 1024)
    return {'memory (MiB)': samples}


def measure_growth(bench):
    count, budget, warm = bench.amount((300, 120, 20), (20, 4, 3))
    runs = bench.up(bench.reloaders)

    def many(run):
        end, before, reached = time.monotonic() + budget, None, 0
        while reached < count and (time.monotonic() < end or reached <= warm):
            value = run.next_value()
            run.save(value)
            run.wait(value, 3)
            reached += 1
            if reached == warm:
                time.sleep(2)
                before = belongings(run)
        time.sleep(2)
        after = belongings(run)
        after.subtract(before)
        grown = [f'{after[what]:+d} {what}' for what in ('descriptors', 'threads', 'zombies') if after[what]]
        return f'{", ".join(grown) or "none"}, {after["KiB"]:+d} KiB ({reached})'

    with concurrent.futures.ThreadPoolExecutor(max(1, len(runs))) as pool:
        grown = dict(zip((run.peer.name for run in runs), pool.map(many, runs)))
    for run in runs:
        run.stop()
    return {'growth over reloads': grown}


def measure_real(bench):
    """The real apps, one after the other; this prints the tables itself, because their rows and columns differ."""
    bench.environment.add_real_packages()
    times, costs = {}, {}
    for app in REAL_APPS:
        if not bench.apps or app.name in bench.apps.split(','):
            runs = real_runs(bench, app)
            try:
                real_saves(bench, runs)
                costs[f'{app.name}: memory (MiB)'] = {run.peer.name: memory(run) for run in runs if run.is_up()}
                costs[f'{app.name}: CPU of a reload (ms)'] = {run.peer.name: run.samples['CPU'] for run in runs}
            finally:
                for run in runs:
                    run.stop()
            for what in ('5 s', '0.3 s', 'stop'):
                times[f'{app.name}, {what}'] = {run.peer.name: run.samples[what] for run in runs}
    names = [peer.name for peer in bench.real_peers]
    print(table(times, names), table(costs, names), sep='\n\n', end='\n\n')
    return {}


def real_runs(bench, app):
    """Start all contenders for one app and wait for them; bare is stopped again and launched at each turn."""
    runs = []
    peers = [peer for peer in bench.real_peers if app.own or peer.command != ['OWN']]
    fresh = [RealRun(bench.environment, peer, bench.projects.make(peer, app.make), app) for peer in peers]
    time.sleep(2.2)  # as in `up`
    for run in fresh:
        run.start()
        if run.wait(timeout=20) is None:
            say(app.name, 'under', run.peer.name, 'does not start; see', os.path.dirname(run.folder))
            bench.projects.keep = True
            run.stop()
            continue
        if run.peer is BARE:
            run.stop()
        runs.append(run)
    time.sleep(2)
    return runs


def real_saves(bench, runs):
    """Save each in turn, 5 s after its last answer; every fourth time once more, 0.3 s after the first save."""
    last = dict.fromkeys(runs, time.monotonic())
    for turn in range(bench.amount(16, 4)):
        for run in runs:
            time.sleep(max(0, last[run] + 5 - time.monotonic()))
            if run.peer is BARE:
                run.launch()
            elif turn % 4 == 3:
                real_pair(run)
            elif turn % 4 == 2:
                before = run.cpu()
                run.samples['5 s'].append(run.save_and_wait())
                time.sleep(3)
                run.samples['CPU'].append(run.cpu() - before)
            else:
                run.samples['5 s'].append(run.save_and_wait())
            last[run] = time.monotonic()
            time.sleep(1)  # work after a reload must not disturb the others


def real_pair(run):
    """Two saves 0.3 s apart; the second one counts."""
    first = time.monotonic()
    run.save(run.next_value())
    time.sleep(max(0, first + 0.3 - time.monotonic()))
    run.samples['0.3 s'].append(run.save_and_wait())


def memory(run):
    """Return one sample, of the whole tree, as a list; all contenders share the interpreter's pages here."""
    pss = sum(fields(proc(pid, 'smaps_rollup')).get('Pss', 0) for pid in run.pids())
    return [pss / 1024]


MEASUREMENTS = {
    'start': measure_start,
    'reload': measure_reload,
    'big': measure_big,
    'checkout': measure_checkout,
    'boot': measure_boot,
    'same': measure_same,
    'idle': measure_idle,
    'memory': measure_memory,
    'growth': measure_growth,
    'real': measure_real,
}

# ---------------------------------------------------------------- table


def cell(samples, bare):
    """Return median (p95) xRATIO for numbers, n of N for failures, text as it is."""
    if isinstance(samples, str):
        return samples
    if not samples:
        return '-'
    if isinstance(samples[0], bool):
        return f'{sum(samples)} of {len(samples)}'
    came = sorted(s for s in samples if s != math.inf)
    if not came:
        return 'never'
    text = f'{statistics.median(came):.1f}'
    if len(came) > 3:
        text += f' ({came[math.ceil(len(came) * 0.95) - 1]:.1f})'
    if bare:
        text += f' x{statistics.median(came) / statistics.median(bare):.2f}'
    if len(came) < len(samples):
        text += f', {len(samples) - len(came)} of {len(samples)} lost'
    return text


def table(columns, names):
    lines = ['| | ' + ' | '.join(columns) + ' |', '|---' * (len(columns) + 1) + '|']
    for name in names:
        row = []
        for column in columns.values():
            bare = column.get(BARE.name)
            row.append(cell(column.get(name, []), bare if isinstance(bare, list) else None))
        lines.append(f'| {name} | {" | ".join(row)} |')
    return '\n'.join(lines)


def say(*words):
    print(*words, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- command line


def choose(environment, others, rows):
    """Return the peers that can be run here and were asked for."""
    peers = [BARE]
    for p in others:
        if p.ours and not os.path.exists(os.path.join(CHECKOUT, 'hupper.py')):
            say(p.name, 'left out: no hupper.py in', CHECKOUT)
        elif p.files and not environment.entr:
            say(p.name, 'left out: it is not installed and cannot be fetched from Debian')
        elif not rows or any(row in p.name for row in rows.split(',')):
            peers.append(p)
    return peers


def main():
    parser = argparse.ArgumentParser(description='Compare hupper.py with other reloaders.')
    parser.add_argument('--quick', action='store_true', help='few samples, under two minutes')
    parser.add_argument('--only', metavar='NAME,NAME', default=','.join(MEASUREMENTS), help='default: %(default)s')
    parser.add_argument('--rows', metavar='TEXT,TEXT', help='only the rows whose name contains one of these texts')
    parser.add_argument('--apps', metavar='NAME,NAME', help='for the part `real`: Django, Flask, FastAPI, pandas')
    parser.add_argument('--keep', action='store_true', help='keep the projects and their logs')
    options = parser.parse_args()
    unknown = set(options.only.split(',')) - set(MEASUREMENTS)
    if unknown:
        parser.error('no such measurement: ' + ', '.join(sorted(unknown)))

    environment = Environment()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # `&` makes us ignore it, and the contenders inherit that
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    projects = Projects(environment, options.keep)
    bench = Bench(environment, projects, options, OURS + OTHERS)
    columns = {}
    try:
        for name in options.only.split(','):
            began = time.monotonic()
            columns.update(MEASUREMENTS[name](bench))
            say(f'{name}: {time.monotonic() - began:.0f} s')
    except KeyboardInterrupt:
        say('interrupted; these are the results so far')
    finally:
        projects.remove()
    if columns:
        print(table(columns, [p.name for p in bench.peers]))
    print('\n' + environment.describe())
    if projects.keep:
        print('kept:', projects.root)


if __name__ == '__main__':
    main()
