"""Signals by name, exit codes, pid files, detaching from the terminal. Used by: commands, programs that embed a worker."""

from __future__ import annotations

import atexit
import errno
import os
import platform
import signal as _signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from compat_celery._names import celery_named

__all__ = (
    "EX_CANTCREAT",
    "EX_FAILURE",
    "EX_OK",
    "EX_UNAVAILABLE",
    "EX_USAGE",
    "IS_WINDOWS",
    "SYSTEM",
    "DaemonContext",
    "LockFailed",
    "Pidfile",
    "close_open_fds",
    "create_pidlock",
    "detached",
    "get_errno_name",
    "ignore_errno",
    "isatty",
    "pyimplementation",
    "set_process_title",
    "signal_name",
    "signals",
    "strargv",
)

EX_OK = getattr(os, "EX_OK", 0)
EX_FAILURE = 1
EX_UNAVAILABLE = getattr(os, "EX_UNAVAILABLE", 69)
EX_USAGE = getattr(os, "EX_USAGE", 64)
EX_CANTCREAT = getattr(os, "EX_CANTCREAT", 73)

SYSTEM = platform.system()
IS_macOS = SYSTEM == "Darwin"
IS_WINDOWS = SYSTEM == "Windows"

DAEMON_WORKDIR = "/"

#: Names of signals by their numbers.
SIGNAMES = {name for name in dir(_signal) if name.startswith("SIG") and "_" not in name}
SIGMAP = {getattr(_signal, name): name for name in SIGNAMES}


def isatty(fh: Any) -> bool:
    """Whether the file is a terminal."""
    return bool(getattr(fh, "isatty", lambda: False)())


def pyimplementation() -> str:
    """The name of this Python: CPython, PyPy."""
    return platform.python_implementation()


# Pid files.


@celery_named
class LockFailed(Exception):
    """A pid file is there and cannot be replaced."""


@celery_named
class Pidfile:
    """A file with the number of the process that runs, so that there is only one of it."""

    path: str

    def __init__(self, path: str) -> None:
        self.path = str(Path(path).absolute())

    def acquire(self) -> Self:
        """Write the file.

        :raises LockFailed: it is there, or cannot be written.
        """
        try:
            self.write_pid()
        except OSError as error:
            raise LockFailed(str(error)) from error
        return self

    __enter__ = acquire

    def is_locked(self) -> bool:
        """Whether the file is there."""
        return Path(self.path).exists()

    def release(self, *_: Any) -> None:
        """Remove the file."""
        self.remove()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.release()

    def read_pid(self) -> int | None:
        """The number in the file; None when there is no file.

        :raises ValueError: it is no number.
        """
        try:
            text = Path(self.path).read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        try:
            return int(text.strip())
        except ValueError:
            raise ValueError(f"pidfile {self.path} contents invalid.") from None

    def remove(self) -> None:
        """Remove the file, if it can be."""
        with suppress(FileNotFoundError, PermissionError):
            Path(self.path).unlink()

    def remove_if_stale(self) -> bool:
        """Remove the file when the process that wrote it does not exist any more; answers whether there is none now."""
        try:
            pid = self.read_pid()
        except ValueError:
            print("Broken pidfile found - Removing it.", file=sys.stderr)
            self.remove()
            return True
        if not pid:
            self.remove()
            return True
        # A container's process has the same number each time.
        if pid == os.getpid() or not _exists(pid):
            print("Stale pidfile exists - Removing it.", file=sys.stderr)
            self.remove()
            return True
        return False

    def write_pid(self) -> None:
        """Write this process's number into a new file.

        :raises OSError: it cannot be made.
        """
        descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{os.getpid()}\n")
            file.flush()
            os.fsync(descriptor)


PIDFile = Pidfile


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def create_pidlock(pidfile: str) -> Pidfile:
    """Write a pid file that is removed when the process ends.

    :raises SystemExit: another process has written it and runs.
    """
    lock = Pidfile(pidfile)
    if lock.is_locked() and not lock.remove_if_stale():
        print(f"ERROR: Pidfile ({pidfile}) already exists.\nSeems we're already running? (pid: {lock.read_pid()})", file=sys.stderr)
        raise SystemExit(EX_CANTCREAT)
    lock.acquire()
    atexit.register(lock.release)
    return lock


# Daemons.


def close_open_fds(keep: Collection[Any] | None = None) -> None:
    """Close all descriptors but those of ``keep`` (numbers or files)."""
    kept = sorted(fd for item in keep or () if (fd := item if isinstance(item, int) else _descriptor(item)) is not None)
    begin = 0
    for descriptor in kept:
        os.closerange(begin, descriptor)
        begin = descriptor + 1
    os.closerange(begin, os.sysconf("SC_OPEN_MAX"))


def _descriptor(file: Any) -> int | None:
    try:
        return int(file.fileno())
    except (AttributeError, OSError, ValueError):
        return None


@celery_named
class DaemonContext:
    """Detaches the process from its terminal: two forks, a new session, standard streams to nowhere."""

    def __init__(
        self,
        pidfile: str | None = None,  # noqa: ARG002 - Celery's signature
        workdir: str | None = None,
        umask: int | str | None = None,
        fake: bool = False,
        after_chdir: Callable[[], Any] | None = None,
        after_forkers: bool = True,  # noqa: ARG002 - as above
        **_: Any,
    ) -> None:
        self.workdir = workdir or DAEMON_WORKDIR
        self.umask = int(umask, 8) if isinstance(umask, str) else umask
        self.fake = fake
        self.after_chdir = after_chdir
        self._is_open = False

    def open(self) -> None:
        """Detach. Only the daemon returns."""
        if self._is_open:
            return
        if not self.fake:
            self._detach()
        os.chdir(self.workdir)
        if self.umask is not None:
            os.umask(self.umask)
        if self.after_chdir:
            self.after_chdir()
        if not self.fake:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
        self._is_open = True

    def _detach(self) -> None:
        if os.fork():
            os._exit(0)
        os.setsid()
        # Not the session's leader any more, so that no terminal can become its own.
        if os.fork():
            os._exit(0)

    def close(self, *_: Any) -> None:
        """Nothing can be undone."""
        self._is_open = False

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def detached(
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: int | str | None = None,
    gid: int | str | None = None,
    umask: int | str = 0,
    workdir: str | None = None,
    fake: bool = False,
    **opts: Any,
) -> DaemonContext:
    """A context in which the process is a daemon.

    :param logfile: checked before the terminal is gone: it can be written.
    :param pidfile: checked before, too: no other process has it.
    :raises NotImplementedError: it shall change its user; let the service manager do that.
    """
    if uid or gid:
        raise NotImplementedError("detached: changing user or group is left to the service manager (User= of systemd)")

    def check() -> None:
        if logfile and "%" not in logfile:
            with Path(logfile).open("a", encoding="utf-8"):
                pass
        if pidfile:
            create_pidlock(pidfile).release()

    return DaemonContext(umask=umask, workdir=workdir, fake=fake, after_chdir=check, **opts)


# Signals.


@celery_named
class Signals:
    """Signals by their names, with or without ``SIG``. ``signals["term"] = handler``; names that there are not are passed over."""

    ignored = _signal.SIG_IGN
    default = _signal.SIG_DFL

    def arm_alarm(self, seconds: float) -> None:
        """Send SIGALRM in so many seconds."""
        _signal.setitimer(_signal.ITIMER_REAL, seconds)

    def reset_alarm(self) -> None:
        """Send no SIGALRM."""
        _signal.setitimer(_signal.ITIMER_REAL, 0)

    def supported(self, name: str | int) -> bool:
        """Whether there is such a signal here."""
        try:
            self.signum(name)
        except AttributeError:
            return False
        return True

    def signum(self, name: str | int) -> int:
        """The number of a signal.

        :raises AttributeError: there is none of that name.
        """
        if isinstance(name, int):
            return name
        upper = name.upper()
        return int(getattr(_signal, upper if upper.startswith("SIG") else f"SIG{upper}"))

    def reset(self, *names: str | int) -> None:
        """What the system does by default."""
        self.update(dict.fromkeys(names, self.default))

    def ignore(self, *names: str | int) -> None:
        """Ignore them."""
        self.update(dict.fromkeys(names, self.ignored))

    def __getitem__(self, name: str | int) -> Any:
        return _signal.getsignal(self.signum(name))

    def __setitem__(self, name: str | int, handler: Any) -> None:
        # Handlers belong to the main thread; elsewhere there is nothing to set.
        with suppress(AttributeError, ValueError):
            _signal.signal(self.signum(name), handler)

    def update(self, _d_: Mapping[Any, Any] | None = None, **sigmap: Any) -> None:
        """Set several."""
        for name, handler in {**(_d_ or {}), **sigmap}.items():
            self[name] = handler


signals = Signals()
get_signal = signals.signum
install_signal_handler = signals.__setitem__
reset_signal = signals.reset
ignore_signal = signals.ignore


def signal_name(signum: int) -> str:
    """The name of a signal, without ``SIG``: 9 → ``KILL``."""
    return SIGMAP[signum][3:]


def strargv(argv: Iterable[str]) -> str:
    """The arguments in one line, without the program."""
    return " ".join(list(argv)[1:])


def set_process_title(progname: str, info: str | None = None) -> str:
    """The process's name for ``ps``, where the package setproctitle is installed; answers it."""
    title = f"[{progname}]" if info is None else f"[{progname}] {info}"
    with suppress(ImportError):
        __import__("setproctitle").setproctitle(title)
    return title


def set_mp_process_title(progname: str, info: str | None = None, hostname: str | None = None) -> str:
    """The same for a child process of a worker."""
    name = f"{progname}: {hostname.partition('.')[0]}" if hostname else progname
    return set_process_title(f"{name}:MainProcess", info)


# Errors of the operating system.


def get_errno_name(n: int | str) -> int:
    """The number of an error: ``"ENOENT"`` → 2."""
    return int(getattr(errno, n)) if isinstance(n, str) else n


@contextmanager
def ignore_errno(*errnos: int | str, types: type[BaseException] | tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Errors with these numbers or names are passed over."""
    kinds = types or (OSError,)
    numbers = [get_errno_name(number) for number in errnos]
    try:
        yield
    except kinds as error:
        if getattr(error, "errno", None) not in numbers:
            raise
