# SPDX-License-Identifier: MIT
# Copyright (c) 2026 the hupper.py authors
"""hupper.py: restart your Python program when its code changes. One file, no dependencies.

Use it from the command line, in any folder that has a copy of this file (or after `pip install .`)::

    python hupper.py -m myapp --port 8080      # as `python -m myapp --port 8080`, reloading
    python hupper.py -w conf.ini script.py     # as `python script.py`; conf.ini is watched too

or from a program; the worker runs the function, the monitor never returns::

    import hupper

    def main():
        reloader = hupper.start_reloader('myapp.main')
        reloader.watch_files(['conf.ini'])
        ...

How it works: a *monitor* process starts a *worker* process, which runs the app. It starts a new worker when a file
changes that the worker has imported or asked to watch::

    user's shell -- monitor process ---------------+            worker process
                      command line, start_reloader | fork or    handshake -> proxy
                      _Supervisor: one loop over   | spawn      import observer
                        signals, channel, watches, +----------> the app
                        timers                     |<-- channel: watch this / reload / shut down
                      file monitor: inotify,       |
                        watchdog or polling        |--> control pipe: start now
                      standby: the next worker,    |
                      booted and waiting           |

The life of one reload, in ten steps:

 1. A file monitor learns of the save: `InotifyFileMonitor.step` reads an event, or `PollingFileMonitor.step` looks at
    the file. `PollingFileMonitor.check` drops the event if neither the file's signature nor the kind of event shows a
    change; `_changed` drops ignored paths.
 2. `_Supervisor._step` takes the change (`FileMonitorProxy.take_changes`). `_on_change` asks `_LoopGuard.hold` whether
    to delay it because the app seems to cause its own reloads. If not, `_Schedule.due` says when to stop waiting for
    more changes.
 3. At that time `_Supervisor._on_due` decides. `_confirm_changes` checks again that the files are complete and, if a
    worker runs, parse; it reports the change.
 4. `_Supervisor._end_worker` sends the worker the polite stop, and `_kill_late_worker` kills it if it takes too long;
    if no worker runs, step 6 follows at once. Meanwhile `_Launcher.renew_standby` replaces an outdated standby.
 5. The worker's exit wakes the loop: `_Supervisor._on_sigchld`, `_on_exit`. `_OrphanTerminator.poll` ends the processes
    that the worker has left behind.
 6. `_Supervisor._go_on` calls `_start`. `_Launcher.start` makes the standby the new worker, by one message.
 7. In the standby, `run_app` (in `_WorkerMain._make_excepthook`) is the only frame on the stack: Python itself has
    called it, in a new interpreter or in the monitor before it forked. `get_ready` has prepared all that it could,
    and `_ControlPipe.receive` was waiting for this message. `on_start` sets the current folder and sys.path.
 8. `run_app` hands over the signals and calls the app's `entry_point`.
 9. `_Observer` reports each source with its signature from before it was read. `_Channel.step` passes the report to
    `_Supervisor._on_import`. `PollingFileMonitor.watch_file` compares the signature, so that a save in between counts.
10. When the imports stop, `_Supervisor._check_booted` has `_Launcher.make_standby` make the next worker: a fork of the
    monitor, which leaves the stack by the exception `_Forked`, or a new interpreter (`_spawn`) that runs `_BOOT`.
    Either one goes on with step 7.

A worker also ends after a signal to the monitor (`_Supervisor._SIGNAL_HANDLERS`), at its own request (`_handlers`),
or when the app exits; then `_on_own_end` decides whether the monitor exits or waits for a change.

A third-party file monitor implements `IFileMonitor`. What one in this file defines, and what a new platform does, is
listed at the heads of these sections.

The sections: prelude, public API, monitor process, worker start, worker process, preloading, channel, kept sockets,
file monitors, logging, platform, names of hupper 1.x, command line.

This is an independent implementation of the interface of `hupper` 1.12, the Pylons Project's package on PyPI. It is
licensed under the MIT license; "the software is provided as is, without warranty of any kind".
"""

# ------------------------------------------------------------------------------------------------------------- prelude

from __future__ import annotations

import sys

_STARTUP_MODULES = frozenset(sys.modules) - {__name__}  # imported at Python's startup; empty if a program imports us
_SAFE_PATH = sys.flags.isolated or getattr(sys.flags, 'safe_path', False)
_REMOVED_PATH0 = None  # the sys.path[0] that Python added (our folder, or the cwd with -m); None in safe-path mode
_PRE_STDLIB_PATHS: list[str] = []  # other entries before the stdlib, such as PYTHONPATH


def _demote_project_paths():
    """Move project folders behind the stdlib, so that a local select.py cannot shadow it."""
    global _REMOVED_PATH0
    if not _SAFE_PATH:
        _REMOVED_PATH0 = sys.path.pop(0)
    at = next((at for at, path in enumerate(sys.path) if path.endswith(_STDLIB_ENDINGS)), 0)
    _PRE_STDLIB_PATHS.extend(sys.path[:at])
    sys.path[:] = sys.path[at:] + _PRE_STDLIB_PATHS  # libraries there, such as watchdog, are still found


import os  # already loaded by Python, so no project file can shadow it

# How the first stdlib entry of sys.path ends.
_STDLIB_ENDINGS = os.path.dirname(os.__file__), 'python{}{}.zip'.format(*sys.version_info)
_main_file = getattr(sys.modules['__main__'], '__file__', None) or ''
_main_file = _main_file and os.path.abspath(_main_file)  # before the program changes the current folder
_IS_COMMAND = __name__ == '__main__' or os.path.basename(_main_file) == 'hupper'  # the script that pip makes for us

if _IS_COMMAND or '_worker_fds' in globals():  # see _BOOT
    _demote_project_paths()
else:
    _STARTUP_MODULES = frozenset()

import _imp
import _signal as signal  # type: ignore[import-not-found]  # `signal` itself costs the import of enum
import _thread
import _weakref
import errno
import marshal
import select
import time
from abc import ABC, abstractmethod


def _private_copy(module, **others):
    """Return a copy of a module, so that patches made by the app's tests do not reach our import hooks."""
    copy = type(module)(module.__name__)
    names = vars(copy)
    names.update(vars(module), **others)
    for name, function in vars(module).items():
        is_own = getattr(function, '__module__', None) in (module.__name__, 'genericpath')  # not gevent's patch
        if is_own and isinstance(function, type(_private_copy)):  # it must call the copy's functions, too
            names[name] = type(function)(function.__code__, names, name, function.__defaults__, function.__closure__)
            names[name].__kwdefaults__ = function.__kwdefaults__
    return copy


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Mapping, NoReturn, Sequence
else:
    os, time = _private_copy(os), _private_copy(time)
    os.path = _private_copy(os.path, os=os)

__version__ = '1.12.1+onefile.1'
__all__ = ['get_reloader', 'is_active', 'is_watchdog_supported', 'is_watchman_supported', 'main', 'start_reloader']

_DEFAULT = '<the reload interval>'  # for an argument that was not given
_FILE = os.path.abspath(__file__)  # before the current folder can change
_FOREVER = float('inf')


def _hide_from_tracebacks(function):
    """Disguise code run inside or after the app as import machinery: tracebacks and tracers (coverage) skip it."""

    def disguise(code):
        parts = tuple(disguise(each) if isinstance(each, type(code)) else each for each in code.co_consts)
        return code.replace(co_filename='<frozen importlib._bootstrap>', co_consts=parts)

    for each in vars(function).values() if isinstance(function, type) else [function]:
        each = getattr(each, '__func__', each)  # of a static method
        if hasattr(each, '__code__'):
            each.__code__ = disguise(each.__code__)
    return function


# ---------------------------------------------------------------------------------------------------------- public API


def start_reloader(
    worker_path: str | None = None,
    reload_interval: float | str = 1,
    shutdown_interval: float | str | None = _DEFAULT,
    verbose: int = 1,
    logger: Any = None,
    monitor_factory: Callable[..., Any] | None = None,
    worker_args: Sequence[Any] | None = None,
    worker_kwargs: Mapping[str, Any] | None = None,
    ignore_files: Iterable[str] | None = None,
    preload: bool | None = None,
    preload_except: Iterable[str] | None = None,
    keep_sockets: bool | None = None,
    stop_signal: str | int | None = None,
) -> IReloaderProxy:
    """Become the monitor of a worker process, and restart the worker whenever its files change.

    In the first process this never returns: it runs the monitor, then calls `sys.exit` with the worker's status
    (128 + n if signal n ended it). In a worker it returns an `IReloaderProxy` at once.

    worker_path: dotted path to the function that the worker calls, such as `'myapp.main'`. Without one the worker runs
        this program's own command line again.
    reload_interval: least number of seconds between two starts while files keep changing; a number > 0 or its text.
    shutdown_interval: seconds a worker gets between the polite stop and the kill; by default the reload interval
        at a reload, and 8 if the monitor itself is exiting. None: no polite stop, kill at once.
    verbose: 0 errors only, 1 also what happens, 2 also why.
    logger: a `logging.Logger` or an `ILogger`, instead of lines on stderr.
    monitor_factory: an `IFileMonitorFactory`; by default the environment variable HUPPER_DEFAULT_MONITOR (a dotted
        path, or `inotify`, `watchdog`, `polling`), then the best that works.
    worker_args, worker_kwargs: arguments for the function; they must be picklable.
    ignore_files: shell-style patterns of paths whose changes do not count.
    preload: whether the next worker imports in advance the installed packages that the last one imported; by default
        the environment variable HUPPER_PRELOAD, 1 or 0.
    preload_except: packages not to preload, with all that imports them: two processes must not load them at once.
    keep_sockets: keep the listening TCP sockets open during a reload, so that clients wait; by default the environment
        variable HUPPER_KEEP_SOCKETS, 1 or 0.
    stop_signal: the polite stop, by default SIGTERM; a name such as 'INT', or its number. 'KILL': none.

    Raises ValueError if an interval is not a number > 0, worker_path is not a dotted path, or the signal is unknown.
    """
    if logger is None:
        logger = DefaultLogger(verbose)
    proxy = _find_proxy(logger)
    if proxy is not None:
        return proxy
    reloader = Reloader(
        worker_path=worker_path,
        monitor_factory=monitor_factory,
        logger=logger,
        reload_interval=reload_interval,
        shutdown_interval=shutdown_interval,
        worker_args=worker_args,
        worker_kwargs=worker_kwargs,
        ignore_files=ignore_files,
        preload=preload,
        preload_except=preload_except,
        keep_sockets=keep_sockets,
        stop_signal=stop_signal,
    )
    return reloader.run()


def is_active() -> bool:
    """Return True in a worker process, which a monitor has started and watches; False in its children."""
    return _Handshake.here() is not None


def get_reloader() -> IReloaderProxy:
    """Return the proxy of this worker; raise RuntimeError if this process is not one, see `is_active`."""
    handshake = _Handshake.here()
    if handshake is None:
        raise RuntimeError('process is not controlled by hupper: no monitor started it (see hupper.is_active)')
    return ReloaderProxy(handshake)


def is_watchdog_supported() -> bool:
    """Return True if the package `watchdog` can be imported."""
    from importlib.util import find_spec

    return 'watchdog.observers' in sys.modules or find_spec('watchdog') is not None


def is_watchman_supported() -> bool:
    """Return False: Watchman is a service to install and run; inotify reports the same without one."""
    return False


class IReloaderProxy(ABC):
    """What a worker can ask of its monitor. The methods may be called from any thread and from signal handlers."""

    @abstractmethod
    def watch_files(self, files: Iterable[str | os.PathLike[str]]) -> None:
        """Reload when one of these changes: files, folders (all below them) or globs, which need not exist yet.

        Relative paths are resolved from the current folder at the time of the call.
        """

    @abstractmethod
    def trigger_reload(self) -> None:
        """Ask for a reload now, even if a changed file does not parse."""

    @abstractmethod
    def graceful_shutdown(self) -> None:
        """Ask the monitor to stop the worker politely and to exit."""


class IFileMonitor(ABC):
    """Calls back with the path, from any thread, when a watched file changes."""

    @abstractmethod
    def add_path(self, path):
        """Watch `path`: a file, or the entries of a folder; it need not exist yet."""

    @abstractmethod
    def start(self):
        """Begin; must not block."""

    @abstractmethod
    def stop(self):
        """Ask the monitor to end; called before `join`."""

    @abstractmethod
    def join(self):
        """Block until the monitor has ended."""


class IFileMonitorFactory(ABC):
    """Makes an `IFileMonitor`; any callable with this signature will do."""

    @abstractmethod
    def __call__(self, callback, **kw):
        """Return an `IFileMonitor` that calls `callback(path)`.

        Keywords: `interval`, the reload interval in seconds, and `logger`, an `ILogger`. More may come: accept `**kw`.
        """


class ILogger(ABC):
    """Where the monitor's lines go; `logging.Logger` objects serve as well."""

    @abstractmethod
    def error(self, msg):
        """Log what is always shown."""

    @abstractmethod
    def info(self, msg):
        """Log what happens."""

    @abstractmethod
    def debug(self, msg):
        """Log why it happens."""


# ----------------------------------------------------------------------------------------------------- monitor process


class Reloader:
    """The configuration of a monitor: the arguments of `start_reloader`, and a few that only the command line sets."""

    def __init__(
        self,
        worker_path,
        monitor_factory,
        logger,
        reload_interval=1,
        shutdown_interval=_DEFAULT,
        worker_args=None,
        worker_kwargs=None,
        ignore_files=None,
        stop_signal=None,
        *,
        preload=None,
        preload_except=None,
        extra_paths=(),
        exit_on_crash=False,
        may_fork=False,
        keep_sockets=None,
    ):
        self.reload_interval = _seconds('reload_interval', reload_interval)
        self.stop_signal = signal.SIGTERM if stop_signal is None else _stop_signal('stop_signal', stop_signal)
        self._set_shutdown_intervals(shutdown_interval)
        if isinstance(monitor_factory, str):
            monitor_factory = _monitor_factory(monitor_factory, logger)
        self.monitor_factory = monitor_factory or find_default_monitor_factory(logger)
        self.logger = logger if type(logger) in (DefaultLogger, SilentLogger) else _ForeignLogger(logger)
        self.ignore_files = ignore_files
        self.preload = self._is_on(preload, 'HUPPER_PRELOAD')
        if isinstance(preload_except, str):
            raise TypeError(f'preload_except takes several packages, not {preload_except!r}: put it in a list')
        self.preload_except = list(preload_except or ())
        self.extra_paths = extra_paths  # to watch besides the worker's imports
        self.exit_on_crash, self.may_fork = exit_on_crash, may_fork
        self.keep_sockets = self._is_on(keep_sockets, 'HUPPER_KEEP_SOCKETS')
        self.monitor = None  # the FileMonitorProxy, while running
        self.target = worker_path
        if worker_path is None:
            self.target = _Target.this_program()
        elif not isinstance(worker_path, _Target):
            self.target = _Target.call(worker_path, worker_args, worker_kwargs)

    def _is_on(self, argument, variable):
        """Whether an option is on, by the environment variable if the argument is None; may exit with 2."""
        text = os.environ.get(variable, '')
        if argument is None and text not in ('', '0', '1'):
            self.logger.error(f'{variable} must be 1 or 0, not {text!r}')
            sys.exit(2)
        return text == '1' if argument is None else bool(argument)

    def _set_shutdown_intervals(self, seconds):
        """Set the seconds that a worker gets to stop, at a reload and when the monitor exits; None: kill it at once."""
        if seconds is None or self.stop_signal == _STOP_SIGNALS['KILL']:
            self.shutdown_interval = self.exit_interval = None
        elif seconds is _DEFAULT:
            self.shutdown_interval, self.exit_interval = self.reload_interval, 8
        else:
            self.shutdown_interval = self.exit_interval = _seconds('shutdown_interval', seconds)

    def run(self) -> NoReturn:
        """Run the monitor until it is told to stop, then call `sys.exit` with the worker's status."""
        sys.exit(_Supervisor(self).run())

    def run_once(self):
        """Run one worker until it ends, or until a change or a signal ends it; return its status."""
        return _Supervisor(self, once=True).run()


class _Supervisor:
    """One run of the monitor: an event loop, of which `_step` is one turn.

    `state` says what the loop waits for: a worker that runs (RUNNING) or was asked to stop (STOPPING), the end of its
    orphans (REAPING), or a change, ENTER or SIGHUP (IDLE); or that it is over (ENDED). `_after_exit` says what follows
    the worker's exit.
    """

    RUNNING, STOPPING, REAPING, IDLE, ENDED = 'running', 'stopping', 'reaping', 'idle', 'ended'
    RESTART, QUIT = 'restart', 'quit'

    def __init__(self, config, once=False):
        self.state = self.IDLE
        self._config = config
        self._logger = config.logger
        self._once = once  # leave after one worker
        self._after_exit = None  # RESTART, QUIT, or None: wait for a change; set before the exit, if we cause it
        self._worker = None  # the running _Worker
        self._kill_at = None  # when a worker that was asked to stop is killed
        self._boot_check_at = None  # when to check whether a new worker has booted
        self._has_booted = False  # any worker has
        self._interpreter_check_at = None  # when to check whether the program runs in child interpreters
        self._orphans = None  # the _OrphanTerminator, while REAPING
        self._status = 0  # of the last worker that has ended
        self.is_interrupted = False  # Ctrl-C has ended the last worker, by SIGINT
        self._is_stop_requested = False  # by a signal; a second one kills the worker
        self._has_sigquit = False
        self._ctrl_c = _CtrlC()
        self._reload_requested = False  # whether or not files have changed
        self._pending = {}  # path -> when its first change was noticed; the last one, of a source that did not parse
        self._held = {}  # path -> when it becomes pending: see _LoopGuard
        self._broken = {}  # path -> signature of a source that does not parse
        self._schedule = _Schedule(config.reload_interval)
        self._loop_guard = _LoopGuard(config.reload_interval)
        self._waiter = _Waiter()
        self._terminal = _Terminal(lambda: self._request_reload('ENTER'))
        self._preload = _Preload(config.preload, config.preload_except, config.target, self._logger)
        self._kept_sockets = _KeptSockets(self._logger, config.keep_sockets)
        self.monitor = config.monitor = FileMonitorProxy(self._logger, config.ignore_files)
        self._bytecode = _BytecodeConverter()
        self._launcher = _Launcher(config, self._waiter, self._kept_sockets, self._preload, self._handlers)
        if config.monitor_factory not in (_best_monitor, InotifyFileMonitor, PollingFileMonitor):
            self._open_monitor()  # before we note which threads and children are the program's own
            config.may_fork = False
        self._reaper = _ChildReaper()

    def run(self):
        """Supervise workers until it is time to exit; return the status."""
        pid = os.getpid()
        try:
            self._start()
            while self.state != self.ENDED:
                self._step()
        finally:
            if os.getpid() == pid:  # a forked worker passes here as well
                self._close()
        return self._status

    def run_as_command(self):
        """Like `run`; but after Ctrl-C, end as the program itself would have."""
        status = self.run()
        if self.is_interrupted and _IS_COMMAND:
            _end_by_sigint()
        return status

    def run_until_forked(self):
        """Run, then end this process by `sys.exit`; in a forked worker, return the worker."""
        try:
            _LibC.call('malloc_trim', 0)  # return freed memory, or each fork would copy it
        except OSError:
            pass  # this C library does not have it
        try:
            sys.exit(self.run_as_command())
        except _Forked as forked:
            _WorkerMain.forget_stack(forked, forked.__traceback__.tb_next)  # without this frame
            return forked.worker
        except Exception as error:  # ours, or a file monitor's; Python would blame sys.excepthook
            sys.excepthook(type(error), error, error.__traceback__)
            sys.exit(1)

    def _open_monitor(self):
        if not self.monitor.is_open:
            self.monitor.open(self._config.monitor_factory, self._config.reload_interval, self._waiter.wake)
            for path in self._config.extra_paths:
                self.monitor.add_path(path, since=self._launcher.started_ns)

    def _close(self):
        if self._worker:
            self._worker.discard()
        self._kept_sockets.close()
        self._launcher.drop_standby()
        self.monitor.monitor.stop()
        self._config.monitor = None
        self._reaper.close()
        self._terminal.close()
        self._waiter.close(leaving=not self._once)

    # One turn of the loop: wait, handle events, run the timers that are due.

    def _step(self):
        for pollable in self._waiter.wait(self._pollables(), [at for at, _ in self._timers()]):
            pollable.step()
        while self._waiter.read_signals():
            self._SIGNAL_HANDLERS[self._waiter.arrived.pop(0)](self)
        now = time.monotonic()
        for change in self.monitor.take_changes():
            self._on_change(change, now)
        for at, action in self._timers():
            if at is not None and now >= at:
                action(now)

    def _pollables(self):
        yield self.monitor.monitor
        if self._worker:
            yield self._worker.channel
        yield from self._preload.pollables()
        if self._terminal.listening:
            yield self._terminal
        yield self._kept_sockets

    def _timers(self):
        """Yield pairs: when something is due, or None if it is not, and the method to call then."""
        yield self._kill_at, self._kill_late_worker
        yield self._orphans and self._orphans.kill_at, self._poll_orphans
        yield self._boot_check_at, self._check_booted
        yield self._interpreter_check_at, self._check_interpreters
        yield self._ctrl_c.settled_at, self._on_survived_ctrl_c
        yield self._preload.deadline, self._check_preloading
        yield self._bytecode.due, self._bytecode.convert
        if self.state in (self.RUNNING, self.IDLE) and self._ctrl_c.settled_at is None:
            yield min(self._held.values(), default=None), self._release_held
            yield self._schedule.due(), self._on_due

    # Starting and ending workers.

    def _start(self):
        """Start a worker, and forget the changes so far: it reads the files as they are now."""
        self.monitor.monitor.drain()
        changes = [change.path for change in self.monitor.take_changes()]
        self._preload.note_changes([*self._pending, *self._held, *changes])
        now = time.monotonic()
        changed_at = min(self._pending.values(), default=None)
        self._loop_guard.note_start(now, self._pending, self._reload_requested)
        self._schedule.note_start(now)
        self._pending.clear()
        self._held.clear()
        self._broken = {}
        self._after_exit, self._reload_requested, self._ctrl_c = None, False, _CtrlC()
        self._terminal.listening = False
        self._terminal.save()
        try:
            self._worker = self._launcher.start()
        except OSError as error:
            self._on_failed_start(error)
        else:
            self.state = self.RUNNING
            self._preload.note_start(self._worker)
            if changed_at is not None:
                self._logger.debug(f'The new worker began {(now - changed_at) * 1e3:.1f} ms after the change.')
            self.monitor.new_worker(self._launcher.started_ns)
            self._kept_sockets.worker_started(self._worker.pid)
        self._open_monitor()

    def _on_failed_start(self, error):
        self._logger.error(f'Cannot start a worker: {error}. Waiting for a file to change before the next try.')
        self._terminal.listen()
        self._open_monitor()
        if error.filename:
            self.monitor.add_path(error.filename)

    def _check_booted(self, now):
        """If the worker has stopped importing, it has booted: do the work that would have slowed it down."""
        self._boot_check_at = None
        if self.state != self.RUNNING:
            return
        quiet_at = self._worker.channel.imported_at + 0.5
        if now < quiet_at:
            self._boot_check_at = quiet_at
            return
        self._loop_guard.note_boot(now)
        self.monitor.worker_booted()
        self._preload.note_boot()
        self._kept_sockets.worker_booted()
        if not self._has_booted:
            self._syntax_error(os.devnull)  # the first call takes 2 ms longer than others
        self._launcher.make_standby()
        self._bytecode.note_boot()
        if not (self._has_booted or self._config.extra_paths or self._has_project_source()):
            self._interpreter_check_at = now + 2
        self._has_booted = True

    def _has_project_source(self):
        """Whether the worker has imported more than a console script and this file."""
        scripts = os.path.dirname(sys.executable)
        return any(os.path.dirname(path) != scripts for path in self.monitor.sources_of_worker.keys() - {_FILE})

    def _check_interpreters(self, now):
        """Suggest -w for a program that runs in child interpreters (hypercorn, uvicorn --workers)."""
        self._interpreter_check_at = None
        if self.state == self.RUNNING and not self._has_project_source() and self._worker.has_python_child():
            self._logger.info('The program runs in other Python processes, which are not watched: -w . reloads it.')

    def _end_worker(self, after, signum):
        """Stop the worker: politely, with `signum`, if it gets time for that. If none runs, go on at once.

        `after`: RESTART or QUIT.
        """
        was_restart = self._after_exit == self.RESTART
        if self._after_exit != self.QUIT:
            self._after_exit = after
        if self._after_exit == self.QUIT:
            self._kept_sockets.release()
        seconds = self._seconds_to_stop()
        if self.state == self.RUNNING:
            self.state = self.STOPPING
            if self._after_exit == self.RESTART:
                self._kept_sockets.worker_stopping()
            if not seconds:
                self._worker.kill()
            else:
                self._kill_at = time.monotonic() + seconds
                if signum:
                    self._worker.ask_to_stop(signum)
        elif was_restart and self._kill_at is not None:
            self._kill_at = time.monotonic() + seconds  # may be longer than at a reload
        if self._after_exit == self.RESTART:
            self._launcher.renew_standby()  # while the old worker ends
        if self.state == self.IDLE:
            self._go_on()

    def _check_preloading(self, now):
        if not self._preload.is_hopeless(now):
            return
        if self._preload.is_under_way(self._worker):
            self._worker.kill()  # the standby was started meanwhile
        else:
            self._launcher.replace_standby()

    def _seconds_to_stop(self):
        """Return how long a worker that was asked to stop may take."""
        return self._config.exit_interval if self._after_exit == self.QUIT else self._config.shutdown_interval

    def _kill_late_worker(self, now):
        self._kill_at = None
        self._logger.error(
            f'Worker {self._worker.pid} did not stop within {self._seconds_to_stop():g} s (--shutdown-interval); '
            'killing it.'
        )
        self._worker.kill()

    def _on_exit(self, status):
        """Handle the worker's exit: decide on our status and what follows, then end its orphans."""
        worker = self._worker
        worker.channel.step()
        worker.close()
        self._worker = None
        self._kill_at = self._boot_check_at = self._bytecode.due = None
        self._loop_guard.note_boot(time.monotonic())
        self._terminal.restore(is_abandoned=worker.was_ended_by_us())
        self._kept_sockets.worker_ended()
        if status == 0 and self._after_exit is None:  # the program has done its work
            self._kept_sockets.release()
        self._status = worker.decided_status or status
        may_be_ctrl_c = self._after_exit is None or bool(self._ctrl_c.presses)
        self.is_interrupted = may_be_ctrl_c and self._status == _INTERRUPTED
        if self._after_exit is None:
            self._after_exit = self._on_own_end(worker, status)
        self._preload.note_exit(worker, status)
        self.state = self.REAPING
        self._orphans = _OrphanTerminator(worker, self._reaper, self._known_pids(), self._config.shutdown_interval)
        self._poll_orphans(time.monotonic())

    def _known_pids(self):
        """Return the pids of our children that are not orphans of a worker."""
        return {each.pid for each in (self._worker, self._launcher.standby) if each}

    def _on_own_end(self, worker, status):
        """Report the end of a worker that was not asked to stop; return what follows, see `_after_exit`."""
        if self._preload.is_under_way(worker):
            self._preload.reject()
            return self.RESTART
        has_quit = self._has_sigquit and worker.exit_cause() == 'SIGQUIT'
        has_quit = has_quit or self.is_interrupted or self._ctrl_c.explains_end(time.monotonic(), status)
        if has_quit or self._once:
            return self.QUIT
        must_exit = self._config.exit_on_crash and not self._reload_requested
        if worker.exit_cause():  # nobody else would say so: a shell sees the monitor's exit only
            self._logger.error(f'Worker {worker.pid} was ended by {worker.exit_cause()}.')
        elif not must_exit:
            self._logger.info(f'Worker {worker.pid} ended with status {status}.')
        return self.QUIT if must_exit else None

    def _poll_orphans(self, now):
        """End the worker's orphans; once they are gone, go on."""
        if not self._orphans.poll(now):
            return
        orphans, self._orphans = self._orphans, None
        if orphans.names:
            is_noteworthy = orphans.used_force or self._after_exit != self.RESTART
            log = self._logger.info if is_noteworthy else self._logger.debug
            log('Ended what the worker left behind: {}.'.format(', '.join(orphans.names)))
        self.state = self.IDLE
        self._go_on()

    def _go_on(self):
        """Start the next worker, exit, or wait: the last worker and its orphans are gone."""
        if self._after_exit == self.QUIT:
            self.state = self.ENDED
        elif self._after_exit == self.RESTART:
            self._start()
        else:
            if self._terminal.listen():
                self._logger.info('Press ENTER or change a file to reload.')
            else:
                self._logger.info('Waiting for a file to change before reload.')
            self._launcher.make_standby()

    # Signals.

    def _on_sigchld(self):
        self._launcher.reap_standby()
        status = self._worker.poll() if self._worker else None
        if status is not None:
            self._on_exit(status)
        elif self.state == self.REAPING:
            self._poll_orphans(time.monotonic())
        else:
            self._reaper.reap(self._known_pids())

    def _on_ctrl_c(self):
        """Leave a typed Ctrl-C, which the worker receives as well, to the app if that has begun."""
        is_third = self._ctrl_c.press(time.monotonic())
        if self.state != self.RUNNING or not self._worker.has_begun():
            self._end_worker(self.QUIT, signal.SIGINT)
        elif not self._terminal.interrupts(self._worker):
            self._worker.send_signal(signal.SIGINT)
        if is_third and self._worker:
            self._end_worker(self.QUIT, None)
            self._worker.kill()

    def _on_survived_ctrl_c(self, now):
        if self._ctrl_c.settles(now) and self.state == self.RUNNING:
            self._logger.info(f'Worker {self._worker.pid} is still running; three Ctrl-C within two seconds kill it.')

    def _on_stop_signal(self, signum):
        if self._is_stop_requested and self._worker:
            self._worker.kill()
        self._is_stop_requested = True
        self._end_worker(self.QUIT, signum)

    def _on_sigquit(self, is_typed=False):
        """Quit only if SIGQUIT ends the worker, which may handle it. A typed one reaches the worker by itself."""
        self._has_sigquit = True
        if not self._worker:
            self._on_stop_signal(None)
        elif not (is_typed and self._terminal.interrupts(self._worker)):
            self._worker.ask_to_stop(signal.SIGQUIT)

    def _on_sighup(self):
        if self._terminal.is_gone():
            self._on_stop_signal(self._config.stop_signal)
        else:
            self._request_reload('Received SIGHUP')

    _SIGNAL_HANDLERS = {
        'SIGCHLD': _on_sigchld,
        'CTRL-C': _on_ctrl_c,
        'SIGINT': lambda self: self._on_stop_signal(signal.SIGINT),  # sent by a process
        'SIGTERM': lambda self: self._on_stop_signal(self._config.stop_signal),
        'CTRL-\\': lambda self: self._on_sigquit(is_typed=True),
        'SIGQUIT': _on_sigquit,  # sent by a process
        'SIGHUP': _on_sighup,
        'SIGCONT': lambda self: None,  # wakes the loop, which checks whether we are in the foreground
    }

    # Requests of the user and of the worker.

    def _request_reload(self, why):
        self._logger.info(f'{why}; reloading ...')
        self._reload_requested = True
        self._schedule.note_change(time.monotonic())

    def _handlers(self):
        """Return what is called with the fields of each message of a worker."""
        return {
            **self._preload.handlers(),
            'import': self._on_import,
            'import-transformed': lambda path, signature: self.monitor.watch_file(path, signature, is_plain=False),
            'young': self._bytecode.add,
            'watch': self._on_watch,
            'watch-since': self.monitor.watch_since,
            'missing': lambda path, has_parent: self.monitor.monitor.add_missing(path, has_parent),
            'startup': self._launcher.startup_files.add,
            'app-start': self._on_app_start,
            'no-target': self._on_no_target,
            'reload': lambda: self._request_reload('Reload requested by the worker'),
            'stop': lambda: self._end_worker(self.QUIT, self._config.stop_signal),
            'garbage': self._on_garbage,
        }

    def _on_import(self, path, signature):
        self.monitor.watch_file(path, signature, is_plain=True)
        self._preload.note_source(path, signature)

    def _on_watch(self, path, signature):
        self.monitor.watch_file(path, signature)
        if path.endswith('.py'):  # pytest reads its tests this way
            self._preload.note_source(path, signature)

    def _on_app_start(self, has_discarded_sigint):
        self._worker.app_started = True
        self._boot_check_at = time.monotonic() + 0.5
        if has_discarded_sigint and (self._ctrl_c.presses or 'CTRL-C' in self._waiter.read_signals()):
            self._end_worker(self.QUIT, signal.SIGINT)  # Ctrl-C came after the start

    def _on_no_target(self, message):
        self._logger.error(message)
        self._after_exit, self._worker.decided_status = self.QUIT, 2

    def _on_garbage(self, kind):
        if self._worker and not self._worker.sent_garbage:
            self._worker.sent_garbage = True
            self._logger.error(f'The worker sent an unknown message ({kind[:40]!r}); ignored.')

    # Changes.

    def _on_change(self, change, now):
        path = change.path
        seconds = self._loop_guard.hold(path, change.at, path in self.monitor.expected_sources)
        if seconds:
            self._hold(path, now, seconds)
            return
        self._held.pop(path, None)
        self._pending[path] = now if path in self._broken else self._pending.get(path, now)
        self._schedule.note_change(now, path, self.monitor.settle_time(change, self._schedule), now - change.at)
        if self._schedule.due() > now:
            self._launcher.make_standby(only_to_preload=True)

    def _hold(self, path, now, seconds):
        if path not in self._held:
            self._held[path] = now + seconds
            self._logger.error(
                f'{path} changes at each start: the next reload waits {seconds:g} s. To ignore the file: '
                f'-x {os.path.basename(path)}; SIGHUP, or ENTER while the program does not run, reloads at once.'
            )

    def _release_held(self, now):
        for path in [path for path, until in self._held.items() if now >= until]:
            del self._held[path]
            self._pending.setdefault(path, now)
            self._schedule.note_change(now, path)

    def _on_due(self, now):
        """Decide whether the pending changes lead to a start."""
        if not (self._reload_requested or self._confirm_changes()):
            return
        if self._reload_requested:
            self._preload.retry_all()
        self._preload.note_changes(self._pending)
        self._schedule.cancel()
        self._end_worker(self.QUIT if self._once else self.RESTART, self._config.stop_signal)

    def _confirm_changes(self):
        """Check the pending changes again; report them and return True if they still call for a reload."""
        if self._worker:
            self._worker.channel.step()  # the worker may have imported one of them just now
        monitor = self.monitor.monitor
        if any([monitor.recheck(path) for path in self._pending]):  # which notes the change of each
            return False  # still being written
        for path in filter(monitor.has_vanished, list(self._pending)):
            del self._pending[path]
        if not self._pending or (self._worker and not self._all_parse()):
            self._schedule.cancel()
            return False
        path, *others = self._pending
        self._logger.info(path + f' and {len(others)} more' * bool(others) + ' changed; reloading ...')
        return True

    def _all_parse(self):
        """Whether every changed source of the running worker compiles; if not, show why, once for each save."""
        broken = {}
        for path in self._pending:
            error = self.monitor.is_python(path) and self._syntax_error(path)
            if error:
                broken[path] = _signature(path)
                if self._broken.get(path) != broken[path]:
                    clock = time.strftime('%H:%M:%S', time.localtime(self._launcher.started_ns / 1e9))
                    message = f'{path} does not parse; still running the code of {clock}.'
                    self._logger.error(message, *error.split('\n'))
        if broken and broken.items() <= self._broken.items():  # no new error was shown
            self._logger.info('The reload waits until these parse: {}.'.format(', '.join(broken)))
        self._broken = broken
        return not broken

    @staticmethod
    def _syntax_error(path):
        """Return CPython's error for a source that does not parse; None if it parses or only a worker can tell."""
        import warnings

        try:
            _, data = _Source.read_file(path)
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                compile(data, path, 'exec', dont_inherit=True)
        except SyntaxError as error:
            if not str(error.msg).lower().startswith(('unknown encoding', 'encoding problem')):
                import traceback

                return ''.join(traceback.format_exception_only(type(error), error)).rstrip()
        except ValueError as error:  # what older Pythons raise for a NUL
            return f'  File "{path}"\nValueError: {error}'
        except (OSError, MemoryError, RecursionError):
            pass  # the new worker will report it


