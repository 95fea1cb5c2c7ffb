#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Count how often reloaders miss a saved change, and print the table of the README.

    python .ci/promises.py [--times N] [--rows TEXT,TEXT] [--only TEXT,TEXT]

Each cell is `lost n of N`, for N fresh starts of an app of two modules, each with the change that the column names.
Lost means that the new code did not run within 7 s, in which nothing else was saved, touched or restarted; in the last
two columns, that the app was killed before it had done its work.
The other reloaders and the environment are those of bench.py, beside this file.
Another table shows how many requests to a web application, sent one after the other, are refused in ten reloads.
"""

import argparse
import copy
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import bench
import driver
from bench import Peer, part, small_app, write

PEERS = [
    Peer('hupper.py, inotify', 'PYTHON|hupper.py|--monitor|inotify|-m|app', ours=True),
    Peer('hupper.py, watchdog', 'PYTHON|hupper.py|--monitor|watchdog|-m|app', ours=True),
    Peer('hupper.py, polling', 'PYTHON|hupper.py|--monitor|polling|-m|app', ours=True),
] + [p for p in bench.OTHERS if not p.name.endswith('API')]


def older_file(run):
    """Yesterday's backup is moved over today's file."""
    run.start()
    if run.wait(timeout=20) is None:
        return True
    time.sleep(2.2)
    run.save('of-today')
    if run.wait('of-today') is None:
        return True
    time.sleep(2.2)
    path = os.path.join(run.folder, 'part.py')
    write(path + '.bak', part('of-yesterday'))
    os.rename(path + '.bak', path)
    return run.wait('of-yesterday') is None


def package_app(folder):
    small_app(folder, 'from package import part')
    os.remove(os.path.join(folder, 'part.py'))
    write(os.path.join(folder, 'app.py'), bench.APP.replace('import part', '') % 'from package import part')
    write(os.path.join(folder, 'package', '__init__.py'), '')
    write(os.path.join(folder, 'package', 'part.py'), part('first'))


def package_replaced(run):
    """The package's folder is deleted and recreated, or replaced by renames; then a file in it is saved."""
    run.start()
    if run.wait(timeout=20) is None:
        return True
    time.sleep(2.2)
    package = os.path.join(run.folder, 'package')
    new = os.path.join(run.folder, 'new') if random.random() < 0.5 else package
    if new is package:
        while os.path.exists(package):  # a quick reloader may write bytecode into it meanwhile
            shutil.rmtree(package, ignore_errors=True)
        time.sleep(random.uniform(0, 0.3))
    write(os.path.join(new, '__init__.py'), '', time.time())
    write(os.path.join(new, 'part.py'), part('of-the-branch'), time.time())
    if new is not package:
        os.rename(package, package + '-old')
        os.rename(new, package)
    if run.wait('of-the-branch') is None:
        return True
    time.sleep(2.2)
    run.save('saved-later', name='package/part.py')
    return run.wait('saved-later') is None


def syntax_app(folder):
    small_app(folder)
    write(os.path.join(folder, 'part.py'), 'VALUE = (\n')


def syntax_error(run):
    """The first start fails with a SyntaxError, which is fixed two seconds after the traceback appears."""
    run.start()
    failed(run, 'SyntaxError')
    run.save('mended')
    return run.wait('mended') is None


def missing_app(folder):
    small_app(folder)
    os.remove(os.path.join(folder, 'part.py'))


def missing_module(run):
    """The first start fails because a module is missing; it is created two seconds after the traceback appears."""
    run.start()
    failed(run, 'ModuleNotFoundError')
    run.save('created')
    return run.wait('created') is None


def failed(run, error):
    """Wait five seconds at most for the app's traceback, which some reloaders do not show; then wait two more."""
    log = os.path.join(os.path.dirname(run.folder), 'log')
    end = time.monotonic() + 5
    while time.monotonic() < end and error not in open(log, errors='replace').read():
        time.sleep(0.1)
    time.sleep(2)


