"""Monitors and links: what one actor learns of another one's end. Used by: actor. Works between event loops and threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jumpstarter.actors.letters import Letter
from jumpstarter.actors.messages import Event
from jumpstarter.actors.ref import desk_for
from jumpstarter.errors import LinkBroken

if TYPE_CHECKING:
    from jumpstarter.actors.host import Host

_ENDED = ("stopped", "crashed")


class Down(Event):
    """An actor that is monitored has stopped, or crashed with ``failure``."""

    name: str
    failure: BaseException | None = None


def monitor(watcher: Host, other: Host) -> Callable[[], None]:
    """Tell the watcher when the other has ended; at once if it has.

    :raises NotHandled: the watcher has no handler for :class:`Down`.
    """
    desk = desk_for(watcher, Down(other.name))

    def look(host: Host) -> None:
        if host.life in _ENDED:
            desk.push(Letter(Down(host.name, host.failure if host.life == "crashed" else None)))

    stop = other.add_follower(look)
    look(other)
    return stop


def link(one: Host, other: Host) -> Callable[[], None]:
    """When one of the two crashes, the other fails."""

    def breaks(end: Host) -> Callable[[Host], None]:
        def look(host: Host) -> None:
            if host.life == "crashed":
                error = LinkBroken(end.name, host.name)
                error.__cause__ = host.failure
                end.fail(error)

        return look

    stops = (one.add_follower(breaks(other)), other.add_follower(breaks(one)))

    def unlink() -> None:
        for stop in stops:
            stop()

    return unlink
