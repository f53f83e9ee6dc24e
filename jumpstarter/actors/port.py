"""What the parts of an actor need of its host: the one interface between host.py and the files that it puts together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.abc import TaskGroup

    from jumpstarter.actors.activities import Activities
    from jumpstarter.actors.breakers import Circuit
    from jumpstarter.actors.desk import Desk
    from jumpstarter.actors.phases import Phases
    from jumpstarter.actors.plan import Plan
    from jumpstarter.actors.publish import Publisher
    from jumpstarter.actors.supervision import Family
    from jumpstarter.actors.threads import DedicatedThread
    from jumpstarter.actors.timers import Timers
    from jumpstarter.actors.view import StateView


class HostPort(Protocol):
    """The host, as activities, phases, keepers and bodies see it."""

    #: The actor's name.
    name: str
    #: Whose methods are called, and whose attributes resources become.
    actor: Any
    activities: Activities
    publisher: Publisher
    #: Why the actor fails, if it does.
    failure: BaseException | None
    #: Restarts in a row.
    restarts: int
    #: Seconds that the next restart backs off, where a supervisor says so.
    restart_delay: float | None
    timers: Timers | None
    family: Family | None
    desk: Desk | None
    #: What tests let go wrong.
    faults: Callable[[str, Any], object] | None
    phases: Phases
    circuits: Mapping[str, Circuit]
    state: StateView
    plan: Plan

    @property
    def threads(self) -> dict[str, DedicatedThread]:
        """The threads of the resources that have one of their own."""

    @property
    def task_group(self) -> TaskGroup | None:
        """In which everything of it runs, while it is served."""

    @property
    def life(self) -> str:
        """The state of its life."""

    def make_family(self) -> Family:
        """Where its children are."""

    def post(self, event: str, /, **data: Any) -> None:
        """Queue an event for the chart. From any thread."""

    def pump(self) -> None:
        """Step through everything that was posted. In the event loop's thread."""

    def fail(self, error: BaseException) -> None:
        """Crash the actor. From any thread."""
