"""Loggers under Celery's names, and what writes and colours their lines. Neighbours: app.log sets them up."""

from __future__ import annotations

import logging
import numbers
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from compat_celery._later import kombu_encoding
from compat_celery._names import celery_name
from compat_celery.utils.term import colored

__all__ = (
    "LOG_LEVELS",
    "ColorFormatter",
    "LoggingProxy",
    "base_logger",
    "get_logger",
    "get_multiprocessing_logger",
    "get_task_logger",
    "in_sighandler",
    "mlevel",
    "reset_multiprocessing_logger",
    "set_in_sighandler",
)

RESERVED_LOGGER_NAMES = {"celery", "celery.task"}

#: The levels by their names, and their names.
LOG_LEVELS: dict[Any, Any] = dict(logging._nameToLevel) | dict(logging._levelToName)


def _get_logger(name: str) -> logging.Logger:
    """A logger that says nothing on standard error when nobody has set up logging."""
    found = logging.getLogger(name)
    if not found.handlers:
        found.addHandler(logging.NullHandler())
    return found


#: Every logger of this package is below this one, and every task's logger below ``celery.task``.
base_logger = logger = _get_logger("celery")

_in_sighandler = False


def set_in_sighandler(value: bool) -> None:
    """Say whether a signal handler runs now: redirected output must not take a logger's lock then."""
    global _in_sighandler  # noqa: PLW0603 - a signal handler belongs to the process
    _in_sighandler = value


@contextmanager
def in_sighandler() -> Iterator[None]:
    """A signal handler runs meanwhile."""
    set_in_sighandler(True)
    try:
        yield
    finally:
        set_in_sighandler(False)


def iter_open_logger_fds() -> Iterator[Any]:
    """The streams that handlers of any logger write to."""
    seen = set()
    for some in (*logging.Logger.manager.loggerDict.values(), logging.getLogger()):
        for handler in getattr(some, "handlers", ()):
            if handler not in seen and hasattr(handler, "stream"):
                seen.add(handler)
                yield handler.stream


def logger_isa(this: logging.Logger, parent: logging.Logger, max: int = 1000) -> bool:  # noqa: A002 - Celery's signature
    """Whether ``this`` is ``parent`` or below it."""
    seen = set()
    current: logging.Logger | None = this
    for _ in range(max):
        if current is None:
            return False
        if current is parent:
            return True
        if current in seen:
            raise RuntimeError(f"Logger {this.name!r} parents recursive")
        seen.add(current)
        current = current.parent
    raise RuntimeError(f"Logger hierarchy exceeds {max}")


def _below(parent: logging.Logger, child: logging.Logger) -> logging.Logger:
    if not logger_isa(child, parent):
        child.parent = parent
    return child


def get_logger(name: str) -> logging.Logger:
    """The logger of that name, below ``celery``."""
    found: logging.Logger = _get_logger(celery_name(name))
    if found is not base_logger and logging.root not in (found, found.parent):
        _below(base_logger, found)
    return found


task_logger = get_logger("celery.task")
worker_logger = get_logger("celery.worker")


def get_task_logger(name: str) -> logging.Logger:
    """A logger for a module of tasks: its lines carry the task's name and id.

    :raises RuntimeError: the name is one of Celery's own.
    """
    if name in RESERVED_LOGGER_NAMES:
        raise RuntimeError(f"Logger name {name!r} is reserved!")
    return _below(task_logger, get_logger(name))


def mlevel(level: Any) -> Any:
    """A log level as a number: ``"info"`` → 20; numbers and None are given back."""
    if level and not isinstance(level, numbers.Integral):
        return LOG_LEVELS[level.upper()]
    return level


class ColorFormatter(logging.Formatter):
    """Colours a line by its level."""

    COLORS = colored().names
    colors: dict[str, Callable[..., Any]] = {  # noqa: RUF012 - Celery's public attribute; people replace it
        "DEBUG": COLORS["blue"],
        "WARNING": COLORS["yellow"],
        "ERROR": COLORS["red"],
        "CRITICAL": COLORS["magenta"],
    }

    def __init__(self, fmt: str | None = None, use_color: bool = True, datefmt: str | None = None) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """The traceback; of the error being handled when ``ei`` is no tuple."""
        return super().formatException(ei if not ei or isinstance(ei, tuple) else sys.exc_info())

    def format(self, record: logging.LogRecord) -> str:
        """The line, coloured. Never raises: a line that cannot be shown says so."""
        try:
            text = super().format(record)
        except Exception as error:  # noqa: BLE001 - a user's object with a broken __str__ must not end the worker
            text = f"<Unrepresentable {type(record.msg)!r}: {error!r}>"
        color = self.colors.get(record.levelname)
        return str(color(kombu_encoding.safe_str(text))) if color and self.use_color else kombu_encoding.safe_str(text)


class LoggingProxy:
    """A file whose lines go to a logger."""

    mode = "w"
    name: str | None = None
    closed = False
    loglevel: int = logging.ERROR

    def __init__(self, logger: logging.Logger, loglevel: Any = None) -> None:
        self.logger = logger
        self.loglevel = mlevel(loglevel or logger.level or self.loglevel)
        self._thread = threading.local()
        for handler in logger.handlers:
            # A handler reports its own errors on sys.stderr, which may be this very object.
            handler.handleError = _report_on_real_stderr  # type: ignore[method-assign, assignment] # of this instance only

    def write(self, data: Any) -> int:
        """Log the text; answers how much of it was logged."""
        if _in_sighandler:
            text = kombu_encoding.safe_str(data)
            print(text, file=sys.__stderr__)
            return len(text)
        if getattr(self._thread, "recurse_protection", False) or not data or self.closed:
            return 0
        self._thread.recurse_protection = True
        try:
            text = kombu_encoding.safe_str(data).rstrip("\n")
            if text:
                self.logger.log(self.loglevel, text)
            return len(text)
        finally:
            self._thread.recurse_protection = False

    def writelines(self, sequence: Iterable[Any]) -> None:
        """Log each of the texts."""
        for part in sequence:
            self.write(part)

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """From now on nothing is logged."""
        self.closed = True

    def isatty(self) -> bool:
        """No terminal."""
        return False

    def fileno(self) -> int:
        """No file either.

        :raises OSError: always, as files without a descriptor do.
        """
        raise OSError("output that goes to a logger has no file descriptor")


def _report_on_real_stderr(_record: logging.LogRecord) -> None:
    if sys.__stderr__ is not None:
        traceback.print_exc(None, sys.__stderr__)


def get_multiprocessing_logger() -> logging.Logger:
    """Billiard's logger."""
    from billiard import util  # noqa: PLC0415 - costs 10 ms, and only logging setup needs it

    found: logging.Logger = util.get_logger()
    return found


def reset_multiprocessing_logger() -> None:
    """Let billiard set up its logger anew."""
    from billiard import util  # noqa: PLC0415 - as above

    if hasattr(util, "_logger"):
        util._logger = None


def current_process() -> Any:
    """Billiard's object for this process."""
    from billiard import process  # noqa: PLC0415 - as above

    return process.current_process()


def current_process_index(base: int = 1) -> int | None:
    """The number of this worker process, counted from ``base``; None outside of one."""
    index = getattr(current_process(), "index", None)
    return None if index is None else index + base
