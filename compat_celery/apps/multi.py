"""Several workers that are looked after from one place: a :class:`Node` for each. The command ``celery multi`` is still to come."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from compat_celery.utils.nodenames import node_format, nodesplit

__all__ = ("Node",)

#: Options of ``celery`` itself: they stand before its sub-command.
GLOBAL_OPTIONS = frozenset(
    {"-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir", "-C", "--no-color", "-q", "--quiet"}
)
#: Options that name files, and where these are if nobody says so.
FILES = {("--pidfile", "-p"): "/var/run/celery/%n.pid", ("--logfile", "-f"): "/var/log/celery/%n%I.log"}


def format_opt(opt: str, value: Any) -> str:
    """An option as it stands on a command line."""
    if not value:
        return opt
    return f"{opt}={value}" if opt.startswith("--") else f"{opt} {value}"


class Node:
    """A worker's command line, its files, and the process behind them.

    :param name: ``name@host``.
    :param cmd: instead of ``-m celery worker --detach``.
    :param append: more arguments, at the end.
    :param options: options of the worker, with their values; ``%n`` and its like are filled in once here, and what is doubled
        (``%%n``) is left for the worker.
    """

    def __init__(
        self,
        name: str,
        cmd: str | None = None,
        append: str | None = None,
        options: Mapping[str, Any] | None = None,
        extra_args: str | None = None,
    ) -> None:
        self.name = name
        self.cmd = cmd or "-m celery worker --detach"
        self.append = append
        self.extra_args = extra_args or ""
        self.options = self._with_defaults(dict(options or {}))
        shortname, hostname = nodesplit(name)
        self.expander: Callable[[Any], Any] = partial(node_format, name=name, N=shortname, d=hostname, h=name, i="%i", I="%I")
        self.argv = self._arguments()
        self._pid: int | None = None

    def _with_defaults(self, options: dict[str, Any]) -> dict[str, Any]:
        options["-n"] = self.name
        for names, default in FILES.items():
            given = next((name for name in names if name in options), names[0])
            path = Path(options.setdefault(given, default)).expanduser()
            options[given] = str(path)
            path.parent.mkdir(parents=True, exist_ok=True)
        options.setdefault("--executable", sys.executable)
        return options

    def _arguments(self) -> tuple[str, ...]:
        words = self.expander(self.cmd).split(" ")
        place = words.index("celery") + 1
        for opt, value in self.options.items():
            if opt in GLOBAL_OPTIONS:
                words.insert(place, format_opt(opt, self.expander(value)))
        own = [format_opt(opt, self.expander(value)) for opt, value in self.options.items() if opt not in GLOBAL_OPTIONS]
        last = (self.expander(self.append),) if self.append else ()
        return (" ".join(words), *own, self.extra_args, *last)

    @property
    def executable(self) -> str:
        """The interpreter."""
        return str(self.options["--executable"])

    @property
    def argv_with_executable(self) -> tuple[str, ...]:
        """The whole command line."""
        return (self.executable, *self.argv)

    @cached_property
    def pidfile(self) -> str:
        """Where the worker writes its process's number."""
        return str(node_format(self.expander(self.getopt("--pidfile", "-p")), self.name))

    @cached_property
    def logfile(self) -> str:
        """Where it logs to."""
        return str(self.expander(self.getopt("--logfile", "-f")))

    def getopt(self, *names: str) -> Any:
        """The value of an option by one of its names.

        :raises KeyError: it was not given.
        """
        for name in names:
            if name in self.options:
                return self.options[name]
        raise KeyError(names[0])

    @property
    def pid(self) -> int | None:
        """The worker's process, or None."""
        if self._pid is not None:
            return self._pid
        try:
            return int(Path(self.pidfile).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    @pid.setter
    def pid(self, value: int | None) -> None:
        self._pid = value

    def send(self, sig: int | signal.Signals, on_error: Callable[[Node], Any] | None = None) -> bool:
        """Send the worker a signal; False, and ``on_error(node)``, when there is none."""
        try:
            if self.pid is None:
                raise ProcessLookupError
            os.kill(self.pid, sig)
        except (ProcessLookupError, PermissionError):
            if on_error is not None:
                on_error(self)
            return False
        return True

    def alive(self) -> bool:
        """Whether the worker runs."""
        return self.send(0)

    @classmethod
    def from_kwargs(cls, name: str, **kwargs: Any) -> Node:
        """A node with options as keywords: ``max_tasks_per_child=10``, ``c=2``."""
        options = {f"--{key.replace('_', '-')}" if len(key) > 1 else f"-{key}": str(value) for key, value in kwargs.items()}
        return cls(name, options=options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"
