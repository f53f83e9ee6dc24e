"""What a collector sees of a real node with two children: every transition of every machine, and traces that hold together.

One life of the node is played once: it starts, works, loses its Redis for three seconds, recovers, works again and is stopped.
The tests then look at what the collector was sent.
"""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.peers import Program, RedisServer, Side, our_side, wait_ready
from tests.telemetry.collector import Collector, Log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

APP = Path(__file__).parent / "app"
#: Seconds for which Redis is away.
OUTAGE = 3.0
#: Seconds after which a transition that must happen has arrived.
ARRIVES = 20.0
TASKS = 8

FACTS = ("machine", "kind", "region", "from", "to", "trigger")
OF_A_CHILD = ("starting", "healthy", "polling", "processing", "degraded", "healthy", "polling", "stopping", "stopped")
OF_THE_NODE = ("starting", "healthy", "degraded", "healthy", "stopping", "stopped")


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector that has seen the whole life."""
    folder = tmp_path_factory.mktemp("otlp")
    with Collector() as collector, RedisServer(folder / "redis", durable=True) as redis:
        play(our_side(), folder, redis, collector)
        yield collector


def play(side: Side, folder: Path, redis: RedisServer, collector: Collector) -> None:
    env = side.environment(APP, SEEN_URL=redis.url, **collector.environment)
    node = side.worker("seen", "-c", "2", "-P", "prefork", "-n", "node@seen", folder=folder, env=env, log=folder / "node.log")
    with node:
        wait_ready(node)
        run_tasks(side, folder, env)
        children = collector.wait_for(lambda c: two(machines(c, "processing")), ARRIVES)
        lose_and_restore(redis, collector, children)
        run_tasks(side, folder, env)
        node.send(signal.SIGTERM)
        assert node.wait(within=30) == 0, node.text()


def run_tasks(side: Side, folder: Path, env: dict[str, str]) -> None:
    log = folder / "client.log"
    log.unlink(missing_ok=True)
    with Program([*side.python, APP / "client.py", str(TASKS)], folder=folder, env=env, log=log) as client:
        code = client.wait(within=60)
    assert (code, client.text().split()[-TASKS:]) == (0, ["done"] * TASKS), client.text()


def lose_and_restore(redis: RedisServer, collector: Collector, children: set[str]) -> None:
    """Redis is away for :data:`OUTAGE` seconds, or longer if the children are slow to notice."""
    lost = time.time()
    redis.kill()
    collector.wait_for(lambda c: children <= machines(c, "degraded", after=lost), ARRIVES)
    time.sleep(max(0.0, lost + OUTAGE - time.time()))  # the fault itself, which has to last so long
    restored = time.time()
    redis.start()
    collector.wait_for(lambda c: children <= machines(c, "healthy", after=restored), ARRIVES)


def fact(log: Log, name: str) -> str:
    return str(log.attributes[f"jumpstarter.{name}"])


def state(log: Log) -> str:
    """The word of the story: ``started.health.degraded`` is degraded, ``stopping.resources`` is stopping."""
    path = fact(log, "to").split(".")
    return path[0] if path[0] in {"starting", "stopping", "stopped", "crashed"} else path[-1]


def machines(collector: Collector, entered: str, *, after: float = 0.0) -> set[str]:
    """The machines that entered the state."""
    return {fact(log, "machine") for log in collector.transitions if log.time >= after and state(log) == entered}


def two(names: set[str]) -> set[str] | None:
    return names if len(names) == 2 else None


def of(collector: Collector, machine: str) -> list[Log]:
    return [log for log in collector.transitions if fact(log, "machine") == machine]


def is_told(story: Sequence[str], transitions: Sequence[Log]) -> bool:
    """Whether the states were entered in the order of the story; others may come between them."""
    entered = iter(state(log) for log in transitions)
    return all(word in entered for word in story)


def test_there_are_the_node_and_two_children(collector: Collector) -> None:
    children = machines(collector, "polling")
    assert len(children) == 2
    assert len(machines(collector, "stopped") - children) == 1


def test_every_transition_says_which_machine_went_from_where_to_where_and_why(collector: Collector) -> None:
    assert collector.transitions
    for log in collector.transitions:
        assert {f"jumpstarter.{name}" for name in FACTS} <= set(log.attributes), log
        assert fact(log, "machine"), log
        assert fact(log, "kind"), log
        assert fact(log, "to"), log


def test_no_transition_is_missing(collector: Collector) -> None:
    """In each region of each machine a transition begins where the last one ended: in that state, or in one around it."""
    ended: dict[tuple[str, str], str] = {}
    for log in collector.transitions:
        where = (fact(log, "machine"), fact(log, "region"))
        if fact(log, "from") and where in ended:
            assert f"{ended[where]}.".startswith(f"{fact(log, 'from')}."), log
        ended[where] = fact(log, "to")


def test_each_child_tells_its_whole_story(collector: Collector) -> None:
    for child in machines(collector, "polling"):
        transitions = of(collector, child)
        assert is_told(OF_A_CHILD, transitions), [state(log) for log in transitions]


def test_the_node_tells_its_whole_story(collector: Collector) -> None:
    for node in machines(collector, "stopped") - machines(collector, "polling"):
        transitions = of(collector, node)
        assert is_told(OF_THE_NODE, transitions), [state(log) for log in transitions]


def test_degraded_is_a_warning_that_says_why(collector: Collector) -> None:
    for log in collector.transitions:
        if state(log) == "degraded":
            assert log.severity == "WARN", log
            assert log.body, log


def test_publishing_and_processing_of_a_task_share_a_trace(collector: Collector) -> None:
    sent = {span.span_id: span for span in collector.spans if span.kind == "PRODUCER"}
    processed = [span for span in collector.spans if span.kind == "CONSUMER"]
    by_trace = defaultdict(int)
    for span in processed:
        assert span.parent_id in sent, span
        assert span.trace_id == sent[span.parent_id].trace_id
        assert span.attributes["messaging.message.id"] == sent[span.parent_id].attributes["messaging.message.id"]
        by_trace[span.trace_id] += 1
    assert len(sent) == len(processed) == 2 * TASKS
    assert set(by_trace.values()) == {1}