class _Pollable:
    """Something that the loop waits for, by a descriptor or a time; here neither."""

    def wait_fd(self):
        return None

    def wait_until(self):
        return None

    def drain(self):
        pass


class _Schedule:
    """Decides when changes cause a start; the caller supplies the time, in seconds.

    A complete change fires at once if the last start is `interval` old. Otherwise it waits for `quiet` seconds of
    silence, longer where changes are noticed late, and takes one of BURST tokens; without a token, it waits until
    `interval` after the last start. It never waits longer than `interval` after the first change. One token returns per
    interval.
    """

    BURST = 5
    CONFIRM_AFTER = 0.02  # seconds until a polled file that has changed is checked again: see recheck()

    def __init__(self, interval):
        self.interval = interval
        self.quiet = min(0.1, interval)
        self._tokens = self.BURST  # left at the last start
        self._started_at = self._changed_at = self._quiet_at = -_FOREVER
        self._pending_since = None
        self._unsettled = {}  # path -> when its change counts as complete

    def note_change(self, now, path=None, settle=0, lag=0):
        """Note a change that came up to `lag` seconds ago; `settle`: how long to wait for more of it."""
        self._changed_at = now
        self._quiet_at = now + lag + self.quiet  # the next one may be noticed as late
        self._pending_since = now if self._pending_since is None else self._pending_since
        self._unsettled[path] = now + settle

    def note_start(self, now):
        self._tokens = max(0, self._tokens_at(now) - 1)
        self._started_at = now
        self.cancel()

    def cancel(self):
        """Schedule no start until the next change."""
        self._pending_since = None
        self._unsettled.clear()

    def due(self):
        if self._pending_since is None:
            return None
        free_at = self._started_at + self.interval
        if self._changed_at >= free_at:
            due = self._changed_at
        else:
            due = min(self._quiet_at, free_at) if self._tokens_at(self._quiet_at) >= 1 else free_at
        return min(max(due, *self._unsettled.values()), self._pending_since + self.interval)

    def _tokens_at(self, now):
        return min(self.BURST, self._tokens + (now - self._started_at) / self.interval)


class _CtrlC:
    """What Ctrl-C at the terminal means while a worker runs; the caller supplies the time, in seconds.

    The worker receives it too. If it ends the worker, the monitor exits; after a second, the worker has survived it.
    """

    def __init__(self):
        self.presses = []  # times of the last three
        self.settled_at = None  # when to check whether the worker has survived
        self._settlements = 0

    def press(self, now):
        """Return whether this was the third within two seconds."""
        self.settled_at = now + 1
        self.presses = [*self.presses[-2:], now]
        return len(self.presses) == 3 and now - self.presses[0] <= 2

    def settles(self, now):
        """Return whether the worker turns out, for the first time, to have survived."""
        if self.settled_at is None or now < self.settled_at:
            return False
        self.settled_at = None
        self._settlements += 1
        return self._settlements == 1

    def explains_end(self, now, status):
        """Whether a worker that ends now does so because of Ctrl-C, rather than by a later crash."""
        return bool(self.presses) and (status in (0, _INTERRUPTED) or now - self.presses[-1] <= 8)


class _LoopGuard:
    """Slows down an app that causes its own reloads by writing to watched files while it boots.

    A start is self-caused if its changes came before the worker had booted, or within a second after. After five such
    starts in a row, such a change is held: for twice the interval, then four times, and so on, up to a minute. The
    caller supplies the time, in seconds.
    """

    FREE_STARTS, LONGEST_HOLD = 5, 60

    def __init__(self, interval):
        self._interval = interval
        self._window_end = -_FOREVER  # until when a change counts as the app's own
        self._suspects = set()  # paths that have changed in the running worker's window
        self._streak = 0  # self-caused starts in a row
        self._causes = set()  # paths that caused them

    def note_start(self, now, causes, was_requested=False):
        """Note that a worker starts because these paths have changed, or because a reload was requested."""
        if causes and self._suspects.issuperset(causes):
            self._streak += 1
            self._causes.update(causes)
        elif not self._suspects and not was_requested and now > self._window_end:
            self._streak = 0
            self._causes.clear()
        self._suspects.clear()
        self._window_end = _FOREVER

    def note_boot(self, now):
        """Note that the worker has booted, or has exited before that."""
        self._window_end = min(self._window_end, now + 1)

    def hold(self, path, changed_at, is_source):
        """Return how many seconds to hold a change; `is_source`: the worker has imported the file."""
        if changed_at > self._window_end:
            return 0
        self._suspects.add(path)
        if self._streak < self.FREE_STARTS or (is_source and path not in self._causes):
            return 0
        wait = min(self._interval * 2 ** (self._streak - self.FREE_STARTS + 1), self.LONGEST_HOLD)
        return min(wait, 2 * self._interval) if is_source else wait


class _BytecodeConverter:
    """Converts checked bytecode (see `_Source`) while the worker runs, so that the next start need not."""

    _AT_ONCE = 10  # files per turn of the loop

    def __init__(self):
        self.due = None  # when to convert the next files
        self._sources = {}  # path of a .pyc -> its source
        self._old_at = None  # when all of them are old enough

    def add(self, path, source):
        self._sources[path] = source
        self._old_at = time.monotonic() + _Source.YOUTH / 1e9

    def note_boot(self):
        self.due = self._old_at if self._sources else None

    def convert(self, now):
        for _ in range(min(self._AT_ONCE, len(self._sources))):
            path, source = self._sources.popitem()
            try:
                _Source(source, os.stat(source), may_be_link=True).read_bytecode(path)
            except OSError:
                pass  # one of them has gone, or changed
        self.due = now if self._sources else None


class FileMonitorProxy:
    """Records what is watched, and for whom; adapts any file monitor to the reloader.

    A third-party monitor calls `file_changed(path)`, from any thread. A program for hupper 1.x may replace this method
    by a function that uses `lock`, `changed_paths`, `is_changed` and `callback`, or make a monitor of ours with another
    callback: then our own monitors' changes go through it too.
    """

    def __init__(self, logger, ignore_files=None):
        self.callback = self._take_paths
        self.logger = logger
        self.is_open = False
        self.monitor = PollingFileMonitor(self.file_changed)  # an idle one, until `open`
        self.lock = _thread.allocate_lock()
        self.changed_paths = set()
        self.is_changed = False  # only a replaced file_changed sets it, before it calls `callback`
        self.sources_of_worker = {}  # source that the running worker imported -> whether Python compiles it as it is
        self.expected_sources = set()  # the same, plus earlier workers' imports until this one has booted
        self._is_ignored = _PathMatcher(ignore_files) if ignore_files else lambda path: False
        self._requested_in = {}  # path -> number of the worker that asked for it last; _FOREVER: the user did
        self._worker_number = 0
        self._reported = []  # paths that came through file_changed

    def file_changed(self, path):
        """Note that `path` has changed."""
        with self.lock:
            self.changed_paths.add(path)
            self.callback(self.changed_paths)

    _file_changed = file_changed  # to detect a replacement

    def _take_paths(self, paths):
        self._reported.extend(paths)
        paths.clear()
        self.is_changed = False
        self._wake()

    def take_changes(self):
        """Return what has changed since the last call, as a list of _Change."""
        changes = self.monitor.take_changes()
        found, callback = {}, self.monitor.callback
        if getattr(callback, '__func__', None) is not FileMonitorProxy._file_changed:
            found, changes = {change.path: change for change in changes}, []
            for path in found:
                callback(path)
        while self._reported:  # other threads may append to it meanwhile
            path = self._reported.pop(0)
            if path in found or not self._is_ignored(path):
                changes.append(found.get(path) or _Change(path, _Change.UNSETTLED, time.monotonic()))
        return changes

    def open(self, factory, interval, wake):
        """Make and start the file monitor; if that fails, report why and use a built-in one."""
        self._interval, self._wake = interval, wake
        try:
            monitor = factory(self.file_changed, interval=interval, logger=self.logger)
            if getattr(type(monitor), 'start', None) is not PollingFileMonitor.start:  # the loop can't drive it
                monitor.start()
                monitor = _ForeignMonitor(self.file_changed, monitor, self._replace)
            monitor.wake, monitor.ignored = wake, self._is_ignored
            self.monitor, self.is_open = monitor, True
        except Exception as error:
            if factory is _best_monitor:
                raise  # there is no other to try
            self._replace(factory, error)

    def _replace(self, failed, error):
        """Replace a third-party monitor that has raised by a built-in one."""
        name = getattr(failed, '__qualname__', None) or repr(failed)
        error = ' '.join(f'{type(error).__name__}: {error}'.split())
        self.logger.error(f'File monitor {name} failed: {error}; using a built-in one.')
        self.open(_best_monitor, self._interval, self._wake)
        for path in list(self._requested_in):
            self.monitor.add_path(path)

    def add_path(self, path, since=None):
        """Watch a file, folder or glob for the user; files newer than `since` (ns) have changed."""
        path = _absolute(os.path.expanduser(path))
        root, _ = _split_glob(path)
        is_missing = path not in self._requested_in and not os.path.lexists(root)
        self._register(path, _FOREVER, 0 if is_missing else since)  # 0: it has changed if it exists by now
        if is_missing:
            self.logger.info(f'{root} does not exist yet: waiting for it.')

    def watch_since(self, path, since):
        """Watch a folder or glob that the worker asked for at the time `since` (ns)."""
        if not _split_glob(path)[1] and not os.path.lexists(path):
            self.watch_file(path, -1)  # a folder that was deleted since
        else:
            self._register(path, self._worker_number, since)

    def _register(self, path, number, since):
        is_new = path not in self._requested_in
        self._requested_in[path] = max(self._requested_in.get(path, 0), number)
        if self._is_ignored(path):
            self.logger.debug(f'{path} is not watched: it is ignored.')
        elif is_new:
            self.monitor.add_path(path, since)

    def watch_file(self, path, signature, is_plain=None):
        """Watch a file that had this signature when the worker read it.

        0 means that it did not exist, -1 that it may have changed since: hash() never returns that. `is_plain`, of a
        source that the worker imports: whether Python compiles it as it is.
        """
        if is_plain is not None:
            self.sources_of_worker[path] = is_plain or self.sources_of_worker.get(path, False)
            self.expected_sources.add(path)
        self._requested_in[path] = max(self._requested_in.get(path, 0), self._worker_number)
        if not self._is_ignored(path):
            self.monitor.watch_file(path, signature)

    def is_python(self, path):
        """Whether Python compiles a file as it is, so that a SyntaxError in it is a real one.

        It does if this worker imports the file that way. It also does if the file is in a watched folder and another
        interpreter (a server's worker) has left its bytecode, unless our workers have read the file in another way.
        """
        if path in self.sources_of_worker or path in self._requested_in or not path.endswith('.py'):
            return self.sources_of_worker.get(path, False)
        roots = tuple(os.path.join(root, '') for root, _ in self.monitor.rules)
        return path.startswith(roots) and self._has_bytecode(path)

    @staticmethod
    def _has_bytecode(path):
        """Whether this version of Python has left bytecode of a source."""
        try:
            return any(os.path.exists(_external.cache_from_source(path, optimization=level)) for level in ('', 1, 2))
        except NotImplementedError:
            return False  # no bytecode here

    def watched_paths(self):
        """Return the paths of all watched files, normalized by os.path.normcase()."""
        return {os.path.normcase(path) for path in (*self._requested_in, *self.monitor.files)}

    def new_worker(self, started_ns):
        """Forget paths that none of the last two workers has asked for."""
        self._worker_number += 1
        self.sources_of_worker = {}
        old = [path for path, number in self._requested_in.items() if number < self._worker_number - 2]
        for path in old:
            del self._requested_in[path]
        self.monitor.new_worker(started_ns)
        self.monitor.discard(old)

    def worker_booted(self):
        """Expect the next worker to import what this one has, now that it has booted."""
        self.expected_sources = set(self.sources_of_worker)
        self.logger.debug(f'Watching {len(self._requested_in)} files and folders.')

    def settle_time(self, change, schedule):
        """Return the seconds to wait for the rest of a change: the file may be half written, or briefly missing."""
        if not os.path.lexists(change.path):
            return schedule.interval if change.path in self.expected_sources else schedule.quiet
        times = {
            _Change.UNSETTLED: schedule.quiet,
            _Change.POLLED: schedule.CONFIRM_AFTER,
            _Change.WRITING: schedule.interval,
        }
        return times.get(change.evidence, 0)


def _seconds(name, value):
    """Return a number of seconds > 0, given as a number or its text; raise ValueError."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = 0
    if not 0 < seconds < _FOREVER:
        raise ValueError(f'{name} must be a number of seconds greater than 0, not {value!r}')
    return seconds


def _stop_signal(name, value):
    """Return the number of a stop signal, given the number or the name, with or without SIG."""
    for each, number in _STOP_SIGNALS.items():
        if value == number or str(value).upper() in (each, 'SIG' + each):
            return number
    raise ValueError(f'{name} must be one of {", ".join(_STOP_SIGNALS)}, not {value!r}')


# -------------------------------------------------------------------------------------------------------- worker start


class _Target:
    """What a worker runs: `kind` is 'module', 'script', 'command' (python -c) or 'call' (a function)."""

    def __init__(self, kind, name, args, options=None, orig_argv=None):
        self.kind = kind
        self.name = name
        self.args = args  # for the app's sys.argv; for a call, the pickled arguments
        self.options = options  # of the interpreter, for a spawned one; None: those of this process
        self.orig_argv = orig_argv

    @classmethod
    def call(cls, worker_path, args, kwargs):
        module, _, name = str(worker_path).rpartition('.')
        if not module or not name or module == '__main__':
            raise ValueError(
                f'worker_path {worker_path!r} is no dotted path to a function in a module that can be imported, such '
                "as 'myapp.main'; without a worker_path the worker runs this program again"
            )
        if not args and not kwargs:
            return cls('call', str(worker_path), b'')
        import pickle

        return cls('call', str(worker_path), pickle.dumps((list(args or ()), dict(kwargs or {}))))

    @classmethod
    def of_command_line(cls, args):
        """Return what a command line without options names; raise ValueError."""
        command = cls.command_line()
        options = cls.split_command_line(command[1:])[0] if command else None
        is_module = bool(args) and args[0].startswith('-m')
        if is_module:
            args = args[1:] if args[0] == '-m' else [args[0][2:], *args[1:]]
        if not args or not args[0]:
            missing = 'which module? -m needs its name' if is_module else 'nothing to run: give -m MODULE or SCRIPT'
            raise ValueError(missing + ' (see --help)')
        name = args[0] if is_module else cls._find_script(args[0])
        orig_argv = None
        if hasattr(sys, 'orig_argv'):
            orig_argv = [command[0], *options, *(['-m'] if is_module else []), name, *args[1:]]
        return cls('module' if is_module else 'script', name, args[1:], options, orig_argv)

    @staticmethod
    def _find_script(name):
        """Return the path of a script: a file or folder, or this environment's console script of that name."""
        if os.path.exists(name):
            return name
        from sysconfig import get_path

        folders = [] if os.path.dirname(name) else [os.path.dirname(sys.executable), get_path('scripts')]
        for path in [os.path.join(folder, name + suffix) for folder in folders for suffix in ('', '.exe')]:
            if os.path.isfile(path) and os.access(path, os.R_OK):
                with open(path, 'rb') as file:
                    head = file.readline(256)
                shells = b'python', b'pypy', b'/bin/sh'
                if head[:2] == b'MZ' or (head[:2] == b'#!' and any(shell in head for shell in shells)):
                    return path
        raise ValueError(f'there is no script {name!r} here, nor a console script of that name in this environment')

    @classmethod
    def this_program(cls):
        """Return what this process itself runs, by its command line where that is known, else by `__main__`."""
        command = cls.command_line()
        if command:
            options, kind, name, args = cls.split_command_line(command[1:])
        else:
            spec = getattr(sys.modules['__main__'], '__spec__', None)
            options, args = None, sys.argv[1:]
            if spec is None or spec.name == '__main__':
                kind, name = 'script', sys.argv[0]
            else:
                kind, name = 'module', spec.name[:-9] if spec.name.endswith('.__main__') else spec.name
        if kind == 'script' and _main_file:  # the program may have changed the current folder
            is_another = os.path.basename(name) == os.path.basename(_main_file) and os.path.abspath(name) != _main_file
            if is_another or not os.path.exists(name):
                name = _main_file
        if not name or (kind == 'script' and not os.path.exists(name)):
            raise ValueError(
                f'start_reloader() cannot run {command or sys.argv!r} again: it is no script, module or command; '
                'give a worker_path'
            )
        return cls(kind, name, args, options, getattr(sys, 'orig_argv', None))

    @staticmethod
    def command_line():
        """Return the command line of this process where Python (3.10+) or Linux knows it; empty elsewhere."""
        if hasattr(sys, 'orig_argv'):
            return sys.orig_argv
        line = _read_proc('self', 'cmdline') if _LINUX else b''  # Wine may show a /proc, Windows has none
        return [os.fsdecode(arg) for arg in line.split(b'\0')[:-1]]

    @staticmethod
    def split_command_line(argv):
        """Split Python's arguments into its own options, the target's kind and name, and the app's arguments."""
        rest = list(argv)
        options = []
        while rest and rest[0].startswith('-') and rest[0] != '-':
            arg = rest.pop(0)
            letter = next((letter for letter in arg[1:] if letter in 'cmWX'), None) if arg[1] != '-' else None
            before, _, value = arg.partition(letter) if letter else (arg, '', '')
            if letter in ('c', 'm'):
                options += [before] if before != '-' else []
                return options, 'module' if letter == 'm' else 'command', value or ''.join(rest[:1]), rest[not value :]
            options.append(arg)
            if arg == '--check-hash-based-pycs' or (letter and not value):
                options += [rest.pop(0)] if rest else []
        return options, 'script', rest[0] if rest else '', rest[1:]

    def second_reloader(self):
        """Return how to turn off the reloader of a well-known program; None if it uses none."""
        program, args = os.path.basename(self.name).partition('.')[0], set(self.args)
        if program == 'uvicorn' and '--reload' in args:
            return 'leave out --reload'
        if program == 'flask' and 'run' in args and args & {'--debug', '--reload'} and '--no-reload' not in args:
            return 'add --no-reload'
        if program in ('manage', 'django-admin', 'django') and 'runserver' in args and '--noreload' not in args:
            return 'add --noreload'

    def has_main(self):
        """Whether a script is a folder or zip file, to be run by its __main__."""
        if os.path.isdir(self.name):
            return True
        try:
            with open(self.name, 'rb') as file:
                file.seek(max(0, os.path.getsize(self.name) - (1 << 16)))
                return b'PK\5\6' in file.read()  # where a zip file's directory ends
        except OSError:
            return False  # it is missing: the app will fail

    def main_path(self):
        """Return the path of a script as Python has it in sys.argv[0] and __file__."""
        if self.name == os.curdir and sys.version_info >= (3, 11):
            return _current_folder() or self.name
        return _from_here(self.name) if sys.version_info >= (3, 9) else self.name


class _LaunchSpec(_Target):
    """What a worker needs to know to run the app. A new interpreter receives it through its control pipe."""

    __slots__ = (
        *('kind', 'name', 'args', 'options', 'orig_argv'),  # of the _Target
        'argv',  # for a call: the program's own sys.argv, and its sys.path
        'sys_path',
        'folder',
        'monitor_pid',
        'is_first',  # the first worker reports a missing target
        'startup_files',  # see _startup_files(); None: a new interpreter finds them itself
        'expected_sources',  # what the last worker had imported: a missing one is likely to return
        'reload_interval',
        'signal_mask',
        'ignored_signals',
        'installation_changed',  # since the monitor began
        'made_ns',  # when the worker was made, by the clock of file times
        'records_imports',  # with --preload
        'preload',  # see _Preload.plan; None: nothing
        'sockets_fd',  # the worker's end of _KeptSockets, if there is one
    )

    def __init__(self, **fields):
        for name, value in fields.items():
            setattr(self, name, value)

    def fields(self):
        return {name: getattr(self, name) for name in self.__slots__}

    def front_paths(self):
        """Return the entries of the app's sys.path before the stdlib, the first one as plain Python has it."""
        if self.kind == 'script' and self.has_main():
            first = [self.main_path()]
        elif _SAFE_PATH:
            first = []
        elif self.kind == 'call':
            first = self.sys_path[:1]
        elif self.kind == 'script':
            first = [os.path.dirname(os.path.realpath(_absolute(self.name)))]
        else:
            first = [self.folder if self.kind == 'module' else '']
        return first + _PRE_STDLIB_PATHS

    def shadowed(self, names):
        """Return which of these modules the app's own folders or zip files shadow."""
        shadowed = set()
        for path in self.front_paths():
            shadowed.update(name for name in _names_in(path).intersection(names) if not self._is_its_own(path, name))
        return sorted(shadowed - {'__main__'})

    @staticmethod
    def _is_its_own(path, name):
        """Whether the loaded module is the one in `path`: this file, or a module imported at Python's startup."""
        file = str(getattr(sys.modules[name], '__file__', None))
        is_early = name in _STARTUP_MODULES or name == __name__
        return bool(path) and is_early and file.startswith(os.path.join(path, name))


