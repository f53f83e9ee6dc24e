"""Is the harness blind? Genuine client and genuine worker must pass the same cases, and its own loader write the same messages.

``WIRE_EVERY_CASE=1`` runs all cases this way; otherwise a few that differ most.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.peers import Conversation, Side, load, raw_message
from tests.wire.cases import EXPECTED
from tests.wire.conftest import Wire, observe, wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FEW = ("add", "unknown_task", "link_error_in_place", "chain_of_task_group_of_chains_task_task", "chord_with_failing_header")
CASES = tuple(EXPECTED) if os.environ.get("WIRE_EVERY_CASE") else FEW


@pytest.fixture(scope="module")
def pair(sides: dict[str, Side], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Wire, Conversation]]:
    with wire(tmp_path_factory.mktemp("genuine")) as link:
        link.worker(sides["genuine"], "-c", "2", "-P", "prefork")
        yield link, link.client(sides["genuine"])


@pytest.mark.parametrize("case", CASES)
def test_a_genuine_client_and_a_genuine_worker_agree(pair: tuple[Wire, Conversation], case: str) -> None:
    assert observe(pair[1], case) == EXPECTED[case]


def test_the_loader_writes_what_a_genuine_client_writes(sides: dict[str, Side], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("loader")
    with wire(folder) as link:
        observe(link.client(sides["genuine"]), "marks", ledger="there", first=7, count=1, seconds=0)
        load(link.redis.client, [raw_message("proj.mark", ["there", 7, 0])])
        ours, theirs = (json.loads(raw) for raw in link.redis.client.lrange("celery", 0, -1))
    assert shape(ours) == shape(theirs)
    assert ours["body"] == theirs["body"]
    same = ("lang", "task", "eta", "expires", "retries", "timelimit", "argsrepr", "kwargsrepr", "parent_id", "stamps")
    assert [ours["headers"][name] for name in same] == [theirs["headers"][name] for name in same]


def shape(message: dict[str, Any]) -> dict[str, Any]:
    """The names of all members, and what does not differ from one message to the next."""
    return {
        "members": sorted(message),
        "headers": sorted(message["headers"]),
        "properties": sorted(message["properties"]),
        "delivery_info": message["properties"]["delivery_info"],
        "content": (message["content-type"], message["content-encoding"], message["properties"]["body_encoding"]),
    }
