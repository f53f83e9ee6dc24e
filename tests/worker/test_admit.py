"""What a delivery becomes."""

from __future__ import annotations

from jumpstarter.errors import Undecodable
from jumpstarter.jobs import Delivery, Envelope, Job, Outcome, Park, Quarantine
from jumpstarter.worker.admit import admit
from tests.worker.toy import ToyApplication, envelope

NOW = 1_000.0


async def sleep_on_it() -> None:
    """A coroutine job."""


TOYS = ToyApplication(add=lambda x, y: x + y, sleep_on_it=sleep_on_it)


def one(sent: Envelope | None, **facts: object) -> Job | Outcome:
    delivery = Delivery("tag", "toys", sent, **facts)  # type: ignore[arg-type] # the facts are Delivery's own fields
    admitted = admit([delivery], TOYS, now=NOW, max_attempts=3)
    (verdict,) = [*admitted.jobs, *admitted.outcomes]
    return verdict


def test_a_message_in_order_becomes_a_job() -> None:
    job = one(envelope("add", 1, 2))
    assert isinstance(job, Job)
    assert job.name == "add"


def test_bytes_that_are_no_message_are_refused_with_the_reason() -> None:
    outcome = one(None, fault=Undecodable("no JSON"))
    assert isinstance(outcome, Outcome)
    assert outcome.action == Quarantine("no JSON")


def test_an_unknown_task_is_refused_by_name() -> None:
    outcome = one(envelope("subtract"))
    assert isinstance(outcome, Outcome)
    assert "'subtract'" in str(outcome.error)


def test_a_job_before_its_time_is_parked_until_then() -> None:
    outcome = one(envelope("add", 1, 2, due=NOW + 5))
    assert isinstance(outcome, Outcome)
    assert outcome.action == Park(NOW + 5)


def test_a_job_whose_time_has_come_runs() -> None:
    assert isinstance(one(envelope("add", 1, 2, due=NOW)), Job)


def test_a_job_past_its_time_expires() -> None:
    outcome = one(envelope("add", 1, 2, expires=NOW))
    assert isinstance(outcome, Outcome)
    assert outcome.status == "EXPIRED"


def test_a_message_that_keeps_killing_its_process_goes_to_quarantine() -> None:
    assert isinstance(one(envelope("add", 1, 2), attempt=3), Job)
    outcome = one(envelope("add", 1, 2), attempt=4)
    assert isinstance(outcome, Outcome)
    assert outcome.action == Quarantine("delivered 3 times without an outcome")


def test_a_batch_is_sorted_into_jobs_and_outcomes() -> None:
    deliveries = [
        Delivery("1", "toys", envelope("add", 1, 2)),
        Delivery("2", "toys", envelope("sleep_on_it")),
        Delivery("3", "toys", envelope("subtract")),
    ]
    admitted = admit(deliveries, TOYS, now=NOW, max_attempts=3)
    assert [job.delivery.tag for job in admitted.jobs] == ["1", "2"]
    assert [outcome.delivery.tag for outcome in admitted.outcomes] == ["3"]
