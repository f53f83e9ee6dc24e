"""One worker in this process, on the memory broker: the way of a message, and what its states show."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.actors import health_check
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import Delivery, Job, Outcome, Place
from jumpstarter.telemetry import StateTransition, bus
from jumpstarter.worker import Worker
from tests.peers import eventually
from tests.worker.conftest import StartNode
from tests.worker.toy import ToyApplication, envelope

POOLS = pytest.mark.parametrize("pool", ["threads", "async", "solo"])


def result_of(results: Results, id: str, timeout: float = 10.0) -> Any:
    found = results.wait([f"result-{id}"], timeout)
    assert found, f"no result of {id!r} within {timeout:g} s"
    return json.loads(found[f"result-{id}"])["value"]


class Watch:
    """Remembers the states that were entered, and waits for some."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        self.details: list[tuple[str, str]] = []
        self._changed = threading.Condition()

    def __call__(self, transition: StateTransition) -> None:
        with self._changed:
            self.details.append((transition.target, transition.detail))
            self.targets.append(transition.target)
            self._changed.notify_all()

    def wait(self, *targets: str, timeout: float = 10.0) -> None:
        """Until these were entered in this order, other states in between."""
        with self._changed:
            came = self._changed.wait_for(lambda: is_subsequence(targets, self.targets), timeout)
            assert came, f"{targets} not in {self.targets}"


def is_subsequence(wanted: tuple[str, ...], seen: list[str]) -> bool:
    left = iter(seen)
    return all(target in left for target in wanted)


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    unsubscribe = bus.subscribe(watch)
    yield watch
    unsubscribe()


@POOLS
def test_a_message_is_run_and_its_result_stored(pool: str, start_node: StartNode, broker: Broker, results: Results) -> None:
    start_node(ToyApplication(add=lambda x, y: x + y), broker, results, pool=pool)
    broker.publish([envelope("add", 1, 2, id="sum")])
    assert result_of(results, "sum") == 3


@POOLS
def test_coroutines_run_on_the_loop_whatever_the_pool(pool: str, start_node: StartNode, broker: Broker, results: Results) -> None:
    async def double(x: int) -> int:
        await anyio.sleep(0.01)
        return 2 * x

    start_node(ToyApplication(double=double), broker, results, pool=pool)
    broker.publish([envelope("double", number, id=str(number)) for number in range(20)])
    assert [result_of(results, str(number)) for number in range(20)] == [2 * number for number in range(20)]


def test_nothing_is_left_behind_by_ten_thousand_messages(start_node: StartNode, broker: Broker, results: Results) -> None:
    count = 10_000
    node = start_node(ToyApplication(add=lambda x, y: x + y), broker, results, concurrency=4)
    broker.publish([envelope("add", 1, number, id=str(number)) for number in range(count)])
    assert result_of(results, str(count - 1), timeout=30) == count
    node.stop()
    keys = [f"result-{number}" for number in range(count)]
    assert None not in results.get(keys)
    assert broker.depth("toys") == 0


def test_a_job_before_its_time_starts_when_it_is_due(start_node: StartNode, broker: Broker, results: Results) -> None:
    start_node(ToyApplication(now=time.time), broker, results)
    due = time.time() + 1.5
    broker.publish([envelope("now", id="later", due=due)])
    assert due <= result_of(results, "later") < due + 1


def test_a_long_job_does_not_hoard_what_others_could_run(start_node: StartNode, broker: Broker, results: Results) -> None:
    """The first worker claims ahead while jobs are tiny; when one turns out long, the rest goes back for the second."""
    gate = threading.Event()
    application = ToyApplication(add=lambda x, y: x + y, hold=lambda: gate.wait(20))
    start_node(application, broker, results, name="one@test")
    broker.publish([envelope("add", 1, number) for number in range(500)])
    result_of(results, f"add-{(1, 499)}")
    broker.publish([envelope("hold", id="long"), *(envelope("add", 2, number) for number in range(50))])
    start_node(application, broker, results, name="two@test")
    try:
        for number in range(50):
            assert result_of(results, f"add-{(2, number)}", timeout=5) == number + 2
    finally:
        gate.set()


@pytest.mark.parametrize("first", ["hold", "aholds"])
def test_a_slot_that_is_free_again_is_filled_from_a_queue_that_had_no_room(
    first: str, start_node: StartNode, broker: Broker, results: Results
) -> None:
    """While its slots are busy a worker waits for queues that may bring something else; it must not go on with those alone."""
    gate, begun = threading.Event(), threading.Event()

    def hold() -> bool:
        begun.set()
        return gate.wait(20)

    async def aholds() -> bool:
        begun.set()
        return await anyio.to_thread.run_sync(gate.wait, 20)

    async def other() -> int:
        return 2

    options = {"queues": ("toys", "others"), "concurrency": 1, "coroutines": 1, "idle": 600.0}
    start_node(ToyApplication(add=lambda x: x, hold=hold, aholds=aholds, other=other), broker, results, **options)
    after = "add" if first == "hold" else "other"
    broker.publish([envelope(first, id="first")])
    assert begun.wait(20)
    try:
        if first == "hold":  # the other queue is served meanwhile
            broker.publish([envelope("other", queue="others", id="beside")])
            assert result_of(results, "beside") == 2
        broker.publish([envelope(after, *([3] if after == "add" else []), id="second")])
    finally:
        gate.set()
    assert result_of(results, "first", timeout=20)
    assert result_of(results, "second", timeout=20) in (2, 3)
    broker.publish([envelope(after, *([3] if after == "add" else []), id="third")])
    assert result_of(results, "third", timeout=20) in (2, 3)


