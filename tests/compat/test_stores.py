"""Result backends in a database, in a folder and in memcached; and those of third parties."""

from __future__ import annotations

import os
import pickle
import sqlite3
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from compat_celery import Celery, chord, group, states
from compat_celery.backends.base import BaseBackend, KeyValueStoreBackend
from compat_celery.backends.cache import CacheBackend
from compat_celery.contrib.embedded import embedded_worker
from compat_celery.exceptions import ImproperlyConfigured


def url(kind: str, folder: Path) -> str:
    return f"db+sqlite:///{folder}/results.db" if kind == "database" else f"file://{folder}"


@pytest.fixture(params=["database", "filesystem"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def app(kind: str, tmp_path: Path) -> Iterator[Celery]:
    app = Celery("stores", broker=f"memory://{tmp_path.name}", backend=url(kind, tmp_path), set_as_current=False)
    yield app
    app.close()


def test_what_is_stored_is_found(app: Celery) -> None:
    backend = app.backend
    assert backend.get_state("1") == states.PENDING
    backend.store_result("1", {"x": [1, None]}, states.SUCCESS)
    result = app.AsyncResult("1")
    assert (result.state, result.get(), result.date_done is None) == (states.SUCCESS, {"x": [1, None]}, False)
    assert backend.task_result_exists("1")
    result.forget()
    assert not backend.task_result_exists("1")


def test_an_error_comes_back_as_itself(app: Celery) -> None:
    app.backend.store_result("1", ValueError("broken", 1), states.FAILURE, traceback="line 1")
    with pytest.raises(ValueError, match="broken") as caught:
        app.AsyncResult("1").get()
    assert caught.value.args == ("broken", 1)
    assert app.AsyncResult("1").traceback == "line 1"


def test_a_success_is_never_written_over(app: Celery) -> None:
    app.backend.store_result("1", 1, states.SUCCESS)
    app.backend.store_result("1", ValueError(), states.FAILURE)
    assert app.AsyncResult("1").get() == 1


def test_groups_are_saved_and_restored(app: Celery) -> None:
    app.backend.store_result("1", 1, states.SUCCESS)
    app.GroupResult("group", [app.AsyncResult("1")]).save()
    restored = app.GroupResult.restore("group")
    assert [member.id for member in restored] == ["1"]
    restored.delete()
    assert app.GroupResult.restore("group") is None


def test_a_worker_stores_there_and_runs_chords(app: Celery) -> None:
    app.conf.result_chord_retry_interval = 0.05
    app.conf.result_extended = True
    add = app.task(lambda x, y: x + y, name="add", shared=False)
    total = app.task(sum, name="total", shared=False)
    with embedded_worker(app):
        assert add.delay(1, 2).get(timeout=60) == 3
        assert chord(group(add.s(i, i) for i in range(3)), total.s()).delay().get(timeout=60) == 6


def test_what_has_expired_is_dropped(app: Celery, kind: str, tmp_path: Path) -> None:
    app.backend.store_result("1", 1, states.SUCCESS)
    app.backend.cleanup()
    assert app.backend.task_result_exists("1")
    if kind == "filesystem":
        for file in tmp_path.iterdir():
            os.utime(file, (0, 0))
    else:
        with sqlite3.connect(tmp_path / "results.db") as connection:
            connection.execute("update celery_taskmeta set date_done = '2000-01-01 00:00:00.000000'")
        connection.close()
    app.backend.cleanup()
    assert not app.backend.task_result_exists("1")


def test_a_backend_is_pickled_as_how_it_was_made(app: Celery) -> None:
    make, (cls, args, kwargs) = app.backend.__reduce__()
    assert cls is type(app.backend)
    assert cls(*args, app=app, **kwargs).url == app.backend.url
    assert pickle.dumps((args, kwargs))
    assert callable(make)


# Databases.


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Celery]:
    app = Celery("stores", backend=url("database", tmp_path), set_as_current=False, result_extended=True)
    yield app
    app.close()


def test_columns_tell_what_the_call_was(database: Celery, tmp_path: Path) -> None:
    class Request:
        task, args, kwargs, hostname, retries = "add", (1,), {"k": 2}, "w1", 3
        delivery_info = {"routing_key": "q"}  # noqa: RUF012 - a request's
        stamped_headers, stamps = ["monitoring"], {"monitoring": "m1"}
        group = parent_id = ignore_result = None
        children = ()

        def __bool__(self) -> bool:
            return True

    database.backend.store_result("1", 1, states.SUCCESS, request=Request())
    with sqlite3.connect(tmp_path / "results.db") as connection:
        row = connection.execute("select name, worker, retries, queue, args from celery_taskmeta").fetchone()
    connection.close()
    assert row == ("add", "w1", 3, "q", b"[1]")
    result = database.AsyncResult("1")
    assert (result.name, result.args, result.kwargs, result.queue) == ("add", [1], {"k": 2}, "q")
    assert result._get_task_meta()["monitoring"] == "m1"


def test_results_that_older_versions_pickled_are_read(database: Celery, tmp_path: Path) -> None:
    database.backend.store_result("1", 1, states.SUCCESS)
    with sqlite3.connect(tmp_path / "results.db") as connection:
        connection.execute("update celery_taskmeta set result = ?", (pickle.dumps({"old": 1}),))
    connection.close()
    assert database.AsyncResult("1").get() == {"old": 1}


def test_a_table_of_an_older_version_gets_its_new_columns(database: Celery, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "results.db") as connection:
        connection.execute(
            "create table celery_taskmeta (id integer primary key, task_id varchar(155), status varchar(50), result blob, "
            "date_done datetime, traceback text)"
        )
    connection.close()
    database.backend.store_result("1", 1, states.SUCCESS)
    assert database.AsyncResult("1").get() == 1


def test_a_forked_child_has_connections_of_its_own(database: Celery) -> None:
    database.backend.store_result("1", 1, states.SUCCESS)
    manager = database.backend.session_manager
    engine = manager.get_engine(database.backend.url)
    child = os.fork()
    if child == 0:
        os._exit(0 if manager.get_engine(database.backend.url) is not engine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert manager.get_engine(database.backend.url) is engine


# What cannot work says so.


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("file:///nowhere/at/all", "cannot be used"),
        ("cache+memcached://localhost:1", "pip install pymemcache"),
        ("cache+oracle://x", "unknown"),
        ("cache+memcached://", "names no memcached server"),
        ("db+://", "."),
    ],
)
def test_a_backend_that_cannot_be_used_says_why(backend: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pymemcache.client.base", None)
    app = Celery("stores", backend=backend, set_as_current=False)
    with pytest.raises(Exception, match=words) as caught:
        app.backend.store_result("1", 1, states.SUCCESS)
    if words != ".":
        assert isinstance(caught.value, ImproperlyConfigured)


def test_memory_by_celerys_name_is_one_class(tmp_path: Path) -> None:
    app = Celery("stores", backend="cache+memory://", set_as_current=False)
    assert isinstance(app.backend, CacheBackend)
    assert isinstance(CacheBackend(app, backend="memory"), CacheBackend)


# Backends of third parties.


class Columns(BaseBackend):
    """As django-celery-results: overrides the hooks that BaseBackend calls, with names of its own for what it is given."""

    rows: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - shared, as a table is

    def _store_result(self, task_id, result, status, traceback=None, request=None, using=None):
        self.rows[task_id] = {
            "task_id": task_id,
            "status": status,
            "result": self.encode(result),
            "traceback": traceback,
            "children": self.current_task_children(request),
        }
        return result

    def _get_task_meta_for(self, task_id):
        row = dict(self.rows.get(task_id) or {"status": states.PENDING, "result": None})
        row["result"] = self.decode(row["result"]) if row["result"] is not None else None
        return self.meta_from_decoded(row)


def test_a_backend_over_rows_works_in_a_worker(tmp_path: Path) -> None:
    app = Celery("third", broker=f"memory://{tmp_path.name}", backend=f"{__name__}:Columns", set_as_current=False)
    add = app.task(lambda x, y: x + y, name="add", shared=False)
    with embedded_worker(app):
        assert add.delay(1, 2).get(timeout=60) == 3
    assert list(Columns.rows)
    app.close()


class Keys(KeyValueStoreBackend):
    """A store of keys and values that counts."""

    implements_incr = True
    supports_native_join = True
    values: dict[Any, Any] = {}  # noqa: RUF012 - as above

    def get(self, key: Any) -> Any:
        return self.values.get(key)

    def mget(self, keys: Any) -> Any:
        return [self.values.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> None:
        self.values[key] = value

    def delete(self, key: Any) -> None:
        self.values.pop(key, None)

    def incr(self, key: Any) -> int:
        self.values[key] = self.values.get(key, 0) + 1
        return self.values[key]


def test_a_backend_over_keys_has_chords(tmp_path: Path) -> None:
    app = Celery("third", broker=f"memory://{tmp_path.name}", backend=f"{__name__}:Keys", set_as_current=False)
    add = app.task(lambda x, y: x + y, name="add", shared=False)
    total = app.task(sum, name="total", shared=False)
    with embedded_worker(app):
        assert chord([add.s(1, 2), add.s(3, 4)], total.s()).delay().get(timeout=60) == 10
    app.close()


def test_a_set_of_results_waits_on_any_backend(app: Celery) -> None:
    began = time.monotonic()
    for number in range(3):
        app.backend.store_result(str(number), number, states.SUCCESS)
    results = app.ResultSet([app.AsyncResult(str(number)) for number in range(3)])
    assert results.join(timeout=timedelta(seconds=60).total_seconds()) == [0, 1, 2]
    assert time.monotonic() - began < 50
