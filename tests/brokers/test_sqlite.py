"""The SQLite broker passes the kit; beside that: its file, forks, leases over reboots, and errors that say what to do."""

import contextlib
import itertools
import os
import sqlite3
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import settings

from jumpstarter.brokers import open_broker
from jumpstarter.brokers.sqlite import SqliteBroker
from jumpstarter.embedded import doorbell
from jumpstarter.errors import BrokerUnavailable, ConfigurationError
from jumpstarter.jobs import ACK, REQUEUE, Document, Quarantine
from jumpstarter.results.sqlite import SqliteResults
from jumpstarter.testing.broker_kit import LEASE, PATIENCE, BrokerKit, Forked, ManualClock, background, envelope, settlement
from jumpstarter.testing.broker_model import BrokerMachine


class TestSqliteBroker(BrokerKit):
    # 0.2 ms on a quiet machine; this one runs other people's tests meanwhile.
    wake_within = 0.01

    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/queues.db"

    @pytest.fixture
    def broker_factory(self, clock, url):
        with contextlib.ExitStack() as brokers:
            yield lambda **options: brokers.enter_context(SqliteBroker(url, clock=clock, **options))

    @pytest.fixture
    def results_factory(self, clock, url):
        with contextlib.ExitStack() as stores:
            yield lambda: stores.enter_context(SqliteResults(url, clock=clock))

    def inject(self, broker, queue, raw):
        with _sql(broker) as connection:
            connection.execute(
                "INSERT INTO jumpstarter_messages (queue, priority, state, attempt, head, body) VALUES (?, 0, 'ready', 1, ?, ?)",
                (queue, raw, b""),
            )

    @contextlib.contextmanager
    def stalled(self, broker):
        broker.ping()
        with _sql(broker) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")


class SqliteMachine(BrokerMachine):
    def open_server(self):
        clock = ManualClock()
        self.url = f"sqlite:///{self.enter(tempfile.TemporaryDirectory())}/queues.db"
        return clock, lambda: self.enter(SqliteBroker(self.url, clock=clock))

    def open_results(self):
        return self.enter(SqliteResults(self.url, clock=self.clock))


