"""Activities: what runs while states are active. Told by: host, after every step. Runs: the bodies made in work and phases.

Entering one of its states starts an activity, leaving the last of them ends it. Its next run, and the activity of the next state,
start only when it has ended: an activity that is to start while another one in its way is still ending stays *pending* meanwhile,
and the host goes on stepping.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import anyio

from jumpstarter.actors.declare import OnLeave
from jumpstarter.actors.port import HostPort

logger = logging.getLogger(__name__)


class Nap(Protocol):
    """A wait that can be ended: a cancel scope, for example."""

    def cancel(self) -> None:
        """End it."""


class Run:
    """One run of an activity: from a start to its end."""

    __slots__ = ("_ended", "_has_ended", "is_leaving", "nap", "scope")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        # Events are large; there is one while somebody waits.
        self._ended: anyio.Event | None = None
        self._has_ended = False
        #: Its states were left. What finishes by itself looks at this between two rounds.
        self.is_leaving = False
        #: Where a body that finishes by itself waits while it has nothing in hand; leaving ends this wait.
        self.nap: Nap | None = None

    def end(self) -> None:
        """It has ended."""
        self._has_ended = True
        if self._ended is not None:
            self._ended.set()

    async def wait_ended(self) -> None:
        """Until it has ended."""
        if not self._has_ended:
            self._ended = self._ended or anyio.Event()
            await self._ended.wait()

    def leave(self, *, cancel: bool) -> None:
        """Its states were left: cancel it, or let it finish what it has in hand."""
        self.is_leaving = True
        if cancel:
            self.scope.cancel()
        elif self.nap is not None:
            self.nap.cancel()


Body = Callable[[Run], Awaitable[None]]


class Activity:
    """Something that runs while at least one of its states is active.

    :ivar permits: the states that permit it to run. One that finishes by itself may run on when none of them is active any more.
    :ivar zone: regions; while one of two activities that share a region is leaving, the other does not start. None: a phase of the
        life itself, which waits for whatever is being cancelled.
    :ivar flows: whether a pause waits for it.
    :ivar on_end: called when a run has ended by itself: with None, or the error it ended with.
    """

    __slots__ = ("body", "flows", "is_pending", "name", "on_end", "on_leave", "permits", "run", "states", "zone")

    def __init__(
        self,
        name: str,
        body: Body,
        states: Iterable[str],
        *,
        on_end: Callable[[Exception | None], object],
        permits: Iterable[str] = frozenset(),
        zone: frozenset[str] | None = None,
        on_leave: OnLeave = "cancel",
        flows: bool = False,
    ) -> None:
        self.name = name
        self.body = body
        self.states = states if isinstance(states, frozenset) else frozenset(states)
        self.permits = permits if isinstance(permits, frozenset) else frozenset(permits)
        self.zone = zone
        self.on_leave = on_leave
        self.flows = flows
        self.on_end = on_end
        self.run: Run | None = None
        self.is_pending = False

    @property
    def is_ending(self) -> bool:
        """It runs although its states were left."""
        return self.run is not None and self.run.is_leaving

    def holds_back(self, other: Activity, active: Iterable[str]) -> bool:
        """Whether ``other`` has to wait for its end: both belong to one region, and it runs although its time is over."""
        if self.run is None or not self.zone or not other.zone or self.zone.isdisjoint(other.zone):
            return False
        # One that finishes may take long, so it holds back only what would never have run beside it.
        overstays = bool(self.permits) and self.permits.isdisjoint(active) and self.permits.isdisjoint(other.permits)
        return self.run.is_leaving or overstays

    @property
    def is_cancelled(self) -> bool:
        """It was cancelled and has not ended."""
        return self.run is not None and self.run.scope.cancel_called


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes some activities of an actor when one of their states is entered for the first time; shared by all actors of a class.

    :ivar states: in which they run.
    :ivar permits: which else they have to do with.
    :ivar is_kept: they remember something from one run to the next. Others are forgotten when they have ended.
    """

    make: Callable[[HostPort], list[Activity]]
    states: frozenset[str]
    permits: frozenset[str] = frozenset()
    is_kept: bool = False


class Makers:
    """All makers of a class, in the order in which their activities start."""

    def __init__(self, makers: Iterable[Maker]) -> None:
        self.all = tuple(makers)
        self.by_state: dict[str, tuple[int, ...]] = {}
        for number, maker in enumerate(self.all):
            for state in maker.states | maker.permits:
                self.by_state[state] = (*self.by_state.get(state, ()), number)


