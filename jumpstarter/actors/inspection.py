"""Looking at actors: the live tree, a stream of what happens, and diagrams. Asked by: users, the window, the command line.

Looking costs the actors nothing: states and concerns are immutable and replaced as a whole, so they are read from outside.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from jumpstarter.actors.registry import Happening, registry
from jumpstarter.telemetry.bus import StateTransition, bus

if TYPE_CHECKING:
    from jumpstarter.actors.actor import Actor
    from jumpstarter.actors.host import Host

#: Colours of diagrams, by what an actor is.
_STYLES = {
    "healthy": "fill:#d9f2e3,stroke:#2f855a,color:#123",
    "degraded": "fill:#fdf0cc,stroke:#b7791f,color:#123",
    "unhealthy": "fill:#f9d6d5,stroke:#c53030,color:#123",
    "other": "fill:#e8eaed,stroke:#5f6368,color:#123",
}


@dataclass(frozen=True, slots=True)
class ActorView:
    """What an actor is at one moment, and its children.

    :ivar states: the active states without active states inside, one for each region.
    :ivar concerns: what is wrong, by source, for people.
    :ivar mailbox: how many messages wait.
    :ivar dead: how many were not handled.
    """

    name: str
    kind: str
    states: tuple[str, ...]
    concerns: dict[str, str]
    mailbox: int
    dead: int
    children: tuple[ActorView, ...]

    @property
    def health(self) -> str:
        """``healthy``, ``degraded``, ``unhealthy``, or ``other`` when it is not started."""
        found = (state.split(".")[2] for state in self.states if state.startswith("started.health."))
        return next(found, "other")

    def walk(self) -> Iterator[ActorView]:
        """It and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def lines(self, indent: str = "") -> Iterator[str]:
        """For people: a line for each actor, the children below their parent."""
        states = " | ".join(state.removeprefix("started.") for state in self.states)
        waiting = f", {self.mailbox} waiting" if self.mailbox else ""
        dead = f", {self.dead} dead" if self.dead else ""
        own = self.name.rpartition("/")[2] if indent else self.name
        yield f"{indent}{own} ({self.kind}): {states}{waiting}{dead}"
        for source, concern in self.concerns.items():
            yield f"{indent}  ! {source}: {concern}"
        for child in self.children:
            yield from child.lines(indent + "  ")


@dataclass(frozen=True, slots=True)
class Spawned:
    """An actor begins to be run.

    :ivar parent: the name of the one whose child it is, or None.
    """

    name: str
    kind: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class Stopped:
    """An actor is run no more; with its failure if it crashed."""

    name: str
    kind: str
    failure: BaseException | None


@dataclass(frozen=True, slots=True)
class Depth:
    """The number of messages that wait for an actor has changed."""

    name: str
    depth: int


Note = StateTransition | Spawned | Stopped | Depth


def look(actor: Actor) -> ActorView:
    """The actor and all below it, now. From any thread."""
    return _view(actor._host)


def tree() -> tuple[ActorView, ...]:
    """All actors of this process, now: those that are nobody's child, and below each its children. From any thread."""
    return tuple(_view(host) for host in registry.roots)


@asynccontextmanager
async def watch(*, every: float = 1.0, room: int = 10_000) -> AsyncIterator[MemoryObjectReceiveStream[Note]]:
    """A stream of what happens to the actors of this process: transitions, spawned and stopped ones, depths of mailboxes.
    ``async with watch() as notes: async for note in notes: ...``

    :param every: seconds between two looks at mailboxes.
    :param room: notes that may wait to be read; when there are more, new ones are lost, because actors wait for nobody who looks.
    """
    send: MemoryObjectSendStream[Note]
    send, receive = anyio.create_memory_object_stream(room)

    def put(note: Note) -> None:
        try:
            send.send_nowait(note)
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    def note(happening: Happening, host: Host) -> None:
        kind = type(host.actor).__name__
        put(Spawned(host.name, kind, host.supervisor) if happening == "spawned" else Stopped(host.name, kind, host.failure))

    ends = (bus.subscribe(put), registry.subscribe(note))
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_watch_depths, put, every)
            with send, receive:
                yield receive
            group.cancel_scope.cancel()
    finally:
        for end in ends:
            end()


def tree_diagram(views: Iterable[ActorView]) -> str:
    """The running configuration as a Mermaid flowchart: each actor with its states, below its parent."""
    lines = ["flowchart TD"]
    arrows: list[str] = []
    numbers = itertools.count()  # not the names: views may come from several processes

    def draw(view: ActorView) -> int:
        number = next(numbers)
        states = "<br/>".join(_plain(state.removeprefix("started.")) for state in view.states)
        name = _plain(view.name.rpartition("/")[2])
        lines.append(f'    a{number}["<b>{name}</b> {_plain(view.kind)}<br/>{states}"]:::{view.health}')
        arrows.extend(f"    a{number} --> a{draw(child)}" for child in view.children)
        return number

    for root in views:
        draw(root)
    lines += arrows
    lines += [f"    classDef {name} {style}" for name, style in _STYLES.items()]
    return "\n".join(lines) + "\n"


def class_diagram(kind: type[Actor]) -> str:
    """The chart of an actor class as a Mermaid state diagram.

    :raises TypeError: its regions depend on the instance; ask ``actor.chart.mermaid()`` then.
    """
    plans = list(kind._plans.values())
    if not plans:
        raise TypeError(f"the regions of {kind.__name__} depend on the instance: make one and ask its chart.mermaid()")
    return plans[0].chart.mermaid()


async def _watch_depths(put: Any, every: float) -> None:
    known: dict[str, int] = {}
    while True:
        found = {view.name: view.mailbox for root in tree() for view in root.walk()}
        for name, depth in found.items():
            if known.get(name, 0) != depth:
                put(Depth(name, depth))
        known = found
        await anyio.sleep(every)


def _view(host: Host) -> ActorView:
    family = host.family
    return ActorView(
        name=host.name,
        kind=type(host.actor).__name__,
        states=host.state.leaves,
        concerns={source: str(concern) for source, concern in host.health.concerns.items()},
        mailbox=host.desk.depth if host.desk is not None else 0,
        dead=host.desk.dead if host.desk is not None else 0,
        children=tuple(_view(child._host) for child in family.actors) if family is not None else (),
    )


def _plain(text: str) -> str:
    return text.replace('"', "'").replace("<", "&lt;").replace(">", "&gt;")
