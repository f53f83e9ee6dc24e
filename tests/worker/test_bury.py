"""What comes of the messages that a dead child held."""

from __future__ import annotations

import pytest

from jumpstarter.jobs import ACK, REQUEUE, RETURN, Action, Delivery, Quarantine
from jumpstarter.worker.bury import Death, bury
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
        Death(evidence="signal 9", killed_by_us=killed_by_us),
        max_attempts=3,
    )
    assert (outcome.status, outcome.action) == (status, action)


def test_a_job_for_whose_sake_the_child_was_killed_gets_its_own_verdict_and_the_others_go_back() -> None:
    deliveries = [Delivery(tag, "toys", envelope("add", 1, 2)) for tag in ("guilty", "innocent")]
    death = Death(evidence="signal 9", killed_by_us=True, condemned={"guilty": lambda job: TOYS.overrun(job, 5.0, soft=False)})
    outcomes = bury(deliveries, {"guilty", "innocent"}, TOYS, death, max_attempts=3)
    assert [(outcome.status, outcome.action) for outcome in outcomes] == [("HARD", ACK), ("RETURNED", RETURN)]


@pytest.mark.parametrize("ran", [(), ("guilty",)], ids=["nothing ran", "one ran"])
def test_a_job_that_had_ended_is_not_to_blame_where_another_ran(ran: tuple[str, ...]) -> None:
    deliveries = [Delivery(tag, "toys", envelope("add", 1, 2), attempt=3) for tag in ("guilty", "ended")]
    guilty, ended = bury(deliveries, {"guilty", "ended"}, TOYS, Death(evidence="signal 9", ran=ran), max_attempts=3)
    assert guilty.action == Quarantine("signal 9; attempt 3 of 3")
    assert ended.action == (RETURN if ran else guilty.action)


def test_a_job_that_had_ended_and_may_not_be_repeated_is_lost() -> None:
    delivery = Delivery("ended", "toys", envelope("add", 1, 2, requeue_if_lost=False))
    (outcome,) = bury([delivery], {"ended", "guilty"}, TOYS, Death(evidence="signal 9", ran={"guilty"}), max_attempts=3)
    assert (outcome.status, outcome.action) == ("LOST", ACK)


def test_what_is_known_of_a_death_goes_with_the_message_into_the_quarantine() -> None:
    death = Death(evidence="signal 11", facts={"peak_memory": 5, "stack": "here"})
    (outcome,) = bury([Delivery("tag", "toys", envelope("add", 1, 2), attempt=3)], {"tag"}, TOYS, death, max_attempts=3)
    assert outcome.action == Quarantine("signal 11; attempt 3 of 3", {"peak_memory": 5, "stack": "here"})
