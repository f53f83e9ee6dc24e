"""The commands of a genuine Celery 5.7 (``celery inspect`` and ``celery control``) find our worker beside a genuine one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.peers import Side
from tests.wire.conftest import Wire, wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
NODES = {"genuine@wire", "ours@wire"}


@pytest.fixture(scope="module")
def fleet(sides: dict[str, Side], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with wire(tmp_path_factory.mktemp("control")) as link:
        for side in sides.values():
            link.worker(side, "-c", "1")
        yield link


def say(fleet: Wire, side: Side, *words: str) -> dict[str, Any]:
    """The replies by node, to a command line. ``control`` tells them as a list, ``inspect`` as one mapping."""
    command = [*side.celery, "-A", "proj", *words, "--json", "--timeout", "20", "--destination", ",".join(sorted(NODES))]
    told = subprocess.run(
        command, cwd=fleet.folder, env=fleet.environment(side), capture_output=True, text=True, timeout=60, check=True
    )
    replies = json.loads(told.stdout)
    return {node: reply for each in (replies if isinstance(replies, list) else [replies]) for node, reply in each.items()}


def test_a_genuine_command_line_asks_both(fleet: Wire, sides: dict[str, Side]) -> None:
    assert say(fleet, sides["genuine"], "inspect", "ping") == {node: {"ok": "pong"} for node in NODES}
    stats = say(fleet, sides["genuine"], "inspect", "stats")
    assert stats.keys() == NODES
    assert len(stats["ours@wire"]["pool"]["processes"]) == 1


def test_a_genuine_command_line_tells_both(fleet: Wire, sides: dict[str, Side]) -> None:
    told = say(fleet, sides["genuine"], "control", "revoke", "of-no-task")
    assert told.keys() == NODES
    assert "of-no-task" in told["ours@wire"]["ok"]
    assert say(fleet, sides["genuine"], "inspect", "revoked") == {node: ["of-no-task"] for node in NODES}