class _Launcher:
    """Makes and starts workers. The next one, the standby, is made while the current one runs.

    A worker is a fork of this process, or a new interpreter if there is a `_fork_obstacle`. Either one gets as ready
    as it can, then waits on its control pipe: see _WorkerMain.
    """

    def __init__(self, config, waiter, kept_sockets, preload, handlers):
        self.standby = None
        self.started_ns = None  # when the last worker was started, by the clock of file times
        self._config = config
        self._waiter = waiter
        self._kept_sockets = kept_sockets
        self._preload = preload
        self._handlers = handlers  # returns those of a worker's messages
        self._logger = config.logger
        self._folder = _current_folder()
        self._sys_path = [str.__str__(path) for path in sys.path if isinstance(path, str)]  # Python skips the others
        self.startup_files = _startup_files()  # plus those that a spawned worker reports
        self._own_installation = {}  # signatures of what Python read at the startup of this interpreter
        self._installation = {}  # the same, of the worker made last
        self._obstacle = None  # why that one is not a fork
        self._sent_sources = set()  # the expected sources that the last spec names

    def start(self):
        """Start the standby, or a new worker if there is none, and return it; raise OSError if none can be made."""
        if self._preload.is_used_by(self.standby):
            self._drop_preloaded(self._preload.obstacle_at_start(self._paths_in_front()))
        for _ in range(2):
            worker, self.standby = self.standby or self._make(), None
            self.started_ns = _file_clock()
            try:
                self._logger.info(f'Starting monitor for PID {worker.pid}.')
                worker.send(list(self._config.monitor.expected_sources - self._sent_sources))
                return worker
            except BrokenPipeError as error:  # it died while waiting, for lack of memory, say
                worker.discard()
                failure = error
        raise failure

    def make_standby(self, only_to_preload=False):
        """Make a standby, if there is none yet; it preloads, if there is anything to preload."""
        plan = None if self.standby else self._preload.plan(self._config.monitor.watched_paths)
        if plan or not only_to_preload:
            self._make_standby(plan)

    def _make_standby(self, plan=None):
        if self.standby or self._prints_startup_trace():
            return
        try:
            self.standby = self._make(plan)
        except OSError as error:
            self._logger.debug(f'There is no standby: {error}')
        else:
            self._kept_sockets.standby_pid = self.standby.pid
            self._preload.note_standby(self.standby if plan else None)

    def renew_standby(self):
        """Make a standby if there is none, or the present one is out of date."""
        if self.standby and self._is_outdated():
            self._logger.debug('The standby is discarded: it is out of date.')
            self.drop_standby()
        if self._preload.is_used_by(self.standby):
            self.standby.channel.step()
            self._drop_preloaded(self._preload.obstacle())
        self._make_standby()

    def _drop_preloaded(self, why):
        if why:
            self._logger.debug(f'What was preloaded is not used: {why}.')
            self.drop_standby()

    def drop_standby(self):
        if self.standby:
            if self._preload.is_used_by(self.standby):
                self._preload.note_standby(None)
                self.standby.kill_children()
            self.standby.discard()
            self.standby = None

    def reap_standby(self):
        """If the standby has died, drop it, or replace it if an import has killed it."""
        if self.standby and self.standby.poll() is not None:
            if self._preload.is_under_way(self.standby):
                self.replace_standby()
            else:
                self.drop_standby()

    def replace_standby(self):
        """Replace a standby in which an import has failed by one without that import."""
        self.standby.channel.step()
        self._preload.reject()
        self.drop_standby()
        self.make_standby()

    def _paths_in_front(self):
        """Return the entries of the worker's sys.path before the stdlib."""
        at = next((at for at, path in enumerate(self._sys_path) if path.endswith(_STDLIB_ENDINGS)), 0)
        return [*self._make_spec().front_paths(), *self._sys_path[:at]]

    def _is_outdated(self):
        """Whether the installation has changed since the standby was made, or the project shadows a module in it."""
        if any(_signature(path) != signature for path, signature in self._installation.items()):
            return True
        return not self._obstacle and bool(self._make_spec().shadowed(sys.modules))

    def _note_installation(self):
        """Note the signatures of what Python reads at startup; that of a folder changes with its list of .pth files."""
        paths = [_FILE, os.path.join(sys.prefix, 'pyvenv.cfg'), *self.startup_files]
        for folder in _site_folders():
            paths += [folder, *(path for path, _ in _entries(folder) if path.endswith('.pth'))]
        self._installation = {path: _signature(path) for path in paths}
        self._own_installation = self._own_installation or self._installation

    def _fork_obstacle(self):
        """Return why the worker can't be a fork of this process; None if it can."""
        if obstacle := _process_fork_obstacle():
            return obstacle
        if not self._config.may_fork:
            return 'this is not our own command line, or one with a file monitor that has threads'
        if self._prints_startup_trace():
            return 'the interpreter is traced from its start'
        if self._installation != self._own_installation:
            return 'what is installed has changed'
        import runpy  # noqa: F401  here, as the fork needs it, so that what it imports is compared as well

        if shadowed := self._make_spec().shadowed(sys.modules):
            return 'the project has a {} of its own'.format(', '.join(shadowed))

    def _make_spec(self):
        spec = _LaunchSpec(**vars(self._config.target))
        spec.argv = [str.__str__(str(arg)) for arg in sys.argv]
        spec.sys_path = self._sys_path
        spec.folder = self._folder
        spec.monitor_pid = os.getpid()
        spec.is_first = self.started_ns is None
        spec.reload_interval = self._config.reload_interval
        spec.signal_mask = self._waiter.mask
        spec.ignored_signals = self._waiter.ignored
        spec.sockets_fd = self._kept_sockets.worker_fd
        spec.made_ns = _file_clock()
        spec.records_imports = self._preload.is_wanted
        return spec

    def _make(self, plan=None):
        """Make a worker, which gets ready and waits for its start."""
        spec = self._make_spec()
        spec.preload = plan
        self._sent_sources = set(self._config.monitor.expected_sources)
        spec.expected_sources = sorted(self._sent_sources)
        self._note_installation()
        self._obstacle = obstacle = self._fork_obstacle()
        spec.startup_files = None if obstacle else sorted(self.startup_files)
        spec.installation_changed = self._installation != self._own_installation
        if obstacle:
            self._logger.debug(f'The worker is started by spawn: {obstacle}.')
        (channel, write), (read, control) = _pipe(), _pipe()
        try:
            process = self._spawn(write, read) if obstacle else self._fork(spec, write, read)
        except OSError:
            _close(channel)
            _close(control)
            raise
        finally:
            _close(write)
            _close(read)
        worker = _Worker(process, channel, control)
        worker.channel.handlers = self._handlers()
        if obstacle:
            worker.send(spec.fields())
        return worker

    def _fork(self, spec, channel_fd, control_fd):
        """Return the pid of a forked worker, which leaves this stack by raising _Forked."""
        _flush()
        _clear_importer_caches()  # before the fork: it writes to many pages
        with self._waiter:
            pid = os.fork()
            if pid == 0:
                _set_parent_death_signal(spec.monitor_pid)
                self._waiter.reset(keep=(channel_fd, control_fd))
        if pid == 0:
            raise _Forked(_WorkerMain(spec, channel_fd, _ControlPipe(control_fd)))
        return pid

    def _spawn(self, channel_fd, control_fd):
        """Start a new interpreter, in which nothing of the app is imported; return the process."""
        import subprocess

        if not os.path.exists(_FILE):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), _FILE)
        for path in self.startup_files:
            try:
                os.remove(_external.cache_from_source(path))  # which Python trusts too easily: see _Source
            except (OSError, NotImplementedError):
                pass  # there is no bytecode, or no place for it
        name = __name__ if __name__ == 'hupper' else ''
        code = _BOOT % (name, _FILE, (channel_fd, control_fd, os.getpid()))
        options = self._config.target.options
        if options is None:
            options = subprocess._args_from_interpreter_flags()
            if getattr(_imp, 'check_hash_based_pycs', 'default') != 'default':
                options += ['--check-hash-based-pycs', _imp.check_hash_based_pycs]
        for fd in {channel_fd, control_fd, self._kept_sockets.worker_fd} - {None}:
            _set_inheritable(fd, True)
        return _start_interpreter(options, code, self._waiter)

    @staticmethod
    def _prints_startup_trace():
        """Whether Python is to trace its startup or imports: a standby would print the trace too early."""
        return sys.flags.verbose or not {'importtime', 'tracemalloc'}.isdisjoint(sys._xoptions)


# A spawned interpreter executes this file by its path, because on sys.path the project may shadow modules.
# The module enters sys.modules only if the monitor's program has imported it, as `hupper`.
_BOOT = """
import sys
from _frozen_importlib import module_from_spec
from _frozen_importlib_external import SourceFileLoader, SourcelessFileLoader, spec_from_file_location
name, file, worker_fds = %r, %r, %r
loader = (SourcelessFileLoader if file.endswith('.pyc') else SourceFileLoader)(name or 'hupper', file)  # or HUPPER.PY
module = module_from_spec(spec_from_file_location(loader.name, file, loader=loader))
module._worker_fds = worker_fds
if name: sys.modules[name] = module
loader.exec_module(module)
try:
    module._WorkerMain.begin_spawned(*worker_fds)
except KeyboardInterrupt:
    if sys.implementation.name == 'cpython': raise
sys.excepthook(None, None, None)  # PyPy takes no SystemExit from there
"""


def _startup_files():
    """Return the project's files that Python has imported at startup, because of a .pth file, for example."""
    paths = {_absolute(_file_of(sys.modules.get(name)) or os.__file__) for name in _STARTUP_MODULES - {'__main__'}}
    return {path for path in paths if not _is_installed(path)}


def _names_in(path):
    """Return the module names that the entries of a folder or zip file could have."""
    try:
        if path and os.path.isfile(path):
            import zipimport

            entries = getattr(zipimport, '_read_directory', lambda path: ())(path)  # which caches nothing
        else:
            found = [(os.path.basename(entry), is_folder) for entry, is_folder in _entries(path or os.curdir)]
            entries = [name for name, is_folder in found if is_folder or '.' in name]  # bin/flask is no module
    except (OSError, ImportError):
        return set()
    return {entry.partition(os.sep)[0].partition('.')[0] for entry in entries}


def _clear_importer_caches():
    """Forget cached listings of the project's folders and zip files, and the folders of namespace packages."""
    for path in [path for path in sys.path_importer_cache if not _is_installed(os.path.join(path, ''))]:
        del sys.path_importer_cache[path]
    getattr(sys.modules.get('zipimport'), '_zip_directory_cache', {}).clear()
    for module in list(sys.modules.values()):
        path = (_attribute(module, '__dict__', type(sys)) or {}).get('__path__')
        if type(path) is _external._NamespacePath:
            path._last_parent_path = None  # the project may add a folder before the start


def _flush():
    """Flush the standard streams: after a fork, both processes would write what is buffered."""
    for name in ('stdout', 'stderr'):
        try:
            if getattr(sys, name) is not None:
                getattr(sys, name).flush()
        except (OSError, ValueError):
            setattr(sys, name, None)  # its reader is gone


# ------------------------------------------------------------------------------------------------------ worker process


class _ControlPipe:
    """The worker's end of the pipe through which the monitor sends the spec (if spawned) and the start."""

    def __init__(self, fd):
        self.fd = fd
        self._data = b''

    def receive(self):
        """Wait for a message and return it; exit if the monitor has closed the pipe."""
        while len(self._data) < (end := 8 + int.from_bytes(self._data[:8], 'little')):
            self._read()
        message, self._data = self._data[8:end], self._data[end:]
        return marshal.loads(message)

    def has_message(self):
        try:
            self._read(wait=False)
        except BlockingIOError:
            pass
        return bool(self._data)

    def _read(self, wait=True):
        chunk = _read(self.fd, wait)
        if not chunk:
            os._exit(0)
        self._data += chunk


class _Forked(BaseException):
    """Raised in a forked worker to leave the monitor's stack."""

    def __init__(self, worker):
        self.worker = worker


@_hide_from_tracebacks
class _WorkerMain:
    """Gets a worker ready, waits for its start, runs the app and reports its end.

    The app's stack may begin with one frame of ours, no more. So a new interpreter, and our command line before it runs
    the monitor, leave the stack by KeyboardInterrupt. Python then calls `sys.excepthook`, a function of ours that runs
    the monitor (on the command line) and, in a worker, the app. It must be KeyboardInterrupt: if the app ends by one,
    too, Python itself dies by SIGINT. By then Python has also freed the syntax tree of this file, which is large.
    """

    _bootstrap_main = None  # kept alive: before 3.12, `python -c` still uses its namespace afterwards
    _OUTERMOST_GLOBALS = {'__name__': 'sys', '__builtins__': sys.modules['builtins']}

    def __init__(self, spec, channel_fd, control):
        self._spec = spec
        self._channel_fd = channel_fd
        self._control = control
        self._observer = self._preloader = None
        self._needed_by_us = None  # names of the modules that we have imported
        self._is_script = False  # rather than a module, or a folder or zip file with one
        self._has_moved = False  # a preloaded package has changed the current folder
        self._front_paths = None  # the ones now in sys.path; None: not set yet

    @classmethod
    def begin_spawned(cls, channel_fd, control_fd, monitor_pid):
        """The entry point of a new interpreter."""
        _set_inheritable(channel_fd, False)
        _set_inheritable(control_fd, False)
        _set_parent_death_signal(monitor_pid)
        if 'linecache' in sys.modules:
            sys.modules['linecache'].cache.clear()  # Python 3.13 takes _BOOT for the lines of any '<string>'
        control = _ControlPipe(control_fd)
        worker = cls(_LaunchSpec(**control.receive()), channel_fd, control)
        cls.leave_stack(worker._spec, lambda: worker)

    @classmethod
    def leave_stack(cls, target, find_worker) -> NoReturn:
        """Have Python call `find_worker` with an empty stack, and run the app in the worker that it returns."""
        sys.excepthook = cls._make_excepthook(target, find_worker)
        raise KeyboardInterrupt

    @classmethod
    def _make_excepthook(cls, target, find_worker):
        """Return the function that runs the app: its frame is the outermost, with the file name that plain Python has.

        Debuggers look for that name. Its globals are those that `warnings` falls back to beyond the outermost frame.
        """
        former_excepthook = sys.excepthook
        module = target.name.rpartition('.')[0] if target.kind == 'call' else None

        def unwind(interrupt, traceback):
            nonlocal find_worker
            sys.excepthook = former_excepthook
            cls.forget_stack(interrupt, traceback)
            find, find_worker = find_worker, None  # frees what it refers to
            worker = find()
            worker.get_ready()
            worker.on_start(worker._control.receive())  # the app is to start now
            return worker

        def run_app(_, interrupt, traceback):
            worker = unwind(interrupt, traceback)
            interrupt = traceback = error = None
            try:
                worker.hand_over_signals()
                if module:
                    __import__(module)
                function, args, kwargs = worker.entry_point()
                function(*args, **kwargs)
            except SystemExit as exit:
                worker.report_exit(exit)
                raise
            except BaseException as caught:
                error = caught
            worker.report_exit(error)
            if error:
                excepthook = worker.prepare_to_print(error)
                try:
                    excepthook(type(error), error, error.__traceback__)
                except Exception as failure:
                    worker.print_failure_of_excepthook(failure, error)
            return worker.end(error)

        code = run_app.__code__.replace(co_filename=cls._outermost_file(target))
        return type(run_app)(code, cls._OUTERMOST_GLOBALS, closure=run_app.__closure__)

    @staticmethod
    def forget_stack(error, traceback):
        """Free the frames that an exception keeps after it has left the stack."""
        for name in ('last_type', 'last_value', 'last_traceback', 'last_exc'):
            vars(sys).pop(name, None)
        while traceback:
            traceback.tb_frame.clear()
            traceback = traceback.tb_next
        if error:
            error.__traceback__ = None

    @staticmethod
    def _outermost_file(target):
        if target.kind == 'script' and not target.has_main():
            return target.main_path()
        if target.kind in ('script', 'module'):
            is_frozen = _bootstrap.FrozenImporter.find_spec('runpy')
            return '<frozen runpy>' if is_frozen else os.path.join(os.path.dirname(os.__file__), 'runpy.py')
        return '<string>'

    # Before the start.

    def get_ready(self):
        """Prepare all that can be done before the start."""
        self._make_main_module()
        handshake = _Handshake(self._spec.monitor_pid, os.getpid(), self._channel_fd, _identity(self._channel_fd))
        os.environ[_Handshake.NAME] = str(handshake)
        if os.environ.get('LISTEN_PID') == str(self._spec.monitor_pid):  # systemd's sockets: man 3 sd_listen_fds
            os.environ['LISTEN_PID'] = str(os.getpid())
            os.environ.pop('LISTEN_PIDFDID', None)  # also identifies the monitor
        if self._spec.sockets_fd is not None:
            _SocketHooks(self._spec.sockets_fd)
        import importlib.machinery  # noqa: F401  before the app's folders are searched
        import runpy  # noqa: F401

        self._observer = _Observer(handshake, self._spec)
        if __name__ in sys.modules:
            self._observer.report_loaded(_FILE)  # the app's own import will find it loaded
        self._needed_by_us = set(sys.modules) - _STARTUP_MODULES
        if not self._spec.is_first:
            compile('', '', 'exec')  # the first call takes 2 ms longer than others
        if self._spec.preload:
            self._preload(handshake)
        if self._spec.preload or self._spec.startup_files is None:  # else the monitor has done it before the fork
            _clear_importer_caches()

    def _preload(self, handshake):
        self._set_surroundings()
        self._preloader = _Preloader(handshake, *self._spec.preload)
        folder = _inode(os.curdir)
        self._observer.recorder = self._preloader
        _call_unblocked(self._spec, lambda: self._preloader.run(self._control.has_message))
        self._observer.recorder = None
        self._has_moved = _inode(os.curdir) != folder
        if self._preloader.has_failed:
            self._control.receive()
            os._exit(1)  # started meanwhile, but unusable: the monitor makes another one

    def _make_main_module(self):
        _WorkerMain._bootstrap_main, main = sys.modules['__main__'], type(sys)('__main__')
        sys.modules['__main__'] = main
        main.__builtins__ = sys.modules['builtins']
        main.__loader__ = _bootstrap.BuiltinImporter
        if sys.version_info < (3, 14):  # newer Pythons make it on demand
            main.__annotations__ = {}

    # The start.

    def on_start(self, more_sources):
        """Prepare the rest; `more_sources`: the expected ones that the spec does not have."""
        self._observer.started_ns = _file_clock()
        self._observer.expected_sources.update(more_sources)
        self._set_surroundings()
        if self._preloader:
            self._preloader.release_output()
        if self._spec.startup_files is None:  # a new interpreter
            for name in self._spec.shadowed(self._needed_by_us & set(sys.modules)):
                del sys.modules[name]
        self._observer.report_arguments()
        if self._spec.records_imports:
            self._observer.recorder = _ImportRecorder(self._observer.handshake)
        self._observer.handshake.send('app-start', int(_discard_pending_signals()))

    def _set_surroundings(self):
        """Set the current folder and sys.path; after preloading, again, because they may differ by now."""
        try:
            os.chdir(self._spec.folder if self._spec.folder and not self._has_moved else os.curdir)
        except OSError:
            self._observer.handshake.send('missing', self._spec.folder, 1)  # a new worker starts once it exists again
        before, self._front_paths = self._front_paths, self._spec.front_paths()
        if before is None:
            self._set_paths()
        elif sys.path[: len(before)] == before:
            sys.path[: len(before)] = self._front_paths

    def _set_paths(self):
        """Set sys.path and sys.argv as plain Python has them."""
        spec = self._spec
        if spec.kind == 'call':
            new = sys.path if spec.installation_changed else []
            new = [path for path in new if path not in spec.sys_path and not path.endswith(_STDLIB_ENDINGS)]
            sys.path[:] = spec.sys_path + new
            sys.argv[:] = spec.argv
        else:
            sys.path[:] = self._front_paths + [path for path in sys.path if path not in _PRE_STDLIB_PATHS]
            sys.argv[:] = [{'module': '-m', 'command': '-c'}.get(spec.kind, spec.name), *spec.args]
        if spec.orig_argv:
            sys.orig_argv = spec.orig_argv

    def hand_over_signals(self):
        _hand_over(self._spec, self._control.fd)  # from here on signals are the app's

    def entry_point(self):
        """Return the function that runs the app, as Python itself would run it, and its arguments."""
        kind, name = self._spec.kind, self._spec.name
        if kind == 'call':
            return self._function()
        from runpy import _run_module_as_main

        if kind == 'module':
            return _run_module_as_main, (name, True), {}
        main = vars(sys.modules['__main__'])
        if kind == 'command':
            return exec, (compile(name, '<string>', 'exec', dont_inherit=True), main), {}
        path = self._spec.main_path()
        if not self._spec.has_main():
            self._is_script = True
            return exec, (self._script_code(path, main), main), {}
        if not os.path.isdir(path):
            self._observer.report(path)
        return _run_module_as_main, ('__main__', False), {}

    def _script_code(self, path, main):
        """Return the code of a script, after preparing `__main__` for it."""
        is_bytecode = path.endswith('.pyc')
        loader = (_external.SourcelessFileLoader if is_bytecode else _external.SourceFileLoader)('__main__', path)
        main.update(__loader__=loader, __file__=path)
        if sys.version_info < (3, 15):
            main['__cached__'] = None
        if is_bytecode:
            return loader.get_code('__main__')
        self._observer.report(path, 'import', self._observer.stat_when_saved(path))
        return compile(loader.get_data(path), path, 'exec', dont_inherit=True)

    def _function(self):
        module, _, name = self._spec.name.rpartition('.')
        function, pickled = getattr(sys.modules[module], name), self._spec.args
        if not pickled:
            return function, (), {}
        import pickle

        return (function, *pickle.loads(pickled))

    # The app's end.

    def report_exit(self, error):
        """Send the final reports; ignore Ctrl-C, which comes too late for the app."""
        if self._is_script:
            self._flush_output()
        missing_target = getattr(sys.modules.get('runpy'), '_Error', None)
        try:
            if self._spec.is_first and type(error) is SystemExit and type(error.__context__) is missing_target:
                self._observer.handshake.send('no-target', str(error.__context__))
                error.code = 2
            self._observer.report_new_modules()
            self._observer.report_traceback_files(error)
            if self._observer.recorder and type(error) in (SystemExit, type(None)):  # no crash, whatever its status
                self._observer.recorder.end()
        except KeyboardInterrupt:
            pass

    @staticmethod
    def _flush_output():
        """As Python does at the end of a script, but not of a module: what it has printed comes before a traceback."""
        for name in ('stderr', 'stdout'):
            try:
                getattr(sys, name).flush()
            except BaseException:  # as Python, which tries again when it ends
                pass

    def prepare_to_print(self, error):
        """Remove our frames from the traceback; return the app's excepthook, which is to see it."""
        trace = None
        for each in reversed(list(_traces(error))):
            if each.tb_frame.f_globals is not globals() and each.tb_frame.f_globals is not self._OUTERMOST_GLOBALS:
                each.tb_next, trace = trace, each
        error.__traceback__ = trace
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
        if sys.version_info >= (3, 12):
            sys.last_exc = error
        return getattr(sys, 'excepthook', sys.__excepthook__)

    def print_failure_of_excepthook(self, failure, error):
        """Print what Python itself prints when sys.excepthook fails."""
        failure.__traceback__ = failure.__traceback__ and failure.__traceback__.tb_next
        print('Error in sys.excepthook:', file=sys.stderr)
        sys.__excepthook__(type(failure), failure, failure.__traceback__)
        print('\nOriginal exception was:', file=sys.stderr)
        sys.__excepthook__(type(error), error, error.__traceback__)

    def end(self, error):
        """End the process. After KeyboardInterrupt, return: Python then ends by SIGINT."""
        if type(error) is not KeyboardInterrupt:
            sys.exit(1 if error else 0)
        if sys.implementation.name != 'cpython':
            sys.exit(130)
        try:
            exec('raise KeyboardInterrupt')  # sets CPython's flag for that, which any exec of a text resets
        except KeyboardInterrupt:
            pass


_external = sys.modules['_frozen_importlib_external']
_bootstrap = sys.modules['_frozen_importlib']

# The rest of this section runs inside the app's imports: tracebacks and tracers skip it.
_names_above = set(globals())


class _Observer:
    """Reports every file that this process imports, with its signature from before it was read.

    Python's own loader calls `path_stats` just before it reads a source. `_init_module_attrs` is called for each module
    that is made from a spec, whatever its loader is. Modules that enter sys.modules in other ways are found at the next
    import. Nothing here may run the app's code or raise into its import: see `_attribute`.
    """

    _MOMENT = 200_000_000  # ns
    _EXCEPTION_GROUP = getattr(sys.modules['builtins'], 'BaseExceptionGroup', ())

    def __init__(self, handshake, spec):
        self.handshake = handshake
        self.started_ns = spec.made_ns  # set again when the worker starts
        self.expected_sources = set(spec.expected_sources)  # the last worker's: one that is missing may return
        self.reload_interval = spec.reload_interval
        self._deadline = None  # until when we wait for missing ones
        self._reported = set()  # paths
        self._known = set(sys.modules)  # names of modules that were checked
        self._count = len(sys.modules)  # what it should be; if not, a module has bypassed our hooks
        self._main_id = id(sys.modules.get('__main__'))
        self.recorder = None  # with --preload: a _Preloader, then an _ImportRecorder
        self._hook_imports()
        for path in _startup_files() if spec.startup_files is None else spec.startup_files:
            handshake.send('startup', path)
            self.report_loaded(path)

    def _hook_imports(self):
        import io

        self._hook_source_loader(_external.SourceFileLoader)
        self._call_before(_external.SourcelessFileLoader, 'get_data', lambda _, path: self.report(path))
        self._call_before(
            _external.ExtensionFileLoader, 'create_module', lambda _, spec: self.report(_file_of_spec(spec))
        )
        self._call_before(sys.modules.get('zipimport'), '_read_directory', self.report)
        self._call_before(io, 'open_code', self.report)  # runpy.run_path, pdb and others read scripts with it
        self._call_before(_bootstrap, '_init_module_attrs', self.report_spec)
        self._call_before(_bootstrap, '_load_backward_compatible', self.report_spec)  # a loader with load_module() only
        sys.meta_path.append(self)

    @staticmethod
    def _call_before(owner, name, report):
        """Wrap a function of a class or module, if there is one, to call `report` first, with the same arguments."""
        function = getattr(owner, name, None)

        def wrapper(*args, **kw):
            report(*args, **kw)
            return function(*args, **kw)

        if function:
            setattr(owner, name, wrapper)

    def _hook_source_loader(self, owner):
        read, stats = owner.get_data, owner.path_stats
        sources = {}  # id of a loader -> the source whose bytecode it asks for next

        def path_stats(loader, path):
            is_owners = type(loader) is owner
            if is_owners and loader.name == '<py_compile>':
                return stats(loader, path)  # nothing is imported
            attributes = loader.__dict__ if is_owners else _attribute(loader, '__dict__', _external.FileLoader) or {}
            is_plain = is_owners and methods() == plain_methods and plain_names.isdisjoint(attributes)
            stat = _stat(path, os.lstat)
            is_file = stat and stat.st_mode & 0o170000 == 0o100000
            if not (is_file and stat.st_size):
                stat = self.stat_when_saved(path) or os.stat(path)
            self.report(path, 'import' if is_plain else 'import-transformed', stat)
            source = _Source(path, stat, may_be_link=not is_file)
            if source.is_young and not (is_plain and _Source.CHECKS_HASHES):
                raise OSError(f'{path} has just changed: no bytecode for now')
            if type(loader).get_data is not get_data or 'get_data' in attributes:
                raise OSError(f'{path}: no bytecode for a loader that reads it past us')
            sources[id(loader)] = source
            return {'mtime': stat.st_mtime, 'size': stat.st_size}

        def get_data(loader, path):
            source = sources.pop(id(loader), None) if type(path) is str and path.endswith('.pyc') else None
            if source and source.is_young:
                self.handshake.send('young', path, source.path)
            return source.read_bytecode(path) if source else read(loader, path)

        def methods():
            return owner.get_data, owner.get_code, owner.source_to_code

        # A loader with these methods compiles the text of the file, unless they were patched before we came.
        is_unpatched = all(getattr(each, '__globals__', None) is vars(_external) for each in methods())
        owner.path_stats, owner.get_data = path_stats, get_data
        plain_names, plain_methods = {'get_data', 'get_code', 'source_to_code'}, methods() if is_unpatched else None

    def stat_when_saved(self, path):
        """Return the status of a source, or None; wait while it is being saved."""
        stat = _stat(path)
        while not (stat and stat.st_size) and self._is_being_saved(_absolute(path), stat):
            time.sleep(0.005)
            stat = _stat(path)
        return stat

    def _is_being_saved(self, path, stat):
        """Whether a source of the last worker is missing, or empty and new, as git and editors briefly leave it."""
        if path not in self.expected_sources:
            return False
        if stat:
            return abs(time.time_ns() - stat.st_mtime_ns) < self._MOMENT
        self._deadline = self._deadline or time.monotonic() + self.reload_interval
        return time.monotonic() < self._deadline

    def report(self, path, kind='watch', stat=None):
        """Report a file that is about to be read."""
        if not issubclass(type(path), (str, os.PathLike)):
            return  # no file: its reader will complain
        path = _absolute(path)
        if not _is_installed(path):
            self._reported.add(path)
            self.handshake.send(kind, path, _signature(path, stat))

    def report_spec(self, spec, *_, **kw):
        """Report the file of a module that is about to be made, unless Python's own source loader will report it."""
        if len(sys.modules) != self._count or id(sys.modules.get('__main__')) != self._main_id:
            self.report_new_modules()
        self._count = len(sys.modules) + 1
        attributes = _spec_attributes(spec)
        if self.recorder:
            self.recorder.note(attributes)
        kind, folders = type(attributes.get('loader')), attributes.get('submodule_search_locations')
        if type(folders) is _external._NamespacePath:  # iterating over it may run the app's code
            self._report_missing(os.path.join(_absolute(folder), '__init__') for folder in folders._path)
        if kind is not _external.SourceFileLoader:
            path = _file_of_spec(spec)
            self.report_loaded(path, reads_later=issubclass(kind, _external.FileLoader))
            if not path:
                self._count = -1  # check the module at the next import

    def report_new_modules(self):
        """Report the files of modules that have bypassed our hooks, and of a new __main__."""
        main = sys.modules.get('__main__')  # coverage and others replace it
        names = set(sys.modules) - self._known
        self._known |= names
        self._count, self._main_id = len(sys.modules), id(main)
        for module in [main, *map(sys.modules.get, names)]:
            self.report_loaded(_file_of(module))

    def report_loaded(self, path, reads_later=False):
        """Report a file that may have been read already: it counts as changed if it is newer than this worker."""
        if type(path) is not str or not path:
            return
        path = _absolute(path)
        if path in self._reported or _is_installed(path):
            return
        stat = _stat(path)
        if stat is None or stat.st_mode & 0o170000 != 0o100000:
            return  # no regular file
        self._reported.add(path)
        has_changed = not reads_later and _is_younger(path, stat, self.started_ns)
        self.handshake.send('watch', path, -1 if has_changed else _signature(path, stat))

    def report_arguments(self):
        """Report the sources that the app's arguments name: coverage and other tools read a script themselves."""
        for argument in sys.argv[1:]:
            path = argument.rpartition('=')[2]
            if path.endswith('.py') and os.path.isfile(path):
                self.report(path)

    def report_traceback_files(self, error):
        """Report the files that an exception names: those of its frames, and the one that does not parse."""
        todo, seen = [error], {id(None)}
        while todo:
            error = todo.pop()
            if id(error) in seen:
                continue
            seen.add(id(error))
            for trace in _traces(error):
                if trace.tb_frame.f_globals is not globals():
                    self.report_loaded(trace.tb_frame.f_code.co_filename)
            self.report_loaded(_attribute(error, 'filename', SyntaxError))
            todo += [_attribute(error, name, BaseException) for name in ('__cause__', '__context__')]
            todo += _attribute(error, 'exceptions', self._EXCEPTION_GROUP) or ()

    def find_spec(self, name, path=None, target=None):
        """Report where a module would appear that no other finder in sys.meta_path has found."""
        tail = name.rpartition('.')[2]
        path = sys.path if path is None else path
        folders = path if issubclass(type(path), (list, tuple, _external._NamespacePath)) else ()
        places = [os.path.join(_absolute(folder), tail) for folder in folders if type(folder) is str]
        sources = {place + end for place in places for end in ('.py', os.path.join('', '__init__.py'))}
        if any(map(self.stat_when_saved, sources & self.expected_sources)):
            _external.PathFinder.invalidate_caches()
            return _external.PathFinder.find_spec(name, path, target)
        self._report_missing(places)
        return None

    def _report_missing(self, places):
        for place in places:
            if place not in self._reported and not _is_installed(place):
                self._reported.add(place)
                self.handshake.send('missing', place, int(os.path.exists(os.path.dirname(place))))


