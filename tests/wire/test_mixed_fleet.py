"""One genuine worker and one of ours on the same queue, both kinds of clients: every task runs once, and both workers work."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.peers import Side, quiet
from tests.wire.conftest import observe, wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EACH = 1_000
#: Long enough that a worker which is many times faster cannot empty the queue alone before the other has had its share.
SECONDS = 0.005


def test_every_task_of_a_mixed_fleet_runs_once(sides: dict[str, Side], tmp_path_factory: pytest.TempPathFactory) -> None:
    with wire(tmp_path_factory.mktemp("mixed")) as link:
        ledger = link.ledger("marks")
        for side in sides.values():
            link.worker(side, "-c", "2", "-P", "prefork")
        clients = [link.client(side) for side in sides.values()]
        with ThreadPoolExecutor(len(clients)) as both:
            publishing = [
                both.submit(observe, client, "marks", ledger=str(ledger.path), first=number * EACH, count=EACH, seconds=SECONDS)
                for number, client in enumerate(clients)
            ]
            assert [published.result() for published in publishing] == [EACH, EACH]
        ledger.wait(len(clients) * EACH, within=60)
        quiet(ledger, link.redis, lasting=1, within=20)
        entries = ledger.entries()

    assert sorted(entry["number"] for entry in entries) == list(range(len(clients) * EACH))
    shares = Counter(entry["worker"] for entry in entries)
    print(f"shares of the two workers: {dict(shares)}")  # seen with pytest -s
    assert min(shares[name] for name in sides) >= 200, shares
