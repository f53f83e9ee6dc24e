"""What one message costs in calls of our own functions, so that it does not grow unnoticed.

DESIGN's goal is 40 calls in 12 modules. Where we are, and why, is told in docs/explanation/the-way-of-one-message.md; the limits
below are what it takes today. Whoever gets it lower lowers them.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.peers import RedisServer, our_side

MOST_CALLS = 98
MOST_MODULES = 19


@pytest.mark.timeout(120)
def test_a_message_costs_no_more_calls_than_it_did(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        program = Path(__file__).parent / "app" / "counted.py"
        done = subprocess.run(
            [*our_side().python, program, redis.url],
            env=our_side().environment(),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    calls: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    modules = {name.partition(":")[0] for name in calls}
    shown = "\n".join(f"{number:6.2f} {name}" for name, number in sorted(calls.items(), key=lambda item: -item[1]))
    print(f"{sum(calls.values()):.1f} calls in {len(modules)} modules per message\n{shown}")
    assert sum(calls.values()) <= MOST_CALLS, shown
    assert len(modules) <= MOST_MODULES, modules
