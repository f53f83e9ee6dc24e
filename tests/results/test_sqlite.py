"""The SQLite results store passes the kit; beside that: sweeping, and errors that say what to do."""

import contextlib
import sqlite3

import pytest

from jumpstarter.errors import ConfigurationError
from jumpstarter.jobs import Document
from jumpstarter.results import open_results
from jumpstarter.results.sqlite import SqliteResults
from jumpstarter.testing.broker_kit import ManualClock, part
from jumpstarter.testing.results_kit import ResultsKit


@contextlib.contextmanager
def sql(results):
    """A connection to the store's file, as some other program would have it."""
    results.ping()
    connection = sqlite3.connect(results.server.removeprefix("sqlite:"), isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/results.db"


class TestSqliteResults(ResultsKit):
    # 0.2 ms on a quiet machine; this one runs other people's tests meanwhile.
    wake_within = 0.01

    @pytest.fixture
    def results_factory(self, clock, url):
        with contextlib.ExitStack() as stores:
            yield lambda **options: stores.enter_context(SqliteResults(url, clock=clock, **options))

    @contextlib.contextmanager
    def stalled(self, results):
        with sql(results) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")


def test_what_is_over_is_swept_while_others_are_written(url):
    clock = ManualClock()
    with SqliteResults(url, clock=clock) as results:
        for number in range(100):
            results.put([Document(f"{number}-{index}", b"x", ttl=10.0) for index in range(50)])
            clock.advance(1)
        with sql(results) as connection:
            ((stored,),) = connection.execute("SELECT count(*) FROM jumpstarter_documents").fetchall()
    assert stored < 1000


def test_joins_that_are_over_are_swept_with_their_parts(url):
    clock = ManualClock()
    with SqliteResults(url, clock=clock) as results:
        for number in range(20):
            results.add_parts([part("a", 0, join=f"j{number}", ttl=10.0)])
            results.close_join(f"closed{number}")
        clock.advance(100_000)
        results.open_join("last", 1, None)
        with sql(results) as connection:
            counts = [connection.execute(f"SELECT count(*) FROM jumpstarter_{table}").fetchall() for table in ("joins", "parts")]
    assert counts == [[(1,)], [(0,)]]


def test_a_closed_join_leaves_no_parts_in_the_file(url):
    with SqliteResults(url) as results:
        results.open_join("j", 2, 60.0)
        results.add_parts([part("a", 0, join="j"), part("b", 1, join="j")])
        results.close_join("j")
        results.add_parts([part("c", 2, join="j")])
        with sql(results) as connection:
            assert connection.execute("SELECT count(*) FROM jumpstarter_parts").fetchall() == [(0,)]


def test_a_directory_that_does_not_exist_is_named(tmp_path):
    with (
        open_results(f"sqlite:///{tmp_path}/nowhere/results.db") as results,
        pytest.raises(ConfigurationError, match="does not exist"),
    ):
        results.get(["a"])


def test_an_unknown_scheme_is_refused_with_what_there_is():
    with pytest.raises(ConfigurationError, match=r"'mongodb'.*memory://name, sqlite:///file.db, redis://"):
        open_results("mongodb://localhost")
