"""``celery inspect``, ``control`` and ``status``, of a genuine Celery 5.7 and ours, find our worker beside a genuine one."""

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


def test_our_command_line_asks_both(fleet: Wire, sides: dict[str, Side]) -> None:
    assert say(fleet, sides["ours"], "inspect", "ping") == {node: {"ok": "pong"} for node in NODES}
    assert say(fleet, sides["ours"], "status") == {node: {"ok": "pong"} for node in NODES}
    registered = say(fleet, sides["ours"], "inspect", "registered")
    assert set(registered["ours@wire"]) == set(registered["genuine@wire"])


def test_our_command_line_tells_both(fleet: Wire, sides: dict[str, Side]) -> None:
    said = say(fleet, sides["ours"], "control", "enable_events")
    assert said == {node: {"ok": "task events enabled"} for node in NODES}
    name = "celery.chord"  # both have it
    said = say(fleet, sides["ours"], "control", "rate_limit", name, "10/m")
    assert said == {node: {"ok": "new rate limit set successfully"} for node in NODES}


def test_our_command_line_says_what_is_wrong(fleet: Wire, sides: dict[str, Side]) -> None:
    def run(*words: str) -> tuple[int, str]:
        command = [*sides["ours"].celery, "-A", "proj", *words]
        told = subprocess.run(
            command, cwd=fleet.folder, env=fleet.environment(sides["ours"]), capture_output=True, text=True, timeout=60, check=False
        )
        return told.returncode, told.stdout + told.stderr

    assert run("inspect", "nothing")[0] == 1
    assert "there is no command 'nothing'" in run("inspect", "nothing")[1]
    assert "takes 2 argument(s) at most" in run("control", "rate_limit", "a", "1/m", "more")[1]
    code, text = run("status", "-d", "nobody@wire", "-t", "0.5")
    assert (code, "No nodes replied" in text) == (69, True)
    code, text = run("status", "-t", "20", "-d", "ours@wire")
    assert (code, text.splitlines()[0], text.splitlines()[-1]) == (0, "->  ours@wire: OK", "1 node online.")
