"""The tables of results in a database, as Celery has them: genuine workers and clients use the same. Used by: database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from compat_celery import states
from compat_celery.backends.database.session import ResultModelBase

__all__ = ("Task", "TaskExtended", "TaskSet")

_Id = sa.Integer().with_variant(sa.BigInteger, "mssql")


def _now() -> datetime:
    return datetime.now(UTC)


class _Configurable:
    @classmethod
    def configure(cls, schema: str | None = None, name: str | None = None) -> None:
        """Use another schema or another table (the settings ``database_table_schemas`` and ``database_table_names``)."""
        own: Any = cls
        own.__table__.schema = schema
        own.id.default.schema = schema
        own.__table__.name = name or own.__tablename__

    def to_dict(self) -> dict[str, Any]:
        """The row as a mapping, without its number."""
        own: Any = self
        return {column.key: getattr(self, column.key) for column in own.__mapper__.column_attrs if column.key != "id"}


class Task(_Configurable, ResultModelBase):
    """What became of a task."""

    __tablename__ = "celery_taskmeta"
    __table_args__: Any = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy reads it

    id = sa.Column(_Id, sa.Sequence("task_id_sequence"), primary_key=True, autoincrement=True)
    task_id = sa.Column(sa.String(155), unique=True)
    status = sa.Column(sa.String(50), default=states.PENDING)
    result = sa.Column(sa.LargeBinary, nullable=True)
    date_done = sa.Column(sa.DateTime, default=_now, onupdate=_now, nullable=True, index=True)
    traceback = sa.Column(sa.Text, nullable=True)
    children = sa.Column(sa.LargeBinary, nullable=True)

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id  # type: ignore[assignment] # an instance has the value, the class the column

    def __repr__(self) -> str:
        return f"<Task {self.task_id} state: {self.status}>"


class TaskExtended(Task):
    """The same with what the call was (``result_extended``)."""

    __tablename__ = "celery_taskmeta"
    __table_args__: Any = {"sqlite_autoincrement": True, "extend_existing": True}  # noqa: RUF012 - as above

    name = sa.Column(sa.String(155), nullable=True)
    args = sa.Column(sa.LargeBinary, nullable=True)
    kwargs = sa.Column(sa.LargeBinary, nullable=True)
    worker = sa.Column(sa.String(155), nullable=True)
    retries = sa.Column(sa.Integer, nullable=True)
    queue = sa.Column(sa.String(155), nullable=True)
    stamps = sa.Column(sa.LargeBinary, nullable=True)


class TaskSet(_Configurable, ResultModelBase):
    """A saved group."""

    __tablename__ = "celery_tasksetmeta"
    __table_args__: Any = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy reads it

    id = sa.Column(_Id, sa.Sequence("taskset_id_sequence"), autoincrement=True, primary_key=True)
    taskset_id = sa.Column(sa.String(155), unique=True)
    result = sa.Column(sa.LargeBinary, nullable=True)
    date_done = sa.Column(sa.DateTime, default=_now, nullable=True, index=True)

    def __init__(self, taskset_id: str, result: bytes) -> None:
        self.taskset_id = taskset_id  # type: ignore[assignment] # as above
        self.result = result  # type: ignore[assignment] # as above

    def __repr__(self) -> str:
        return f"<TaskSet: {self.taskset_id}>"
