"""What the parts of an actor need of its host: the one interface between host.py and the files that it puts together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from jumpstarter.actors.activities import Activities
    from jumpstarter.actors.publish import Publisher
    from jumpstarter.actors.threads import DedicatedThread


class HostPort(Protocol):
    """The host, as activities, phases, keepers and bodies see it."""

    #: The actor's name.
    name: str
    #: Whose methods are called, and whose attributes resources become.
    actor: Any
    activities: Activities
    publisher: Publisher
    #: The threads of resources that have one of their own.
    threads: dict[str, DedicatedThread]
    #: Why the actor fails, if it does.
    failure: BaseException | None
    #: Restarts in a row.
    restarts: int

    def post(self, event: str, /, **data: Any) -> None:
        """Queue an event for the chart. From any thread."""

    def pump(self) -> None:
        """Step through everything that was posted. In the event loop's thread."""

    def fail(self, error: BaseException) -> None:
        """Crash the actor. From any thread."""
