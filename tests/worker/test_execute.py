"""One job in a slot, and whose word about its end counts."""

from __future__ import annotations

from jumpstarter.jobs import Delivery, Job
from jumpstarter.worker.execute import Runner
from tests.worker.toy import ToyApplication, ToyHandler, envelope


def job_of(handler: ToyHandler) -> Job:
    return Job(id="j", name="toy", delivery=Delivery("tag", "toys", envelope("toy")), handler=handler)


def test_a_job_that_ended_by_itself_has_an_outcome_and_a_run_time() -> None:
    runner = Runner(ToyApplication(), "memory://", None)
    outcome = runner.run(job_of(ToyHandler("toy", lambda: 1)), 0)
    assert outcome is not None
    assert outcome.status == "SUCCESS"
    assert outcome.runtime > 0
    assert runner.ended["slot"] == 1
    assert runner.running == {}


def test_a_job_that_was_abandoned_has_no_outcome_when_it_ends_after_all() -> None:
    runner = Runner(ToyApplication(), "memory://", None)
    jobs: list[Job] = []
    job = job_of(ToyHandler("toy", lambda: runner.abandon(jobs[0])))
    jobs.append(job)
    assert runner.run(job, 0) is None
    assert job.abandoned
    assert runner.ended["slot"] == 0