TestStories = SqliteMachine.TestCase
TestStories.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@contextlib.contextmanager
def _sql(broker):
    """A connection to the broker's file, as some other program would have it."""
    broker.ping()
    connection = sqlite3.connect(broker.server.removeprefix("sqlite:"), isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/queues.db"


@pytest.fixture
def broker(url, clock):
    with SqliteBroker(url, clock=clock) as broker:
        yield broker


def claim(broker, by="a", limit=100, queues=("q",)):
    return broker.claim(queues, limit, incarnation=by, lease=LEASE)


# The file


def test_relative_and_absolute_urls_name_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_broker("sqlite:///queues.db") as relative, open_broker(f"sqlite:///{tmp_path}/queues.db") as absolute:
        assert relative.server == absolute.server == f"sqlite:{tmp_path}/queues.db"
        relative.publish([envelope()])
        monkeypatch.chdir("/")
        relative.publish([envelope()])
        assert absolute.depth("q") == 2


def test_the_url_it_shows_opens_it_again(tmp_path):
    with open_broker(f"sqlite:///{tmp_path}/with%20space%3F.db") as broker:
        broker.publish([envelope()])
        assert (tmp_path / "with space?.db").exists()
        with open_broker(broker.url) as again:
            assert again.depth("q") == 1


def test_everything_is_there_after_all_processes_have_ended(url):
    def publish():
        with SqliteBroker(url) as broker:
            broker.publish([envelope(b"1"), envelope(b"2", due=time.time() + 3600)])
            claim(broker, by="gone", limit=1)

    Forked(publish).result()
    with SqliteBroker(url) as broker:
        assert [delivery.envelope.body for delivery in broker.held("gone")] == [b"1"]
        assert broker.reap().next_due == pytest.approx(3600, abs=60)


def test_the_file_does_not_grow_with_the_work_done(broker, url):
    pages = []
    for _ in range(30):
        broker.publish([envelope(b"x" * 2000)] * 100)
        broker.settle([settlement(delivery) for delivery in claim(broker)], incarnation="a")
        with _sql(broker) as connection:
            pages += connection.execute("PRAGMA page_count").fetchone()
    assert pages[-1] <= pages[2] + 10


def test_an_idle_worker_writes_nothing(broker):
    broker.publish([envelope()])
    delivery = claim(broker)
    broker.settle([settlement(*delivery)], incarnation="a")
    broker.release("a")
    with _sql(broker) as connection:
        before = connection.execute("PRAGMA data_version").fetchone()
        assert claim(broker) == []
        assert broker.wait(["q"], 0.05, incarnation="a") is False
        broker.reap()
        broker.held("a")
        broker.depth("q")
        broker.ping()
        assert connection.execute("PRAGMA data_version").fetchone() == before


def test_synchronous_full_may_be_asked_for(url):
    for broker in (SqliteBroker(url, synchronous="full"), open_broker(f"{url}?synchronous=FULL&timeout=2.5")):
        with broker:
            ((level,),) = broker._database.read(lambda connection: connection.execute("PRAGMA synchronous").fetchall())
            assert level == 2


def test_connections_end_with_their_threads(broker):
    def count():
        path = broker.server.removeprefix("sqlite:")
        return sum(os.path.realpath(entry).startswith(path) for entry in Path("/proc/self/fd").iterdir())

    broker.ping()
    before = count()
    for _ in range(20):
        thread = threading.Thread(target=broker.depth, args=["q"])
        thread.start()
        thread.join()
    assert count() <= before + 2  # SQLite closes some descriptors later, with the next connection
    broker.close()
    assert count() == 0


def test_waiting_leaves_no_descriptors_behind(broker):
    broker.wait(["q"], 0.0, incarnation="a")
    broker.wait(["q"], 0.001, incarnation="a")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        broker.wait(["q"], 0.001, incarnation="a")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Waiting


def test_heartbeats_and_acks_do_not_wake_those_who_wait(broker, url, clock):
    broker.publish([envelope()] * 200)
    claims = claim(broker, limit=200)
    spent = []

    def wait():
        with SqliteBroker(url, clock=clock) as other:
            other.ping()
            began = time.thread_time()
            other.wait(["q"], PATIENCE, incarnation="b")
            spent.append(time.thread_time() - began)

    with background(wait) as waiting:
        for delivery in claims:
            broker.renew(["a"], LEASE)
            assert broker.settle([settlement(delivery, ACK)], incarnation="a") == [True]
        broker.publish([envelope()])
        waiting.result(PATIENCE / 2)
    assert spent[0] < 0.02


def test_what_a_person_requeues_rings(broker, url, clock, monkeypatch):
    monkeypatch.setattr(doorbell, "SLOW_LOOK", 2 * PATIENCE)  # without a ring it would be found by looking
    broker.publish([envelope()])
    broker.settle([settlement(*claim(broker), Quarantine("why not"))], incarnation="a")
    with SqliteBroker(url, clock=clock) as other, background(lambda: other.wait(["q"], PATIENCE, incarnation="b")) as waiting:
        time.sleep(0.2)  # lets the wait fall asleep: who looks for the first time needs no ring
        broker.requeue_quarantined([one.id for one in broker.quarantined()])
        assert waiting.result(PATIENCE / 2) is True


# Forks


def test_a_child_forked_beside_open_connections_loses_nothing(broker):
    # Without closing before the fork, the parent's close deletes the -wal file under the child, and message 3 is gone.
    broker.publish([envelope(b"1")])
    go, tell = os.pipe()
    ready, ready_tell = os.pipe()

    def work():
        broker.publish([envelope(b"2")])
        os.write(ready_tell, b"!")
        os.read(go, 1)
        broker.publish([envelope(b"3")])

    child = Forked(work)
    os.read(ready, 1)
    broker.depth("q")
    broker.close()
    os.write(tell, b"!")
    child.result()
    for fd in (go, tell, ready, ready_tell):
        os.close(fd)
    assert [delivery.envelope.body for delivery in claim(broker)] == [b"1", b"2", b"3"]


def test_forks_amid_writing_threads_lose_and_block_nothing(broker):
    done = threading.Event()
    sent = [0, 0]

    def publish(place):
        while not done.is_set():
            broker.publish([envelope()])
            sent[place] += 1

    with background(lambda: publish(0)), background(lambda: publish(1)):
        for _ in range(15):
            Forked(broker.publish, [envelope()]).result()
        done.set()
    assert broker.depth("q") == sum(sent) + 15


# Leases


def test_setting_the_wall_clock_ends_no_lease(broker, clock):
    broker.publish([envelope()])
    claim(broker)
    for step in (86_400 * 365, -86_400 * 730):
        clock._wall += step
        assert broker.reap().returned == 0
    clock.advance(LEASE + 1)
    assert broker.reap().returned == 1


def test_a_lease_from_before_a_reboot_is_over(broker, clock):
    broker.publish([envelope()])
    (delivery,) = claim(broker)
    clock._monotonic = 12.0
    assert broker.reap().returned == 1
    assert broker.settle([settlement(delivery)], incarnation="a") == [False]


def test_a_claim_held_since_before_a_reboot_is_over(broker, clock):
    broker.publish([envelope()])
    (delivery,) = claim(broker)
    broker.hold([delivery.tag], 10 * LEASE, incarnation="a")
    clock._monotonic = 12.0
    assert broker.reap().returned == 1
    assert broker.settle([settlement(delivery)], incarnation="a") == [False]


# Errors


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/file.db", "sqlite:file.db"])
def test_a_url_without_a_file_is_refused(url):
    with pytest.raises(ConfigurationError, match=r"names no SQLite file.*memory://name"):
        SqliteBroker(url)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("?sync=1", "options that do not exist: sync. There are: synchronous, timeout"),
        ("?synchronous=OFF", "synchronous='OFF' is neither of NORMAL, FULL"),
        ("?timeout=soon", "timeout='soon' is no positive number"),
        ("?timeout=-1", "timeout='-1' is no positive number"),
        ("?timeout=nan", "timeout='nan' is no positive number"),
    ],
)
def test_options_that_cannot_be_used_are_refused(url, options, complaint):
    with pytest.raises(ConfigurationError, match=complaint.replace("?", r"\?")):
        open_broker(url + options)


