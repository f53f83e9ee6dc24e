"""``import celery`` finds this package: the finder, the loader and the metadata behind the alias. Knows the import system only.

Once installed, a module of this package is *loaded under its Celery name* (``celery.app.task``) from our file, and the same object
is put under our name. So classes, loggers and import hooks of monitoring agents see ``celery.…`` as they would with a genuine
Celery, whichever of the two names is imported first. Modules that were loaded before the alias was installed keep their names and
are put under Celery's.

Only these imports need help: everything below ``celery`` is found by Python itself on our package's ``__path__``.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from compat_celery._names import CELERYS, OURS

__all__ = ("install_as_celery", "is_installed")

#: What ``importlib.metadata.version("celery")`` answers.
VERSION = "5.7.0"


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


def _other_name(name: str) -> str | None:
    """``celery.x`` for ``compat_celery.x`` and the other way round; None for other packages."""
    for prefix, other in ((OURS, CELERYS), (CELERYS, OURS)):
        if name == prefix or name.startswith(prefix + "."):
            return other + name[len(prefix) :]
    return None


class _Finder(importlib.abc.MetaPathFinder):
    """Stands first on ``sys.meta_path``."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """How to load ``celery…`` and ``compat_celery…``; None for anything else."""
        other = _other_name(fullname)
        if other is None:
            return None
        if other in sys.modules:
            return _twin_spec(fullname, sys.modules[other])
        if fullname.startswith(OURS):
            return self._through_celery(fullname, other, path)
        found = importlib.machinery.PathFinder.find_spec(fullname, path or _our_path(), target)
        if found is not None and found.loader is not None:
            found.loader = _Shared(found.loader, other)
        return found

    def _through_celery(self, fullname: str, other: str, path: Sequence[str] | None) -> ModuleSpec | None:
        # A look-up must not import anything: importlib.util.find_spec is used to ask whether a module is there.
        if importlib.machinery.PathFinder.find_spec(fullname, path) is None:
            return None
        return ModuleSpec(fullname, _Twin(other))

    def find_distributions(self, context: importlib.metadata.DistributionFinder.Context | None = None) -> Iterable[Any]:
        """Celery's metadata, for packages that look whether it is installed and which one."""
        name = context.name if context is not None else None
        return [_Distribution()] if name is None or name.lower() == CELERYS else []


def _our_path() -> list[str]:
    return [str(Path(__file__).parent)]


def _twin_spec(fullname: str, module: ModuleType) -> ModuleSpec:
    spec = ModuleSpec(fullname, _Twin(module.__name__, module), is_package=hasattr(module, "__path__"))
    spec.submodule_search_locations = list(module.__path__) if hasattr(module, "__path__") else None
    spec.origin = getattr(module, "__file__", None)
    return spec


class _Shared(importlib.abc.InspectLoader):
    """Loads a module by its own loader, and puts it under its other name before its code runs (it may import itself by either)."""

    def __init__(self, real: Any, other: str) -> None:
        self._real = real
        self._other = other

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader does."""
        created: ModuleType | None = self._real.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code. A module that fails to load is under neither name afterwards."""
        # The loader that people and tools will ask (inspect, runpy, linecache) is the module's own.
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._real
        sys.modules[self._other] = module
        try:
            self._real.exec_module(module)
        except BaseException:
            sys.modules.pop(self._other, None)
            raise
        _bind_to_parent(self._other, module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def is_package(self, fullname: str) -> bool:
        """Whether it is one."""
        return bool(self._real.is_package(fullname))

    def get_source(self, fullname: str) -> str | None:
        """Its source."""
        source: str | None = self._real.get_source(fullname)
        return source

    def get_code(self, fullname: str) -> CodeType | None:
        """Its code, for ``python -m celery``."""
        code: CodeType | None = self._real.get_code(fullname)
        return code


def _bind_to_parent(name: str, module: ModuleType) -> None:
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


class _Twin(importlib.abc.InspectLoader):
    """Gives a module that exists under its other name, by giving the same object."""

    def __init__(self, other: str, module: ModuleType | None = None) -> None:
        self._other = other
        self._module = module
        self._spec: ModuleSpec | None = None
        self._loader: Any = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002 - the port's signature
        """The module under its other name."""
        module = self._module or importlib.import_module(self._other)
        # Python will write the spec of this import over the module's own.
        self._module, self._spec, self._loader = module, module.__spec__, getattr(module, "__loader__", None)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Its code ran already; undo what Python changed."""
        module.__spec__ = self._spec
        module.__loader__ = self._loader

    def _original(self) -> ModuleType:
        return self._module or importlib.import_module(self._other)

    def _ask(self, question: str) -> Any:
        spec = self._original().__spec__
        if spec is None or spec.loader is None:
            return None
        return getattr(spec.loader, question)(spec.name)

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002 - as above
        """Whether it is one."""
        return hasattr(self._original(), "__path__")

    def get_source(self, fullname: str) -> str | None:  # noqa: ARG002 - as above
        """Its source."""
        source: str | None = self._ask("get_source")
        return source

    def get_code(self, fullname: str) -> CodeType | None:  # noqa: ARG002 - as above
        """Its code, for ``python -m``."""
        code: CodeType | None = self._ask("get_code")
        return code


class _Distribution(importlib.metadata.Distribution):
    """What ``importlib.metadata`` says about the distribution ``celery``."""

    FILES = {  # noqa: RUF012 - a constant
        "METADATA": f"Metadata-Version: 2.1\nName: {CELERYS}\nVersion: {VERSION}\nSummary: Jumpstarter under Celery's name\n",
        "entry_points.txt": "[console_scripts]\ncelery = celery.__main__:main\n",
        "top_level.txt": f"{CELERYS}\n",
    }

    def read_text(self, filename: str) -> str | None:
        """A file of the metadata, or None."""
        return self.FILES.get(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Any:
        """Where a file of the distribution is."""
        return Path(__file__).parent.parent / path