def test_a_message_that_kills_its_worker_again_and_again_is_quarantined(
    start_node: StartNode, broker: Broker, results: Results
) -> None:
    broker.publish([envelope("add", 1, 2, id="poison")])
    for number in range(3):
        incarnation = f"dead-{number}"
        assert broker.claim(["toys"], 1, incarnation=incarnation, lease=30)
        broker.release(incarnation, counted=True)
    start_node(ToyApplication(add=lambda x, y: x + y), broker, results)
    found = results.wait(["result-poison"], 10)
    assert json.loads(found["result-poison"]) == {"status": "LOST", "value": "delivered 3 times without an outcome"}
    assert broker.depth("toys") == 0


def test_the_states_tell_the_story(watch: Watch, start_node: StartNode, broker: Broker, results: Results) -> None:
    node = start_node(ToyApplication(add=lambda x, y: x + y), broker, results)
    broker.publish([envelope("add", 1, 2, id="sum")])
    result_of(results, "sum")
    watch.wait("started.slot_0.processing", "started.slot_0.idle")
    watch.wait("starting", "started", "started.work.polling", "started.work.processing", "started.work.polling")
    node.stop()
    watch.wait("started.work.polling", "stopping", "stopped")


def test_a_slot_shows_its_current_job(watch: Watch, start_node: StartNode, broker: Broker, results: Results) -> None:
    started, gate = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        gate.wait(20)

    node = start_node(ToyApplication(hold=hold), broker, results)
    broker.publish([envelope("hold", id="held")])
    assert started.wait(10)
    assert isinstance(node.actor, Worker)
    assert {slot: (job.name, job.id) for slot, job in node.actor.current.items()} == {0: ("hold", "held")}
    gate.set()
    watch.wait("started.slot_0.processing", "started.slot_0.idle")
    assert ("started.slot_0.processing", "job=hold, id=held") in watch.details
    assert node.actor.current == {}


def test_the_chart_steps_per_batch_and_never_per_job(watch: Watch, start_node: StartNode, broker: Broker, results: Results) -> None:
    start_node(ToyApplication(add=lambda x, y: x + y), broker, results)
    broker.publish([envelope("add", 0, 0, id="first")])
    result_of(results, "first")
    before = len(watch.targets)
    broker.publish([envelope("add", 1, number, id=str(number)) for number in range(5_000)])
    result_of(results, "4999", timeout=30)
    assert len(watch.targets) - before < 500