def test_an_unknown_scheme_is_refused_with_what_there_is():
    with pytest.raises(ConfigurationError, match=r"'gopher'.*memory://name, sqlite:///file.db, redis://"):
        open_broker("gopher://host")


@pytest.mark.parametrize("use", [SqliteBroker.ping, lambda broker: broker.publish([envelope()]), claim, SqliteBroker.reap])
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("missing/queues.db", "the directory .*missing does not exist. Create it"),
        ("text.db", "text.db is no SQLite database. Move it away"),
        ("directory", "directory is a directory. The URL has to name a file"),
        ("newer.db", r"another version of Jumpstarter \(schema 99; this one knows 2\). Upgrade"),
        ("older.db", r"another version of Jumpstarter \(schema 1; this one knows 2\). Let that version finish"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(tmp_path, name, complaint, use):
    (tmp_path / "text.db").write_text("these are not the tables you are looking for\n" * 100)
    (tmp_path / "directory").mkdir()
    for written, schema in (("newer.db", 99), ("older.db", 1)):
        with SqliteBroker(f"sqlite:///{tmp_path}/{written}") as other, _sql(other) as connection:
            connection.execute("UPDATE jumpstarter_counters SET value = ? WHERE name = 'schema'", (schema,))
    with SqliteBroker(f"sqlite:///{tmp_path}/{name}") as broker, pytest.raises(ConfigurationError, match=complaint):
        use(broker)


def _as_nobody(function):
    """In a child that root's rights do not help."""

    def work():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setuid(65534)
        function()

    Forked(work).result()


def test_a_file_that_may_not_be_written_is_explained():
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "queues.db"
        with SqliteBroker(f"sqlite:///{path}") as broker:
            broker.publish([envelope()])
        path.chmod(0o444)
        Path(directory).chmod(0o555)

        def use():
            with SqliteBroker(f"sqlite:///{path}") as broker, pytest.raises(ConfigurationError, match=r"cannot be written by user"):
                broker.publish([envelope()])

        _as_nobody(use)
        Path(directory).chmod(stat.S_IRWXU)


def test_a_directory_that_may_not_be_written_is_explained():
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o555)

        def use():
            with (
                SqliteBroker(f"sqlite:///{directory}/new.db") as broker,
                pytest.raises(BrokerUnavailable, match=r"may user \d+ write to"),
            ):
                broker.ping()

        _as_nobody(use)
        Path(directory).chmod(stat.S_IRWXU)


def test_a_damaged_file_is_explained(tmp_path, url):
    with SqliteBroker(url) as broker:
        broker.publish([envelope(b"x" * 1000)] * 200)
    path = tmp_path / "queues.db"
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x55" * (len(content) - 4096)
    path.write_bytes(content)
    with SqliteBroker(url) as broker, pytest.raises(BrokerUnavailable, match=r"is damaged"):
        broker.publish([envelope()])


