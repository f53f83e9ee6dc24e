"""``import celery`` finds this package: the finder, the loaders and the metadata behind the alias. Knows the import system only.

Our modules are loaded under their own names, whoever imports them. ``celery.app.task`` is then "loaded" by giving the module
``compat_celery.app.task`` (its *twin*), so both names have one object. Import hooks of monitoring agents wait for Celery's names,
but our code imports its modules by ours; so each module's twin is imported as soon as the module is complete (*announced*).

Locks: Python holds one for each module that is being imported. Importing a twin waits for ours while holding Celery's, so nothing
may wait for Celery's while holding one of ours. Announcing does; Python notices the cycle and raises in one of the two threads,
which can then do without: the module is complete. See test_threads_that_import_by_both_names_at_once_get_the_same_modules.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from compat_celery._names import CELERYS, OURS

if TYPE_CHECKING:
    from importlib.metadata import DistributionFinder

__all__ = ("install_as_celery", "is_installed")


def install_as_celery() -> None:
    """From now on ``import celery`` gives this package, in this process and in those that it forks. Idempotent.

    :raises ConfigurationError: a genuine Celery is imported already: its classes would live on beside ours.
    """
    if is_installed():
        return
    present = sys.modules.get(CELERYS)
    if present is not None:
        from jumpstarter.errors import ConfigurationError  # noqa: PLC0415 - this module is loaded at every start of Python

        raise ConfigurationError(
            f"a genuine celery is imported already (from {getattr(present, '__file__', '?')}): install the alias before anything "
            "imports it, by starting the program with `python -m compat_celery`, or with COMPAT_CELERY=1 in the environment, or "
            "by calling compat_celery.install_as_celery() as the program's first statement"
        )
    sys.meta_path.insert(0, _Finder())
    # OpenTelemetry, Flower and others are looked up by entry points that are cached by these.
    importlib.invalidate_caches()


def is_installed() -> bool:
    """Whether the alias is in place."""
    return any(type(finder).__name__ == "_Finder" and type(finder).__module__.endswith("_alias") for finder in sys.meta_path)


def _renamed(name: str, prefix: str, other: str) -> str | None:
    """``name`` with ``prefix`` replaced; None when it begins with something else."""
    return other + name[len(prefix) :] if name == prefix or name.startswith(prefix + ".") else None


# None of these derives from importlib.abc: that imports 30 modules, and this one is loaded at every start of Python.


class _Finder:
    """Stands first on ``sys.meta_path``."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """How to load ``celery…`` and ``compat_celery…``; None for anything else."""
        ours = _renamed(fullname, CELERYS, OURS)
        if ours is not None:
            return _twin_spec(fullname, ours)
        if _renamed(fullname, OURS, CELERYS) is None:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if found is not None and found.loader is not None:
            found.loader = _Announcing(found.loader)  # type: ignore[assignment] # see above
        return found

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Any]:
        """Celery's metadata, for packages that look whether it is installed and which one."""
        name = context.name if context is not None else None
        if name is not None and name.lower() != CELERYS:
            return []
        from compat_celery._distribution import CeleryDistribution  # noqa: PLC0415 - who asks has imported importlib.metadata

        return [CeleryDistribution()]


def _twin_spec(fullname: str, ours: str) -> ModuleSpec | None:
    module = sys.modules.get(ours)
    spec = module.__spec__ if module is not None else importlib.util.find_spec(ours)
    if spec is None:
        return None
    loader: Any = _Twin(ours)
    twin = ModuleSpec(fullname, loader, origin=spec.origin, is_package=spec.submodule_search_locations is not None)
    twin.submodule_search_locations = spec.submodule_search_locations
    return twin


class _Chain(threading.local):
    """What this thread loads now: how deep it is in imports of ours, and which modules are complete and not announced."""

    depth = 0

    def __init__(self) -> None:
        self.complete: list[str] = []


_chain = _Chain()


class _Announcing:
    """Loads a module of ours by its own loader, and then announces it under Celery's name."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader does."""
        created: ModuleType | None = self._real.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code; announce it and what it imported once the outermost of them is complete."""
        # The loader that people and tools will ask (inspect, runpy, linecache) is the module's own.
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._real
        _chain.depth += 1
        try:
            self._real.exec_module(module)
        finally:
            _chain.depth -= 1
        _chain.complete.append(module.__spec__.name)
        if _chain.depth == 0:
            complete, _chain.complete = _chain.complete, []
            for name in complete:
                _announce(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _announce(name: str) -> None:
    try:
        importlib.import_module(CELERYS + name[len(OURS) :])
    except RuntimeError as error:
        # Another thread imports it by Celery's name now, and waits for us.
        if type(error).__name__ != "_DeadlockError":
            raise


class _Twin:
    """Gives a module of ours under Celery's name."""

    def __init__(self, ours: str) -> None:
        self._ours = ours
        self._kept: tuple[Any, Any] = (None, None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002 - the port's signature
        """The module itself."""
        module = importlib.import_module(self._ours)
        # Python will write the spec of this import over the module's own.
        self._kept = (module.__spec__, getattr(module, "__loader__", None))
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Its code ran already; undo what Python changed, and call it what hooks look for."""
        module.__spec__, module.__loader__ = self._kept
        module.__name__ = CELERYS + self._ours[len(OURS) :]

    def _ask(self, question: str) -> Any:
        spec = importlib.util.find_spec(self._ours)
        return None if spec is None or spec.loader is None else getattr(spec.loader, question)(self._ours)

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002 - as above
        """Whether it is one."""
        return bool(self._ask("is_package"))

    def get_source(self, fullname: str) -> str | None:  # noqa: ARG002 - as above
        """Its source."""
        source: str | None = self._ask("get_source")
        return source

    def get_code(self, fullname: str) -> CodeType | None:  # noqa: ARG002 - as above
        """Its code, for ``python -m celery``."""
        code: CodeType | None = self._ask("get_code")
        return code
