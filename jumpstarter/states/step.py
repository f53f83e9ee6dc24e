"""What goes in and out of a chart as values: steps, transitions, snapshots, and what hooks may ask about the event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from jumpstarter.states.instance import Instance


@dataclass(frozen=True, slots=True)
class Transition:
    """One transition that was taken.

    :ivar region: path of the innermost region that it stayed within; empty when it changed the whole.
    :ivar source: path of the state that it was defined on.
    :ivar target: path of the state that it leads to (several, parted by spaces, where it has several); None when nothing was left
        or entered.
    :ivar trigger: the event, or empty for an eventless transition.
    """

    region: str
    source: str
    target: str | None
    trigger: str

    @property
    def dest(self) -> str | None:
        """The target, in the word of ``transitions``."""
        return self.target


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one event, run to completion.

    :ivar handled: False: no transition was enabled, and the event was neither postponed nor queued.
    :ivar transitions: in order of execution.
    :ivar exited: paths of the states that were left, in order.
    :ivar entered: paths of the states that were entered, in order. A state may be left and entered several times in one step.
    :ivar done: the final state at the top was reached.
    :ivar postponed: the event waits until the configuration changes.
    :ivar queued: sent from inside a hook: it is handled after the event that is under way, whose step tells what came of it.
    """

    handled: bool
    transitions: tuple[Transition, ...] = ()
    exited: tuple[str, ...] = ()
    entered: tuple[str, ...] = ()
    done: bool = False
    postponed: bool = False
    queued: bool = False


class Snapshot(TypedDict):
    """All that an instance has to remember, as JSON can hold it (as long as the data of its postponed events can be).

    ``active``: paths of the active states that have no active state inside. ``history``: by history state, the paths it recorded.
    ``postponed``: pairs of event and data.
    """

    chart: str
    active: list[str]
    history: dict[str, list[str]]
    postponed: list[tuple[str, dict[str, Any]]]


class EventData:
    """What a hook can know about the event that it runs for: its one argument with ``send_event``, else its parameter ``event``.

    The attributes that ``transitions`` has bear its names.
    """

    __slots__ = ("error", "instance", "kwargs", "name", "transition")

    #: Nothing is passed by position.
    args: tuple[()] = ()

    def __init__(self, instance: Instance) -> None:
        #: The event's name; empty while the initial configuration is entered and for eventless transitions.
        self.name: str = instance.event
        self.kwargs: Mapping[str, Any] = instance.data
        self.instance: Instance = instance
        #: The transition that is being executed; None in guards.
        self.transition: Transition | None = instance.transition
        #: In ``on_error`` hooks: what was raised.
        self.error: Exception | None = instance.data.get("error")

    @property
    def event(self) -> EventData:
        """Itself, so that ``event.event.name`` works."""
        return self

    @property
    def model(self) -> object:
        """The model of the instance."""
        return self.instance.model

    @property
    def machine(self) -> Instance:
        """The instance, in the word of ``transitions``."""
        return self.instance

    @property
    def state(self) -> tuple[str, ...]:
        """The active paths at this moment."""
        return self.instance.active
