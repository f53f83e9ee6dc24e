"""Results in a database, by SQLAlchemy: ``db+postgresql://…``, in Celery's tables. Over: SQLAlchemy, which has to be installed."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Any, TypeVar

from kombu.utils.encoding import ensure_bytes

from compat_celery import states
from compat_celery._names import celery_named
from compat_celery.backends.base import BaseBackend
from compat_celery.exceptions import ImproperlyConfigured
from compat_celery.result import result_from_tuple
from compat_celery.utils.imports import symbol_by_name
from compat_celery.utils.time import maybe_timedelta

try:
    from sqlalchemy.exc import DatabaseError, InterfaceError, InvalidRequestError
    from sqlalchemy.orm.exc import StaleDataError

    from compat_celery.backends.database.models import Task, TaskExtended, TaskSet
    from compat_celery.backends.database.session import SessionManager
except ImportError as error:
    raise ImproperlyConfigured("The database result backend needs SQLAlchemy: pip install sqlalchemy") from error

__all__ = ("DatabaseBackend", "retry", "session_cleanup")

R = TypeVar("R")

logger = logging.getLogger("celery.backends.database")

#: After these an operation is tried again, three times unless the settings say otherwise.
RETRYABLE_DB_ERRORS = (DatabaseError, InterfaceError, InvalidRequestError, StaleDataError)

#: Begins what pickle writes: Celery up to 5.6 pickled results, whatever serializer was configured.
_PICKLED = b"\x80"

#: Columns that are not simply what the document says under their names.
_SPECIAL = frozenset({"id", "task_id", "children", "stamps"})


@contextmanager
def session_cleanup(session: Any) -> Iterator[None]:
    """Roll back what fails in the block, and close the session after it."""
    try:
        yield
    except Exception:
        session.rollback()
        raise
    finally:
        session.close()


def retry(fun: Callable[..., R]) -> Callable[..., R]:
    """Decorator: call the function again after errors of the database; ``max_retries=`` of a call says how often (3 times in all).

    Celery 5.7 has none any more, but Airflow's executor imports it.
    """

    @wraps(fun)
    def again(*args: Any, max_retries: int = 3, **kwargs: Any) -> R:
        for left in reversed(range(max_retries)):
            try:
                return fun(*args, **kwargs)
            except RETRYABLE_DB_ERRORS as error:
                if not left:
                    raise
                logger.warning("%s failed and is tried again: %s", fun.__qualname__, error)
        raise ValueError(f"max_retries must be at least 1, not {max_retries!r}")

    return again


@celery_named
class DatabaseBackend(BaseBackend):
    """Results in a database.

    :param dburi: as SQLAlchemy takes it (default: the setting ``database_url``).
    :param engine_options: of ``create_engine``, over the setting ``database_engine_options``.
    :raises ImproperlyConfigured: no database is named.
    """

    #: Seconds between looks at a set of results.
    subpolling_interval = 0.5

    task_cls: Any = Task
    taskset_cls: Any = TaskSet

    def __init__(
        self, dburi: str | None = None, engine_options: dict[str, Any] | None = None, url: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(expires_type=maybe_timedelta, url=url, **kwargs)
        conf = self.app.conf
        # Databases lose connections; Celery has always tried again here.
        if not conf.value_set_for("result_backend_always_retry") or self.always_retry is None:
            self.always_retry = True
        if not conf.value_set_for("result_backend_max_retries") or self.max_retries is None:
            self.max_retries = 3
        if self.extended_result:
            self.task_cls = TaskExtended
        self.url = url or dburi or conf.database_url
        if not self.url:
            raise ImproperlyConfigured("The database result backend needs an address: set result_backend to db+postgresql://…")
        self.engine_options = {**(conf.database_engine_options or {}), **(engine_options or {})}
        self.short_lived_sessions = kwargs.get("short_lived_sessions", conf.database_short_lived_sessions)
        schemas, names = conf.database_table_schemas or {}, conf.database_table_names or {}
        self.task_cls.configure(schema=schemas.get("task"), name=names.get("task"))
        self.taskset_cls.configure(schema=schemas.get("group"), name=names.get("group"))
        self.session_manager = SessionManager(self._engine_callback(kwargs.get("engine_callback", conf.database_engine_callback)))
        if conf.database_create_tables_at_setup is True:
            self._ensure_retryable(lambda: self.ResultSession().close())

    @staticmethod
    def _engine_callback(given: Any) -> Any:
        callback = symbol_by_name(given)
        if callback is not None and not callable(callback):
            raise ImproperlyConfigured(f"database_engine_callback must be a function or the name of one, not {callback!r}")
        return callback

    @property
    def extended_result(self) -> bool:
        """Whether what the call was is stored, too."""
        return bool(self.app.conf.find_value_for_key("extended", "result"))

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        return isinstance(exc, RETRYABLE_DB_ERRORS)

    def on_backend_retryable_error(self, exc: Exception) -> None:  # noqa: ARG002 - as Backend
        self.session_manager.invalidate(str(self.url))

    def ResultSession(self, session_manager: Any = None) -> Any:  # noqa: N802 - Celery's public name
        """A new session."""
        manager = session_manager or self.session_manager
        return manager.session_factory(dburi=str(self.url), short_lived_sessions=self.short_lived_sessions, **self.engine_options)

    @contextmanager
    def _session(self) -> Iterator[Any]:
        session = self.ResultSession()
        try:
            yield session
            session.commit()
        except Exception:
            session.rollback()
            raise
        finally:
            session.close()

    def _find(self, session: Any, task_id: str) -> Any:
        return session.query(self.task_cls).filter(self.task_cls.task_id == task_id)

    # Tasks.

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,  # noqa: ARG002 - as Backend
    ) -> None:
        with self._session() as session:
            task = self._find(session, task_id).first()
            if task is not None:
                # Locked and read again: a success that is stored meanwhile is not written over. (Locking what is not there yet
                # would lock the gap on MySQL, where writers then wait for each other for ever.)
                task = self._find(session, task_id).with_for_update().populate_existing().first()
            if task is None:
                task = self.task_cls(task_id)
                session.add(task)
            elif task.status == states.SUCCESS:
                return
            self._fill(task, result, state, traceback, request)

    def _fill(self, task: Any, result: Any, state: str, traceback: Any, request: Any) -> None:
        encoded = ensure_bytes(self.encode(result))
        meta = self._get_result_meta(encoded, state, traceback, request, format_date=False, encode=True)
        names = {column.name for column in self.task_cls.__table__.columns}
        for name in names - _SPECIAL:
            setattr(task, name, meta.get(name))
        children = meta.get("children")
        task.children = ensure_bytes(self.encode(children)) if children else None
        headers = meta.get("stamped_headers")
        if headers and "stamps" in names:
            stamps = {name: meta[name] for name in headers if name in meta}
            task.stamps = ensure_bytes(self.encode({"stamped_headers": headers, "stamps": stamps}))

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        with self._session() as session:
            task = self._find(session, task_id).first()
            if task is None:
                return self.meta_from_decoded({"task_id": task_id, "status": states.PENDING, "result": None})
            meta: dict[str, Any] = task.to_dict()
        meta["result"] = self._decoded(meta["result"])
        for name in ("args", "kwargs", "children"):
            if meta.get(name) is not None:
                meta[name] = self.decode(meta[name])
        stamps = meta.pop("stamps", None)
        if stamps is not None:
            found = self.decode(stamps)
            meta.update(found["stamps"], stamped_headers=found["stamped_headers"])
        return self.meta_from_decoded(meta)

    def _decoded(self, payload: Any) -> Any:
        if payload is None:
            return None
        payload = ensure_bytes(payload)
        try:
            return self.decode(payload)
        except Exception:
            if not payload.startswith(_PICKLED):
                raise
            logger.warning("a result was pickled by an older version; it is read as such")
            return pickle.loads(payload)  # noqa: S301 - written by the older version, into the same table

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything is stored for a task."""

        def exists() -> bool:
            with self._session() as session:
                return self._find(session, task_id).first() is not None

        return bool(self._ensure_retryable(exists))

    def _forget(self, task_id: str) -> None:
        with self._session() as session:
            self._find(session, task_id).delete()

    # Groups.

    def _save_group(self, group_id: str, result: Any) -> Any:
        with self._session() as session:
            session.add(self.taskset_cls(group_id, ensure_bytes(self.encode(self.prepare_value(result)))))
        return result

    def _restore_group(self, group_id: str) -> Any:
        with self._session() as session:
            group = session.query(self.taskset_cls).filter(self.taskset_cls.taskset_id == group_id).first()
            if group is None:
                return None
            meta = group.to_dict()
        value = self._decoded(meta["result"])
        meta["result"] = value if value is None else result_from_tuple(value, self.app)
        return meta

    def _delete_group(self, group_id: str) -> None:
        with self._session() as session:
            session.query(self.taskset_cls).filter(self.taskset_cls.taskset_id == group_id).delete()

    def cleanup(self) -> None:
        """Drop what has expired. ``celery.backend_cleanup`` does it every night."""
        self._ensure_retryable(self._cleanup)

    def _cleanup(self) -> None:
        if not self.expires:
            return
        before = datetime.now(UTC) - self.expires
        with self._session() as session:
            for table in (self.task_cls, self.taskset_cls):
                session.query(table).filter(table.date_done < before).delete()

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> tuple[Any, ...]:
        own = {"dburi": self.url, "expires": self.expires, "engine_options": self.engine_options}
        return super().__reduce__(args, {**(kwargs or {}), **own})