def chatty_app(folder):
    small_app(folder, "with open('../output', 'a') as file: file.write('x' * 9000)")


def saves_in_a_row(run, pause=1.0):
    """One file is saved five times, a second apart; at each start, the app writes a lot to a file elsewhere."""
    run.start()
    if run.wait(timeout=20) is None:
        return True
    time.sleep(2.2)
    for number in range(5):
        run.save(f'save-{number}')
        time.sleep(pause)
    return run.wait('save-4') is None


def quick_saves(run):
    return saves_in_a_row(run, 0.4)


def lock_app(folder):
    small_app(folder, "open('app.lock', 'w').close()")


def log_app(folder):
    small_app(folder, "with open('run-%d.log' % os.getpid(), 'w') as file: file.write('hello')")


def boot_writer(run):
    """The app writes below a watched folder at each boot. Lost: more than eight starts in 14 s, or a later save."""
    run.peer = copy.copy(run.peer)
    if run.peer.ours:
        at = run.peer.command.index('-m')
        run.peer.command = [*run.peer.command[:at], '-w', '.', *run.peer.command[at:]]
    run.start()
    if run.wait(timeout=20) is None:
        return True
    end, starts = time.monotonic() + 14, 1
    while run.wait(timeout=end - time.monotonic()) is not None:
        starts += 1
    run.save('saved-later')
    return starts > 8 or run.wait('saved-later') is None


def boot_writer_of_new_names(run):
    return boot_writer(run)


# Needs five seconds to stop, like a worker that finishes its task.
SLOW_END = """import signal
def end(*_):
    time.sleep(5)
    os.write(1, b'APP 0 finished\\n')
    os._exit(0)
for signum in signal.SIGTERM, signal.SIGINT: signal.signal(signum, end)"""

IN_A_TERMINAL = """
import os, pty, signal, sys
pid, fd = pty.fork()
if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGUSR1, lambda *_: os.write(fd, b'\\3'))
while True:
    try: os.write(1, os.read(fd, 65536))
    except OSError: break
"""


def slow_end_app(folder):
    small_app(folder, SLOW_END)


def sigterm(run, signum=signal.SIGTERM):
    """An app that needs five seconds to stop is killed before that."""
    run.start()
    if run.wait(timeout=20) is None:
        return True
    time.sleep(1)
    os.kill(run.process.pid, signum)
    return run.wait('finished', timeout=9) is None


def ctrl_c(run):
    if run.peer.files:
        run.start()
        return None  # it reads its files from stdin, and is not meant for a terminal
    run.peer = copy.copy(run.peer)
    run.peer.command = ['PYTHON', '-c', IN_A_TERMINAL, *run.peer.command]
    return sigterm(run, signal.SIGUSR1)


sigterm.app = ctrl_c.app = (slow_end_app,)
saves_in_a_row.app = quick_saves.app = (chatty_app,)
boot_writer.app = (lock_app,)
boot_writer_of_new_names.app = (log_app,)
older_file.app = ()
package_replaced.app = (package_app,)
syntax_error.app = (syntax_app,)
missing_module.app = (missing_app,)

DRILLS = {
    'save while the app boots': bench.save_at_boot,
    'save while it boots again': bench.save_at_reboot,
    'two saves of one size in one second': bench.same_size,
    'an older file restored': older_file,
    'package folder replaced': package_replaced,
    'first start with a SyntaxError, mended': syntax_error,
    'first start without a module, created': missing_module,
    'five saves, one second apart': saves_in_a_row,
    'five saves, 0.4 s apart': quick_saves,
    'a lock written at each boot': boot_writer,
    'a new log written at each boot': boot_writer_of_new_names,
    'SIGTERM, to an app that needs 5 s for its end': sigterm,
    'Ctrl-C, to an app that needs 5 s for its end': ctrl_c,
}


# ---------------------------------------------------------------- refused connections

