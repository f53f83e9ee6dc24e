"""What all loaders do. Comes from: the app. Goes to: the import system, the user's configuration."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cached_property
from threading import local
from types import ModuleType
from typing import TYPE_CHECKING, Any

from compat_celery import signals
from compat_celery._later import kombu_json
from compat_celery._names import celery_named
from compat_celery.app.defaults import NAMESPACES, Option
from compat_celery.utils.collections import DictAttribute, force_mapping
from compat_celery.utils.functional import maybe_list
from compat_celery.utils.imports import NotAPackage, find_module, import_from_cwd, symbol_by_name

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("BaseLoader",)

unconfigured: Any = object()

CAST = re.compile(r"\((\w+)\)")


@celery_named
class BaseLoader:
    """Finds the configuration, imports the task modules, and is told what happens in a worker."""

    builtin_modules: frozenset[str] = frozenset()
    configured = False
    override_backends: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed
    worker_initialized = False
    _conf: Any = unconfigured

    def __init__(self, app: Celery, **_: Any) -> None:
        self.app = app
        self.task_modules: set[str] = set()

    def now(self, utc: bool = True) -> datetime:
        """The time: aware and UTC, or naive and local."""
        return datetime.now(UTC) if utc else datetime.now()  # noqa: DTZ005 - asked for naive

    # Hooks for subclasses.

    def on_task_init(self, task_id: str, task: Any) -> None:
        """Before each task."""

    def on_process_cleanup(self) -> None:
        """After each task."""

    def on_worker_init(self) -> None:
        """When the worker starts."""

    def on_worker_shutdown(self) -> None:
        """When the worker ends."""

    def on_worker_process_init(self) -> None:
        """When a child process starts."""

    # Importing.

    def import_task_module(self, module: str) -> Any:
        """Import a module of tasks, also from the working directory."""
        self.task_modules.add(module)
        return self.import_from_cwd(module)

    def import_module(self, module: str, package: str | None = None) -> ModuleType:
        """Import a module."""
        return importlib.import_module(module, package=package)

    def import_from_cwd(self, module: str, imp: Callable[..., Any] | None = None, package: str | None = None) -> Any:
        """Import a module; those in the working directory come first."""
        return import_from_cwd(module, imp or self.import_module, package=package)

    def import_default_modules(self) -> list[Any]:
        """Send ``import_modules`` and import the modules that the settings name.

        :raises Exception: what a receiver of the signal raised (a module found by autodiscovery that cannot be imported).
        """
        for _, response in signals.import_modules.send(sender=self.app):
            if isinstance(response, Exception):
                raise response
        return [self.import_task_module(module) for module in self.default_modules]

    def init_worker(self) -> None:
        """Make this process a worker: import the tasks. Once."""
        if not self.worker_initialized:
            self.worker_initialized = True
            self.import_default_modules()
            self.on_worker_init()

    def shutdown_worker(self) -> None:
        """The worker ends."""
        self.on_worker_shutdown()

    def init_worker_process(self) -> None:
        """A child process starts."""
        self.on_worker_process_init()

    def autodiscover_tasks(self, packages: Iterable[str] | None, related_name: str | None = "tasks") -> None:
        """Import the module ``related_name`` of each package that has one."""
        found = autodiscover_tasks(packages or (), related_name)
        self.task_modules.update(module.__name__ for module in found if module)

    @cached_property
    def default_modules(self) -> tuple[str, ...]:
        """The modules that settings name: ``imports`` and ``include``."""
        return (*self.builtin_modules, *maybe_list(self.app.conf.imports), *maybe_list(self.app.conf.include))

    # Configuration.

    def config_from_object(self, obj: Any, silent: bool = False) -> bool:
        """Take the configuration from an object, a mapping, or the name of a module or of something in one.

        :param silent: False is answered where it cannot be imported.
        :raises ImportError: it cannot be imported.
        """
        if isinstance(obj, str):
            try:
                obj = self._smart_import(obj, imp=self.import_from_cwd)
            except (ImportError, AttributeError):
                if silent:
                    return False
                raise
        self._conf = force_mapping(obj)
        backends = self._conf.get("override_backends")
        if backends is not None:
            self.override_backends = backends
        return True

    def _smart_import(self, path: str, imp: Callable[..., Any] | None = None) -> Any:
        imp = imp or self.import_module
        if ":" in path:
            return symbol_by_name(path, imp=imp)
        try:
            return imp(path)
        except ImportError:
            # "pkg.Config" may be something in the module "pkg".
            return symbol_by_name(path, imp=imp)

    def _import_config_module(self, name: str) -> Any:
        try:
            self.find_module(name)
        except NotAPackage as error:
            hint = f" Did you mean '{name[:-3]}'?" if name.endswith(".py") else ""
            raise NotAPackage(f"Error: Module '{name}' doesn't exist, or it's not a valid Python module name.{hint}") from error
        return self.import_from_cwd(name)

    def find_module(self, module: str) -> Any:
        """Import a module by its dotted name."""
        return find_module(module)

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> Any:
        """The configuration module that the environment names, or None."""
        name = os.environ.get(env)
        return DictAttribute(self._import_config_module(name)) if name else None

    def cmdline_config_parser(
        self,
        args: Iterable[str],
        namespace: str = "celery",
        re_type: re.Pattern[str] = CAST,
        extra_types: dict[str, Callable[[str], Any]] | None = None,
        override_types: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Settings from the command line: ``worker.prefetch_multiplier=2``, ``task_queues=(list)["a"]``.

        :raises ValueError: a value does not fit its setting.
        """
        kinds = dict(Option.typemap, **(extra_types or {"json": kombu_json.loads}))
        overrides = override_types or {"tuple": "json", "list": "json", "dict": "json"}
        return dict(_setting(argument, (namespace or "").lower(), re_type, kinds, overrides) for argument in args)

    @property
    def conf(self) -> Any:
        """The user's configuration as a mapping, or None."""
        if self._conf is unconfigured:
            self._conf = self.read_configuration()
        return self._conf