def test_a_full_disk_is_told(broker):
    broker.publish([envelope()])
    broker._database.read(lambda connection: connection.execute("PRAGMA max_page_count = 40").fetchall())
    with pytest.raises(BrokerUnavailable, match="the disk is full"):
        broker.publish([envelope(b"x" * 1_000_000)])
    assert broker.depth("q") == 1


def test_threads_wait_for_each_other_no_longer_than_the_timeout(broker):
    # A thread of our own that is stuck in a transaction, as a stopped disk would have it.
    inside, go_on = threading.Event(), threading.Event()

    def stuck(_):
        inside.set()
        go_on.wait(PATIENCE)

    with background(lambda: broker._database.write(stuck)):
        inside.wait(PATIENCE)
        with pytest.raises(BrokerUnavailable):
            broker.publish([envelope()], timeout=0.1)
        go_on.set()
    broker.publish([envelope()])
    assert broker.depth("q") == 1


def test_results_of_the_same_file_fail_together_with_the_ack(broker, url, clock):
    with SqliteResults(url, clock=clock) as results:
        broker.publish([envelope()])
        (delivery,) = claim(broker)
        writes = [*results.writes([Document("a", b"1")]), (("INSERT INTO no_such_table VALUES (?)", (1,)),)]
        with pytest.raises(BrokerUnavailable, match="no such table"):
            broker.settle([settlement(delivery, REQUEUE, writes=writes)], incarnation="a")
        assert results.get(["a"]) == [None]
        assert [held.tag for held in broker.held("a")] == [delivery.tag]


def test_results_that_are_over_are_swept_while_others_are_written_with_acks(broker, url, clock):
    with SqliteResults(url, clock=clock) as results:
        for number in range(50):
            broker.publish([envelope()] * 50)
            claims = claim(broker)
            writes = results.writes([Document(f"{number}-{index}", b"x", ttl=10.0) for index in range(50)])
            batch = [settlement(delivery, writes=[write]) for delivery, write in zip(claims, writes, strict=True)]
            assert broker.settle(batch, incarnation="a") == [True] * 50
            clock.advance(1)
        with _sql(broker) as connection:
            ((stored,),) = connection.execute("SELECT count(*) FROM jumpstarter_documents").fetchall()
    assert stored < 1000


def test_queues_are_served_in_turn_across_brokers_too(url, clock):
    with SqliteBroker(url, clock=clock) as broker:
        broker.publish([envelope(b"%d" % number, queue) for queue, number in itertools.product("qrs", range(3))])
        order = [claim(broker, limit=1, queues=["q", "r", "s"])[0].queue for _ in range(6)]
        assert {*order[:3]} == {*order[3:]} == {"q", "r", "s"}


def test_whoever_holds_a_claim_is_not_silent(url):
    clock = ManualClock()
    with SqliteBroker(url, clock=clock) as broker:
        broker.publish([envelope(b"1"), envelope(b"2")])
        held, _ = broker.claim(["q"], 2, incarnation="a", lease=30.0)
        clock.advance(20)
        broker.hold([held.tag], 5.0, incarnation="a")
        clock.advance(4)
        assert broker.reap().returned == 0
        clock.advance(2)
        assert broker.reap().returned == 1
        clock.advance(23)
        assert broker.reap().returned == 0, "the others' lease began anew, too"
        clock.advance(2)
        assert broker.reap().returned == 1


def test_a_lease_that_is_renewed_while_a_reaper_waits_for_the_file_is_not_from_before_the_boot(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/queues.db"
    with SqliteBroker(url) as worker, SqliteBroker(url) as reaper:
        worker.publish([envelope()])
        worker.claim(["q"], 1, incarnation="alive", lease=30)
        # A transaction of somebody else's: the reaper has looked, and waits for the file to write.
        other = sqlite3.connect(tmp_path / "queues.db", isolation_level=None, check_same_thread=False)
        other.execute("UPDATE jumpstarter_leases SET expires = 0, length = 30")  # over, so that it has a reason to write
        other.execute("BEGIN IMMEDIATE")
        reaping = threading.Thread(target=reaper.reap)
        reaping.start()
        time.sleep(0.2)  # it has read its clock by then, if it reads it too early
        other.execute("UPDATE jumpstarter_leases SET expires = ?, length = 30", (time.monotonic() + 30,))
        other.execute("COMMIT")
        other.close()
        reaping.join(10)
        assert len(worker.held("alive")) == 1