class _Source:
    """A source that is being imported, and the rule by which its bytecode is trusted.

    CPython trusts a .pyc that has its source's size and its mtime in whole seconds: after two saves of the same size
    within a second it runs the old code. We trust a .pyc only if it is two seconds newer than its source. For a source
    changed within two seconds, we make Python write and read a .pyc with a hash of the source (PEP 552, "checked").
    Reading such a .pyc once the source is older converts it: see also `_BytecodeConverter`.
    """

    __slots__ = 'path', 'stat', 'changed_ns', 'is_young'

    CHECKS_HASHES = getattr(_imp, 'check_hash_based_pycs', 'never') != 'never'  # whether Python checks such hashes
    _CHECKED = _external.MAGIC_NUMBER + b'\3\0\0\0'  # how a .pyc begins whose hash Python checks
    _OUTDATED = _CHECKED + b'\xff' * 8  # a wrong hash makes Python write a new checked .pyc
    _BINARY = getattr(os, 'O_BINARY', 0)
    _MARGIN = 2_000_000_000  # ns, by the clock of file times
    YOUTH = _MARGIN + 100_000_000  # ns; one tick of that clock more, at most

    def __init__(self, path, stat, may_be_link):
        self.path = path
        self.stat = stat
        linked_ns = _newest_link(path) if may_be_link or sys.pycache_prefix else 0  # else each folder has its own cache
        self.changed_ns = max(stat.st_mtime_ns, _ctime_ns(path, stat), linked_ns)
        self.is_young = self.changed_ns + self.YOUTH > time.time_ns()

    def read_bytecode(self, path):
        """Return the contents of a .pyc for Python to check; raise OSError if we do not trust it."""
        if self.is_young:
            return self._read_checked(path)
        stat, data = self.read_file(path)
        if _is_installed(path):
            return data
        if data[:8] == self._CHECKED and self.CHECKS_HASHES:
            return self._make_ordinary(path, stat, data)
        if stat.st_mtime_ns < self.changed_ns + self._MARGIN or not (data[4:8] == bytes(4) or self.CHECKS_HASHES):
            raise OSError(f'{path} may be older than its source')
        return data

    def _read_checked(self, path):
        try:
            _, data = self.read_file(path)
        except OSError:
            return self._OUTDATED
        return data if data[:8] == self._CHECKED and len(data) > 16 else self._OUTDATED

    def _make_ordinary(self, path, stat, data):
        """Convert a checked .pyc, whose source is old enough by now, to an ordinary one, which loads faster."""
        _, text = self.read_file(self.path)
        if data[8:16] != _imp.source_hash(int.from_bytes(_external.MAGIC_NUMBER, 'little'), text):
            raise OSError(f'{path} is older than its source')
        head = self.ordinary_head(self.stat)
        if stat.st_nlink == 1 and not sys.dont_write_bytecode:
            self._overwrite(path, head)
        return head + data[16:]

    @staticmethod
    def ordinary_head(stat):
        """Return how an ordinary .pyc begins (PEP 552) whose source has this status."""
        fields = [int(each) & 0xFFFFFFFF for each in (0, stat.st_mtime, stat.st_size)]
        return _external.MAGIC_NUMBER + b''.join(each.to_bytes(4, 'little') for each in fields)

    @staticmethod
    def _overwrite(path, head):
        """Overwrite the head of a .pyc. Half a head matches no source; to write a new file would take far longer."""
        try:
            fd = os.open(path, os.O_WRONLY | _Source._BINARY)
        except OSError:
            return  # a read-only cache
        try:
            os.write(fd, head)
        finally:
            os.close(fd)

    @staticmethod
    def read_file(path):
        """Return the status and contents of a file, by few system calls, to offset the cost of our hooks."""
        fd = os.open(path, os.O_RDONLY | _Source._BINARY)
        try:
            stat = os.fstat(fd)
            data = os.read(fd, stat.st_size)
        finally:
            os.close(fd)
        if len(data) != stat.st_size:
            raise OSError(f'{path} is being written')
        return stat, data


def _newest_link(path):
    """Return when the newest link was made (ns) on the way to the file that a path means; 0 if there is none."""
    folder, name = os.path.split(path)
    newest = _newest_link(folder) if name else 0
    try:
        target = os.path.join(folder, os.readlink(path))
        stat = os.lstat(path)
    except OSError:
        return newest  # not a link
    return max(newest, stat.st_mtime_ns, stat.st_ctime_ns, _newest_link(target))


def _attribute(instance, name, owner):
    """Return an attribute of an instance of the class `owner`, as that class defines it; None for any other object.

    Objects in sys.modules, loaders and exceptions may be lazy or proxies, with the app's properties or __getattr__.
    None of their code runs here, not even a __class__ property, which isinstance() would read.
    """
    return vars(owner)[name].__get__(instance) if issubclass(type(instance), owner) else None


def _spec_attributes(spec):
    return spec.__dict__ if type(spec) is _bootstrap.ModuleSpec else {}


def _file_of_spec(spec):
    """Return the file that a module is read from, which may be a zip file."""
    attributes = _spec_attributes(spec)
    loader, path = attributes.get('loader'), attributes.get('origin')
    if type(loader) is getattr(sys.modules.get('zipimport'), 'zipimporter', None):
        path = loader.archive
    elif loader is _bootstrap.BuiltinImporter or loader is _bootstrap.FrozenImporter:
        path = ''  # its origin is a word
    return path if type(path) is str else ''


def _file_of(module):
    """Return the file that a module was read from, if it names one."""
    attributes = _attribute(module, '__dict__', type(sys)) or {}
    path = attributes.get('__file__')
    return path if type(path) is str else _file_of_spec(attributes.get('__spec__'))


def _traces(error):
    trace = _attribute(error, '__traceback__', BaseException)
    while trace:
        yield trace
        trace = trace.tb_next


def _absolute(path):
    """Return an absolute path; a `..` stays only if it follows a link, and so does not lead where it seems to."""
    path = os.fsdecode(path)  # a loader may have been given a Path
    if path.startswith('/') and '/.' not in path and '//' not in path and os.sep == '/':
        return path.rstrip('/') or path  # the same, and quicker
    path = path if os.path.isabs(path) else os.path.join(_current_folder() or os.sep, path)
    plain = os.path.normpath(path)
    return plain if os.pardir not in path or _real_path(path) == _real_path(plain) else path


def _real_path(path):
    try:
        return os.path.realpath(path)
    except ValueError:
        return path  # no file can have that name


def _current_folder():
    try:
        return os.getcwd()
    except OSError:
        return ''  # it has been deleted


def _is_installed(path):
    """Whether a file belongs to Python or to an installed package, and is not linked in from elsewhere."""
    folder = path.rpartition(os.sep)[0]  # quicker than os.path.dirname
    installed = _installed_folders.get(folder)
    if installed is None:
        if not _installed_roots:
            folders = [os.path.dirname(os.__file__), *_site_folders()]
            folders += [os.path.join(sys.base_prefix, name) for name in ('lib_pypy', 'DLLs')]  # PyPy, Windows
            _installed_roots.extend(_real_path(each) + os.sep for each in folders)
        installed = (_real_path(folder or os.sep) + os.sep).startswith(tuple(_installed_roots))
        _installed_folders[folder] = installed
    return installed and not (os.path.islink(path) and not _real_path(path).startswith(tuple(_installed_roots)))


# Caches, which forked workers inherit.
_installed_roots: list[str] = []  # real paths
_installed_folders: dict[str, bool] = {}


def _site_folders():
    """Return where packages are installed."""
    site = sys.modules.get('site')
    if site is None:
        return []
    folders = [each for each in getattr(site, 'getsitepackages', list)() if each != sys.prefix]  # as on Windows
    return folders + ([site.USER_SITE] if site.ENABLE_USER_SITE else [])


for _name in globals().keys() - _names_above:
    _hide_from_tracebacks(globals()[_name])


# ---------------------------------------------------------------------------------------------------------- preloading

# A reader may skip this section: without --preload it does nothing. It is entered through `_Preload` in the monitor,
# `_ImportRecorder` in a worker and `_Preloader` in a standby.


class _Preload:
    """In the monitor: chooses the modules that the standby imports in advance, and decides whether it may be used.

    A worker reports its imports until it has booted. The next standby imports the same modules and reports its
    progress. A standby in which an import has failed is thrown away; the next one leaves that module out.
    """

    LONGEST_STREAK = 3  # standbys in a row that were thrown away
    PATCHERS = 'gevent', 'eventlet', 'ddtrace', 'newrelic', 'coverage', 'opentelemetry.instrumentation'

    def __init__(self, is_wanted, excepted, target, logger):
        self.is_wanted = is_wanted
        self.imports = _SourceImports()
        self._excepted = tuple(excepted)
        self._main = target.name if target.kind == 'module' else None
        self._logger = logger
        # name -> (path, the app's changes of os.environ, whether the module has not stayed), in the last run's order
        self._list = {}
        self._recorded = None  # the same, of a worker that is still booting
        self._environ = {}  # that worker's changes of os.environ
        self._last_environ = {}  # those of the last list's worker
        self._given_environ = None  # these, if the running worker has preloaded that list
        self._argv0 = ''  # its sys.argv[0], which runpy sets
        self._sources = {}  # path -> signature, of the sources that the worker has read
        self._plain_because = None  # why the next start must not use preloading
        self._left_out = {}  # name -> why
        self._streak = 0
        self._has_grown = True  # the list, since it was compared with the standby's imports
        self._run = _PreloadRun(None)

    # The list.

    def handlers(self):
        """Return what is called with the fields of each message of a running worker."""
        return {
            'module': self._on_module,
            'module-gone': self._on_module_gone,
            'argv0': self._on_argv0,
            'environ': self._on_environ,
            'record-end': self._on_record_end,
        }

    def _on_module(self, name, path):
        if self._recorded is not None:
            self._recorded.setdefault(name, (path, self._environ, False))
            self._has_grown = True

    def _on_module_gone(self, name):
        for each in self._recorded or ():
            if self.is_within(each, [name]):  # its submodules stay, but can't be imported without it
                self._recorded[each] = (*self._recorded[each][:2], True)

    def _on_argv0(self, text):
        self._argv0 = text[1:]

    def _on_environ(self, name, text):
        """`text`: = and the value, + and more of it, or - for a variable that was deleted."""
        begin = (self._environ.get(name) or '') * (text[0] == '+')
        self._environ = {**self._environ, name: None if text[0] == '-' else begin + text[1:]}

    def _on_record_end(self):
        self._commit()
        self._recorded = None

    def note_start(self, worker):
        """Begin a new list for a worker that has started; if it has preloaded, extend the old one."""
        has_preloaded = self.is_used_by(worker)
        self._recorded = dict(self._list) if has_preloaded else {}
        self._given_environ = self._last_environ if has_preloaded else None
        self._environ, self._sources, self.imports.is_due = {}, {}, False

    def note_boot(self):
        self.imports.is_due = True
        self.imports.step()
        self._commit()

    def note_exit(self, worker, status):
        """Accept the list of a worker that has exited; after a crash keep the last one."""
        if self.is_used_by(worker):
            self.note_standby(None)
        self.imports.is_due = True
        if status == 0 or not self._list:
            self._commit()
        self._recorded = None

    def note_source(self, path, signature):
        if self.is_wanted:
            self._sources[path] = signature
            self.imports.add(path, signature)

    def _commit(self):
        """Let what was recorded be the list."""
        if self._recorded is None:
            return
        self._list, self._plain_because = self._recorded, None
        if self._given_environ is None:
            self._last_environ = self._environ
        else:
            self._renew_environ(self._given_environ, self._environ)

    def _renew_environ(self, old, new):
        """Adopt what the app has set in os.environ this time: what was preloaded has seen the last run's values."""
        self._last_environ = {**old, **new}
        added = sorted(new.keys() - old.keys())
        if added:
            self._plain_because = f'the app now sets {added[0]} in os.environ'
        for each, (path, environ, is_gone) in self._list.items():
            seen = environ.items()
            environ = {name: new.get(name, value) if value == old.get(name) else value for name, value in seen}
            self._list[each] = path, environ, is_gone

    def plan(self, watched_paths):
        """Return the modules that a standby made now is to import, the packages that it must not, and sys.argv[0].

        A module is a tuple (name, path, the app's changes of os.environ, whether the module has not stayed). Return
        None if nothing is to be imported.
        """
        if not self.is_wanted or self._plain_because or self._streak >= self.LONGEST_STREAK:
            return None
        patcher = next((name for name in self._list if self.is_within(name, self.PATCHERS)), None)
        if patcher:
            self._logger.debug(f'Nothing is preloaded: {patcher} patches or measures other modules.')
            return None
        refused = {*self._excepted, *self._left_out}
        watched = watched_paths()
        for name, (path, *_) in self._list.items():
            is_main = name == self._main and not os.path.basename(path).startswith('__init__.')
            if is_main or os.path.normcase(path) in watched:
                refused.add(name)
        modules = [(name, *rest) for name, rest in self._list.items() if not self.is_within(name, refused)]
        return (modules, sorted(refused), self._argv0) if modules else None

    # The standby.

    def note_standby(self, standby):
        """Follow a standby that has begun to preload; None: follow none."""
        self._run.close()
        self._run = _PreloadRun(standby)
        self._has_grown = True

    @property
    def deadline(self):
        return self._run.deadline

    def is_used_by(self, worker):
        return worker is not None and worker is self._run.standby

    def is_under_way(self, worker):
        return self.is_used_by(worker) and self._run.is_under_way

    def pollables(self):
        yield self.imports
        if self._run.is_under_way:
            yield self._run.standby.channel

    def is_hopeless(self, now):
        """At the deadline, return whether the standby has failed or hangs; if it is done, finish."""
        run = self._run
        if run.failed or run.is_unusable or not run.result:
            return True
        strange = run.strange_modules(self._list)
        if strange and not self._has_grown:
            run.failed.update(strange)
            return True
        if strange:
            self._has_grown, run.deadline = False, now + 1  # the running worker may still import it
        else:
            self._streak = 0
            run.finish()
            self._logger.debug(run.result)
        return False

    def reject(self):
        """Leave out what has failed in the standby, which is given up, has ended it, or hangs."""
        failed, why = self._run.blame()
        for name, reason in failed.items():
            self._logger.debug(f'{name} is not preloaded: {reason}.')
        self._left_out.update(failed)
        self._streak += not self._run.is_unusable
        if self._streak == self.LONGEST_STREAK:
            causes = '; '.join(f'{name}: {reason}' for name, reason in failed.items()) or why
            self._logger.info(f'Nothing is preloaded any more ({causes}).')

    # Whether the standby may be used.

    def retry_all(self):
        """Make the requested reload a plain start; after it, try again what has failed."""
        self._plain_because = self._plain_because or 'a reload was asked for'
        self._left_out.clear()
        self._streak = 0

    def note_changes(self, paths):
        """Require a plain start if one of these changes may have taken away the import of a preloaded module."""
        for path in paths if self._list else ():
            if self._plain_because is None:
                self._plain_because = self._lost_import(path)

    def _lost_import(self, path):
        """Return what a change may have taken away, in words; None if nothing."""
        code_suffixes = (*PollingFileMonitor.MODULE_SUFFIXES, '.zip', '.egg', '.whl', '.pyz')
        if path not in self._sources and not path.endswith(code_suffixes):
            return None
        differences = self.imports.differences(path, self._sources.get(path))
        if differences is None:
            return f'what {path} imported is not known'
        names, statements = differences
        if statements:
            return f'{path} has changed what it does with os.environ, sys.path or warning filters'
        lost = sorted(name for name in names if self._is_named(name, self._list, self._sources))
        return f'{path} no longer imports {", ".join(lost)}' if lost else None

    @staticmethod
    def _is_named(name, modules, sources):
        """Whether the name that a source imports, which may be relative, can mean one of these modules or sources.

        The sources are the project's own: what they import goes with them.
        """
        tail = name.lstrip('.')
        place = os.sep + tail.replace('.', os.sep)
        if any(source.endswith((place + '.py', os.path.join(place, '__init__.py'))) for source in sources):
            return True
        return name in modules or (name != tail and any(each.endswith(f'.{tail}') for each in modules))

    def obstacle(self):
        """Return why the preloaded standby may not be used; None if it may."""
        strange = self._run.strange_modules(self._list)
        return self._plain_because or next(iter(strange.values()), None) or self._run.changed_file()

    def obstacle_at_start(self, front_paths):
        """Return the same at the start; by now the project's folders may shadow a preloaded module."""
        paths = {name.partition('.')[0]: path for name, (path, *_) in reversed(self._list.items())}
        for folder in front_paths:
            for name in _names_in(folder).intersection(paths):
                sys.path_importer_cache.pop(folder, None)  # its cache may be out of date
                spec = _external.PathFinder.find_spec(name, [folder])
                is_code = spec and spec.loader  # rather than a folder of data or a namespace package
                if is_code and not paths[name].startswith(os.path.join(folder, name)):
                    return f'the project has a {name} of its own'
        return self._plain_because

    @staticmethod
    def is_within(name, packages):
        """Whether a module is one of these packages, or part of one."""
        return any(name == package or name.startswith(package + '.') for package in packages)


class _PreloadRun:
    """In the monitor: the progress of a standby that preloads, according to its messages."""

    LONGEST_IMPORT = 10  # seconds

    def __init__(self, standby):
        """`standby`: None if none preloads."""
        self.standby = standby
        self.is_under_way = standby is not None
        self.deadline = None  # the latest time for the next message
        self.failed = {}  # name of a module -> why
        self.is_unusable = False  # it was started before we could check its imports
        self.result = None  # the summary to log, once it is done
        self._importing = None  # name of a module
        self._unlisted = {}  # name -> (path, the module whose import caused it)
        self._lost = set()  # names of those that have not stayed
        self._signatures = {}  # path -> signature from before the standby read the file
        self._files = None  # the _InstalledFiles, once all is imported
        if standby:
            self._extend_deadline()
            standby.channel.handlers.update(self._handlers())

    def _handlers(self):
        return {
            'preload': self._on_import,
            'preload-file': self._on_file,
            'preload-unlisted': self._on_unlisted,
            'preload-lost': self._lost.add,
            'preload-failed': self.failed.__setitem__,
            'preload-end': self._on_end,
        }

    def _on_import(self, name):
        self._importing = name
        self._extend_deadline()

    def _on_file(self, path, signature):
        self._signatures.setdefault(path, signature)
        self._extend_deadline()

    def _on_unlisted(self, name, path):
        self._unlisted[name] = path, self._importing
        self._lost.discard(name)

    def _on_end(self, count, milliseconds, is_unusable):
        self.is_unusable = bool(is_unusable)
        self.result = f'Preloaded {count} modules in {milliseconds} ms.'
        self.deadline = 0  # now

    def _extend_deadline(self):
        self.deadline = time.monotonic() + self.LONGEST_IMPORT

    def strange_modules(self, listed):
        """Return the modules whose import caused one that the last run did not have, each with the reason."""
        strange = {}
        for name, (path, cause) in self._unlisted.items():
            is_lost = name in self._lost
            listed_path, _, was_lost = listed.get(name, ('', None, is_lost))
            if listed_path != path:
                strange[cause] = f'{name} was not imported from {path} in the last run'
            elif was_lost != is_lost:
                strange[cause] = f'{name} has failed in it' if is_lost else f'{name} had failed in it'
        return strange

    def finish(self):
        """All is imported, and usable as long as no file changes."""
        self.is_under_way, self.deadline = False, None
        self._files = _InstalledFiles(self._signatures)

    def changed_file(self):
        """Return in words which file has changed since it was read; None if none has."""
        path = self._files.changed() if self._files else _InstalledFiles.first_changed(self._signatures)
        return path and f'{path} has changed'

    def blame(self):
        """Return what has failed, has ended the process or hangs, with reasons; and the reason for the last two."""
        why = 'it takes longer than 10 s' if 0 < self.deadline <= time.monotonic() else 'it ends the process'
        if self._importing and not self.failed and not self.result:
            self.failed[self._importing] = why
        return self.failed, why

    def close(self):
        if self._files:
            self._files.close()


class _InstalledFiles:
    """The files that a standby has read. They are compared after an event of inotify; always where that fails."""

    def __init__(self, signatures):
        self._signatures = signatures
        self._inotify = None
        try:
            self._inotify = _Inotify()
            mounts = _Mounts()
            for folder in {os.path.dirname(path) for path in signatures}:
                if mounts.remote(folder):
                    raise OSError(f'{folder} may not tell of changes')
                self._inotify.add(folder, _IN.CHANGES)
        except OSError:
            self.close()
        self._changed = self.first_changed(signatures)

    def changed(self):
        """Return a file that has changed; None if none has."""
        events = self._inotify.read() if self._inotify else ()
        if not all(name for _, _, name in events):
            self.close()  # a folder has gone, or events were lost
        if events or not self._inotify:
            self._changed = self.first_changed(self._signatures)
        return self._changed

    def close(self):
        if self._inotify:
            self._inotify.close()
            self._inotify = None

    @staticmethod
    def first_changed(signatures):
        return next((path for path, signature in signatures.items() if _signature(path) != signature), None)


class _SourceImports(_Pollable):
    """In the monitor: finds the import statements that a save takes away.

    It also finds changed statements that may set up what a package sees at its import, by comparing their text.
    """

    SLICE = 0.01  # seconds of one step
    SETUP = b'os.environ', b'environ[', b'environ.', b'sys.path', b'filterwarnings', b'simplefilter'

    def __init__(self):
        self._known = {}  # path -> {signature: (names, setup statements)}
        self._unread = {}  # path -> signature, of sources still to be looked at
        self.is_due = False  # not while a worker boots

    def add(self, path, signature):
        """Queue a source that a worker has read."""
        if signature not in self._known.setdefault(path, {}):
            self._unread[path] = signature

    def wait_until(self):
        return 0 if self._unread and self.is_due else None

    def step(self):
        """Look at some of the queued sources, and return to the loop after a slice of time."""
        end = time.monotonic() + self.SLICE
        while self._unread and time.monotonic() < end:
            path, signature = self._unread.popitem()
            found = self._in_source(path)
            if found and _signature(path) == signature:
                self._known[path][signature] = found

    def differences(self, path, signature):
        """Compare a source with what it was at that signature; None if that is unknown.

        Return the names that it imported and no longer does, and the setup statements that have come or gone.
        """
        old = self._known.get(path, {}).get(signature)
        if old is None:
            return None
        current = _signature(path)
        new = self._in_source(path) if current else (set(), set())
        if new is None or _signature(path) != current:
            return None
        recent = list(self._known[path].items())[-3:]
        self._known[path] = {**dict(recent), signature: old, current: new}
        return old[0] - new[0], old[1] ^ new[1]

    @classmethod
    def _in_source(cls, path):
        """Return the names that a source imports, and its setup statements; None if it does not parse."""
        import _ast  # built in, unlike `ast`
        import warnings

        try:
            with open(path, 'rb') as file, warnings.catch_warnings():
                warnings.simplefilter('ignore')
                data = file.read()
                tree = compile(data, path, 'exec', _ast.PyCF_ONLY_AST, dont_inherit=True)
        except (OSError, SyntaxError, ValueError, MemoryError, RecursionError):
            return None
        simple = cls._simple_statements(tree)
        imports = [node for node in simple if isinstance(node, (_ast.Import, _ast.ImportFrom))]
        names = {sys.intern(name) for node in imports for name in cls._imported_names(node)}  # many sources share them
        if not any(word in data for word in cls.SETUP):
            return names, set()
        lines = [line.strip() for line in data.splitlines()]
        texts = {b' '.join(lines[node.lineno - 1 : node.end_lineno]) for node in simple}
        return names, {text for text in texts if any(word in text for word in cls.SETUP)}

    @staticmethod
    def _simple_statements(tree):
        """Return all statements that contain no others."""
        nodes = [tree]
        for node in nodes:  # the list grows
            for block in ('body', 'handlers', 'orelse', 'finalbody', 'cases'):
                nodes += getattr(node, block, ())
        return [node for node in nodes if not (hasattr(node, 'body') or hasattr(node, 'cases'))]

    @staticmethod
    def _imported_names(node):
        """Return the dotted names that an import statement loads, or may load; relative ones begin with dots."""
        module = getattr(node, 'module', None)  # of a `from` import, as is its level
        prefix = '.' * getattr(node, 'level', 0) + (f'{module}.' if module else '')
        names = set()
        for alias in node.names:
            name = prefix + alias.name
            while name.strip('.'):
                names.add(name)
                name = name.rpartition('.')[0]
        return names


def _is_being_imported(name):
    spec = (_attribute(sys.modules.get(name), '__dict__', type(sys)) or {}).get('__spec__')
    return _spec_attributes(spec).get('_initializing') is True