class Activities:
    """All activities of one actor."""

    __slots__ = ("_active", "_all", "_host", "_made", "_makers")

    def __init__(self, host: HostPort, makers: Makers) -> None:
        self._host = host
        self._makers = makers
        #: By the number of their maker.
        self._made: dict[int, list[Activity]] = {}
        #: All of them, in the order in which they start. Replaced, never changed.
        self._all: tuple[Activity, ...] = ()
        self._active: tuple[str, ...] = ()

    def follow(self, active: tuple[str, ...], exited: tuple[str, ...], entered: tuple[str, ...]) -> None:
        """Start and end what a step asks for. Never waits."""
        self._active = active
        by_state = self._makers.by_state
        numbers = {number: None for state in (*exited, *entered) for number in by_state.get(state, ())}
        if not numbers:
            return
        changed = {*exited, *entered}
        again = set(exited).intersection(entered)
        for number in numbers:
            for activity in self._made.get(number) or self._make(number, entered):
                if not (activity.states.isdisjoint(changed) and activity.permits.isdisjoint(changed)):
                    self._touch(activity, entered, again)
        self._start_pending()

    def _make(self, number: int, entered: tuple[str, ...]) -> list[Activity]:
        maker = self._makers.all[number]
        if maker.states.isdisjoint(entered):
            return []
        made = self._made[number] = maker.make(self._host)
        self._note_all()
        return made

    def _note_all(self) -> None:
        self._all = tuple([activity for number in sorted(self._made) for activity in self._made[number]])

    def _touch(self, activity: Activity, entered: tuple[str, ...], again: set[str]) -> None:
        is_wanted = not activity.states.isdisjoint(self._active)
        is_reentered = is_wanted and not (activity.states.isdisjoint(again) and activity.permits.isdisjoint(again))
        if activity.run is not None and not activity.run.is_leaving and (is_reentered or not is_wanted):
            activity.run.leave(cancel=activity.on_leave == "cancel")
            activity.is_pending = is_wanted
        else:
            # A run that ended by itself (a task that is done) starts again only when its states are entered again.
            is_entered = is_wanted and not activity.states.isdisjoint(entered)
            activity.is_pending = is_wanted and (activity.is_pending or activity.is_ending or (is_entered and activity.run is None))

    def _forget(self) -> None:
        """Drop what has ended and remembers nothing: an actor at work needs no memory for its start."""
        over = [
            number
            for number, made in self._made.items()
            if not self._makers.all[number].is_kept and not any(activity.run or activity.is_pending for activity in made)
        ]
        for number in over:
            del self._made[number]
        if over:
            self._note_all()

    def is_flowing(self) -> bool:
        """Whether anything runs that a pause has to wait for."""
        return any(activity.flows and (activity.run is not None or activity.is_pending) for activity in self._all)

    def cancel_tasks(self) -> list[Run]:
        """Cancel all that is no phase of the life, and return what is to be awaited."""
        runs = [activity.run for activity in self._all if activity.zone is not None and activity.run is not None]
        for run in runs:
            run.leave(cancel=True)
        return runs

    def finishing(self) -> list[Run]:
        """What still finishes although its states were left."""
        return [
            activity.run for activity in self._all if activity.zone is not None and activity.run is not None and activity.is_ending
        ]

    def _start_pending(self) -> None:
        for activity in self._all:
            if activity.is_pending and activity.run is None and not self._is_blocked(activity):
                self._start(activity)

    def _is_blocked(self, activity: Activity) -> bool:
        if activity.zone is None:
            return any(other.is_cancelled for other in self._all)
        return any(other.holds_back(activity, self._active) for other in self._all)

    def _start(self, activity: Activity) -> None:
        task_group = self._host.task_group
        assert task_group is not None
        activity.is_pending = False
        activity.run = run = Run()
        task_group.start_soon(self._run, activity, run, name=f"{self._host.name}: {activity.name}")

    async def _run(self, activity: Activity, run: Run) -> None:
        error: Exception | None = None
        try:
            with run.scope:
                if not run.scope.cancel_called:
                    await activity.body(run)
        except Exception as raised:  # noqa: BLE001 - whatever a user's method raises is the activity's failure, handled in on_end
            error = unwrapped(raised)
        finally:
            activity.run = None
            run.end()
        if run.scope.cancel_called or run.is_leaving:
            if error is not None:
                logger.error("%s: %s failed while it was ending", self._host.name, activity.name, exc_info=error)
        else:
            activity.on_end(error)
        self._start_pending()
        self._forget()
        self._host.pump()


def unwrapped(error: Exception) -> Exception:
    """The error itself when it is alone in its group, or groups in groups."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
