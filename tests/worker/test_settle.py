"""Outcomes of a batch, settled together, each on its own terms."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.jobs import Document, Outcome
from jumpstarter.worker.settle import Settler
from tests.worker.toy import envelope


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
