"""What a worker is put together from. The room knows only ports; whoever starts a worker brings these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anyio.abc import TaskGroup

from jumpstarter.abc.application import Application
from jumpstarter.abc.broker import Broker
from jumpstarter.abc.executor import AsyncRun, Executor, OnOutcome, OnSlot, Run
from jumpstarter.abc.results import Results

#: Makes the executor of plain functions: (run, on_outcome, on_slot).
MakeExecutor = Callable[[Run, OnOutcome, OnSlot], Executor]
#: Makes the executor of thread slots beside it: (slots, run, on_outcome, on_slot).
MakeThreadExecutor = Callable[[int, Run, OnOutcome, OnSlot], Executor]
#: Makes the executor of coroutines: (slots, run, on_outcome, on_slot, task group).
MakeLoopExecutor = Callable[[int, AsyncRun, OnOutcome, OnSlot, TaskGroup], Executor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The implementations that one worker uses."""

    application: Application
    broker: Broker
    results: Results | None
    make_executor: MakeExecutor
    make_thread_executor: MakeThreadExecutor
    make_loop_executor: MakeLoopExecutor