def _setting(
    argument: str,
    namespace: str,
    cast: re.Pattern[str],
    kinds: dict[str, Callable[[str], Any]],
    overrides: dict[str, str],
) -> tuple[str, Any]:
    name, _, text = argument.partition("=")
    name = name.lower().replace(".", "_")
    section, _, key = name.partition("_")
    section = section or namespace
    full = f"{section}_{key}" if section else key
    typed = cast.match(text)
    if typed:
        kind = typed.group(1)
        return full, kinds[overrides.get(kind, kind)](text[typed.end() :])
    try:
        return full, NAMESPACES[section][key].to_python(text)
    except ValueError as error:
        raise ValueError(f"{full!r}: {error}") from error


class _Discovering(local):
    """Whether this thread discovers tasks now: a task module may itself ask for discovery."""

    now = False


_discovering = _Discovering()


def autodiscover_tasks(packages: Iterable[str], related_name: str | None = "tasks") -> list[Any]:
    """The modules of that name in the packages; None for each package without one. Empty when called from within itself."""
    if _discovering.now:
        return []
    _discovering.now = True
    try:
        return [find_related_module(package, related_name) for package in packages]
    finally:
        _discovering.now = False


def find_related_module(package: str, related_name: str | None) -> ModuleType | None:
    """The module ``package.related_name``, or None if there is none. ``package`` may be a class in a package (Django's AppConfig).

    :raises ModuleNotFoundError: the package, or a module that the found one imports, is missing.
    """
    try:
        module = importlib.import_module(package)
        if not related_name:
            return module
    except ModuleNotFoundError:
        package = package.rpartition(".")[0]
        if not package:
            raise
    name = f"{package}.{related_name}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise
