"""Modules and objects by their names. Knows the import system only."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module, reload
from pathlib import Path
from types import ModuleType
from typing import Any

from compat_celery._alias import is_installed
from compat_celery._names import CELERYS, OURS

__all__ = (
    "NotAPackage",
    "cwd_in_path",
    "find_module",
    "gen_task_name",
    "import_from_cwd",
    "instantiate",
    "module_file",
    "qualname",
    "reload_from_cwd",
    "symbol_by_name",
)

#: Set when a program runs under ``python -m``'s stand-ins: the file that passes for ``__main__``.
MP_MAIN_FILE = os.environ.get("MP_MAIN_FILE")


class NotAPackage(Exception):
    """A dotted name goes through something that is a module, not a package."""


def our_name(name: str) -> str:
    """``celery.x:Y`` as ``compat_celery.x:Y`` unless the alias is installed: our own classes are found with or without it."""
    if (name == CELERYS or name.startswith((CELERYS + ".", CELERYS + ":"))) and not is_installed():
        return OURS + name[len(CELERYS) :]
    return name


def symbol_by_name(
    name: Any,
    aliases: dict[str, str] | None = None,
    imp: Callable[..., Any] | None = None,
    package: str | None = None,
    sep: str = ".",
    default: Any = None,
    **kwargs: Any,
) -> Any:
    """The object behind ``module.name`` or ``module:name``; anything but a string is given back.

    :raises ImportError: there is no such module (unless there is a ``default``).
    :raises AttributeError: the module has no such name.
    """
    if not isinstance(name, str):
        return name
    name = our_name((aliases or {}).get(name) or name)
    module, _, attribute = name.rpartition(":" if ":" in name else sep)
    if not module:
        module, attribute = package or attribute, ""
    try:
        try:
            found = (imp or import_module)(module, package=package, **kwargs)
        except ValueError as error:
            raise ValueError(f"Couldn't import {name!r}: {error}") from error
        return getattr(found, attribute) if attribute else found
    except (ImportError, AttributeError):
        if default is None:
            raise
        return default


def qualname(obj: Any) -> str:
    """The object's dotted name (the name of its class where it has none)."""
    if not hasattr(obj, "__name__") and hasattr(obj, "__class__"):
        obj = obj.__class__
    name: str = obj.__qualname__
    return name if "." in name else f"{obj.__module__}.{name}"


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the class behind a name."""
    return symbol_by_name(name)(*args, **kwargs)


@contextmanager
def cwd_in_path() -> Iterator[str | None]:
    """The working directory comes first on ``sys.path`` meanwhile."""
    try:
        cwd = str(Path.cwd())
    except FileNotFoundError:  # the directory was deleted under us
        yield None
        return
    if cwd in sys.path:
        yield None
        return
    sys.path.insert(0, cwd)
    try:
        yield cwd
    finally:
        if cwd in sys.path:
            sys.path.remove(cwd)


def find_module(module: str, path: Any = None, imp: Callable[[str], Any] | None = None) -> Any:  # noqa: ARG001 - Celery's signature
    """Import a module by its dotted name, also from the working directory.

    :raises NotAPackage: a part before the last dot is no package.
    """
    load = imp or import_module
    with cwd_in_path():
        try:
            return load(module)
        except ImportError:
            _blame_non_package(module, load)
            raise


def _blame_non_package(module: str, load: Callable[[str], Any]) -> None:
    parts = module.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        try:
            found = load(package)
        except ImportError:
            return
        if not hasattr(found, "__path__"):
            raise NotAPackage(package) from None


def import_from_cwd(module: str, imp: Callable[..., Any] | None = None, package: str | None = None) -> Any:
    """Import a module; those in the working directory come first."""
    with cwd_in_path():
        return (imp or import_module)(module, package=package) if package else (imp or import_module)(module)


def reload_from_cwd(module: ModuleType, reloader: Callable[[ModuleType], Any] | None = None) -> Any:
    """Load a module anew; those in the working directory come first."""
    with cwd_in_path():
        return (reloader or reload)(module)


def module_file(module: ModuleType) -> str:
    """The file of a module's source."""
    name = module.__file__ or ""
    return name[:-1] if name.endswith(".pyc") else name


def gen_task_name(app: Any, name: str, module_name: str | None) -> str:
    """A task's name from its function's: ``module.name``, the app's ``main`` standing for a script's ``__main__``."""
    module_name = module_name or "__main__"
    module = sys.modules.get(module_name)
    if module is not None:
        module_name = module.__name__
        if MP_MAIN_FILE and getattr(module, "__file__", None) == MP_MAIN_FILE:
            module_name = "__main__"
    if module_name == "__main__" and app.main:
        return f"{app.main}.{name}"
    return f"{module_name}.{name}" if module_name else name


def entry_points(**which: Any) -> Any:
    """As :func:`importlib.metadata.entry_points`, which is imported when it is needed: 30 ms, and most programs do without."""
    from importlib import metadata  # noqa: PLC0415 - see above

    return metadata.entry_points(**which)


@cache
def load_extension_class_names(namespace: str) -> tuple[tuple[str, str], ...]:
    """Name and object name of every entry point in the group. Kept: reading the metadata of all packages takes milliseconds."""
    return tuple((entry.name, entry.value) for entry in entry_points(group=namespace))


def load_extension_classes(namespace: str) -> Iterator[tuple[str, Any]]:
    """Name and object of every entry point in the group; warns about those that cannot be imported."""
    for name, class_name in load_extension_class_names(namespace):
        try:
            cls = symbol_by_name(class_name)
        except (ImportError, SyntaxError) as error:
            warnings.warn(f"Cannot load {namespace} extension {class_name!r}: {error!r}", stacklevel=2)
        else:
            yield name, cls
