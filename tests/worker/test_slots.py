"""The events of slots: counted by region, and kept back from the loop while a short job runs."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from jumpstarter.jobs import Delivery, Job
from jumpstarter.worker.options import WorkerOptions
from jumpstarter.worker.slots import SlotBoard
from jumpstarter.worker.watch import Step
from tests.worker.toy import ToyApplication, envelope

PATIENCE = 30.0  # seconds; far more than anything here takes


@pytest.fixture
def posted() -> list[str]:
    return []


@pytest.fixture
def board(posted: list[str]) -> SlotBoard:
    def post(event: str, /, **_data: Any) -> None:
        posted.append(event)

    return SlotBoard(WorkerOptions(name="toys", queues=["toys"], pool="threads", concurrency=2), post)


@pytest.fixture
def job() -> Job:
    job = ToyApplication(add=lambda x, y: x + y).decode(Delivery("tag", "toys", envelope("add", 1, 2)))
    job.slot = 0
    return job


def test_events_of_a_head_start_are_told_in_their_order_when_it_is_over(board: SlotBoard, posted: list[str], job: Job) -> None:
    with board.head_start():
        board.changed("slot", 0, job)
        board.stepped("slot", job, Step.ASK)
        board.changed("slot", 0, None)
        assert posted == []
    assert posted == ["slot_0.begin", "slot_0.ask", "slot_0.end"]
    board.changed("slot", 1, job)
    assert posted[3:] == ["slot_1.begin"]


def test_a_head_start_is_over_when_a_slot_turns_idle(board: SlotBoard, job: Job) -> None:
    began = threading.Event()

    def slot() -> None:
        board.changed("slot", 0, job)
        began.set()
        board.changed("slot", 0, None)

    with board.head_start() as wait:
        thread = threading.Thread(target=slot)
        thread.start()
        assert wait(PATIENCE)
        assert began.is_set()
    thread.join()


def test_a_head_start_does_not_wait_for_a_long_job_nor_end_with_one_of_before(
    board: SlotBoard, posted: list[str], job: Job
) -> None:
    board.changed("slot", 1, job)
    board.changed("slot", 1, None)
    with board.head_start() as wait:
        board.changed("slot", 0, job)
        assert not wait(0.001)
    assert posted == ["slot_1.begin", "slot_1.end", "slot_0.begin"]


def test_the_loop_is_told_although_the_hand_over_failed(board: SlotBoard, posted: list[str], job: Job) -> None:
    def hand_over() -> None:
        with board.head_start():
            board.changed("slot", 0, job)
            raise RuntimeError("the slots are closed")

    with pytest.raises(RuntimeError, match="closed"):
        hand_over()
    assert posted == ["slot_0.begin"]
