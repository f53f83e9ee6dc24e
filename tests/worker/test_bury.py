"""What comes of the messages that a dead child held."""

from __future__ import annotations

import pytest

from jumpstarter.jobs import ACK, REQUEUE, RETURN, Action, Delivery, Quarantine
from jumpstarter.worker.bury import bury
from tests.worker.toy import ToyApplication, envelope

TOYS = ToyApplication(add=lambda x, y: x + y)


@pytest.mark.parametrize(
    ("headers", "attempt", "started", "killed_by_us", "status", "action"),
    [
        pytest.param({}, 1, False, False, "RETURNED", RETURN, id="not started: back as it was"),
        pytest.param({"early_ack": True}, 1, False, False, "RETURNED", RETURN, id="not started, acked early: back as it was"),
        pytest.param({"early_ack": True}, 1, True, False, "LOST", ACK, id="started, acked early: never again"),
        pytest.param({"early_ack": True}, 1, True, True, "LOST", ACK, id="started, acked early, cold shutdown: never again"),
        pytest.param({"requeue_if_lost": False}, 1, True, False, "LOST", ACK, id="started, acked late alone: lost"),
        pytest.param({"requeue_if_lost": False}, 1, True, True, "RETURNED", RETURN, id="cold shutdown: back as it was"),
        pytest.param({}, 1, True, False, "LOST", REQUEUE, id="started, to be run again: counted"),
        pytest.param({}, 3, True, True, "RETURNED", RETURN, id="killed by us on the last attempt: not its fault"),
        pytest.param({}, 3, True, False, "LOST", Quarantine("signal 9; attempt 3 of 3"), id="the last attempt: quarantine"),
    ],
)
def test_the_verdict(
    headers: dict[str, object], attempt: int, started: bool, killed_by_us: bool, status: str, action: Action
) -> None:
    delivery = Delivery("tag", "toys", envelope("add", 1, 2, **headers), attempt=attempt)
    (outcome,) = bury(
        [delivery],
        {"tag"} if started else set(),
        TOYS,
        evidence="signal 9",
        max_attempts=3,
        killed_by_us=killed_by_us,
    )
    assert (outcome.status, outcome.action) == (status, action)
