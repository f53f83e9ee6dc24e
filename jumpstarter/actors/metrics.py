"""Metrics of mailboxes: ``jumpstarter.actor.mailbox.depth`` and ``jumpstarter.actor.dead_letters``. Goes to: telemetry.

By class of the actor, and for dead letters by reason; never by actor, of which there are many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from jumpstarter.actors.inspection import tree
from jumpstarter.actors.letters import dead_letters
from jumpstarter.telemetry.measures import measure


def _depths() -> Iterator[tuple[int, Mapping[str, str]]]:
    depths: Counter[str] = Counter()
    for root in tree():
        for view in root.walk():
            depths[view.kind] += view.mailbox
    return ((depth, {"jumpstarter.kind": kind}) for kind, depth in depths.items())


def _dead() -> Iterator[tuple[int, Mapping[str, str]]]:
    # A copy: actors' threads count on meanwhile.
    counts = dead_letters.counts.copy()
    return ((count, {"jumpstarter.kind": kind, "jumpstarter.reason": reason}) for (kind, reason), count in counts.items())


measure("jumpstarter.actor.mailbox.depth", "{message}", "Messages that wait for actors now.", _depths)
measure("jumpstarter.actor.dead_letters", "{message}", "Messages that were not handled.", _dead, only_grows=True)
