"""Sessions with a database. Used by: database."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, sessionmaker

from compat_celery.utils.time import get_exponential_backoff_interval

__all__ = ("ResultModelBase", "SessionManager")

logger = logging.getLogger("celery.backends.database.session")

#: How often tables are tried to be made: of two processes that do so at once, one gets an error.
PREPARE_MODELS_MAX_RETRIES = 10


class ResultModelBase(DeclarativeBase):
    """Base of the tables' classes."""


class SessionManager:
    """Makes sessions; one pool of connections for each database and process.

    :param engine_callback: called with every engine that is made.
    """

    def __init__(self, engine_callback: Callable[[Any], Any] | None = None) -> None:
        self.engine_callback = engine_callback
        self._engines: dict[tuple[str, int], Any] = {}
        self._prepared: set[str] = set()

    def get_engine(self, dburi: str, **kwargs: Any) -> Any:
        """The engine of a database. A forked child has engines of its own: a connection serves one process."""
        key = (dburi, os.getpid())
        engine = self._engines.get(key)
        if engine is None:
            engine = create_engine(dburi, **kwargs)
            if self.engine_callback is not None:
                self.engine_callback(engine)
            self._engines[key] = engine
        return engine

    def create_session(self, dburi: str, short_lived_sessions: bool = False, **kwargs: Any) -> tuple[Any, Any]:  # noqa: ARG002 - Celery's
        """An engine, and what makes sessions with it."""
        engine = self.get_engine(dburi, **kwargs)
        return engine, sessionmaker(bind=engine)

    def session_factory(self, dburi: str, **kwargs: Any) -> Any:
        """A new session, with a database that has the tables."""
        engine, make = self.create_session(dburi, **kwargs)
        self.prepare_models(engine, dburi)
        return make()

    def invalidate(self, dburi: str) -> None:
        """Let go of the connections: the next session gets new ones."""
        engine = self._engines.pop((dburi, os.getpid()), None)
        if engine is not None:
            engine.dispose()

    def prepare_models(self, engine: Any, dburi: str = "") -> None:
        """Make the tables, and the columns that tables of older versions lack."""
        if dburi in self._prepared:
            return
        for retries in range(PREPARE_MODELS_MAX_RETRIES + 1):
            try:
                ResultModelBase.metadata.create_all(engine)
                break
            except DatabaseError:
                if retries == PREPARE_MODELS_MAX_RETRIES:
                    raise
                time.sleep(get_exponential_backoff_interval(10, retries, 1000, full_jitter=True) / 1000)
        self._add_missing_columns(engine)
        self._prepared.add(dburi)

    def _add_missing_columns(self, engine: Any) -> None:
        quote = engine.dialect.identifier_preparer
        inspector = inspect(engine)
        for table in ResultModelBase.metadata.tables.values():
            known = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
            for column in table.columns:
                if column.name in known or not column.nullable:
                    continue
                kind = column.type.compile(engine.dialect)
                change = f"ALTER TABLE {quote.format_table(table)} ADD COLUMN {quote.quote_identifier(column.name)} {kind}"
                try:
                    with engine.begin() as connection:
                        connection.execute(text(change))
                except DatabaseError as error:
                    logger.warning("a column is missing and cannot be added; run: %s. %s", change, error)