@_hide_from_tracebacks
class _ImportRecorder:
    """In a worker: reports the installed modules that it imports, and its changes of os.environ before each.

    It reports only modules that Python's own, unpatched loaders load, and stops when the worker forks.
    """

    def __init__(self, handshake):
        self._handshake = handshake
        self._is_active = self._has_reported_none = True
        self._under_way = []  # names of modules
        self._locks = getattr(_bootstrap, '_module_locks', {})  # name -> weak reference
        self._ends = []  # our own references: a lock is freed when its import ends
        self._noted_at = time.monotonic()
        self._environ = {}
        self._environ = self._copy_environ()
        self._loaders = _external.SourceFileLoader, _external.ExtensionFileLoader, _external.SourcelessFileLoader
        self._functions = self._loader_functions()
        for name in filter(sys.modules.__contains__, _Preload.PATCHERS):
            handshake.send('module', name, name)
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(before=self.end)

    def note(self, spec):
        """Report a module that is about to be made from a spec with these attributes."""
        name, path, kind = spec.get('name'), spec.get('origin'), type(spec.get('loader'))
        if not self._is_active or self._has_booted():
            return
        self._report_environ()
        if kind not in self._loaders or type(name) is not str or type(path) is not str or not _is_installed(path):
            return
        if self._loader_functions() == self._functions:
            if self._has_reported_none:
                self._handshake.send('argv0', f'={sys.argv[0]}')
            self._has_reported_none = False
            self._handshake.send('module', name, path)
            self._under_way.append(name)
            lock = self._locks.get(name)
            if lock and lock():
                self._ends.append(_weakref.ref(lock(), self._settle))

    def _settle(self, _=None):
        """Find out which imports have ended."""
        if self._is_active:  # not in a fork
            self._under_way = [name for name in self._under_way if self._is_under_way(name)]

    def _has_booted(self):
        """Whether half a second has passed without an import, and none is still running."""
        self._settle()
        before, self._noted_at = self._noted_at, time.monotonic()
        if self._noted_at - before > 0.5 and not self._under_way:
            self.end()
        return not self._is_active

    def _is_under_way(self, name):
        if name not in sys.modules:
            self._handshake.send('module-gone', name)  # it has failed, or has removed itself
            return False
        return _is_being_imported(name)

    def _loader_functions(self):
        names = 'create_module', 'exec_module', 'get_code', 'source_to_code'
        return [getattr(loader, name, None) for loader in self._loaders for name in names]

    def _copy_environ(self):
        """Return a copy of the contents of os.environ, in the cheapest form."""
        data = getattr(os.environ, '_data', None)
        return dict(data) if type(data) is dict else self._environ

    def _report_environ(self):
        before, self._environ = self._environ, self._copy_environ()
        if before != self._environ:
            for name in {**before, **self._environ}:
                value = self._environ.get(name)
                if value != before.get(name):
                    text = '-' if value is None else '=' + os.fsdecode(value)
                    size = _Handshake.LONGEST_MESSAGE // 8  # characters may take four bytes, and there is the name
                    for begin in range(0, len(text), size):
                        piece = ('+' if begin else '') + text[begin : begin + size]
                        self._handshake.send('environ', os.fsdecode(name), piece)

    def end(self):
        """Stop recording: the imports until now are the list."""
        if self._is_active:
            self._report_environ()
            self._handshake.send('record-end')
        self._is_active = False


class _Preloader:
    """In a standby: imports modules in advance, and announces each to the monitor before it does.

    As the first finder in sys.meta_path, it refuses modules that come from elsewhere than in the last run. As the
    _Observer's recorder, it reports modules that the last run did not import.
    """

    def __init__(self, handshake, modules, refused, argv0):
        self.has_failed = self._has_unlisted = False
        self._handshake = handshake
        self._modules = modules  # see _Preload.plan
        self._paths = {name: path for name, path, *_ in modules}
        self._must_stay = {name for name, *_, is_gone in modules if not is_gone}
        self._begun = set()  # names of modules that are being made; if missing in the end, they have failed
        self._failure = None  # why the import under way has failed
        self._importers = set()  # names of modules whose imports have led to a refused one
        self._refused = refused  # packages
        self._argv0 = argv0
        self._original_environ = {}  # name -> (value before we set it, our value)
        self._streams = []  # (stream, its raw stream)
        self._output = []  # (function that writes, data)

    def run(self, is_start_due):
        """Import all modules, even if some fail; stop early if the worker is to start."""
        import gc

        began, count = time.monotonic(), len(sys.modules)
        self._hold_output()
        sys.meta_path.insert(0, self)
        argv0, sys.argv[0] = sys.argv[0], self._argv0
        for name, _, environ, _ in self._modules:
            if is_start_due():
                break
            if name in self._must_stay and name not in sys.modules and not _Preload.is_within(name, self._refused):
                self._import(name, environ)
        is_unusable = self._has_unlisted and is_start_due()
        self.has_failed |= is_unusable
        sys.meta_path.remove(self)
        if sys.argv[:1] == [self._argv0]:
            sys.argv[0] = argv0
        self._set_environ({})
        if not is_start_due():
            gc.collect()  # now, rather than while the app starts
        milliseconds = int((time.monotonic() - began) * 1000)
        self._handshake.send('preload-end', len(sys.modules) - count, milliseconds, int(is_unusable))

    def _import(self, name, environ):
        from importlib import import_module

        self._handshake.send('preload', name)
        self._set_environ(environ)
        self._failure, self._importers = None, set()
        try:
            import_module(name)
        except BaseException as error:
            self._failure = self._failure or f'{type(error).__name__}: {error}'
        lost = self._begun - sys.modules.keys()
        self._begun -= lost
        for each in lost - self._must_stay:
            self._handshake.send('preload-lost', each)  # the running worker's import of it may fail as well
        if lost & self._must_stay:
            self._failure = self._failure or f'{min(lost & self._must_stay)} has failed in it'
        if self._failure:
            self._begun.clear()
            self.has_failed = True
            for each in [name, *sorted(self._importers - {name})]:  # else these fail one by one, in later standbys
                self._refused.append(each)
                sys.modules.pop(each, None)  # if it has caught the error, its importers must fail nevertheless
                self._handshake.send('preload-failed', each, self._failure[:500].replace('\0', ''))

    def find_spec(self, name, path=None, target=None):
        """Find what an import would find, or refuse it, so that the import that needs it fails."""
        finders = [finder.find_spec for finder in sys.meta_path if finder is not self and hasattr(finder, 'find_spec')]
        spec = next(filter(None, (find(name, path, target) for find in finders)), None)
        if spec:
            why = self._obstacle(name, spec)
            if why:
                self._failure = why
                self._importers.update(filter(_is_being_imported, self._must_stay - {name}))
                raise ImportError(why, name=name)
            if spec.has_location:
                self._handshake.send('preload-file', spec.origin, _signature(spec.origin))
        return spec

    def note(self, spec):
        """Note that a module is being made from a spec with these attributes; a mere `find_spec` makes none."""
        name, path = spec.get('name'), spec.get('origin')
        is_unlisted = name not in self._paths and bool(spec.get('_set_fileattr')) and not self._is_of_python(path)
        is_unlisted &= type(spec.get('loader')).__name__ != 'LazyLoader'  # a worker does not report these either
        if is_unlisted:
            self._has_unlisted = True
            self._handshake.send('preload-unlisted', name, path)
        if is_unlisted or name in self._must_stay:
            self._begun.add(name)

    def _obstacle(self, name, spec):
        places = list(spec.submodule_search_locations or ())
        if spec.has_location or os.path.isabs(spec.origin or ''):
            places.append(spec.origin)
        if _Preload.is_within(name, self._refused):
            return f'{name} is left out'
        if not all(_is_installed(place) for place in places):
            return f'{name} leads into the project'
        has_replaced_itself = name in self._begun  # by an extension module of its name, as cv2 does
        if self._paths.get(name, spec.origin) != spec.origin and not has_replaced_itself:
            return f'{name} was not imported from {spec.origin} in the last run'

    @staticmethod
    def _is_of_python(path):
        """Whether an installed file is Python's own, rather than a package's."""
        folders = [os.path.realpath(folder) + os.sep for folder in _site_folders()]
        return not os.path.realpath(path).startswith(tuple(folders))

    def _set_environ(self, changes):
        """Undo our earlier changes, but not those of imports; then set variables as the app had at an import."""
        for name, (original, ours) in self._original_environ.items():
            if os.environ.get(name) == ours:
                self._set_variable(name, original)
        self._original_environ = {name: (os.environ.get(name), value) for name, value in changes.items()}
        for name, value in changes.items():
            self._set_variable(name, value)

    @staticmethod
    def _set_variable(name, value):
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

    def _hold_output(self):
        """Keep what the imports print, flushed or not, until the start; a standby that is killed prints nothing."""
        for stream in (sys.stdout, sys.stderr):
            raw = getattr(stream, 'buffer', None)
            raw = getattr(raw, 'raw', raw)
            if raw:
                raw.write = lambda data, write=raw.write: self._output.append((write, bytes(data))) or len(data)
                self._streams.append((stream, raw))

    def release_output(self):
        for stream, raw in self._streams:
            try:
                stream.flush()
            except ValueError:
                pass  # an import has closed it
            del raw.write
        for write, data in self._output:
            try:
                while data:
                    data = data[write(data) or len(data) :]
            except (OSError, ValueError):
                pass  # its reader is gone


# ------------------------------------------------------------------------------------------------------------- channel


@_hide_from_tracebacks
class _Handshake:
    """Tells a process that it is a worker: an environment variable, valid for one pid and one pipe only.

    It holds a version, the pids of monitor and worker, the channel's descriptor, and the identity of its pipe: children
    inherit the variable, and an app may close the descriptor and open its own file under that number.
    """

    NAME = 'HUPPER_WORKER'
    LONGEST_MESSAGE = getattr(select, 'PIPE_BUF', 4096)

    def __init__(self, monitor, worker, fd, identity):
        self.monitor = monitor
        self.worker = worker
        self.fd = fd
        self.identity = identity

    def __str__(self):
        return f'2 {self.monitor} {self.worker} {self.fd} {self.identity}'

    @classmethod
    def read(cls):
        """Return the handshake in the environment, which may be that of a parent; None if there is none."""
        version, *fields = os.environ.get(cls.NAME, '').split(' ')
        numbers = [int(field) for field in fields[:3] if field.isascii() and field.isdigit() and len(field) < 10]
        is_ours = version == '2' and len(fields) == 4 and len(numbers) == 3
        return cls(*numbers, fields[3]) if is_ours else None

    @classmethod
    def here(cls):
        """Return the handshake of this process, None if it is no worker."""
        handshake = cls.read()
        return handshake if handshake and handshake.worker == os.getpid() and handshake.is_open() else None

    def is_open(self):
        return _identity(self.fd) == self.identity

    def send(self, kind, *fields):
        """Send one message by one write, which is atomic up to PIPE_BUF bytes (`man 7 pipe`).

        Two NULs enclose the message and one separates its fields, which contain none and are not empty: see `_Channel`.
        """
        try:
            message = os.fsencode('\0\0' + '\0'.join(map(str, (kind, *fields))) + '\0\0')
        except UnicodeEncodeError:
            return  # no file has such a name
        if len(message) > self.LONGEST_MESSAGE or message.count(0) != len(fields) + 4 or not self.is_open():
            return
        if self.worker != os.getpid() and not _has_reader(self.fd):
            return  # a child that outlives its worker; SIGPIPE might kill it
        try:
            _write(self.fd, message)
        except OSError:
            pass  # the monitor is gone, and soon we are, too


def _find_proxy(logger):
    """Return the proxy if this process, or a parent of it, is a monitor's worker already; else None."""
    handshake = _Handshake.read()
    if handshake is None:
        return None
    if _Handshake.here() is None:
        if not _is_descendant_of(handshake):
            return None  # the variable has outlived its monitor
        logger.info(f'PID {handshake.monitor} watches this program already: no monitor inside a monitor.')
    return ReloaderProxy(handshake)


class ReloaderProxy(IReloaderProxy):
    """The worker's end of the channel."""

    def __init__(self, handshake):
        self._handshake = handshake

    def watch_files(self, files):
        if isinstance(files, (str, bytes, os.PathLike)):
            raise TypeError(f'watch_files takes several paths, not {files!r}: put it in a list')
        for path in map(_absolute, files):
            if os.path.isdir(path) or _split_glob(path)[1]:
                self._handshake.send('watch-since', path, _file_clock())
            else:
                self._handshake.send('watch', path, _signature(path))

    def trigger_reload(self):
        self._handshake.send('reload')

    def graceful_shutdown(self):
        self._handshake.send('stop')


class _Channel:
    """The monitor's end of one worker's channel; a pollable of the loop.

    While messages keep coming, it reads them only every 10 ms: waking for each one would slow imports down by half.
    """

    _PAUSE = 0.01

    # What a worker sends, with the types of the fields. A signature is from just before the file was read.
    MESSAGES: dict[str, tuple[Callable[[Any], Any], ...]] = {
        'startup': (os.fsdecode,),  # a project file that Python has imported at startup
        'app-start': (int,),  # the app begins now; whether a SIGINT was discarded before
        'import': (os.fsdecode, int),  # path and signature of a source that Python itself compiles
        'import-transformed': (os.fsdecode, int),  # the same, if another loader or patch may change what is compiled
        'young': (os.fsdecode, os.fsdecode),  # bytecode and source, just saved
        'watch': (os.fsdecode, int),  # path and signature of any other file; -1: it may have changed since it was read
        'watch-since': (os.fsdecode, int),  # a folder or glob; time in ns: newer files have changed
        'missing': (os.fsdecode, int),  # where a module was looked for, without suffix; whether its folder exists
        'no-target': (os.fsdecode,),  # what the worker could not find to run, in words
        'reload': (),
        'stop': (),
        # With --preload. Of a worker, until it has booted:
        'module': (os.fsdecode, os.fsdecode),  # name and path of an installed module that it imports
        'module-gone': (os.fsdecode,),  # one that has failed, or has removed itself from sys.modules
        'argv0': (os.fsdecode,),  # = and sys.argv[0]
        'environ': (os.fsdecode, os.fsdecode),  # a variable that the app has changed; = and its value, or a minus
        'record-end': (),
        # Of a standby:
        'preload': (os.fsdecode,),  # name of a module that it is about to import
        'preload-file': (os.fsdecode, int),  # path and signature of a file that comes with it
        'preload-unlisted': (os.fsdecode, os.fsdecode),  # name and path of a module that the last run had not imported
        'preload-lost': (os.fsdecode,),  # an unlisted module that has failed, or has removed itself from sys.modules
        'preload-failed': (os.fsdecode, os.fsdecode),  # name of a module; why
        'preload-end': (int, int, int),  # number of modules; milliseconds; whether it was started before we could check
    }

    def __init__(self, fd):
        self._fd = fd
        self._rest = b''
        self._paused_until = time.monotonic() + self._PAUSE
        self.imported_at = 0  # when the last import was reported
        self.handlers = {}  # kind of message -> function of its fields; garbage: of any other message's first

    def wait_fd(self):
        return None if self._paused_until else self._fd

    def wait_until(self):
        return self._paused_until

    def step(self):
        """Handle all messages that have come, then pause if there were any."""
        data = b''.join(iter(self._read, b''))
        *messages, self._rest = (self._rest + data).split(b'\0\0')
        if len(self._rest) > _Handshake.LONGEST_MESSAGE:
            messages.append(self._rest)
            self._rest = b''
        for kind, *values in map(self._parse, filter(None, messages)):
            self.handlers[kind](*values)
            if kind.startswith(('import', 'module')):
                self.imported_at = time.monotonic()
        self._paused_until = time.monotonic() + self._PAUSE if data else None

    def _parse(self, message):
        """Return the kind of a message and its fields; or 'garbage', and what should be the kind."""
        kind, *fields = message.split(b'\0')
        name = kind.decode('ascii', 'replace')
        types = self.MESSAGES.get(name)
        if types is None or name not in self.handlers or len(fields) != len(types):
            return 'garbage', kind
        try:
            return (name, *(convert(field) for convert, field in zip(types, fields)))
        except ValueError:
            return 'garbage', kind

    def _read(self):
        """Return the next data; b'' if there is none yet, or the channel is closed."""
        try:
            data = b'' if self._fd is None else _read(self._fd, wait=False)
        except BlockingIOError:
            return b''
        if not data:
            self.close()  # the worker has closed it; a signal will report its end
        return data

    def close(self):
        if self._fd is not None:
            _close(self._fd)
            self._fd = None


# -------------------------------------------------------------------------------------------------------- kept sockets
#
# You may skip this section: only --keep-sockets uses it. Entry points: `_KeptSockets` in the monitor, `_SocketHooks`
# in the worker. The two talk over a pair of Unix datagram sockets, so that every process and thread of the app can send
# a message: fields separated by NUL, with descriptors (SCM_RIGHTS, `man 7 unix`).
#
#     bind PID PORT NAME   with a reply socket and the app's socket; the reply brings the kept socket to use instead,
#                          if there is one. NAME is the rest of the address; empty: do not keep the socket
#     closed [PORT NAME]   this socket, or an unknown one. With a reply socket: asks whether the worker is being stopped
#     waiting              asks for the ports of kept sockets that the worker has not bound yet, or has closed


class _KeptSockets:
    """Duplicates of the TCP sockets that the worker binds; listening ones outlive it. A pollable of the loop.

    If sockets are not to be kept, there is no pair of sockets to talk over, and all methods do nothing.
    """

    CLOSED = 5.0  # seconds until a socket that the app has closed is given up, if the app has not crashed by then
    UNCLAIMED = 30.0  # seconds after boot in which a new worker must bind what the last one had bound
    _LIMIT = 64  # sockets
    _BACKLOG = 4096  # connections that wait while no worker accepts them

    def __init__(self, logger, are_wanted):
        self._logger = logger
        self._fd = self.worker_fd = None
        if are_wanted:
            self._make_pair()
        self._sockets = []
        self.standby_pid = None  # a new fork has our descriptors for a moment
        self._worker_pid = None
        self._is_stopping = False
        self._has_warned = False

    def _make_pair(self):
        if not hasattr(os, 'fork'):
            self._logger.error('Sockets can be kept (--keep-sockets, keep_sockets) on POSIX systems only.')
            sys.exit(2)
        global _socket  # not imported at the top, because few programs keep sockets
        import _socket

        monitor_end, worker_end = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        monitor_end.setblocking(False)
        self._fd, self.worker_fd = _register_fd(monitor_end.detach()), _register_fd(worker_end.detach())
        _monitor_fds.discard(self.worker_fd)  # forked workers keep it

    def close(self):
        self.release()
        if self._fd is not None:
            _close(self._fd)
            os.close(self.worker_fd)

    # The life of a worker.

    def worker_started(self, pid):
        self._worker_pid, self.standby_pid, self._is_stopping = pid, None, False

    def worker_booted(self):
        for kept in self._sockets:
            if kept.pid is None:
                kept.check_at = time.monotonic() + self.UNCLAIMED

    def worker_stopping(self):
        """From now on connections wait for the next worker, whatever this one closes."""
        self._read_messages()
        self._is_stopping = True
        if not self._enlarge_backlogs() and self._fd is not None:
            self._logger.debug('No socket is kept: the worker listens on none, or has not bound it in Python.')

    def worker_ended(self):
        self._read_messages()
        self._worker_pid = None
        listening = self._enlarge_backlogs()
        for kept in list(self._sockets):
            kept.pid = kept.check_at = None
            if kept not in listening:
                self._drop(kept)

    def release(self):
        """Keep nothing: no worker will follow."""
        while self._sockets:
            self._drop(self._sockets[0])

    def _enlarge_backlogs(self):
        listening = [kept for kept in self._sockets if kept.is_listening()]
        for kept in listening:
            _call_socket(kept.fd, 'listen', self._BACKLOG)
        return listening

    def _drop(self, kept):
        self._sockets.remove(kept)
        _close(kept.fd)

    # A pollable.

    def wait_fd(self):
        return self._fd

    def wait_until(self):
        return min((kept.check_at for kept in self._checked()), default=None)

    def step(self):
        self._read_messages()
        now = time.monotonic()
        for kept in [kept for kept in self._checked() if now >= kept.check_at]:
            holder = self._holder(kept)
            kept.check_at = None if holder == self._worker_pid else now + self.CLOSED  # a child's end is not reported
            if holder is None:
                self._logger.debug(f'Port {kept.port} is given up: the program no longer listens there.')
                self._drop(kept)

    def _checked(self):
        """Return the sockets that have a time at which they are checked; none while the worker is being stopped."""
        return [] if self._is_stopping else [kept for kept in self._sockets if kept.check_at is not None]

    def _holder(self, kept):
        """Return the pid of a process of the app that has the socket open; None if there is none."""
        if kept.pid is None:
            return None
        if not _LINUX:
            is_open = not kept.is_closed and any(process.pid == kept.pid for process in _Process.all())
            return kept.pid if is_open else None
        pids = {int(name) for name in _list_proc() if name.isdigit()} - {os.getpid(), self.standby_pid}
        worker_first = sorted(pids, key=lambda pid: pid != self._worker_pid)
        return next((pid for pid in worker_first if f'socket:[{kept.inode}]' in self._open_files(pid)), None)

    @staticmethod
    def _open_files(pid):
        """Yield what the descriptors of a process lead to, on Linux; nothing if access is denied."""
        for name in _list_proc(str(pid), 'fd'):
            try:
                yield os.readlink(f'/proc/{pid}/fd/{name}')
            except OSError:
                pass  # the descriptor has just been closed

    # Messages.

    def _read_messages(self):
        for _ in range(100 if self._fd is not None else 0):  # a flood must not stop the loop
            try:
                data, fds = _receive_fds(self._fd)
            except BlockingIOError:
                return
            fds = [_register_fd(fd) for fd in fds]
            try:
                kind, *fields = data.decode().split('\0')
                {'bind': self._on_bind, 'closed': self._on_closed, 'waiting': self._on_waiting}[kind](fds, *fields)
            except (OSError, ValueError, LookupError, TypeError):
                if not self._has_warned:
                    self._has_warned = True
                    self._logger.error(f'The worker sent an unknown message about sockets ({data[:40]!r}); ignored.')
            for fd in fds:
                _close(fd)

    def _on_bind(self, fds, pid, port, name):
        reply_fd, fd = fds
        new = _KeptSocket(fd, int(pid), port, name)
        found = self._find(new)
        if found:
            found.pid, found.is_closed = new.pid, False
        elif name and len(self._sockets) < self._LIMIT:
            self._sockets.append(new)
            fds.remove(fd)  # it stays open
        kept = found or new
        kept.check_at = None if kept.pid == self._worker_pid else time.monotonic() + self.CLOSED
        _send_fds(reply_fd, b'\1', *([found.fd] if found else []))

    def _find(self, new):
        """Return the kept socket for the new one's address; drop those that might prevent binding the new one."""
        has_failed = [kept for kept in self._sockets if kept.inode == new.inode]  # this socket, maybe elsewhere
        for kept in has_failed:
            self._drop(kept)
        found = None
        for kept in [kept for kept in self._sockets if kept.port == new.port and not self._holder(kept)]:
            if kept.name == new.name and kept.is_listening() and not found:
                found = kept
            elif has_failed or not new.name or not kept.is_listening() or not _LINUX:  # other systems may bind both
                self._drop(kept)
        return found

    def _on_closed(self, fds, *address):
        for kept in self._sockets:
            if kept.pid and address in ((), (kept.port, kept.name)):
                kept.is_closed = True
                kept.check_at = time.monotonic() + (self.CLOSED if kept.is_listening() else 0)
        for reply_fd in fds:
            _send_fds(reply_fd, bytes([self._is_stopping]))

    def _on_waiting(self, fds):
        is_open = {kept.port for kept in self._sockets if kept.pid and not (kept.is_closed and not self._holder(kept))}
        waiting = {kept.port for kept in self._sockets} - is_open
        for reply_fd in fds:
            _send_fds(reply_fd, ' '.join(waiting).encode())


class _KeptSocket:
    """A socket that a worker has bound, or is about to bind."""

    def __init__(self, fd, pid, port, name):
        self.fd = fd
        self.inode = os.fstat(fd).st_ino
        self.pid = pid  # of the running worker's process that has bound it; None: none has yet
        self.port = port
        self.name = name
        self.is_closed = False  # as that process has reported
        self.check_at = None  # when to check whether it is still open, or to give it up if no process has bound it
        self.is_listening()  # raises OSError if it is no socket

    def is_listening(self):
        return bool(_call_socket(self.fd, 'getsockopt', _socket.SOL_SOCKET, _socket.SO_ACCEPTCONN))


class _SocketHooks:
    """In the worker: extends `bind`, `connect`, `shutdown`, `close` and `detach` of every socket.

    All socket classes, gevent's too, derive from `_socket.socket`, which a class of ours replaces.
    """

    _OPTIONS = {
        'SOL_SOCKET': 'SO_KEEPALIVE SO_LINGER SO_OOBINLINE SO_PRIORITY SO_RCVBUF SO_SNDBUF SO_REUSEADDR',
        'IPPROTO_TCP': 'TCP_NODELAY TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_USER_TIMEOUT TCP_DEFER_ACCEPT',
    }

    def __init__(self, fd):
        global _socket  # not imported at the top, because few programs keep sockets
        import _socket

        _set_inheritable(fd, False)
        self._fd, self._identity = fd, _identity(fd)
        self._bound = {}  # inode -> (port, name), of the sockets that this process has bound
        self._ends = {}  # (port, name) -> weak reference to the socket that was bound last
        self._epoll = getattr(select, 'epoll', None)  # gevent removes it later
        self._is_any_waiting = True  # whether a kept socket may exist that the app has not open
        base = _socket.socket
        for each in base.__subclasses__():  # those that Python has imported at startup
            self._patch(each, '_real_close' if hasattr(each, '_real_close') else 'close')
        _socket.socket = type('socket', (base,), {'__slots__': (), '__module__': '_socket'})
        self._patch(_socket.socket, 'close')

    def _patch(self, cls, close):
        original_bind, original_shutdown = cls.bind, cls.shutdown

        def bind(sock, address, /):
            for is_last in (False, True):
                try:
                    if not self._take_over(sock, address):
                        original_bind(sock, address)
                    break
                except OSError as error:  # asked again, the monitor drops what overlaps
                    if is_last or error.errno != errno.EADDRINUSE:
                        raise
            self._watch_end(sock)

        def shutdown(sock, how, /):
            address = self._address_of(sock)
            if address is None or self._request('closed', *address)[0] != b'\1':
                original_shutdown(sock, how)  # ends it for the next worker, too: not while this one is being stopped

        cls.bind, cls.shutdown = bind, shutdown
        self._patch_connect(cls)
        setattr(cls, close, self._reporting(getattr(cls, close)))
        if _LINUX:  # elsewhere the monitor can't see whether another object has the socket now
            cls.detach = self._reporting(cls.detach)

    def _patch_connect(self, cls):
        """Refuse connections that probe for a free port or a server: unless the app has bound, nobody listens."""
        original_connect, original_connect_ex = cls.connect, cls.connect_ex

        def connect(sock, address, /):
            if self._is_waiting(sock, address):
                raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))  # a ConnectionRefusedError
            original_connect(sock, address)

        def connect_ex(sock, address, /):
            return errno.ECONNREFUSED if self._is_waiting(sock, address) else original_connect_ex(sock, address)

        cls.connect, cls.connect_ex = connect, connect_ex

    def _is_waiting(self, sock, address):
        """Whether a local address belongs to a kept socket that the app has not bound yet, or has closed."""
        if not self._is_any_waiting or not isinstance(address, tuple) or len(address) < 2:
            return False
        ports = self._request('waiting')[0].decode().split()
        self._is_any_waiting = bool(ports)
        return str(address[1]) in ports and bool(self._tcp_address(sock, address)[0]) and self._is_local(sock, address)

    @staticmethod
    def _is_local(sock, address):
        """Whether an address is one of this machine: only there can a socket be bound."""
        try:
            probe = _socket.socket(sock.family, _socket.SOCK_DGRAM)
        except OSError:
            return False  # too many open files
        try:
            probe.bind((address[0], 0, *address[2:]))
            return True
        except OSError:
            return False
        finally:
            probe.close()

    def _reporting(self, method):
        def wrapper(sock, *args):
            address = self._address_of(sock)
            result = method(sock, *args)
            if address is not None:
                self._send('closed', *address)
                self._is_any_waiting = True
            return result

        return wrapper

    def _address_of(self, sock):
        """Return (port, name) of a socket that this process has bound; () for a closed one, None for any other."""
        fd = sock.fileno()
        if fd < 0 or not self._bound:
            return None
        try:
            return self._bound.get(os.fstat(fd).st_ino or fd)
        except OSError:
            return ()  # uvloop has closed the descriptor

    def _take_over(self, sock, address):
        """Replace the app's socket by the kept one for an address; return whether there is one."""
        port, name = self._tcp_address(sock, address)
        if not port:
            return False
        fd = sock.fileno()
        _, found = self._request('bind', str(os.getpid()), port, name, fds=[fd])
        for new in found:
            self._copy_options(fd, new)
            os.set_blocking(new, os.get_blocking(fd))
            waits = list(self._epoll_events(fd))
            os.dup2(new, fd, os.get_inheritable(fd))
            os.close(new)
            for epoll_fd, events in waits:
                self._epoll.fromfd(os.dup(epoll_fd)).register(fd, events)
        self._bound[os.fstat(fd).st_ino or fd] = port, name
        return bool(found)

    def _epoll_events(self, fd):
        """Yield the epoll descriptors that a descriptor is registered with, and for what events: `dup2` ends that."""
        for name in _list_proc('self', 'fdinfo') if self._epoll else ():
            lines = _read_proc('self', 'fdinfo', name).splitlines()
            for _, target, _, events, *_ in [line.split() for line in lines if line.startswith(b'tfd:')]:
                if int(target) == fd:
                    yield int(name), int(events, 16)

    def _watch_end(self, sock):
        """Report the end of a socket that is freed without close()."""
        address = self._address_of(sock)
        if address and _LINUX:
            try:
                self._ends[address] = _weakref.ref(
                    sock, lambda _, is_over=sys.is_finalizing: is_over() or self._send('closed', *address)
                )
            except TypeError:
                pass  # its class allows no weak references

    @staticmethod
    def _tcp_address(sock, address):
        """Return the port to which a TCP socket is to be bound, as text, and the rest of the address, resolved."""
        s = _socket
        is_tcp = sock.type == s.SOCK_STREAM and sock.family in (s.AF_INET, s.AF_INET6)
        host, port = address[:2] if is_tcp and isinstance(address, tuple) and len(address) > 1 else ('', 0)
        if not isinstance(port, int) or not port or not isinstance(host, (str, bytes)):
            return '', ''
        try:  # as bind does: '' and '0.0.0.0' are one address, as are 'localhost' and '127.0.0.1'
            host = s.getaddrinfo(host or None, '0', sock.family, s.SOCK_STREAM, 0, s.AI_PASSIVE)[0][4][0]
        except (OSError, ValueError):
            return '', ''
        if sock.getsockopt(s.SOL_SOCKET, s.SO_REUSEPORT):
            return str(port), ''
        is_v6_only = sock.family == s.AF_INET6 and sock.getsockopt(s.IPPROTO_IPV6, s.IPV6_V6ONLY)
        return str(port), f'{host} {int(sock.family)} {is_v6_only:d}'

    def _copy_options(self, source, target):
        """Make the options of a kept socket the same as those of the app's own."""
        for level, names in self._OPTIONS.items():
            for name in names.split():
                option = getattr(_socket, level), getattr(_socket, name, None)
                try:
                    value, current = (_call_socket(fd, 'getsockopt', *option, 8) for fd in (source, target))
                    if value != current:
                        if _LINUX and name in ('SO_RCVBUF', 'SO_SNDBUF'):  # Linux reports twice what was set
                            value = (int.from_bytes(value, sys.byteorder) // 2).to_bytes(4, sys.byteorder)
                        _call_socket(target, 'setsockopt', *option, value)
                except (OSError, TypeError):
                    pass  # this system does not have the option

    def _request(self, *fields, fds=()):
        """Send a message; return the reply."""
        try:
            ours, theirs = _socket.socketpair()
        except OSError:
            return b'', []  # too many open files
        try:
            ours.settimeout(None)
            self._send(*fields, fds=[theirs.fileno(), *fds])
            theirs.close()  # now the wait ends if the monitor does
            return _receive_fds(ours.fileno())
        finally:
            ours.close()
            theirs.close()

    def _send(self, *fields, fds=()):
        if _identity(self._fd) == self._identity:  # the app has not closed it
            try:
                _send_fds(self._fd, '\0'.join(fields).encode('utf-8', 'backslashreplace'), *fds)
            except OSError:
                pass  # the monitor has gone


def _call_socket(fd, method, *args):
    """Call a method of the socket behind a descriptor, which stays open."""
    is_blocking = os.get_blocking(fd)
    sock = _socket.socket(fileno=fd)
    try:
        sock.setblocking(is_blocking)  # PyPy or a default timeout has changed that, for the app as well
        return getattr(sock, method)(*args)
    finally:
        sock.detach()


def _send_fds(socket_fd, data, *fds):
    packed = b''.join(fd.to_bytes(4, sys.byteorder) for fd in fds)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if fds else []
    _call_socket(socket_fd, 'sendmsg', [data], ancillary)


def _receive_fds(socket_fd):
    """Return the next message, and the descriptors that came with it: two at most."""
    flags = getattr(_socket, 'MSG_CMSG_CLOEXEC', 0)
    message, ancillary, _, _ = _call_socket(socket_fd, 'recvmsg', 1024, _socket.CMSG_SPACE(8), flags)
    fds = [fd for *_, data in ancillary for fd in memoryview(data[: len(data) // 4 * 4]).cast('i')]
    for fd in fds:
        _set_inheritable(fd, False)
    return message, fds


# ------------------------------------------------------------------------------------------------------- file monitors
#
# The loop drives a file monitor of ours: it waits for `wait_fd` and `wait_until`, calls `step`, then `take_changes`.
# `add_path`, `watch_file`, `add_missing` and `discard` say what to watch. A new monitor derives from PollingFileMonitor
# and extends these methods of it:
#
#   __init__                       raises OSError or ImportError where it can't work
#   _watch_file, _watch_folder     ask the system for events; add to `polled` what it can't watch
#   _forget_file, _forget_folder   end that
#   step                           hands the path of each event to `check`, then calls `super().step()`
#   wait_fd                        returns a descriptor that can be read when there are events; or a thread calls `wake`
#   drain                          takes the events so far, before a start; only if they are not there by themselves
#   stop, join                     free what it holds
#
# It does not override `start`: by that `FileMonitorProxy.open` knows that the loop can drive it. Its name goes into
# `_MONITORS`, best first. One without threads is also named in `_Supervisor.__init__`, which then may fork.


class _Change:
    """A path that has changed, the evidence of it, and when that was, by time.monotonic().

    The evidence says how long to wait for more of it (see `settle_time`). WRITING and COMPLETE count even if the
    signature is the same. The time of a polled change is that of the last look that did not show it.
    """

    UNSETTLED = 'unsettled'  # a new file, which may be temporary
    POLLED = 'polled'
    NOTIFIED = 'notified'
    WRITING = 'writing'
    COMPLETE = 'complete'  # closed or renamed

    __slots__ = 'path', 'evidence', 'at'

    def __init__(self, path, evidence, at):
        self.path, self.evidence, self.at = path, evidence, at


@_hide_from_tracebacks
def _signature(path, stat=None):
    """Return a number that changes with a file's mtime, size, inode and device; 0 if there is no such file."""
    try:
        stat = stat or os.stat(path)  # not by _stat: polling would notice an extra call per file
    except (OSError, ValueError):
        return 0
    return hash((stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev))


@_hide_from_tracebacks
def _stat(path, function=os.stat):
    try:
        return function(path)
    except (OSError, ValueError):
        return None


class PollingFileMonitor(_Pollable, IFileMonitor):
    """Looks at every file again and again: works everywhere, and costs about 1 % of a core.

    The pause after a look is 100 times as long as the look, at least 0.1 s and at most `interval`; a look that takes
    over a hundredth of `interval` costs more. Our other monitors derive from this one. For programs without our loop,
    `start` makes a thread that calls `callback(path)`.
    """

    MODULE_SUFFIXES = tuple(_external.SOURCE_SUFFIXES + _external.BYTECODE_SUFFIXES + _imp.extension_suffixes())
    _SHORTEST_PAUSE = 0.1
    _SLICE = 0.02  # seconds of work in one step; the loop answers signals in between

    def __init__(self, callback, interval=1, logger=None, **kw):
        self.callback = callback
        self.interval = interval
        self.logger = logger or SilentLogger()
        self.wake = lambda: None
        self.ignored = lambda path: False
        self.files = {}  # path -> signature
        self.explicit = set()  # the paths that were asked for by name
        self.rules = []  # (folder, components of a glob below it or None for everything)
        self.folders = {}  # folder that a rule leads to -> its device and inode
        self.missing = {}  # folder -> names of modules that were not found there
        self.polled = set()  # files and folders without events
        self.created = set()  # files that appeared in watched folders after the worker's start
        self.started_ns = 0  # when that was; 0: before this monitor
        self._names = {}  # device and inode of a folder -> the paths under which it was found
        self._mtimes = {}  # polled folder -> its mtime
        self._unread = []  # (folder, since): folders to be read, the last one first
        self._job = None  # a generator: a look at all polled files, or other work that is done in slices
        self._changes = []
        self._last_glances = {}  # polled file -> the value that _glances() gave
        self._seen_at = 0  # during a look: when the look before it began
        self._looked_at = time.monotonic()
        self._next_look = self._looked_at + min(interval, self._SHORTEST_PAUSE)
        self._thread = None
        self._lock = _thread.allocate_lock()  # between that thread and those that call add_path
        self._stopped = False

    def add_path(self, path, since=None):
        """Watch a file, a folder with all below it, or a glob; files newer than `since` (ns) have changed."""
        with self._lock:
            self._add_path(path, since)

    def _add_path(self, path, since):
        root, pattern = _split_glob(path)
        if os.path.isdir(path):
            self._add_rule((path, None), since)
        elif pattern:
            self._add_rule((root, pattern), since)
            if not _has_magic(pattern[-1]):  # the match may be a folder
                self._add_rule((root, (*pattern, '**', '*')), since)
        else:
            self.explicit.add(path)
            self._add_file(path, since)
        if not self._thread:
            self._work()

    def watch_file(self, path, signature):
        """Watch a file that had this signature when it was last read (0: it was missing); note any change."""
        if path in self.explicit and self.files.get(path) == signature:
            return  # it has been watched since
        self.explicit.add(path)
        self._watch_file(path)
        self._set_signature(path, signature)
        if signature != _signature(path):
            self.check(path, _Change.COMPLETE)

    def add_missing(self, path, has_parent=True):
        """Watch for a module that was not found at `path`, without its suffix; `has_parent`: the folder was there."""
        folder, name = os.path.split(path)
        if has_parent and os.path.isfile(folder):
            return  # a zip file
        self._watch_folder(folder)
        self.missing.setdefault(folder, set()).add(name)
        for suffix in ('', *self.MODULE_SUFFIXES):
            self._check_entry(path + suffix, _Change.UNSETTLED)  # it may have appeared meanwhile
        if not has_parent:
            self.rescan(folder)

    def discard(self, paths):
        """Forget these files; folders stay, because other files may be found through them."""
        for path in set(paths).difference(root for root, _ in self.rules):
            self.explicit.discard(path)
            if os.path.dirname(path) not in self.folders:
                self._forget_file(path)

    def new_worker(self, started_ns):
        """Note that a worker has started: it reads all that was changed before."""
        self.started_ns = started_ns
        self.created.clear()
        self._unread = [(folder, max(since, started_ns)) for folder, since in self._unread]

    def take_changes(self):
        """Return what has changed since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def _add_rule(self, rule, since):
        if rule not in self.rules:
            self.rules.append(rule)
            self.explicit.add(rule[0])
            self._add_file(rule[0])
            self._add_folder(rule[0], _file_clock() if since is None else since)

    def _add_file(self, path, since=None):
        self._watch_file(path)
        self._set_signature(path, _signature(path))
        if since is not None and _is_younger(path, _stat(path), since):
            self._changed(path, _Change.UNSETTLED)

    def _set_signature(self, path, signature):
        self.files[path] = signature
        self._last_glances.pop(path, None)  # the last one may be of another file

    def _add_folder(self, folder, since):
        """Queue a folder, with all below it that a rule leads to, for reading; links come last."""
        is_link = folder not in self.explicit and os.path.islink(folder)
        self._unread.insert(0 if is_link else len(self._unread), (folder, since))

    def _read_folder(self, folder, since):
        """Watch a folder, then its entries."""
        inode = _inode(folder)
        if inode and self._is_read_elsewhere(folder, inode):
            if os.path.islink(folder):
                self._add_file(folder)  # the link may be changed
            return
        self.folders[folder] = inode
        self._watch_folder(folder)
        if not os.path.isdir(folder):
            self._drop_folder(folder)
        if self._is_moved_here(folder, since):
            since = 0
        for entry, is_folder in _entries(folder):
            if is_folder:
                if self._should_descend(entry):
                    self._add_folder(entry, since)
            elif entry not in self.files and self._is_watched_entry(entry):
                self._add_file(entry, since)

    @staticmethod
    def _is_moved_here(folder, since):
        """Whether a folder was moved or linked to this path since then (ns), so that its files may be older."""
        if since and os.path.islink(folder) and _newest_link(folder) >= since:
            return True
        stat = since and _stat(folder)
        return bool(stat) and stat.st_mtime_ns < since and _is_younger(folder, stat, since)

    def _is_read_elsewhere(self, folder, inode):
        """Whether a link leads to a folder that is read under another name, with the same rules below it."""
        names = self._names.setdefault(inode, set())
        names.add(folder)
        others = [name for name in names if name != folder and name in self.folders]
        if not others or folder in self.explicit or os.path.realpath(folder) == folder:
            return False
        return self._rests(folder) in map(self._rests, others)

    def _drop_folder(self, path):
        """Forget a folder that has gone, and all below it; its files count as changed."""
        below = path + os.sep
        for folder in [each for each in self.folders if each == path or each.startswith(below)]:
            inode = self.folders.pop(folder)
            self._mtimes.pop(folder, None)
            if folder not in self.files:
                self.polled.discard(folder)
            self._forget_folder(folder)
            for name in self._names.pop(inode, set()) - {folder}:
                self._add_folder(name, since=0)
        for file in [each for each in self.files if each.startswith(below)]:
            self.check(file)
        if os.path.islink(path) and not os.path.exists(path):
            self._add_file(path)  # it may come to lead somewhere again

    def check(self, path, evidence=_Change.UNSETTLED):
        """Note a change of `path` if its signature, or the evidence, says that there is one."""
        if path not in self.files:
            return self._check_entry(path, evidence)
        old, new = self.files[path], _signature(path)
        if new or path in self.explicit or os.path.islink(path):
            self._set_signature(path, new)
        else:
            self._forget_file(path)
        if os.path.isdir(path):
            self._check_folder(path)
        elif new != old or (new and evidence in (_Change.WRITING, _Change.COMPLETE)):
            self._changed(path, evidence)
        else:
            self.logger.debug(f'{path} has not changed.')

    def _check_folder(self, path):
        """Watch a folder that has appeared, perhaps where a file was expected."""
        if path not in self.folders and (path in self.explicit or self._should_descend(path)):
            if path in self.explicit and path not in [root for root, _ in self.rules]:
                self.rules.append((path, None))
            self._add_folder(path, since=0)

    def _check_entry(self, path, evidence):
        """Check an entry of a watched folder that is not a known file."""
        folder, name = os.path.split(path)
        stem, dot, suffix = name.partition('.')
        is_module = not dot or dot + suffix in self.MODULE_SUFFIXES
        exists = os.path.isfile if dot else os.path.isdir  # a package has no suffix
        if is_module and stem in self.missing.get(folder, ()) and exists(path):
            self.missing[folder].discard(stem)  # the new worker reports it if it is still missing
            self._changed(path, _Change.UNSETTLED)
        if folder not in self.folders:
            return
        if path in self.folders and (os.path.islink(path) or not os.path.isdir(path)):
            self._drop_folder(path)
        if os.path.isdir(path):
            self._check_folder(path)
        elif (os.path.isfile(path) or os.path.islink(path)) and self._is_watched_entry(path):
            self._add_file(path)
            if not self.files[path]:
                return  # a link to what does not exist yet
            if _is_younger(path, _stat(path), self.started_ns):
                self.created.add(path)
            # Even a complete one may be a temporary file.
            self._changed(path, _Change.UNSETTLED if evidence is _Change.COMPLETE else evidence)

    def rescan(self, folder):
        """Check the entries of a folder that are not known yet."""
        if folder in self.missing and os.path.isfile(folder):  # a zip file
            del self.missing[folder]
            self._changed(folder, _Change.UNSETTLED)
        for entry, _ in _entries(folder):
            if entry not in self.files and entry not in self.folders:
                self._check_entry(entry, _Change.UNSETTLED)

    def has_vanished(self, path):
        """Whether a new file, which nobody has asked for, has gone again, as temporary files do."""
        return path in self.created and path not in self.explicit and not os.path.lexists(path)

    def _changed(self, path, evidence):
        if not self.ignored(path):
            self._changes.append(_Change(path, evidence, self._seen_at or time.monotonic()))

    # Which entries of a watched folder count.

    def _is_watched_entry(self, path):
        if self.ignored(path) or self._is_temporary(os.path.basename(path)):
            return False
        return any(rest is None or set(rest) <= {'**'} for rest in self._rests(path))

    @staticmethod
    def _is_temporary(name):
        """Whether a file is bytecode, or one that an editor puts beside the file it saves."""
        endings = '.pyc .pyo ~ .swp .swo .swx .swpx .kate-swp .tmp ___jb_tmp___ ___jb_old___'
        if name.startswith(('.#', '.~', '.goutputstream-', '.nfs')) or name.endswith(tuple(endings.split())):
            return True
        return name == '4913' or (name.startswith('#') and name.endswith('#'))

    def _should_descend(self, path):
        """Whether to read a folder: not a hidden one, an environment or a cache, nor one deeper than a glob goes."""
        name = os.path.basename(path)
        if name.startswith('.') or name in ('__pycache__', 'node_modules') or self.ignored(path):
            return False
        if os.path.islink(path):
            folder = os.path.join(os.path.realpath(os.path.dirname(path)), '')
            if folder.startswith(os.path.join(os.path.realpath(path), '')):
                return False  # a link to the folder that it is in, or to one above that
        if os.path.exists(os.path.join(path, 'pyvenv.cfg')):
            return False
        return not self._rests(path) <= {()}

    def _rests(self, path):
        """Return what is left of the globs at this path; {None} if everything below it is watched."""
        rests = set()
        for root, pattern in self.rules:
            if path == root or path.startswith(os.path.join(root, '')):
                if pattern is None:
                    return {None}
                rests |= _glob_rests(pattern, filter(None, path[len(root) :].split(os.sep)))
        return rests

    # What other monitors extend: here nothing sends events.

    def _watch_file(self, path):
        self.polled.add(path)

    def _watch_folder(self, path):
        self.polled.add(path)

    def _forget_file(self, path):
        self.files.pop(path, None)
        self._last_glances.pop(path, None)
        self.polled.discard(path)

    def _forget_folder(self, path):
        pass

    # For the loop.

    def wait_until(self):
        if self._changes or self._is_busy():
            return 0
        return self._next_look if self.polled else None

    def step(self):
        if self.polled and not self._job and time.monotonic() >= self._next_look:
            self._job = self._look()
        self._work()

    def _is_busy(self):
        return bool(self._unread or self._job)

    def _work(self):
        """Read folders and run the job for one slice of time."""
        until = time.monotonic() + self._SLICE
        while self._is_busy():
            if self._unread:
                self._read_folder(*self._unread.pop())
            elif next(self._job, None) is None:
                self._job = None
            if time.monotonic() >= until:
                break

    def _look(self):
        """Look at all that is polled: files, then folders."""
        started = time.monotonic()
        self._seen_at = self._looked_at
        files, known = [path for path in self.files if self._is_polled(path)], self._last_glances
        for number, (path, glance) in enumerate(_glances(files)):
            if glance != known.get(path):
                known[path] = glance
                self.recheck(path)
            if number % 100 == 99:
                yield path
        for folder in self.polled.intersection({*self.folders, *self.missing}):
            self._poll_folder(folder)
            yield folder
        self._looked_at, self._seen_at, now = started, 0, time.monotonic()
        self._next_look = now + min(self.interval, max(self._SHORTEST_PAUSE, 100 * (now - started)))

    def _is_polled(self, path):
        return path in self.polled or os.path.dirname(path) in self.polled

    def recheck(self, path):
        """Return whether a polled file has changed; note the change."""
        is_changed = self._is_polled(path) and self.files.get(path) not in (None, _signature(path))
        if is_changed:
            self.check(path, _Change.POLLED)
        return is_changed

    def _poll_folder(self, folder):
        stat = _stat(folder)
        if folder in self.folders and self.folders[folder] != _inode(folder, stat):
            self._drop_folder(folder)
            if stat:
                self._add_folder(folder, since=0)
        elif stat and self._mtimes.get(folder) != stat.st_mtime_ns:
            # A folder that changed just now may do so again within the same tick of its clock: look again then.
            if time.time_ns() - stat.st_mtime_ns >= 2_000_000_000:
                self._mtimes[folder] = stat.st_mtime_ns
            self.rescan(folder)

    # For programs without our loop.

    def start(self):
        import threading

        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stopped:
            with self._lock:
                self.step()
                changes = self.take_changes()
            for change in changes:
                self.callback(change.path)
            if not self._is_busy():
                time.sleep(min(self.interval, 0.1))

    def stop(self):
        self._stopped = True

    def join(self, timeout=None):
        if self._thread:
            self._thread.join(timeout)

    def is_alive(self):  # in hupper 1.12 this class is a thread
        return bool(self._thread) and self._thread.is_alive()


class WatchdogFileMonitor(PollingFileMonitor):
    """Gets events from the package `watchdog` (>= 2), which works on many systems; also polls once per interval."""

    _SHORTEST_PAUSE = _FOREVER  # `interval` is shorter

    def __init__(self, callback, logger=None, interval=1, **kw):
        try:
            from watchdog.observers import Observer
        except ImportError as error:
            raise ImportError(f'{error}; try: pip install watchdog') from None
        super().__init__(callback, interval, logger, **kw)
        self._observer = Observer()
        self._scheduled = {}  # folder -> watch
        self._events = []  # kinds of event and paths, from the threads of watchdog
        self._writing = set()  # files that were written to and not closed yet
        self._observer.start()

    def dispatch(self, event):
        """Take an event of watchdog, in one of its threads."""
        if event.event_type in ('created', 'modified', 'moved', 'deleted', 'closed'):
            paths = [os.fsdecode(path) for path in (event.src_path, getattr(event, 'dest_path', '')) if path]
            self._events.extend((event.event_type, path) for path in paths)
            self.wake()

    def wait_until(self):
        return 0 if self._events else super().wait_until()

    def step(self):
        for kind, path in dict.fromkeys(self._events.pop(0) for _ in range(len(self._events))):
            is_complete = kind == 'closed' and path in self._writing
            if kind == 'modified':
                self._writing.add(path)
            else:
                self._writing.discard(path)
            self.check(path, _Change.COMPLETE if is_complete else _Change.UNSETTLED)
        super().step()

    def _watch_file(self, path):
        super()._watch_file(path)
        self._watch_folder(os.path.dirname(path))

    def _watch_folder(self, path):
        super()._watch_folder(path)
        if path not in self._scheduled and os.path.isdir(path):  # for a missing one Windows prints a traceback
            try:
                self._scheduled[path] = self._observer.schedule(self, path)
            except Exception as error:  # not an OSError everywhere
                self.logger.debug(f'watchdog does not watch {path} ({error}): it is polled.')

    def _forget_folder(self, path):
        watch = self._scheduled.pop(path, None)
        if watch:
            self._observer.unschedule(watch)

    def stop(self):
        super().stop()
        self._observer.stop()

    def join(self, timeout=None):
        super().join(timeout)
        self._observer.join(timeout)


class InotifyFileMonitor(PollingFileMonitor):
    """Gets events from the Linux kernel (`man 7 inotify`), without any thread or process in between.

    It watches folders, because editors replace files; each file that was asked for by name, because it may be written
    through another link or mount; and the folders above, which may be moved. It polls what can't be watched.
    """

    def __init__(self, callback, interval=1, logger=None, **kw):
        super().__init__(callback, interval, logger, **kw)
        self._inotify = _Inotify()
        self._mounts = _Mounts()
        self._warned = set()
        self._watches = {}  # watch descriptor -> the paths that it was added for
        self._masks = {}  # path -> (watch descriptor, mask)
        self._real = {}  # folder -> its real path, None if it does not exist
        self._inodes = {}  # the same folders, unless the parent is watched -> device and inode
        self._linked = {}  # real path of an entry -> the files whose paths lead through it; None: a folder's path does
        self._writing = set()  # files that were written to and not closed yet

    def wait_fd(self):
        return self._inotify.fd

    def stop(self):
        super().stop()
        if not self._thread:  # which may be reading
            self._inotify.close()

    def join(self):
        super().join()
        self._inotify.close()

    def drain(self):
        self.step()
        # A deleted folder that is still some process's cwd sends no event, even when it is created again.
        if any(_inode(folder) != inode for folder, inode in self._inodes.items()):
            self._job = self._resync()
            self._work()

    def step(self):
        masks, is_lost = {}, False
        for wd, mask, name in self._inotify.read():
            is_lost = is_lost or bool(mask & (_IN.Q_OVERFLOW | _IN.UNMOUNT))
            for place in self._watches.get(wd, ()):
                path = os.path.join(place, name) if name else place
                masks[path] = masks.get(path, 0) | mask
            for place in self._watches.pop(wd, ()) if mask & _IN.IGNORED else ():
                self._masks.pop(place, None)  # the kernel has ended the watch, because its target has gone
        for path, mask in masks.items():
            is_lost = self._on_event(path, mask) or is_lost
        if is_lost:
            self._job = self._resync()
        super().step()

    def _on_event(self, path, mask):
        """Handle all events of one path; return whether they change what other paths lead to."""
        names = self._linked.get(path, set())
        # Only the parent reports the deletion of a folder that is still some process's cwd.
        is_moved = mask & _IN.SELF or (mask & _IN.ENTRY and self._real.get(path))
        is_lost = None in names and mask & _IN.ENTRY
        is_lost = is_lost or (is_moved and path not in self.files and not self._is_inside(path))
        evidence = self._evidence(path, mask)
        if mask & _IN.ENTRY and path in self.folders:
            self._drop_folder(path)  # the folder there now may be another one
        for name in (names | {path}) - {None}:
            is_same = name == path or _signature(name) == _signature(path)  # the link may lead elsewhere by now
            self.check(name, evidence if is_same else _Change.NOTIFIED)
            if mask & (_IN.ENTRY | _IN.SELF) and name in self.files:
                self._unwatch(name)  # the name means another file now
                self._watch_file(name)
        return bool(is_lost)

    def _is_inside(self, path):
        """Whether the parent's watch also reports a folder's deletion or move, and no explicit path is below it."""
        below = path + os.sep
        return os.path.dirname(path) in self.folders and not any(name.startswith(below) for name in self.explicit)

    def _evidence(self, path, mask):
        written = mask & (_IN.MODIFY | _IN.CREATE) or path in self._writing
        if mask & _IN.MOVED_TO or (mask & _IN.CLOSE_WRITE and written):
            self._writing.discard(path)
            return _Change.COMPLETE
        if mask & _IN.MODIFY or (mask & _IN.CREATE and self._is_plain_file(path)):
            self._writing.add(path)
            return _Change.WRITING
        if mask & (_IN.DELETE | _IN.MOVED_FROM):
            self._writing.discard(path)
        return _Change.NOTIFIED

    @staticmethod
    def _is_plain_file(path):
        """Whether a path is a regular file with one name: neither a symbolic link nor one of several hard links."""
        stat = _stat(path, os.lstat)
        return bool(stat) and stat.st_mode & 0o170000 == 0o100000 and stat.st_nlink == 1

    def _resync(self):
        """Watch everything again, then compare it: events were lost, or a folder above has changed."""
        self._seen_at = 0  # a look may have been interrupted
        for table in (self.polled, self._masks, self._real, self._inodes, self._linked, *self._watches.values()):
            table.clear()
        self._mounts = _Mounts()
        for folder in [folder for folder in self.folders if not os.path.isdir(folder)]:
            self._drop_folder(folder)
        for folder in [*self.folders, *self.missing]:
            self._watch_folder(folder)
            yield folder
        for path in list(self.files):
            self._watch_file(path)
            self.check(path)
            yield path
        for wd in [wd for wd, places in self._watches.items() if not places]:
            self._remove_watch(wd)
        for folder in [*self.folders, *self.missing]:
            self.rescan(folder)
            yield folder

    # Watches: what is asked of the kernel, and for whom.

    def _watch_file(self, path):
        if path not in self.explicit and self._is_plain_file(path) and path not in self._mounts.types:
            return  # the events of its folder are enough
        folder, name = os.path.split(path)
        for _ in range(40):  # as many links as the kernel follows
            real = self._resolve_and_watch(folder)
            if real is None:
                return  # a watch waits for the missing part of the path
            entry = os.path.join(real, name)
            if entry != path:
                self._linked.setdefault(entry, set()).add(path)
            self._add_watch(real, _IN.CHANGES, path)
            try:
                folder, name = os.path.split(os.path.join(real, os.readlink(entry)))
            except OSError:
                break  # not a link
        self._add_watch(path, _IN.CHANGES, path)

    def _watch_folder(self, path):
        if self._resolve_and_watch(path) is not None:
            self._add_watch(path, _IN.CHANGES, path)

    def _resolve_and_watch(self, folder):
        """Return the real path of a folder, None if it is missing; watch everything that could change that path."""
        if folder in self._real:
            return self._real[folder]
        here, todo, links = os.sep, folder.split(os.sep)[::-1], 0
        while todo and here:
            name = todo.pop()
            if name in ('', os.curdir):
                continue
            entry = os.path.dirname(here) if name == os.pardir else os.path.join(here, name)
            try:
                todo += os.readlink(entry).split(os.sep)[::-1]
            except OSError as error:
                if error.errno == errno.EINVAL:  # no link, as nearly always
                    self._add_watch(entry, _IN.SELF, folder)
                    here = entry
                    continue
                todo.append(name)  # it is missing; if it has appeared just now, look again
            self._linked.setdefault(entry, set()).add(None)
            self._add_watch(here, _IN.CHANGES, folder)
            links += 1
            here = (os.sep if todo and todo[-1] == '' else here) if os.path.lexists(entry) and links <= 40 else None
        self._real[folder] = here
        if os.path.dirname(folder) not in self.folders:
            self._inodes[folder] = _inode(folder)
        return here

    def _add_watch(self, path, mask, name):
        """Watch `path` on behalf of `name`, which is polled if `path` can't be watched."""
        _, old = self._masks.get(path, (None, 0))
        if old & mask == mask:
            return
        mount = self._mounts.remote(path) if mask != _IN.SELF else None
        if mount:
            kind = self._mounts.types[mount]
            self._poll_instead(name, f'{mount} ({kind}) may not tell of changes: what is there is polled.')
            return
        try:
            wd = self._inotify.add(path, mask)
        except OSError as error:
            if mask == _IN.SELF or error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return
            message = f'inotify cannot watch {path} ({error.strerror}): it is polled.'
            if error.errno == errno.ENOSPC:
                message = 'The limit of inotify watches is reached; some files are polled. '
                message += 'To raise it: sysctl fs.inotify.max_user_watches=1048576'
            self._poll_instead(name, message)
            return
        self._watches.setdefault(wd, set()).add(path)
        self._masks[path] = wd, old | mask

    def _poll_instead(self, path, message):
        """Poll a path; log why, once."""
        self.polled.add(path)
        if message not in self._warned:
            self._warned.add(message)
            self.logger.error(message)

    def _forget_file(self, path):
        super()._forget_file(path)
        self._unwatch(path)

    def _forget_folder(self, path):
        self._real.pop(path, None)
        self._inodes.pop(path, None)
        self._unwatch(path)

    def _unwatch(self, path):
        """End the watch of a path, unless it is a watched folder."""
        if path in self.folders or path not in self._masks:
            return
        wd, _ = self._masks.pop(path)
        self._watches[wd].discard(path)
        if not self._watches[wd]:
            self._remove_watch(wd)

    def _remove_watch(self, wd):
        del self._watches[wd]
        self._inotify.remove(wd)


class _IN:
    """Bits of the mask of inotify events (`man 7 inotify`)."""

    MODIFY = 0x2  # written or truncated
    ATTRIB = 0x4  # times, permissions, number of links
    CLOSE_WRITE = 0x8  # closed by a writer
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    SELF = 0x400 | 0x800  # IN_DELETE_SELF and IN_MOVE_SELF
    UNMOUNT = 0x2000
    Q_OVERFLOW = 0x4000
    IGNORED = 0x8000  # the watch has ended
    MASK_ADD = 0x20000000  # add to the mask of an earlier watch, perhaps under another name
    ENTRY = CREATE | DELETE | MOVED_FROM | MOVED_TO
    CHANGES = MODIFY | ATTRIB | CLOSE_WRITE | SELF | ENTRY


class _Inotify:
    """The system calls of inotify; they raise OSError."""

    def __init__(self):
        if sys.platform == 'win32':
            raise OSError(errno.ENOSYS, 'it is not for Windows')
        try:
            fd = _LibC.call('inotify_init1', os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EMFILE:
                error.strerror += ' (raise the limit: sysctl fs.inotify.max_user_instances=1024)'
            raise
        self.fd = _register_fd(fd)

    def add(self, path, mask):
        return _LibC.call('inotify_add_watch', self.fd, os.fsencode(path), mask | _IN.MASK_ADD)

    def remove(self, wd):
        try:
            _LibC.call('inotify_rm_watch', self.fd, wd)
        except OSError:
            pass  # the kernel was quicker

    def read(self):
        """Return the events so far, as (watch descriptor, mask, name); if a file is being written, wait for its end.

        But only for a moment: to handle each write at once would slow down the writer, and so the reload.
        """
        events = self._read()
        until = time.monotonic() + 0.002
        while events and events[-1][1] & _IN.MODIFY and (seconds := until - time.monotonic()) > 0:
            poll = select.poll()  # select.select() takes no descriptor above 1023
            poll.register(self.fd, select.POLLIN)
            poll.poll(int(seconds * 1000) + 1)
            events += self._read()
        return events

    def _read(self):
        """Return the events so far; stop even if more keep coming."""
        events, data, size = [], b'', 1 << 16
        try:
            while not events or len(data) > size - 512:  # there may have been no room for another: see NAME_MAX
                data = os.read(self.fd, size)
                events += self.parse(data)
        except BlockingIOError:
            pass
        return events

    @staticmethod
    def parse(data):
        """Yield events from `int wd; uint32_t mask, cookie, len; char name[len]`, the name padded with NULs."""
        from struct import unpack_from

        at = 0
        while at < len(data):
            wd, mask, _, length = unpack_from('iIII', data, at)
            at += 16 + length
            yield wd, mask, os.fsdecode(data[at - length : at].rstrip(b'\0'))

    def close(self):
        _close(self.fd)


class _Mounts:
    """The mount points, with the types of their filesystems, from /proc/self/mountinfo (`man 5 proc`)."""

    # Filesystems that only this kernel writes to, so that each change sends an event.
    _LOCAL = frozenset(
        'aufs bcachefs btrfs devtmpfs ecryptfs erofs exfat ext2 ext3 ext4 f2fs hfsplus iso9660 jfs msdos nilfs2 ntfs '
        'ntfs3 overlay proc ramfs reiserfs rootfs squashfs sysfs tmpfs ubifs udf ufs vfat xfs zfs'.split()
    )

    def __init__(self):
        self.types = {os.sep: 'rootfs'}  # without a /proc all filesystems count as local
        self.types.update(map(self.parse, _read_proc('self', 'mountinfo').split(b'\n')[:-1]))

    @staticmethod
    def parse(line):
        r"""Return mount point and type; a blank in the file is written \040."""
        fields = line.split()
        point = fields[4]
        for char in (b' ', b'\t', b'\n', b'\\'):
            point = point.replace(b'\\%03o' % ord(char), char)
        return os.fsdecode(point), fields[fields.index(b'-') + 1].decode()

    def remote(self, path):
        """Return the mount point of an existing path if changes there may send no events, else None."""
        point = os.path.realpath(path)
        while point not in self.types:
            point = os.path.dirname(point)
        return None if self.types[point] in self._LOCAL else point


class _ForeignMonitor(PollingFileMonitor):
    """Lets the loop drive a third-party file monitor, which calls back and does not watch for missing modules."""

    def __init__(self, callback, monitor, on_failure):
        super().__init__(callback)
        self._monitor = monitor
        self._on_failure = on_failure
        self._added = set()
        self._has_failed = False

    def add_missing(self, path, has_parent=True):
        for name in (path, path + '.py'):
            self.watch_file(name, 0)

    def _watch_file(self, path):
        if path in self._added or self._has_failed:
            return
        self._added.add(path)
        try:
            self._monitor.add_path(path)
        except Exception as error:
            if not os.path.lexists(path):  # hupper 1.12 names few such: it may take none
                self._added.discard(path)
                return
            self._has_failed = True
            self._on_failure(type(self._monitor), error)

    def _watch_folder(self, path):
        pass

    def stop(self):
        self._monitor.stop()
        self._monitor.join()


# Paths, globs and names.


def _entries(folder):
    """Return (path, is_folder) for each entry of a folder; nothing if it can't be read."""
    try:
        with os.scandir(folder) as entries:
            # For a link to itself is_dir() would raise; os.path.isdir() does not.
            return [(each.path, os.path.isdir(each.path) if each.is_symlink() else each.is_dir()) for each in entries]
    except OSError:
        return []


def _inode(path, stat=None):
    """Return device and inode; None if there is no such file, or its filesystem has no inodes."""
    stat = stat or _stat(path)
    return (stat.st_dev, stat.st_ino) if stat and stat.st_ino else None


@_hide_from_tracebacks
def _is_younger(path, stat, since):
    """Whether a file has changed since then (ns; 0: any file has). Times in the future do not count."""
    if not stat or not since:
        return bool(stat)
    return any(since <= at <= time.time_ns() for at in (stat.st_mtime_ns, _ctime_ns(path, stat)))


def _has_magic(name):
    return any(char in name for char in '*?[')


def _split_glob(path):
    """Split a glob into its fixed folder and the components after it; a plain path has no such components.

    A component is no pattern if an entry of exactly that name exists.
    """
    parts = path.split(os.sep)
    for at, part in enumerate(parts):
        if _has_magic(part) and not os.path.lexists(os.sep.join(parts[: at + 1])):
            root = os.sep.join(parts[:at])
            is_top = root == os.path.splitdrive(root)[0]  # of a drive
            return root + os.sep * is_top, tuple(parts[at:])
    return path, ()


def _glob_rests(glob, names, is_shell=True):
    """Return what may be left of a glob after these components of a path; `**` stands for any number of them.

    In a shell `*` and `**` match no hidden name.
    """
    from fnmatch import fnmatch

    rests = {glob}
    for name in names:
        is_hidden = is_shell and name.startswith('.')
        before, rests = rests, set()
        for rest in before:
            while rest[:1] == ('**',):
                if not is_hidden:
                    rests.add(rest)
                rest = rest[1:]
            if rest and (not is_hidden or rest[0].startswith('.')):
                if fnmatch(name, rest[0]) or name == rest[0]:  # a name may have brackets
                    rests.add(rest[1:])
    return rests


class _PathMatcher:
    """Tells whether one of the patterns matches a path, or a folder above it.

    A pattern without a slash matches a name; one with a slash a path from the current folder. A slash at the end means
    folders only. One that begins with `*` or `/` is also matched with whole paths, where `*` crosses slashes.
    """

    def __init__(self, patterns):
        from functools import lru_cache

        self._here = os.path.normcase(_current_folder() or os.sep)
        self._real_folder = lru_cache(maxsize=1 << 12)(os.path.realpath)
        self._fits_known = lru_cache(maxsize=1 << 14)(self._fits)
        patterns = [os.path.normcase(os.path.expanduser(pattern)) for pattern in patterns]
        self._globs = {pattern: self._globs_of(pattern) for pattern in patterns}
        self._has_folder_patterns = any(pattern.endswith(os.sep) for pattern in patterns)

    def __call__(self, path):
        path = os.path.normcase(path)
        return self._fits_known(path, self._has_folder_patterns and os.path.isdir(path))

    def _fits(self, path, is_folder):
        for pattern, globs in self._globs.items():
            if (is_folder or not pattern.endswith(os.sep)) and self._fits_itself(path, pattern, globs):
                return True
        above = os.path.dirname(path)
        return above != path and self._fits_known(above, True)

    def _fits_itself(self, path, pattern, globs):
        from fnmatch import fnmatchcase

        name = pattern.rstrip(os.sep)
        if not (self._here + os.sep).startswith(os.path.join(path, '')):  # folders that we are in do not count
            if name and os.sep not in name and fnmatchcase(os.path.basename(path), name):
                return True
            if pattern.startswith(('*', os.sep)) and fnmatchcase(path, name):
                return True
        folder, last = os.path.split(path)
        paths = (path, os.path.join(self._real_folder(folder), last)) if globs else ()
        rests = [_glob_rests(glob, each.split(os.sep), is_shell=False) for each in paths for glob in globs]
        return any(set(rest) <= {'**'} for rest in set().union(*rests))

    def _globs_of(self, pattern):
        """Return the components of a pattern with slashes, from the current folder: as written, and without links."""
        if os.sep not in pattern.rstrip(os.sep):
            return []
        escaped = ''.join(f'[{char}]' if _has_magic(char) else char for char in self._here)
        folder, name = os.path.split(os.path.normpath(os.path.join(escaped, pattern)))
        root, rest = _split_glob(folder)
        return [tuple(os.path.join(each, *rest, name).split(os.sep)) for each in (root, os.path.realpath(root))]


def find_default_monitor_factory(logger):
    """Return the factory that HUPPER_DEFAULT_MONITOR names, else the one for the best monitor that works.

    Exit with status 2 if the variable names no known monitor.
    """
    name = os.environ.get('HUPPER_DEFAULT_MONITOR')
    if not name:
        return _best_monitor
    try:
        return _monitor_factory(name, logger)
    except ValueError as error:
        logger.error(f'HUPPER_DEFAULT_MONITOR: {error}')
        sys.exit(2)


_MONITORS = {'inotify': InotifyFileMonitor, 'watchdog': WatchdogFileMonitor, 'polling': PollingFileMonitor}


def _monitor_factory(name, logger):
    """Return the factory of a file monitor by its name, or by the dotted path to it; raise ValueError."""
    if name in _MONITORS:
        return _MONITORS[name]
    module, _, attribute = name.rpartition('.')
    if module.startswith('hupper.'):
        if attribute not in globals():
            logger.error(f'There is no {name} here: the best file monitor that works is used instead.')
        return globals().get(attribute, _best_monitor)
    here = _current_folder()
    if _REMOVED_PATH0 is not None:  # the command line may name a factory of the project
        sys.path.insert(0, here)
    try:
        from importlib import import_module

        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        raise ValueError(
            f'{name!r} is no file monitor: use inotify, watchdog, polling or the dotted path to a factory'
        ) from None
    finally:
        if _REMOVED_PATH0 is not None and here in sys.path:
            sys.path.remove(here)


def _best_monitor(callback, *, logger, **kw):
    """Make the first file monitor that works: inotify, watchdog if it is installed, polling."""
    for name, factory in _MONITORS.items():
        try:
            monitor = factory(callback, logger=logger, **kw)
        except (ImportError, OSError) as error:
            log = logger.error if getattr(error, 'errno', None) == errno.EMFILE else logger.debug
            log(f'File monitor {name} does not work: {error}')
        else:
            logger.debug(f'File monitor: {name}')
            return monitor


# ------------------------------------------------------------------------------------------------------------- logging


class LogLevel:
    ERROR = 0
    INFO = 1
    DEBUG = 2


class DefaultLogger(ILogger):
    """Writes lines to stderr, up to a level; on a terminal in color, with paths relative to the current folder."""

    def __init__(self, level):
        self.level = level
        here = _current_folder()
        self._prefix = self._printable(os.path.join(here, '')) if here != os.path.dirname(here) else None

    @staticmethod
    def _printable(text):
        """Escape control characters: a file's name must not control the terminal, nor forge a line by a line break."""
        return text if text.isprintable() else ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)

    def _write(self, level, *lines):
        if level > self.level or sys.stderr is None:
            return
        text = ('[ERROR] ', '', '[DEBUG] ')[level] + '\n'.join(map(self._printable, lines))
        try:
            if getattr(sys.stderr, 'isatty', bool)():
                text = self._for_terminal(text, 31 if level == LogLevel.ERROR else 36)  # red, cyan
            sys.stderr.write(text + '\n')
            sys.stderr.flush()
        except BlockingIOError:
            pass  # the terminal is full, and in non-blocking mode
        except (OSError, ValueError):
            sys.stderr = None  # its reader is gone, as under `2>&1 | head`

    def _for_terminal(self, text, color):
        for before in ' "\'(' if self._prefix else '':
            text = (' ' + text).replace(before + self._prefix, before)[1:]
        if os.environ.get('NO_COLOR') or os.environ.get('TERM') == 'dumb' or not _Terminal.has_colors():
            return text
        return f'\x1b[{color}m{text}\x1b[m'

    def error(self, msg, *more):
        self._write(LogLevel.ERROR, msg, *more)

    def info(self, msg):
        self._write(LogLevel.INFO, msg)

    def debug(self, msg):
        self._write(LogLevel.DEBUG, msg)


class _ForeignLogger(DefaultLogger):
    """Passes lines to the logger of a program."""

    def __init__(self, logger):
        self._logger = logger

    def __getattr__(self, name):
        return getattr(self._logger, name)

    def _write(self, level, *lines):
        log = (self._logger.error, self._logger.info, self._logger.debug)[level]
        log('\n'.join(map(self._printable, lines)))


class SilentLogger(DefaultLogger):
    """Writes nothing."""

    def __init__(self):
        super().__init__(-1)


# ------------------------------------------------------------------------------------------------------------ platform
#
# What differs between systems; elsewhere there are only a few tests for _LINUX, win32 and os.fork. Both halves, for
# Windows and for POSIX, define these names, so that you need not read either half. On Windows, fd means a handle.
#
#   _INTERRUPTED                   the status of a worker that Ctrl-C has ended
#   _STOP_SIGNALS                  signals that may stop a worker: name -> number; KILL among them
#   _pipe()                        return both ends of a new pipe: not inherited, above 2
#   _set_inheritable(fd, bool)     whether new interpreters inherit it
#   _read(fd, wait=True)           return data, b'' once all writers are gone; without wait, BlockingIOError if none
#   _write(fd, data)               return how many bytes the pipe has taken
#   _close(fd)                     close an end of a pipe
#   _identity(fd)                  return what identifies the file of an open fd; '' if it is not open
#   _has_reader(fd)                whether anybody reads from the other end, as far as the system knows
#   _from_here(name)               return the path that Python makes of a script's name
#   _ctime_ns(path, stat)          return when a file was written, renamed or linked last
#   _glances(paths)                yield each path with a value that changes with the file, as cheaply as possible
#   _start_interpreter(options, code, waiter)  start an interpreter that ignores Ctrl-C; return what _Worker takes first
#   _exec(arguments)               run another program in place of this one
#   _end_by_sigint()               end as plain Python does after Ctrl-C, so that a shell script around us ends too
#   _is_descendant_of(handshake)   whether that worker has started this process, directly or not
#   In a worker:
#   _set_parent_death_signal(pid)  end this process when the monitor ends, even by SIGKILL
#   _discard_pending_signals()     discard what came before the start; return whether SIGINT was among it
#   _call_unblocked(spec, func)    call a function that may start processes, which inherit the blocked signals
#   _hand_over(spec, control_fd)   signals are the app's from now on, and the monitor may ask it to stop
#   Classes, with what they define besides their base class, if they have one:
#   _Waiter                        _wait, wake, close; read_signals returns `arrived` itself, with the names of
#                                  _Supervisor._SIGNAL_HANDLERS: SIGCHLD means that a worker has ended
#   _Terminal                      listening, interrupts, has_colors, save, restore, listen, step, close,
#                                  wait_fd or wait_until; where there is SIGHUP, is_gone; has_colors and interrupts
#                                  are called on the class, too
#   _Worker                        __init__, poll, wait, exit_cause, send_signal, kill, has_python_child, kill_children;
#                                  it sets ending_signal and sent_signals
#   _OrphanTerminator              __init__(worker, reaper, known pids, seconds), poll, names, used_force, kill_at: ends
#                                  what workers have left behind
#
# POSIX alone has what forks, inotify and kept sockets need: _register_fd, _monitor_fds, _Process, `reset` and `with` of
# _Waiter, and _LibC.call(name, *args), which calls a function of the C library with ints and bytes; it raises OSError.

_LINUX = sys.platform.startswith('linux')


class _WaiterBase:
    """Waits for pipes, times, exits of workers, signals, and `wake` from any thread."""

    def __init__(self):
        self.arrived = []  # the names of the signals that came; any thread or handler may add to it
        self.mask = self.ignored = ()  # signals, as they were before us

    def wait(self, pollables, times):
        """Return the pollables that may be read or whose time has come; maybe none, after a signal or `wake`."""
        pollables = list(pollables)
        times = [*times, *(each.wait_until() for each in pollables)]
        until = min((at for at in times if at is not None), default=_FOREVER)
        milliseconds = max(0, (until - time.monotonic()) * 1000 + 0.999)
        fds = {each.wait_fd() for each in pollables} - {None}
        ready = self._wait(fds, int(min(milliseconds, 1e9)))  # no system takes more than a C int
        now = time.monotonic()
        return [p for p in pollables if p.wait_fd() in ready or (p.wait_until() is not None and now >= p.wait_until())]


class _WorkerBase:
    """A process that gets ready to run the app, then runs it; and the two pipes to it."""

    def __init__(self, pid, channel, control):
        self.pid = pid
        self.channel = _Channel(channel)
        self.app_started = False
        self.decided_status = None  # instead of that of its exit, if we stop it early or it finds nothing to run
        self.sent_garbage = False
        self.sent_signals = set()
        self.ending_signal = 0  # the signal that has ended it; 0: none, as on Windows
        self._control = control

    def send(self, message):
        message = marshal.dumps(message)
        data = len(message).to_bytes(8, 'little') + message
        while data:
            data = data[_write(self._control, data) :]

    def has_begun(self):
        """Whether the app may have begun: before that, signals are discarded."""
        self.channel.step()
        return self.app_started

    def ask_to_stop(self, signum):
        if self.has_begun():
            self.send_signal(signum)
        else:
            self.decided_status = 128 + signum
            self.kill()

    def was_ended_by_us(self):
        """Whether a signal of ours has ended the app, so that it could not clean up."""
        return self.app_started and self.ending_signal in self.sent_signals

    def discard(self):
        """End a worker at once."""
        self.kill()
        self.wait()
        self.close()

    def close(self):
        self.channel.close()
        _close(self._control)


class _ChildReaper:
    """Adopts and reaps the orphans of workers; leaves alone the children that the program had before.

    On Linux this process becomes a child subreaper, so that it finds all descendants of a worker, and waits for them by
    their pids. Elsewhere it finds none: see _OrphanTerminator.
    """

    def __init__(self):
        _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
        self._own = {process.pid for process in self._children()}

    @staticmethod
    def _children(besides=()):
        return _Process.children_of(os.getpid(), besides) if _LINUX else []

    def reap(self, known):
        """Reap the adopted children that have ended; return the others."""
        adopted = self._children(besides=self._own | known)
        for process in adopted:
            try:
                if process.state == 'Z':
                    os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError:
                pass  # the program has waited for its own child first
        return [process for process in adopted if process.state != 'Z']

    def close(self):
        _prctl(36, 0)


def _file_clock():
    """Return the time in ns, by the clock of file times: on Linux it advances in ticks."""
    return time.clock_gettime_ns(5) if _LINUX else time.time_ns()  # 5: CLOCK_REALTIME_COARSE


def _process_fork_obstacle():
    """Return why this process can't be forked, None if it can."""
    if not _LINUX:
        return 'a fork is not safe on this platform'  # as on macOS, whose system libraries do not survive it
    if sys.implementation.name != 'cpython':
        return 'only CPython lets sys.excepthook end the process'  # see _WorkerMain
    if sys.version_info < (3, 9) and (sys.flags.dev_mode or os.environ.get('PYTHONMALLOC', '').endswith('debug')):
        return 'a fork of Python 3.8 that checks its memory crashes at its end'
    return 'there are threads' if len(_list_proc('self', 'task')) != 1 else None


def _prctl(option, value):
    try:
        if _LINUX:
            _LibC.call('prctl', option, value, 0, 0, 0)
    except OSError:
        pass  # Python was built without ctypes, or a sandbox forbids it


def _read_proc(*names):
    """Return the contents of a file below /proc; empty if it is missing or unreadable."""
    try:
        with open(os.path.join('/proc', *names), 'rb', 0) as file:
            return file.read()
    except OSError:
        return b''


def _list_proc(*names):
    try:
        return os.listdir(os.path.join('/proc', *names))
    except OSError:
        return []


if sys.platform == 'win32':
    # Most of this uses Python's own _winapi, as subprocess does.

    import _winapi
    import ctypes
    import msvcrt
    from ctypes import byref, sizeof, wintypes

    _INTERRUPTED = 0xC000013A - 2**32  # STATUS_CONTROL_C_EXIT
    _STOP_SIGNALS = {'KILL': 9}  # Windows has no signals; see _Worker.kill
    _set_inheritable = os.set_handle_inheritable
    _from_here = os.path.abspath
    _dll = ctypes.WinDLL('kernel32', use_last_error=True)

    def _kernel32(name, *arguments):
        """Call a function; a result of 0 raises OSError. Handles are passed as C ints: they have no more bits."""
        result = getattr(_dll, name)(*arguments)
        if not result:
            raise ctypes.WinError(ctypes.get_last_error())
        return result

    _reads: dict[int, _winapi.Overlapped] = {}  # handle -> the read from it that is under way

    def _pipe():
        """Make a named pipe, as others can't be waited for. One read returns one write: start and stop stay apart."""
        name = rf'\\.\pipe\hupper-{os.getpid()}-{os.urandom(8).hex()}'
        access = _winapi.PIPE_ACCESS_INBOUND | _winapi.FILE_FLAG_OVERLAPPED | _winapi.FILE_FLAG_FIRST_PIPE_INSTANCE
        mode = _winapi.PIPE_TYPE_MESSAGE | _winapi.PIPE_READMODE_MESSAGE | 8  # PIPE_REJECT_REMOTE_CLIENTS
        read = _winapi.CreateNamedPipe(name, access, mode, 1, 0, 1 << 16, 0, 0)
        write = _winapi.CreateFile(name, _winapi.GENERIC_WRITE, 0, 0, _winapi.OPEN_EXISTING, 0, 0)
        _winapi.ConnectNamedPipe(read, overlapped=True).GetOverlappedResult(True)
        return read, write

    def _reading(handle):
        """Return the read that is under way: its event is set once data has come, or all writers are gone."""
        if handle not in _reads:
            _reads[handle] = _winapi.ReadFile(handle, 1 << 16, overlapped=True)[0]
        return _reads[handle]

    def _read(handle, wait=True):
        try:
            reading = _reading(handle)
            if _winapi.WaitForSingleObject(reading.event, _winapi.INFINITE if wait else 0) == _winapi.WAIT_TIMEOUT:
                raise BlockingIOError
            reading.GetOverlappedResult(True)
            data = reading.getbuffer()
        except BrokenPipeError:
            data = b''
        _reads.pop(handle, None)
        return data

    def _write(handle, data):
        return _winapi.WriteFile(handle, data)[0]

    def _close(handle):
        reading = _reads.pop(handle, None)
        if reading:
            reading.cancel()
            try:
                reading.GetOverlappedResult(True)
            except OSError:
                pass  # it is cancelled, or its writers are gone
        _winapi.CloseHandle(handle)

    @_hide_from_tracebacks
    def _has_reader(handle):
        return True

    @_hide_from_tracebacks
    def _identity(handle):
        """Return the pid of the process that has made the pipe."""
        pid = wintypes.DWORD()
        try:
            _kernel32('GetNamedPipeServerProcessId', handle, byref(pid))
        except OSError:
            return ''
        return str(pid.value)

    @_hide_from_tracebacks
    def _ctime_ns(path, stat):
        """Ask Windows, as st_ctime is the time of creation here."""
        times = (ctypes.c_longlong * 5)()  # FILE_BASIC_INFO: birth, access, write, change; attributes
        try:
            flags = 0x2000000  # FILE_FLAG_BACKUP_SEMANTICS: also of a folder
            handle = _winapi.CreateFile(os.fsdecode(path), 0x80, 7, 0, _winapi.OPEN_EXISTING, flags, 0)
            try:
                _kernel32('GetFileInformationByHandleEx', handle, 0, times, sizeof(times))
            finally:
                _winapi.CloseHandle(handle)
        except OSError:
            pass  # the file has just gone
        return (times[3] - 116444736000000000) * 100  # in 100 ns since 1601

    def _glances(paths):
        """Scan each folder once, which is cheaper. It shows no inodes; a replaced file changes the folder's mtime."""
        folders = {}
        for path in paths:
            folders.setdefault(os.path.dirname(path), {})[os.path.normcase(path)] = path
        for folder, absent in folders.items():
            try:
                changed = os.stat(folder).st_mtime_ns
                with os.scandir(folder) as entries:
                    entries = list(entries)
                for entry in entries:
                    path = absent.pop(os.path.normcase(entry.path), None)
                    if path:
                        stat = _stat(path) if entry.is_symlink() else entry.stat()
                        yield path, stat and (stat.st_mtime_ns, stat.st_size, changed)
            except OSError:
                pass  # the folder or an entry has just gone
            yield from dict.fromkeys(absent.values(), 0).items()

    def _start_interpreter(options, code, waiter):
        import subprocess

        environment, python = dict(os.environ), getattr(sys, '_base_executable', None) or sys.executable
        if python != sys.executable:
            # A virtual environment's python.exe only starts another one: start that itself, as multiprocessing does.
            environment['__PYVENV_LAUNCHER__'] = sys.executable
        code = 'import _signal; _signal.signal(_signal.SIGINT, _signal.SIG_IGN)\n' + code
        return subprocess.Popen([python, *options, '-c', code], env=environment, close_fds=False)

    def _exec(arguments):
        """Run a subprocess: a shell would not wait for what exec starts."""
        import subprocess

        sys.exit(subprocess.call(arguments))

    def _end_by_sigint():
        """Do nothing: the exit status is enough."""

    def _is_descendant_of(handshake):
        """Whether we are in the worker's job."""
        inside = wintypes.BOOL()
        try:
            job = _kernel32('OpenJobObjectW', 4, False, f'hupper-{handshake.worker}')  # JOB_OBJECT_QUERY
        except OSError:
            return False
        _kernel32('IsProcessInJob', wintypes.HANDLE(-1), job, byref(inside))  # -1: this process
        _winapi.CloseHandle(job)
        return bool(inside)

    def _set_parent_death_signal(monitor):
        """Do nothing: the monitor has put this process into a job that ends with the monitor."""

    def _discard_pending_signals():
        return False

    def _call_unblocked(spec, function):
        function()

    def _hand_over(spec, control):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main_thread = _kernel32('OpenThread', 1, False, _thread.get_ident())  # 1: THREAD_TERMINATE

        def interrupt_on_request():
            """A byte in the control pipe is the monitor's polite way to stop us."""
            while _read(control):
                hook = sys.excepthook
                sys.excepthook = lambda kind, *rest, hook=hook: None if kind is KeyboardInterrupt else hook(kind, *rest)
                # This wakes time.sleep and asyncio too; not locks, but neither does Ctrl-C.
                signal.raise_signal(signal.SIGINT)
                try:
                    _kernel32('CancelSynchronousIo', main_thread)  # raise_signal does not wake input()
                except OSError:
                    pass  # the main thread is not reading or writing

        _thread.start_new_thread(interrupt_on_request, ())

    class _Waiter(_WaiterBase):
        def __init__(self):
            super().__init__()
            self._event = _kernel32('CreateEventW', None, False, False, None)
            self._handler = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)(self._on_event)
            _kernel32('SetConsoleCtrlHandler', self._handler, True)

        def _on_event(self, event):
            """Called in a thread of its own: 0 is Ctrl-C, 1 Ctrl-Break; on others the window or Windows is closing."""
            self.arrived.append('SIGTERM' if event else 'CTRL-C')
            self.wake()
            if event > 1:
                time.sleep(60)  # when this returns Windows ends the process, and after 5 s anyway
            return True

        def _wait(self, handles, milliseconds):
            events = [self._event, *(worker.handle for worker in _Worker.running)]
            for handle in handles:
                try:
                    events.append(_reading(handle).event)
                except BrokenPipeError:
                    milliseconds = 0  # all writers are gone: let `step` see that
            _winapi.WaitForMultipleObjects(events, False, milliseconds)
            ended = {worker for worker in _Worker.running if worker.poll() is not None}
            if ended:
                _Worker.running -= ended
                self.arrived.append('SIGCHLD')
            return handles

        def read_signals(self):
            return self.arrived

        def wake(self):
            _kernel32('SetEvent', self._event)

        def close(self, leaving):
            _kernel32('SetConsoleCtrlHandler', self._handler, False)

    class _Terminal(_Pollable):
        """The console on stdin and stdout, if there is one.

        It checks for keys every 50 ms: any input signals a console's handle, until it is read.
        """

        def __init__(self, on_enter):
            self.listening = False
            self._on_enter = on_enter
            self._modes = {}  # standard stream -> the mode of its console
            self._look_at = 0

        @staticmethod
        def _mode(stream):
            """Return the mode of the console behind a standard stream, None if it is no console."""
            mode = wintypes.DWORD()
            return mode.value if _dll.GetConsoleMode(_winapi.GetStdHandle(stream), byref(mode)) else None

        def interrupts(self, worker):
            return True  # it reaches all processes of a console

        def save(self):
            modes = {each: self._mode(each) for each in (_winapi.STD_INPUT_HANDLE, _winapi.STD_OUTPUT_HANDLE)}
            self._modes = {stream: mode for stream, mode in modes.items() if mode is not None}

        def restore(self, is_abandoned=False):
            for stream, mode in self._modes.items():
                try:
                    _kernel32('SetConsoleMode', _winapi.GetStdHandle(stream), mode)
                except OSError:
                    pass  # it is gone

        close = restore

        @classmethod
        def has_colors(cls):
            """Whether escape sequences are on for the console, as they can be since Windows 10."""
            return bool((cls._mode(_winapi.STD_ERROR_HANDLE) or 0) & 4)  # ENABLE_VIRTUAL_TERMINAL_PROCESSING

        def listen(self):
            self.listening = _winapi.STD_INPUT_HANDLE in self._modes
            return self.listening

        def wait_until(self):
            return self._look_at

        def step(self):
            self._look_at = time.monotonic() + 0.05
            typed = ''
            while msvcrt.kbhit():
                typed += msvcrt.getwch()
            if '\r' in typed:
                self._on_enter()

    class _Worker(_WorkerBase):
        """A worker in a job that ends when its handle is closed. A child survives by CREATE_BREAKAWAY_FROM_JOB."""

        running: set[_Worker] = set()

        def __init__(self, process, channel, control):
            super().__init__(process.pid, channel, control)
            self._process = process
            self.handle = int(process._handle)
            self.job = type(process._handle)(_kernel32('CreateJobObjectW', None, f'hupper-{self.pid}'))  # closes itself
            limits = (wintypes.DWORD * (36 if sys.maxsize > 2**32 else 28))()  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION
            limits[4] = 0x2000 | 0x800  # its LimitFlags: KILL_ON_JOB_CLOSE, BREAKAWAY_OK
            _kernel32('SetInformationJobObject', self.job, 9, limits, sizeof(limits))
            _kernel32('AssignProcessToJobObject', self.job, self.handle)
            self.running.add(self)

        def poll(self):
            """Return the exit status, negative if Windows ended it; None while it runs."""
            status = self._process.poll()
            return status if status is None or status < 2**31 else status - 2**32

        def wait(self):
            self._process.wait()
            self.running.discard(self)

        def exit_cause(self):
            return None if self.poll() >= 0 else 'exception 0x%X' % (self.poll() + 2**32)

        def send_signal(self, signum):
            try:
                _write(self._control, b'\0')
            except OSError:
                pass  # it has just ended

        def kill(self):
            self._process.kill()

        def has_python_child(self):
            return False  # unknown

        def kill_children(self):
            """Do nothing: they are in the worker's job, which ends with it."""

    class _OrphanTerminator:
        """Ends descendants that have outlived their worker. Windows has no polite stop for them."""

        used_force = False  # there is no other way

        class _JobPids(ctypes.Structure):  # JOBOBJECT_BASIC_PROCESS_ID_LIST
            _fields_ = [('assigned', wintypes.DWORD), ('listed', wintypes.DWORD), ('pids', ctypes.c_size_t * 4096)]

        def __init__(self, worker, reaper, known, interval):
            self._job = worker.job
            self.kill_at = None
            self.names = [f'PID {pid}' for pid in self._pids()]
            _kernel32('TerminateJobObject', self._job, 1)

        def poll(self, now):
            self.kill_at = now + 0.01  # the time to look again
            return not self._pids()

        def _pids(self):
            found = self._JobPids()
            _kernel32('QueryInformationJobObject', self._job, 3, byref(found), sizeof(found), None)  # 3: this list
            return found.pids[: found.listed]

else:
    _INTERRUPTED = 130
    _STOP_SIGNALS = {
        name: int(getattr(signal, 'SIG' + name)) for name in ('TERM', 'INT', 'QUIT', 'HUP', 'USR1', 'USR2', 'KILL')
    }
    _write, _set_inheritable = os.write, os.set_inheritable
    _monitor_fds: set[int] = set()  # descriptors that a forked worker closes

    def _register_fd(fd):
        """Register a descriptor as ours and return it; it moves above stdin, stdout and stderr if these are closed."""
        if fd <= 2:
            higher = _register_fd(os.dup(fd))
            os.close(fd)
            return higher
        _monitor_fds.add(fd)
        return fd

    def _close(fd):
        if fd in _monitor_fds:
            _monitor_fds.discard(fd)
            os.close(fd)

    def _pipe():
        return tuple(map(_register_fd, os.pipe()))

    def _read(fd, wait=True):
        os.set_blocking(fd, wait)
        return os.read(fd, 1 << 16)

    @_hide_from_tracebacks
    def _has_reader(fd):
        poll = select.poll()
        poll.register(fd, 0)
        return not poll.poll(0)

    @_hide_from_tracebacks
    def _identity(fd):
        try:
            stat = os.fstat(fd)
        except OSError:
            return ''
        return f'{stat.st_dev}:{stat.st_ino}'

    def _from_here(name):
        """Keep any `..` in the name: after a link it leads elsewhere."""
        return os.path.join(_current_folder(), name)

    @_hide_from_tracebacks
    def _ctime_ns(path, stat):
        return stat.st_ctime_ns

    def _glances(paths):
        return zip(paths, map(_signature, paths))

    class _LibC:
        """Calls functions through _ctypes: the import of ctypes itself would take longer than all our other imports."""

        _functions: dict[str, Any] = {}  # a cache

        @classmethod
        def call(cls, name, *args):
            if name not in cls._functions:
                cls._functions[name] = cls._find(name)
            result = cls._functions[name](*args)
            if result != -1:
                return result
            import _ctypes

            number = _ctypes.get_errno()
            raise OSError(number, os.strerror(number))

        @staticmethod
        def _find(name):
            try:
                if sys.implementation.name != 'cpython':
                    import ctypes

                    return getattr(ctypes.CDLL(None, use_errno=True), name)
                import _ctypes
            except (ImportError, AttributeError):
                raise OSError(errno.ENOSYS, f'there is no {name} here, or Python was built without ctypes') from None

            class Int(_ctypes._SimpleCData):
                _type_ = 'i'

            class Function(_ctypes.CFuncPtr):
                _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
                _restype_ = Int

            return Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), name))

    def _start_interpreter(options, code, waiter):
        import subprocess

        with waiter:  # the child's signals stay blocked until it is started
            process = subprocess.Popen([sys.executable, *options, '-c', code], close_fds=False)
        process.returncode = 0  # _Worker waits for it, not subprocess
        return process.pid

    def _exec(arguments):
        os.execv(arguments[0], arguments)

    def _end_by_sigint():
        _flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)

    def _is_descendant_of(handshake):
        """Whether the handshake's monitor is among our ancestors."""
        return os.getpid() in _Process.descendants_of(handshake.monitor)

    def _set_parent_death_signal(monitor):
        _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != monitor:
            os._exit(1)  # it ended before this was set

    def _discard_pending_signals():
        pending = signal.sigpending()
        for signum in pending:
            handler = signal.signal(signum, signal.SIG_IGN)
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        return signal.SIGINT in pending

    def _call_unblocked(spec, function):
        stop = {signal.SIGTERM, signal.SIGCHLD, signal.SIGCONT}  # not those that a terminal sends to all
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, stop.difference(spec.signal_mask))
        function()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _hand_over(spec, control_fd):
        if _LINUX:
            os.close(control_fd)
        else:

            def die_with_monitor():
                while _read(control_fd):  # the monitor holds the other end open
                    pass
                os.kill(os.getpid(), signal.SIGKILL)

            _thread.start_new_thread(die_with_monitor, ())
        for signum in spec.ignored_signals:
            signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, spec.signal_mask)

    class _Waiter(_WaiterBase):
        _TYPED = {signal.SIGINT: 'CTRL-C', signal.SIGQUIT: 'CTRL-\\'}  # by a key: the worker gets it as well
        # By a process, or by the system:
        _SENT = {getattr(signal, name): name for name in _Supervisor._SIGNAL_HANDLERS if name.startswith('SIG')}

        def __init__(self):
            super().__init__()
            self._read, self._write = _pipe()
            os.set_blocking(self._write, False)
            self._saved_handlers = {}
            self._saved_mask = ()  # from before a `with`
            self._saved_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            for signum in self._SENT:
                former = signal.getsignal(signum)
                if former != signal.SIG_IGN or signum == signal.SIGCHLD:  # under nohup it stays ignored
                    signal.signal(signum, self._note)
                    self._saved_handlers[signum] = signal.SIG_DFL if former is None else former
            self.mask = list(map(int, signal.pthread_sigmask(signal.SIG_UNBLOCK, self._saved_handlers)))
            self.ignored = [int(signum) for signum, former in self._saved_handlers.items() if former is signal.SIG_IGN]
            typed = [signum for signum in self._TYPED if signum in self._saved_handlers]
            self._interrupts = self._signal_fd(typed) if _LINUX and typed else None

        @staticmethod
        def _signal_fd(signums):
            """Block signals and return a descriptor to read them from, with their senders."""
            mask = sum(1 << signum - 1 for signum in signums).to_bytes(8, sys.byteorder) + bytes(120)  # a sigset_t
            try:
                fd = _LibC.call('signalfd', -1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                return None  # as in some sandboxes
            signal.pthread_sigmask(signal.SIG_BLOCK, signums)
            return _register_fd(fd)

        def _note(self, signum, frame):
            """Note a signal; its sender is not known here: it counts as typed if we are in the foreground."""
            is_typed = signum in self._TYPED and _Terminal.interrupts(None)
            self.arrived.append(self._TYPED[signum] if is_typed else self._SENT[signum])

        def read_signals(self):
            """Return the signals that have come; typed ones first, as they must be known before the worker's exit."""
            while self._interrupts is not None:
                try:
                    info = os.read(self._interrupts, 128)  # a signalfd_siginfo
                except BlockingIOError:
                    break
                is_typed = int.from_bytes(info[8:12], sys.byteorder) == 0x80  # ssi_code: SI_KERNEL
                signum = int.from_bytes(info[:4], sys.byteorder)
                self.arrived.insert(0, self._TYPED[signum] if is_typed else self._SENT[signum])
            return self.arrived

        def _wait(self, fds, milliseconds):
            poll = select.poll()
            for fd in fds | {self._read, self._interrupts} - {None}:
                poll.register(fd, select.POLLIN)
            ready = dict(poll.poll(milliseconds))
            if self._read in ready:
                os.read(self._read, 1 << 16)
            return ready

        def wake(self):
            try:
                os.write(self._write, b'\0')
            except OSError:
                pass  # full: the loop wakes up anyway; or closed: the loop has ended

        def __enter__(self):
            """Block signals around a fork: until it resets its handlers, the child writes to our wake-up pipe."""
            self._saved_mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._saved_handlers)

        def __exit__(self, *_):
            signal.pthread_sigmask(signal.SIG_SETMASK, self._saved_mask)

        def reset(self, keep):
            """In a forked worker: close our descriptors except these; reset the signals, but leave them blocked."""
            for fd in _monitor_fds.difference(keep):
                os.close(fd)
            _monitor_fds.clear()  # so that `_close` does nothing
            signal.set_wakeup_fd(-1)
            self.arrived.clear()
            for signum, former in self._saved_handlers.items():
                signal.signal(signum, former)
            self._saved_mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())

        def close(self, leaving):
            signal.set_wakeup_fd(self._saved_fd)
            for signum, former in self._saved_handlers.items():
                if leaving and signum == signal.SIGINT:
                    former = signal.SIG_IGN  # ignore one more, impatient Ctrl-C
                signal.signal(signum, former)
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
            for fd in self._read, self._write, self._interrupts:
                _close(fd)

    class _Terminal(_Pollable):
        """The terminal on stdin, if there is one."""

        # What a full-screen program undoes at its end (man console_codes, xterm's ctlseqs): the alternate screen, but
        # without a jump of the cursor on a plain one; cursor keys; reports of mouse, focus and size; bracketed paste.
        _OFF = 1047, 1, 9, 1000, 1002, 1003, 1005, 1006, 1015, 1016, 1004, 2048, 2004
        _PLAIN_SCREEN = b''.join(b'\x1b[?%dl' % mode for mode in _OFF) + b'\x1b[?25h\x1b[m'  # the cursor; no attributes

        def __init__(self, on_enter):
            self.listening = False
            self._on_enter = on_enter
            self._had_one = self._foreground() is not None
            self._edge = None  # an epoll that watches stdin, see `listen`
            self._modes = None
            self._is_blocking = True

        @staticmethod
        def _foreground():
            """Return the foreground group of our terminal, wherever stdin comes from; None if it is gone."""
            try:
                with open('/dev/tty', 'rb', 0) as terminal:
                    return os.tcgetpgrp(terminal.fileno())
            except OSError:
                return None

        @staticmethod
        def has_colors():
            return True

        def is_gone(self):
            """Whether the window was closed, or the connection dropped."""
            return self._had_one and self._foreground() is None

        def is_ours(self):
            """Whether stdin is a terminal with us in its foreground, so that we get what is typed."""
            try:
                return os.tcgetpgrp(0) == os.getpgrp()
            except OSError:
                return False

        @classmethod
        def interrupts(cls, worker):
            """Whether Ctrl-C reaches both us and the worker."""
            return cls._foreground() == os.getpgrp() == _Process.group_of(worker.pid if worker else 0)

        def save(self):
            if self.is_ours():
                import termios

                self._modes = termios.tcgetattr(0)
                self._is_blocking = os.get_blocking(0)

        def restore(self, is_abandoned=False):
            """Undo what a worker did; `is_abandoned`: also to the screen, because our signal has ended it."""
            self._restore_modes()
            try:
                if is_abandoned and os.environ.get('TERM') != 'dumb' and os.tcgetpgrp(1) == os.getpgrp():
                    os.write(1, self._PLAIN_SCREEN)
            except OSError:
                pass  # it is no terminal, or gone

        def close(self):
            self._restore_modes()
            _close(self._edge)

        def _restore_modes(self):
            """Undo what a worker did to modes and foreground, unless the user's shell has taken over meanwhile."""
            if not self._modes and not self.is_ours():
                return
            import termios

            mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
            try:
                self._modes = self._modes or self._usual_modes()
                try:
                    os.killpg(os.tcgetpgrp(0), 0)
                except ProcessLookupError:  # the foreground is a group that has ended: a worker's child's
                    os.tcsetpgrp(0, os.getpgrp())
                if self.is_ours() and termios.tcgetattr(0) != self._modes:
                    termios.tcsetattr(0, termios.TCSANOW, self._modes)
                if self.is_ours() and os.get_blocking(0) != self._is_blocking:
                    os.set_blocking(0, self._is_blocking)  # shared by all that have the terminal from one open()
            except (OSError, termios.error):
                pass  # it is gone
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        @staticmethod
        def _usual_modes():
            """Return modes for a terminal that has put us in the foreground since the worker began."""
            import termios

            modes = termios.tcgetattr(0)
            modes[0] |= termios.ICRNL
            modes[1] |= termios.OPOST
            modes[3] |= termios.ISIG | termios.ICANON | termios.ECHO | termios.IEXTEN
            return modes

        def listen(self):
            """Begin to wait for ENTER; return whether we would receive it now."""
            self.listening = os.isatty(0)
            if self.listening and self._edge is None and hasattr(select, 'epoll'):
                # No signal reports an `fg`. Edge-triggered, typed input for another program wakes us only once.
                with select.epoll() as epoll:
                    epoll.register(0, select.EPOLLIN | select.EPOLLET)
                    self._edge = _register_fd(os.dup(epoll.fileno()))
            return self.is_ours()

        def wait_fd(self):
            return self._edge or (0 if self.is_ours() else None)

        def step(self):
            if self._edge:
                with select.epoll.fromfd(os.dup(self._edge)) as epoll:
                    epoll.poll(0)
            if not self.is_ours():
                return  # it was typed for another program
            try:
                typed = os.read(0, 1024)
            except OSError:
                typed = b''
            self.listening = bool(typed)
            if b'\n' in typed:
                self._on_enter()

    class _Worker(_WorkerBase):
        def __init__(self, *args):
            super().__init__(*args)
            self.group = None  # its process group
            self.children = ()  # pids, when it was asked to stop; on Linux the reaper finds them
            self._status = None

        def poll(self, options=os.WNOHANG):
            """Return the exit status, 128 + n if signal n ended it; None while it runs."""
            if self._status is None:
                self.group = _Process.group_of(self.pid) or self.group  # unknown once it has ended
                try:
                    pid, status = os.waitpid(self.pid, options)
                except ChildProcessError:  # the program ignores SIGCHLD, or waits for any child itself
                    pid, status = self.pid, 0
                if pid:
                    self.ending_signal = status & 127
                    self._status = 128 + self.ending_signal if self.ending_signal else status >> 8
            return self._status

        def wait(self):
            self.poll(0)

        def exit_cause(self):
            """Return the name of the signal that ended the worker; None if it exited."""
            if not self.ending_signal:
                return None
            from signal import Signals

            try:
                return Signals(self.ending_signal).name
            except ValueError:
                return f'signal {self.ending_signal}'

        def send_signal(self, signum):
            if self.poll() is None:
                if not _LINUX:
                    self.children = [process.pid for process in _Process.children_of(self.pid)]
                self.sent_signals.add(signum)
                try:
                    os.kill(self.pid, signum)
                except OSError:
                    pass  # it has just ended, or is another user's now

        def kill(self):
            self.send_signal(signal.SIGKILL)

        def has_python_child(self):
            """Whether it has started another Python, not just a fork or a helper of multiprocessing."""
            own = _LINUX and _read_proc(str(self.pid), 'cmdline')
            children = [each for each in _Process.children_of(self.pid) if not each.ends_by_itself()]
            pythons = [each for each in children if 'python' in each.name.lower() or 'pypy' in each.name]
            return any(_read_proc(str(each.pid), 'cmdline') != own for each in pythons)

        def kill_children(self):
            """Kill all descendants of a standby, which has never run the app."""
            for pid in _Process.descendants_of(self.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass  # it has just ended

    class _Process:
        """A row of the system's process table."""

        def __init__(self, pid, parent, group, state, name):
            self.pid, self.parent, self.group, self.state, self.name = int(pid), int(parent), int(group), state, name

        @staticmethod
        def group_of(pid):
            """Return the group of a process; None if it has ended."""
            try:
                return os.getpgid(pid)
            except OSError:
                return None

        @classmethod
        def all(cls, pids=None):
            """Return these processes or all, from /proc/PID/stat: `PID (NAME) STATE PPID PGRP ...`, or from `ps`."""
            if not _LINUX:
                import subprocess

                table = subprocess.run(['ps', '-Ao', 'pid=,ppid=,pgid=,stat=,comm='], stdout=subprocess.PIPE).stdout
                lines = [os.fsdecode(line).split(None, 4) for line in table.splitlines()]
                return [_Process(*line) for line in lines if len(line) == 5]
            found = []
            for pid in filter(str.isdigit, _list_proc()) if pids is None else pids:
                head, _, tail = _read_proc(str(pid), 'stat').rpartition(b')')
                if head:  # else it has just ended
                    state, parent, group = tail.split(None, 3)[:3]
                    found.append(_Process(pid, parent, group, state.decode(), os.fsdecode(head.partition(b'(')[2])))
            return found

        @classmethod
        def children_of(cls, pid, besides=()):
            """Return a process's children, from the kernel's own lists where it has them (CONFIG_PROC_CHILDREN)."""
            if not (_LINUX and os.path.exists('/proc/thread-self/children')):
                return [each for each in cls.all() if each.parent == pid and each.pid not in besides]
            tasks = str(pid), 'task'
            lists = [_read_proc(*tasks, thread, 'children') for thread in _list_proc(*tasks)]
            return cls.all(set(map(int, b' '.join(lists).split())).difference(besides))

        @classmethod
        def descendants_of(cls, pid):
            """Return the pids of a process's children, their children, and so on."""
            processes, found = cls.all(), [pid]
            for parent in found:  # which grows
                found += [each.pid for each in processes if each.parent == parent and each.pid not in found]
            return found[1:]

        def ends_by_itself(self):
            """Whether a process is exiting already, or is a helper of multiprocessing, which exits once it is alone."""
            command = _read_proc(str(self.pid), 'cmdline')  # an exiting process loses this first
            if b'multiprocessing.forkserver' in command:  # it ends after its children
                return not _Process.children_of(self.pid)
            return (_LINUX and not command) or b'multiprocessing.resource_tracker' in command

    class _OrphanTerminator:
        """Ends descendants that have outlived their worker, unless in a group of their own: politely, then by force."""

        def __init__(self, worker, reaper, known, interval):
            self.names = []  # of the processes that were asked to end
            self.used_force = False
            self.kill_at = None
            self._groups = {os.getpgrp(), worker.group}
            self._reaper, self._known, self._interval = reaper, known, interval
            self._children = worker.children
            self._first_pids = None  # of the first poll; a forkserver's children, which look like it, come later

        def poll(self, now):
            """Take the next step; return whether there is nothing left to do."""
            left = self._reaper.reap(self._known)
            if self._children:  # elsewhere than on Linux, where the reaper finds them
                left += [process for process in _Process.all() if process.pid in self._children]
            left = [process for process in left if process.group in self._groups]
            if self.kill_at is None:
                self.kill_at = now + (self._interval or 0)
                self._first_pids = {process.pid for process in left}
            elif left and now >= self.kill_at:
                self.used_force, self.kill_at = True, now + 1
            for process in left:
                self._end(process)
            return all(process.pid in self._known for process in left)

        def _end(self, process):
            name = f'{process.name} (PID {process.pid})'
            try:
                if self.used_force:
                    os.kill(process.pid, signal.SIGKILL)
                elif name not in self.names and not (process.pid in self._first_pids and process.ends_by_itself()):
                    self.names.append(name)
                    os.kill(process.pid, signal.SIGTERM)
                    os.kill(process.pid, signal.SIGCONT)
            except OSError:
                self._known.add(process.pid)  # it has just ended, or is another user's: leave it alone


# -------------------------------------------------------------------------------------------------- names of hupper 1.x


# Programs for hupper 1.x import names from `hupper.reloader` and the like, which are this module too.
if getattr(sys.modules.get('hupper'), '__dict__', None) is globals():
    for _name in ('cli', 'interfaces', 'logger', 'polling', 'reloader', 'utils', 'watchdog', 'worker'):
        sys.modules['hupper.' + _name] = globals()[_name] = sys.modules['hupper']

# -------------------------------------------------------------------------------------------------------- command line


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; `args` is sys.argv[1:] if not given. Return the status, or call `sys.exit` with it."""
    try:
        options, rest = _parse_options(sys.argv[1:] if args is None else list(args))
        checks = {'reload_interval': _seconds, 'shutdown_interval': _seconds, 'stop_signal': _stop_signal}
        for name, check in checks.items():
            if name in options:
                options[name] = check('--' + name.replace('_', '-'), options[name])
        if any('' in value for value in options.values() if isinstance(value, list)):
            raise ValueError("an option has the value '': give it a path, pattern or name (see --help)")
        logger = DefaultLogger(options.pop('verbose', LogLevel.INFO))
        factory = options.pop('monitor_factory', None)
        may_fork = _IS_COMMAND and not _process_fork_obstacle()
        reloader = Reloader(_Target.of_command_line(rest), factory, logger, may_fork=may_fork, **options)
    except ValueError as error:
        DefaultLogger(LogLevel.INFO).info('hupper: error: ' + ' '.join(str(error).split()))
        return 2
    if _find_proxy(reloader.logger):  # become the program, without a monitor
        target = reloader.target
        module = ['-m'] if target.kind == 'module' else []
        _exec([sys.executable, *(target.options or ()), *module, target.name, *target.args])
    if advice := reloader.target.second_reloader():
        reloader.logger.info(f'The program has a reloader of its own: {advice}.')
    supervisor = _Supervisor(reloader)
    if may_fork:
        _WorkerMain.leave_stack(reloader.target, supervisor.run_until_forked)
    return supervisor.run_as_command()


def _parse_options(args):
    """Return the options, as arguments of Reloader, and the target with all that follows it; raise ValueError."""
    if not args or not args[0].startswith('-') or args[0].startswith('-m'):
        return {}, args
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise ValueError(f'{message} (see --help)')

    parser = Parser(
        prog='hupper',
        usage='%(prog)s [OPTIONS] -m MODULE [ARG ...]\n       %(prog)s [OPTIONS] SCRIPT [ARG ...]',
        description='Run a Python program and restart it when its files change. SCRIPT is a file, a folder or zip file '
        "with a __main__.py, or the name of one of this environment's console scripts.",
        epilog='-w and -x may be repeated. Everything after MODULE or SCRIPT belongs to the program.',
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add('-w', '--watch', dest='extra_paths', action='append', metavar='PATH', help='also watch a file, folder or glob')
    add('-x', '--ignore', dest='ignore_files', action='append', metavar='PATTERN', help='paths that do not count')
    add('-v', dest='verbose', action='store_const', const=LogLevel.DEBUG, help='also say why')
    add('-q', dest='verbose', action='store_const', const=LogLevel.ERROR, help='errors only')
    add('--reload-interval', metavar='S', help='seconds between two starts while files keep changing (default: 1)')
    add('--shutdown-interval', metavar='S', help='seconds a worker gets to stop (default: reload interval; 8 at exit)')
    add('--monitor', dest='monitor_factory', metavar='NAME', help='inotify, watchdog, polling or a factory')
    add('--keep-sockets', action='store_true', help='let clients wait during a reload: refuse none')
    add('--stop-signal', metavar='NAME', help='the polite stop (default: TERM); KILL: none')
    add('--preload', action='store_true', help='import installed packages for the next start ahead of time')
    add('--preload-except', action='append', metavar='PACKAGE', help='not this one; repeatable')
    add('--exit-on-crash', action='store_true', help='leave when the program ends, rather than wait for a change')
    add('-V', '--version', action='version', version='hupper ' + __version__)
    with_value = 'w watch x ignore reload-interval shutdown-interval monitor stop-signal preload-except'.split()
    at = 0
    while at < len(args) and args[at].startswith('-') and not args[at].startswith('-m') and args[at] != '--':
        at += 2 if args[at].lstrip('-vq') in with_value else 1
    return vars(parser.parse_args(args[:at])), args[at + 1 :] if args[at : at + 1] == ['--'] else args[at:]


if __name__ == '__main__':
    sys.exit(main())
