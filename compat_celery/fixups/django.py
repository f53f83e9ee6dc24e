"""Django: its apps' tasks are found, its connections closed around tasks. Comes from: ``Celery.fixups``. Goes to: signals."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from compat_celery import _state, signals
from compat_celery._names import celery_named
from compat_celery.exceptions import FixupWarning, ImproperlyConfigured
from compat_celery.local import Proxy
from compat_celery.utils.ids import uuid
from compat_celery.utils.imports import symbol_by_name
from compat_celery.utils.log import get_logger

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("DjangoFixup", "fixup")

logger = get_logger(__name__)


def fixup(app: Celery, env: str = "DJANGO_SETTINGS_MODULE") -> DjangoFixup | None:
    """Fit the app to Django, where the environment names Django's settings."""
    if not os.environ.get(env) or "django" in str(app.loader_cls).lower():
        return None
    try:
        django = import_module("django")
    except ImportError:
        warnings.warn(
            FixupWarning(f"The environment variable {env} is set, but Django isn't installed: the app is not fitted to it."),
            stacklevel=2,
        )
        return None
    if django.VERSION < (1, 11):
        raise ImproperlyConfigured("Celery 5.x requires Django 1.11 or later.")
    return DjangoFixup(app).install()


def _real(app: Any) -> Any:
    return app._get_current_object() if isinstance(app, Proxy) else app


@celery_named
class DjangoFixup:
    """One app's."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        if _state.default_app is None:
            app.set_default()
        self._worker_fixup: DjangoWorkerFixup | None = None
        # Random, not id(self), which another fixup may get once this one is gone.
        self._worker_init_uid = ("celery.fixups.django", uuid())

    def install(self) -> Self:
        """Find the project's modules, take Django's clock and task class, and wait for a worker."""
        sys.path.insert(0, str(Path.cwd()))
        self._settings = symbol_by_name("django.conf:settings")
        self.app.loader.now = self.now
        if not self.app._custom_task_cls_used:
            self.app.task_cls = "celery.contrib.django.task:DjangoTask"
        signals.import_modules.connect(self.on_import_modules, sender=self.app)
        signals.worker_init.connect(self.on_worker_init, dispatch_uid=self._worker_init_uid)
        return self

    @property
    def worker_fixup(self) -> DjangoWorkerFixup:
        """What is done in a worker."""
        if self._worker_fixup is None:
            self._worker_fixup = DjangoWorkerFixup(self.app)
        return self._worker_fixup

    @worker_fixup.setter
    def worker_fixup(self, value: DjangoWorkerFixup) -> None:
        self._worker_fixup = value

    def on_import_modules(self, **_: Any) -> None:
        """Set Django up, before the modules with tasks import its models."""
        self.worker_fixup.validate_models()

    def on_worker_init(self, sender: Any = None, **_: Any) -> None:
        """A worker starts: if it is this app's, fit it too."""
        worker_app = _real(getattr(sender, "app", None))
        if worker_app is not None and worker_app is not _real(self.app):
            logger.debug("Django fixup of app %r ignores worker_init of %r: it belongs to %r.", self.app, sender, worker_app)
            return
        self.worker_fixup.worker = sender
        self.worker_fixup.install()

    def now(self, utc: bool = False) -> datetime:
        """The time, as Django sees it."""
        return datetime.now(UTC) if utc else self._now()

    @cached_property
    def _now(self) -> Callable[[], datetime]:
        return symbol_by_name("django.utils.timezone:now")  # type: ignore[no-any-return] # Django's function

    def autodiscover_tasks(self) -> list[str]:
        """The packages that may have tasks: Django's installed apps."""
        return [config.name for config in import_module("django.apps").apps.get_app_configs()]


@celery_named
class DjangoWorkerFixup:
    """What is done in a worker: connections are closed before and after each task, those of the parent process left alone."""

    worker: Any = None
    _db_recycles = 0

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.db_reuse_max = app.conf.get("CELERY_DB_REUSE_MAX", None)
        self._db = import_module("django.db")
        self._cache = import_module("django.core.cache")
        self._settings = symbol_by_name("django.conf:settings")
        self.interface_errors = (symbol_by_name("django.db.utils.InterfaceError"),)
        self.DatabaseError = symbol_by_name("django.db:DatabaseError")

    def django_setup(self) -> None:
        """Load Django's apps."""
        import_module("django").setup()

    def validate_models(self) -> None:
        """Load Django's apps and run its checks (not with CELERY_SKIP_CHECKS)."""
        self.django_setup()
        if not os.environ.get("CELERY_SKIP_CHECKS"):
            import_module("django.core.checks").run_checks()

    def install(self) -> Self:
        """Listen to the worker."""
        signals.beat_embedded_init.connect(self.close_database)
        signals.task_prerun.connect(self.on_task_prerun)
        signals.task_postrun.connect(self.on_task_postrun)
        signals.worker_process_init.connect(self.on_worker_process_init)
        self.close_database()
        self.close_cache()
        return self

    def on_worker_process_init(self, **_: Any) -> None:
        """In a child process: let go of the parent's connections without saying goodbye to the server on its behalf."""
        if os.environ.get("FORKED_BY_MULTIPROCESSING"):
            self.validate_models()
        for connection in self._db.connections.all():
            if connection and connection.connection:
                with contextlib.suppress(*self.interface_errors), connection.wrap_database_errors:
                    _close_descriptor(connection.connection)
        self._close_database()
        self.close_cache()

    def on_task_prerun(self, sender: Any, **_: Any) -> None:
        """Before each task."""
        if not getattr(sender.request, "is_eager", False):
            self.close_database()

    def on_task_postrun(self, sender: Any, **_: Any) -> None:
        """After each task."""
        if not getattr(sender.request, "is_eager", False):
            self.close_database()
            self.close_cache()

    def close_database(self, **_: Any) -> None:
        """Close the connections; only now and then with CELERY_DB_REUSE_MAX."""
        if not self.db_reuse_max:
            self._close_database()
            return
        # Called twice for each task.
        if self._db_recycles >= self.db_reuse_max * 2:
            self._db_recycles = 0
            self._close_database()
        self._db_recycles += 1

    def _is_prefork(self) -> bool:
        pool = getattr(self.worker, "pool_cls", "")
        return "prefork" in (pool if isinstance(pool, str) else pool.__module__)

    def _close_database(self) -> None:
        connections = self._db.connections
        try:
            opened = connections.all(initialized_only=True)
        except TypeError:  # Django before 4.1
            opened = connections.all()
        for connection in opened:
            try:
                connection.close()
                self._close_pool(connection)
            except self.interface_errors:
                continue
            except self.DatabaseError as error:
                if "closed" not in str(error) and "not connected" not in str(error):
                    raise

    def _close_pool(self, connection: Any) -> None:
        has_pool = self._settings.DATABASES.get(connection.alias, {}).get("OPTIONS", {}).get("pool")
        if has_pool and self._is_prefork() and hasattr(connection, "close_pool"):
            with contextlib.suppress(KeyError):
                connection.close_pool()

    def close_cache(self) -> None:
        """Close the connections to caches."""
        with contextlib.suppress(TypeError, AttributeError):
            self._cache.close_caches()


def _close_descriptor(connection: Any) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):
        os.close(connection.fileno())
