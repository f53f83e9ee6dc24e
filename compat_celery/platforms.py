"""Signals by name, exit codes, pid files, detaching from the terminal. Used by: commands, programs that embed a worker."""

from __future__ import annotations

import atexit
import errno
import os
import platform
import signal as _signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from compat_celery._names import celery_named
from compat_celery.exceptions import SecurityError, SecurityWarning
from compat_celery.local import try_import

#: None where the system has none of it.
resource = try_import("resource")
pwd = try_import("pwd")
grp = try_import("grp")
mputil = try_import("multiprocessing.util")
_setproctitle = try_import("setproctitle")

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
    "check_privileges",
    "close_open_fds",
    "create_pidlock",
    "detached",
    "fd_by_path",
    "get_errno_name",
    "get_fdmax",
    "ignore_errno",
    "initgroups",
    "isatty",
    "maybe_drop_privileges",
    "parse_gid",
    "parse_uid",
    "pyimplementation",
    "set_mp_process_title",
    "set_pdeathsig",
    "set_process_title",
    "setgid",
    "setgroups",
    "setuid",
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

PIDFILE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY
PIDFILE_MODE = 0o644

#: Where the descriptors of this process are listed.
_FD_DIR = "/dev/fd" if IS_macOS or SYSTEM in {"DragonFly", "FreeBSD"} else "/proc/self/fd"

ROOT_DISALLOWED = """\
A worker that runs as root and accepts pickle lets everybody who can send it a message do anything on this machine. Run it as \
another user, or take pickle out of accept_content. (The environment variable C_FORCE_ROOT lets it start all the same.)

User information: uid={uid} euid={euid} gid={gid} egid={egid}
"""

ROOT_DISCOURAGED = """\
The worker runs as root. Run it as another user.

User information: uid={uid} euid={euid} gid={gid} egid={egid}
"""

ASSUMING_ROOT = "The process's group has no name on this system, so it is taken for one that may do anything.\n"

#: Names of signals by their numbers.
SIGNAMES = {name for name in dir(_signal) if name.startswith("SIG") and "_" not in name}
SIGMAP = {getattr(_signal, name): name for name in SIGNAMES}


def isatty(fh: Any) -> bool:
    """Whether the file is a terminal."""
    try:
        answer: bool = fh.isatty()
    except AttributeError:
        return False
    return answer


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

        :raises ValueError: it is no number, or its line has no end: somebody is still writing it.
        """
        try:
            text = Path(self.path).read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        try:
            if not text.endswith("\n"):
                raise ValueError(text)
            return int(text.strip())
        except ValueError:
            raise ValueError(f"pidfile {self.path} contents invalid.") from None

    def remove(self) -> None:
        """Remove the file, if it can be."""
        with suppress(FileNotFoundError, PermissionError):
            Path(self.path).unlink()

    def remove_if_stale(self) -> bool:
        """Remove the file when the process that wrote it is not there any more; answers whether there is no file now."""
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
        if pid == os.getpid() or not _is_ours(pid):
            print("Stale pidfile exists - Removing it.", file=sys.stderr)
            self.remove()
            return True
        return False

    def write_pid(self) -> None:
        """Write this process's number into a new file.

        :raises OSError: it cannot be made.
        """
        content = f"{os.getpid()}\n"
        descriptor = os.open(self.path, PIDFILE_FLAGS, PIDFILE_MODE)
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if Path(self.path).read_text(encoding="ascii") != content:
            raise LockFailed(f"the pid file {self.path} does not hold what was just written into it")


PIDFile = Pidfile


def _is_ours(pid: int) -> bool:
    """Whether that process is there and may be signalled. The number of a worker that crashed may have gone to another user's."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def create_pidlock(pidfile: str) -> Pidfile:
    """Write a pid file that is removed when the process ends.

    :raises SystemExit: another process has written it and runs.
    """
    lock = _create_pidlock(pidfile)
    atexit.register(lock.release)
    return lock


def _create_pidlock(pidfile: str) -> Pidfile:
    lock = Pidfile(pidfile)
    if lock.is_locked() and not lock.remove_if_stale():
        print(f"ERROR: Pidfile ({pidfile}) already exists.\nSeems we're already running? (pid: {lock.read_pid()})", file=sys.stderr)
        raise SystemExit(EX_CANTCREAT)
    lock.acquire()
    return lock


# Daemons.


def get_fdmax(default: Any = None) -> Any:
    """How many descriptors a process may have; ``default`` where nobody says."""
    from billiard.compat import get_fdmax as ask  # noqa: PLC0415 - daemons only

    return ask(default)


def _dev_fd_is_fdescfs() -> bool:
    """Whether ``/dev/fd`` lists all descriptors of the process: elsewhere it has three entries."""
    try:
        return os.stat("/dev").st_dev != os.stat(_FD_DIR).st_dev  # noqa: PTH116 - one call
    except OSError:
        return False


def _open_fds() -> list[int] | None:
    """The descriptors of this process; None where they are not listed."""
    if SYSTEM in {"DragonFly", "FreeBSD"} and not _dev_fd_is_fdescfs():
        return None
    try:
        names = os.listdir(_FD_DIR)  # noqa: PTH208 - names of descriptors
    except OSError:
        return None
    return sorted(int(name) for name in names if name.isdigit())


def fd_by_path(paths: Iterable[str]) -> list[int]:
    """The descriptors that are open for these files."""
    wanted = set()
    for path in paths:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                wanted.add(os.fstat(descriptor)[1:3])
            finally:
                os.close(descriptor)

    def is_wanted(descriptor: int) -> bool:
        try:
            return os.fstat(descriptor)[1:3] in wanted
        except OSError:
            return False

    found = _open_fds()
    return [descriptor for descriptor in (range(get_fdmax(2048)) if found is None else found) if is_wanted(descriptor)]


def _billiard_close_open_fds(keep: Collection[Any] | None) -> None:
    from billiard.compat import close_open_fds as close  # noqa: PLC0415 - where descriptors are not listed

    close(keep)


def close_open_fds(keep: Collection[Any] | None = None) -> None:
    """Close all descriptors but those of ``keep`` (numbers or files)."""
    listed = _open_fds()
    if listed is None:
        _billiard_close_open_fds(keep)
        return
    kept = {item if isinstance(item, int) else _descriptor(item) for item in keep or ()}
    for descriptor in listed:
        if descriptor in kept:
            continue
        try:
            os.close(descriptor)
        except OSError as error:
            if error.errno != errno.EBADF:  # the one that listed them is closed already
                raise


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
        after_forkers: bool = True,
        **_: Any,
    ) -> None:
        self.workdir = workdir or DAEMON_WORKDIR
        # As people write it: 022 is octal, 18 is not.
        self.umask = int(umask, 8 if umask.startswith("0") else 10) if isinstance(umask, str) else umask
        self.fake = fake
        self.after_chdir = after_chdir
        self.after_forkers = after_forkers
        self.stdfds: Any = (sys.stdin, sys.stdout, sys.stderr)
        self._is_open = False

    def redirect_to_null(self, fd: int | None) -> None:
        """Let a descriptor lead nowhere."""
        if fd is not None:
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)

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
            self._let_go()
        self._is_open = True

    def _let_go(self) -> None:
        """Of everything that the terminal's program had open. shelve reads /dev/urandom, and beat needs shelve."""
        close_open_fds([*self.stdfds, *fd_by_path(["/dev/urandom"])])
        for stream in self.stdfds:
            self.redirect_to_null(stream if isinstance(stream, int) else _descriptor(stream))
        if self.after_forkers and mputil is not None:
            mputil._run_after_forkers()

    def _detach(self) -> None:
        if os.fork() != 0:
            os._exit(0)
        else:
            os.setsid()
            # Not the session's leader any more, so that no terminal can become its own.
            if os.fork() != 0:
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
    :param uid: the user (name or number) that it becomes. :param gid: likewise the group.
    :raises RuntimeError: this system has no daemons.
    """
    if not resource:
        raise RuntimeError("This platform does not support detach.")
    signals.reset("SIGCLD")
    maybe_drop_privileges(uid=uid, gid=gid)

    def check() -> None:
        if logfile:
            open(logfile, "a").close()  # noqa: PTH123 - only whether it can be written
        if pidfile:
            _create_pidlock(pidfile).release()

    here = str(Path.cwd()) if workdir is None else workdir
    return DaemonContext(umask=umask, workdir=here, fake=fake, after_chdir=check, **opts)


# Users and groups.


def parse_uid(uid: int | str) -> int:
    """The number of a user.

    :raises KeyError: there is none of that name.
    """
    try:
        return int(uid)
    except ValueError:
        try:
            return int(pwd.getpwnam(uid).pw_uid)
        except (AttributeError, KeyError):
            raise KeyError(f"User does not exist: {uid}") from None


def parse_gid(gid: int | str) -> int:
    """The number of a group.

    :raises KeyError: there is none of that name.
    """
    try:
        return int(gid)
    except ValueError:
        try:
            return int(grp.getgrnam(gid).gr_gid)
        except (AttributeError, KeyError):
            raise KeyError(f"Group does not exist: {gid}") from None


def _setgroups_hack(groups: list[int]) -> None:
    """Be in as many of these groups as the system allows, which not every system tells."""
    groups = list(groups)
    while True:
        try:
            os.setgroups(groups)
        except (ValueError, OSError) as error:
            too_many = isinstance(error, ValueError) or error.errno == errno.EINVAL
            if not too_many or len(groups) <= 1:
                raise
            groups.pop()
        else:
            return


def setgroups(groups: list[int]) -> None:
    """Be in these groups.

    :raises OSError: it may not, and is not in them already.
    """
    try:
        most: int | None = os.sysconf("SC_NGROUPS_MAX")
    except (ValueError, OSError):
        most = None
    try:
        _setgroups_hack(groups[:most])
    except OSError as error:
        if error.errno != errno.EPERM or any(group not in groups for group in os.getgroups()):
            raise


def initgroups(uid: int, gid: int) -> None:
    """Be in the groups of a user, and in this one."""
    if not pwd:
        return
    user = pwd.getpwuid(uid)[0]
    if hasattr(os, "initgroups"):
        os.initgroups(user, gid)
        return
    setgroups([group.gr_gid for group in grp.getgrall() if user in group.gr_mem])


def setgid(gid: int | str) -> None:
    """Become a group, by name or number."""
    os.setgid(parse_gid(gid))


def setuid(uid: int | str) -> None:
    """Become a user, by name or number."""
    os.setuid(parse_uid(uid))


def maybe_drop_privileges(uid: int | str | None = None, gid: int | str | None = None) -> None:
    """Become this user, in his groups, or this group, for good.

    :raises SecurityError: root's rights are still there afterwards, or can be had back.
    """
    if os.geteuid() and not os.getuid():
        raise SecurityError("the process is root's under another name: start it as the user that it shall be")
    user = parse_uid(uid) if uid else None
    group = parse_gid(gid) if gid else None
    if user:
        _become(user, group)
    elif group:
        setgid(group)
    if user and not os.getuid() and not os.geteuid():
        raise SecurityError("Still root uid after drop privileges!")
    if group and not os.getgid() and not os.getegid():
        raise SecurityError("Still root gid after drop privileges!")


def _become(uid: int, gid: int | None) -> None:
    if not gid and pwd:
        gid = pwd.getpwuid(uid).pw_gid
    # The groups first: who is no longer root may not change them. And setgid empties the list that initgroups fills.
    setgid(gid or 0)
    initgroups(uid, gid or 0)
    setuid(uid)
    try:
        setuid(0)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        return
    raise SecurityError("non-root user able to restore privileges after setuid.")


#: Groups whose members may become root.
_ROOTS = frozenset({"sudo", "wheel"})


def check_privileges(accept_content: Collection[str]) -> None:
    """Refuse to accept pickle as root: whoever can send a message could do anything. Warns about root without pickle.

    :raises SecurityError: pickle is accepted as root, and C_FORCE_ROOT is not set.
    """
    if grp is None or pwd is None:
        return
    names = ("getuid", "getgid", "geteuid", "getegid")
    if hasattr(os, "fchown") and not all(hasattr(os, name) for name in names):
        raise SecurityError("suspicious platform, contact support: it has owners of files, but does not tell who runs this")
    uid, gid, euid, egid = (getattr(os, name)() if hasattr(os, name) else 65535 for name in names)
    try:
        groups = {grp.getgrgid(gid)[0], grp.getgrgid(egid)[0]}
    except KeyError:
        warnings.warn(SecurityWarning(ASSUMING_ROOT), stacklevel=2)
        groups = set(_ROOTS)
    if uid != 0 and euid != 0 and not groups & _ROOTS:
        return
    who = {"uid": uid, "euid": euid, "gid": gid, "egid": egid}
    if {"pickle", "application/group-python-serialize"} & set(accept_content) and not os.environ.get("C_FORCE_ROOT"):
        raise SecurityError(ROOT_DISALLOWED.format(**who))
    warnings.warn(SecurityWarning(ROOT_DISCOURAGED.format(**who)), stacklevel=2)


# Signals.


@celery_named
class Signals:
    """Signals by their names, with or without ``SIG``. ``signals["TERM"] = handler``; names that there are not are passed over."""

    ignored = _signal.SIG_IGN
    default = _signal.SIG_DFL

    def arm_alarm(self, seconds: float) -> None:
        """Send SIGALRM in so many seconds."""
        _signal.setitimer(_signal.ITIMER_REAL, seconds)

    def reset_alarm(self) -> None:
        """Send no SIGALRM."""
        _signal.alarm(0)

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
        :raises TypeError: it is no name in capitals.
        """
        if isinstance(name, int):
            return name
        if not isinstance(name, str) or not name.isupper():
            raise TypeError(f"signals are named in capitals, as TERM or SIGTERM, not {name!r}")
        return int(getattr(_signal, name if name.startswith("SIG") else f"SIG{name}"))

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
    title = f"[{progname}] {info}" if info else f"[{progname}]"
    if _setproctitle:
        _setproctitle.setproctitle(title)
    return title


def set_mp_process_title(progname: str, info: str | None = None, hostname: str | None = None) -> str:
    """The same for a child process of a worker."""
    name = f"{progname}: {hostname}" if hostname else progname
    return set_process_title(f"{name}:{current_process().name}", info=info)


def current_process() -> Any:
    """The process, as billiard sees it."""
    from billiard.process import current_process as ask  # noqa: PLC0415 - for its name only

    return ask()


def set_pdeathsig(name: int | str) -> None:
    """Have this process get a signal when its parent ends, where the system can do that."""
    with suppress(OSError):
        _set_pdeathsig(signals.signum(name))


def _set_pdeathsig(number: int) -> None:
    from billiard.util import set_pdeathsig as call  # noqa: PLC0415 - it needs ctypes

    call(number)


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
