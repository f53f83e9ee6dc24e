"""Chords whose header runs partly on a genuine worker and partly on ours, with clients of both kinds: each fires exactly once.

``MIXED_CHORDS=200`` for as many in a row as `make conformance` wants; a few of them otherwise.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict

import pytest

from tests.peers import Side, quiet
from tests.wire.conftest import observe, wire

WANTED = int(os.environ.get("MIXED_CHORDS", "20"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 3 * WANTED)]

BATCH = 20
SIZE = 6
#: Long enough that neither worker takes the whole header of a chord.
SECONDS = 0.005


def test_a_chord_that_ran_on_both_sides_fires_once(sides: dict[str, Side], tmp_path_factory: pytest.TempPathFactory) -> None:
    sent = 0
    with wire(tmp_path_factory.mktemp("chords")) as link:
        ledger = link.ledger("chords")
        for side in sides.values():
            link.worker(side, "-c", "2", "-P", "prefork")
        clients = [link.client(side) for side in sides.values()]
        mixed: set[int] = set()
        while len(mixed) < WANTED:
            assert sent < 10 * WANTED + 10 * BATCH, f"of {sent} chords only {len(mixed)} ran on both sides"
            client = clients[sent // BATCH % len(clients)]
            observe(client, "chords", ledger=str(ledger.path), first=sent, count=BATCH, size=SIZE, seconds=SECONDS)
            sent += BATCH
            ledger.wait(sent * (SIZE + 1), within=60)
            workers: dict[int, set[str]] = defaultdict(set)
            for entry in ledger.entries():
                if "part" in entry:
                    workers[entry["part"]].add(entry["worker"])
            mixed = {number for number, names in workers.items() if len(names) == len(sides)}
        quiet(ledger, link.redis, lasting=1, within=20)
        fired = [entry for entry in ledger.entries() if "fired" in entry]

    assert Counter(entry["fired"] for entry in fired) == Counter(range(sent))
    assert all(entry["places"] == list(range(SIZE)) for entry in fired)
    finishers = Counter(entry["worker"] for entry in fired)
    print(f"{len(mixed)} of {sent} chords ran on both sides; their bodies ran on {dict(finishers)}")  # seen with pytest -s