class Flaky:
    """A broker whose server is away while ``is_away``: every call raises, as a real one's does."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.is_away = False
        #: By name of the method: set once it was called in vain.
        self.refused: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self.woken = threading.Event()
        self.url = broker.url
        self.server = broker.server

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._broker, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.is_away:
                self.refused[name].set()
                raise BrokerUnavailable(self.url, "unplugged by the test")
            return method(*args, **kwargs)

        return call

    def wake(self) -> None:
        self._broker.wake()
        self.woken.set()


def test_without_its_broker_a_worker_is_degraded_and_finishes_what_it_holds(
    watch: Watch, start_node: StartNode, broker: Broker, results: Results
) -> None:
    started, gate = threading.Event(), threading.Event()

    def hold() -> str:
        started.set()
        gate.wait(20)
        return "done"

    flaky = Flaky(broker)
    start_node(ToyApplication(hold=hold, add=lambda x, y: x + y), flaky, results, concurrency=2, idle=0.05)  # type: ignore[arg-type]
    broker.publish([envelope("hold", id="held")])
    assert started.wait(10)
    flaky.is_away = True
    watch.wait("started.health.degraded", "started.work.suspended")
    gate.set()
    assert flaky.refused["settle"].wait(10)
    broker.publish([envelope("add", 1, 2, id="sum")])
    assert results.get(["result-held", "result-sum"]) == [None, None]
    flaky.is_away = False
    assert result_of(results, "held") == "done"
    assert result_of(results, "sum") == 3
    watch.wait("started.health.degraded", "started.health.healthy", "started.work.polling")


class Particular(Worker):
    """Polls only while it feels well."""

    feels_well = True

    @health_check(every=0.05, timeout=1, severity="warning")
    async def feeling(self) -> bool:
        return type(self).feels_well


def test_a_failing_health_check_stops_the_polling_until_it_passes(
    watch: Watch, start_node: StartNode, broker: Broker, results: Results
) -> None:
    Particular.feels_well = False
    flaky = Flaky(broker)
    start_node(ToyApplication(add=lambda x, y: x + y), flaky, results, worker_class=Particular)  # type: ignore[arg-type]
    watch.wait("started.health.degraded", "started.work.suspended")
    assert flaky.woken.wait(10)  # from here on it claims nothing
    broker.publish([envelope("add", 1, 2, id="sum")])
    assert results.wait(["result-sum"], 0.3) == {}
    Particular.feels_well = True
    assert result_of(results, "sum") == 3


def test_stopping_finishes_what_runs_and_gives_back_what_does_not(start_node: StartNode, broker: Broker, results: Results) -> None:
    started, gate = threading.Event(), threading.Event()

    def hold() -> str:
        started.set()
        gate.wait(20)
        return "done"

    node = start_node(ToyApplication(hold=hold, add=lambda x, y: x + y), broker, results)
    broker.publish([envelope("add", 1, number) for number in range(200)])
    result_of(results, f"add-{(1, 199)}")
    broker.publish([envelope("hold", id="held"), *(envelope("hold", id=str(number)) for number in range(3))])
    assert started.wait(10)
    assert node.stop(0.2) is False
    gate.set()
    assert node.stop(10)
    assert json.loads(results.get(["result-held"])[0] or b"{}")["value"] == "done"
    assert broker.depth("toys") == 3


@pytest.mark.parametrize("pool", ["threads", "async"])
def test_a_job_that_exits_costs_only_itself_where_others_share_its_process(
    pool: str, start_node: StartNode, broker: Broker, results: Results
) -> None:
    async def aleave() -> None:
        raise SystemExit(3)

    start_node(ToyApplication(leave=lambda: sys.exit(3), aleave=aleave, add=lambda x, y: x + y), broker, results, pool=pool)
    broker.publish([envelope("leave", id="leaver"), envelope("aleave", id="aleaver"), envelope("add", 1, 2, id="sum")])
    assert result_of(results, "leaver") == "it called exit(3)"
    assert result_of(results, "aleaver") == "it called exit(3)"
    assert result_of(results, "sum") == 3


class Treacherous(ToyApplication):
    """Breaks the port's promises."""

    def decode(self, delivery: Delivery) -> Job:
        if delivery.envelope is not None and delivery.envelope.headers["task"] == "undecodable":
            raise RecursionError("what was that?")
        job = super().decode(delivery)
        if job.name == "broken":
            job.handler = BrokenHandler()
        return job


class BrokenHandler:
    name = "broken"
    runs_in: Place = "slot"

    def run(self, job: Job) -> Outcome:
        raise LookupError("a bug of ours")

    async def arun(self, job: Job) -> Outcome:
        raise LookupError("a bug of ours")


def test_an_application_that_breaks_its_promises_costs_neither_a_slot_nor_a_message(
    start_node: StartNode, results: Results, broker: Broker
) -> None:
    application = Treacherous(add=lambda x, y: x + y, broken=lambda: None, undecodable=lambda: None)
    start_node(application, broker, results)
    broker.publish([envelope("undecodable"), envelope("broken"), envelope("add", 1, 2, id="sum")])
    assert result_of(results, "sum") == 3
    reasons = sorted(record.reason for record in broker.quarantined())
    assert reasons == [
        "it could not be admitted: RecursionError('what was that?')",
        "its handler failed: LookupError('a bug of ours')",
    ]


class Congested(Flaky):
    """A broker whose ``settle`` takes until the gate is opened."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self.gate = threading.Event()
        self.is_asked = threading.Event()

    def settle(self, *args: Any, **kwargs: Any) -> Any:
        self.is_asked.set()
        self.gate.wait(30)
        return self._broker.settle(*args, **kwargs)


def test_a_worker_that_cannot_settle_does_not_go_on_claiming(start_node: StartNode, broker: Broker, results: Results) -> None:
    count = 6_000
    congested = Congested(broker)
    # The settling thread is the one that is held up: a slot with nothing else to do would settle its own.
    broker.publish([envelope("nobody knows this", id="first")])
    node = start_node(ToyApplication(add=lambda x, y: x + y), congested, results)  # type: ignore[arg-type]
    assert congested.is_asked.wait(20)
    broker.publish([envelope("add", 1, number, id=str(number)) for number in range(count)])
    assert isinstance(node.actor, Worker)
    worker = node.actor
    eventually(
        lambda: worker.settlement.pending > 1024 and worker.capacity.is_idle and not worker.capacity.claims,
        within=20,
        what="the worker comes to rest with no room left",
    )
    assert broker.depth("toys") > count // 2
    congested.gate.set()
    assert result_of(results, str(count - 1), timeout=30) == count
