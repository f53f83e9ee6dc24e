"""Outcomes of a batch, settled together, each on its own terms."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.jobs import Document, Outcome
from jumpstarter.worker.settle import Settler
from tests.worker.toy import ToyApplication, envelope


def test_each_outcome_of_a_batch_has_its_own_documents(broker: Broker, results: Results) -> None:
    """The documents of a batch are prepared in one go; the first outcome here, whose claim was lost, must store none of them."""
    broker.publish([envelope("add", 1, 2) for _ in range(3)])
    lost, second, third = broker.claim(["toys"], 3, incarnation="worker", lease=30)
    broker.release("worker", keep=[second.tag, third.tag])
    settler = Settler(broker, results, "worker", on_trouble=lambda _: None)
    settler.settle(
        [
            Outcome(lost, None, "SUCCESS", documents=[Document("lost", b"0")]),
            Outcome(second, None, "SUCCESS", documents=[Document("second", b"1"), Document("also", b"2")]),
            Outcome(third, None, "SUCCESS", documents=[Document("third", b"3")]),
        ]
    )
    assert results.get(["lost", "second", "also", "third"]) == [None, b"1", b"2", b"3"]
    assert broker.depth("toys") == 1


@pytest.mark.parametrize("put", ["put", "put_last"])
def test_whoever_wants_to_know_is_told_of_what_is_settled(broker: Broker, results: Results, put: str) -> None:
    broker.publish([envelope("add", 1, 2)])
    (delivery,) = broker.claim(["toys"], 1, incarnation="worker", lease=30)
    outcome = Outcome(delivery, None, "SUCCESS", documents=[Document("one", b"1")])
    told: list[bytes | None] = []

    def on_settled(outcomes: Sequence[Outcome]) -> None:
        assert list(outcomes) == [outcome]
        told.extend(results.get(["one"]))

    with Settler(broker, results, "worker", on_trouble=lambda _: None, on_settled=on_settled) as settler:
        getattr(settler, put)(outcome)
    assert told == [b"1"]


def test_a_slot_that_has_nothing_else_to_do_settles_what_waits_as_well(broker: Broker, results: Results) -> None:
    broker.publish([envelope("add", number, 2) for number in range(3)])
    outcomes = [Outcome(delivery, None, "SUCCESS") for delivery in broker.claim(["toys"], 3, incarnation="worker", lease=30)]
    told: list[tuple[str, list[Outcome]]] = []
    has_begun, may_end = threading.Event(), threading.Event()

    def on_settled(batch: Sequence[Outcome]) -> None:
        told.append((threading.current_thread().name, list(batch)))
        if threading.current_thread() is not threading.main_thread():
            has_begun.set()
            may_end.wait(60)

    with Settler(broker, results, "worker", on_trouble=lambda _: None, on_settled=on_settled) as settler:
        settler.put(outcomes[0])
        assert has_begun.wait(60)
        settler.put(outcomes[1])
        settler.put_last(outcomes[2])
        here = [batch for name, batch in told if name == threading.main_thread().name]
        may_end.set()
    assert here == [outcomes[1:]]
    assert [batch for _, batch in told] == [outcomes[:1], outcomes[1:]]
    assert broker.held("worker") == []


def test_what_was_acked_before_it_began_and_left_nothing_to_do_is_told_of_and_no_more(
    broker: Broker, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.publish([envelope("add", 1, 2)])
    (delivery,) = broker.claim(["toys"], 1, incarnation="worker", lease=30)
    job = ToyApplication(add=int).decode(delivery)
    job.acked = broker.ack(delivery, incarnation="worker")
    plain, storing = Outcome(delivery, job, "SUCCESS"), Outcome(delivery, job, "SUCCESS", documents=[Document("one", b"1")])
    told: list[Outcome] = []
    with Settler(broker, results, "worker", on_trouble=lambda _: None, on_settled=told.extend) as settler:
        settler.put(storing)
    assert results.get(["one"]) == [b"1"]
    asked: list[object] = []
    monkeypatch.setattr(broker, "acks_at_start", True)
    monkeypatch.setattr(broker, "settle", lambda settlements, **_: asked.append(settlements) or [True])
    with Settler(broker, results, "worker", on_trouble=lambda _: None, on_settled=told.extend) as settler:
        settler.put(plain)
    assert told == [storing, plain]
    assert asked == []
