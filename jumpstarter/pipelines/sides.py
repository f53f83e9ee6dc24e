"""Sides: actors beside the loop that are told what was settled. Comes from: pipeline. Goes to: the user's ``@side`` methods.

Nothing here can hurt the loop: it tells without waiting, errors end here, and a full mailbox drops letters.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

import anyio.to_thread

from jumpstarter.actors import Actor, Document, Mailbox, handles
from jumpstarter.pipelines.clocks import is_injected
from jumpstarter.pipelines.design import SidePlan
from jumpstarter.pipelines.events import SideEvent

if TYPE_CHECKING:
    from jumpstarter.pipelines.pipeline import Pipeline

logger = logging.getLogger(__name__)


class Told(Document):
    """Something for a side."""

    event: SideEvent


class Side(Actor):
    """Runs one side.

    :ivar told: events that were handled. :ivar failures: of these, how many failed.
    """

    stop_grace = 5.0
    plan: ClassVar[SidePlan]

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(name=f"{pipeline.name}.{self.plan.name}")
        self._pipeline = pipeline
        self.told = 0
        self.failures = 0

    @handles(Told)
    async def tell_it(self, message: Told) -> None:
        """Call the user's method. What it raises degrades the pipeline until it works again."""
        self.told += 1
        concern = f"side.{self.plan.name}"
        try:
            await call_side(self._pipeline, self.plan, message.event)
        except Exception as error:
            self.failures += 1
            logger.exception("%s failed", self.name)
            self._pipeline.report_warning(concern, error)
        else:
            if concern in self._pipeline.concerns:
                self._pipeline.recover(concern)


def side_class(owner: str, plan: SidePlan) -> type[Side]:
    """The actor of a side."""
    mailbox = Mailbox(plan.spec.capacity, when_full=plan.spec.on_full)
    return type(f"{owner}_{plan.name}", (Side,), {"plan": plan, "mailbox": mailbox, "__module__": __name__})


async def call_side(pipeline: Pipeline, plan: SidePlan, event: SideEvent) -> None:
    """In a thread where it is a plain function."""
    method = getattr(pipeline, plan.name)
    if not plan.is_sync:
        await method(event)
    elif is_injected():
        method(event)
    else:
        await anyio.to_thread.run_sync(method, event, abandon_on_cancel=True)