ASGI = """
from greeting import GREETING

async def app(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': GREETING.encode()})
"""
FLASK = """
import flask
from greeting import GREETING

app = flask.Flask(__name__)
app.route('/')(lambda: GREETING)
"""
SERVERS = {
    'hupper.py --keep-sockets, uvicorn': (ASGI, 'python hupper.py --keep-sockets -m uvicorn app:app --port {port}'),
    'hupper.py --keep-sockets, flask': (FLASK, 'python hupper.py --keep-sockets -m flask run --port {port}'),
    'hupper.py, uvicorn': (ASGI, 'python hupper.py -m uvicorn app:app --port {port}'),
    'hupper.py, flask': (FLASK, 'python hupper.py -m flask run --port {port}'),
    'uvicorn --reload': (ASGI, 'python -m uvicorn app:app --reload --port {port}'),
    'flask run --debug': (FLASK, 'python -m flask run --debug --port {port}'),
    'watchfiles, uvicorn': (ASGI, "watchfiles 'python -m uvicorn app:app --port {port}' ."),
    'watchfiles, flask': (FLASK, "watchfiles 'python -m flask run --port {port}' ."),
}


def count_refused(bin, app, command, folder):
    """Return how many requests were refused while the app's module was saved ten times."""
    driver.write(folder, {'app.py': app, 'greeting.py': "GREETING = 'first'\n"})
    shutil.copy(driver.ROOT / 'hupper.py', folder)
    port = driver.free_port()
    with driver.Program(command.format(port=port), folder, bin, port) as program:
        program.wait_for_answer('first')
        outcomes = driver.count_outcomes(program, folder / 'greeting.py', pause=2)
    return 'refused {} of {}, cut off {}'.format(outcomes['refused'], sum(outcomes.values()), outcomes['cut off'])


def refused_column():
    """Return the column of refused connections."""
    column = {}
    try:
        bin = driver.environment('refused', ['flask', 'uvicorn', 'watchfiles'])
    except driver.Unreachable as error:
        bench.say(f'skipped: {error}; refused connections were not counted')
        return column
    for name, (app, command) in SERVERS.items():
        with tempfile.TemporaryDirectory(prefix='hupper-promises-') as folder:
            try:
                column[name] = count_refused(bin, app, command, Path(folder).resolve())
            except AssertionError as error:
                column[name] = str(error)
        bench.say(f'{name}: {column[name]}')
    return column


def main():
    parser = argparse.ArgumentParser(description='Count how often reloaders miss a saved change.')
    parser.add_argument('--times', type=int, default=5, metavar='N', help='trials per cell; default %(default)s')
    parser.add_argument('--rows', metavar='TEXT,TEXT', help='only the rows whose name contains one of these texts')
    parser.add_argument('--only', metavar='TEXT,TEXT', help='only the columns whose name contains one of these texts')
    parser.add_argument('--keep', action='store_true', help='keep the projects and logs of lost changes')
    options = parser.parse_args()
    environment = bench.Environment()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in bench.py
    projects = bench.Projects(environment, options.keep)
    options.quick, options.apps = False, None
    tests = bench.Bench(environment, projects, options, PEERS)
    columns = {}
    try:
        for name, drill in DRILLS.items():
            if not options.only or any(text in name for text in options.only.split(',')):
                began = time.monotonic()
                counts = tests.trials(drill, options.times)
                columns[name] = {p: f'lost {sum(c)} of {len(c)}' for p, c in counts.items()}
                bench.say(f'{name}: {time.monotonic() - began:.0f} s')
    finally:
        projects.remove()
    print(bench.table(columns, [p.name for p in tests.reloaders]))
    if not options.only or 'refused' in options.only:
        column = refused_column()
        print('\n' + bench.table({'refused connections, ten reloads': column}, list(column)))
    print('\n' + environment.describe())
    if projects.keep:
        print('kept:', projects.root)


if __name__ == '__main__':
    main()
