"""What every case of client.py has to observe, whoever is the client and whoever the worker. Recorded from genuine Celery 5.7.0."""

from __future__ import annotations

from typing import Any

EXPECTED: dict[str, Any] = {
    "add": 5,
    "mul": 42,
    "keyword_arguments": [6, 6],
    "tsum": 10,
    "nested_data": True,
    "raises": {"type": "ValueError", "message": "deliberate error", "state": "FAILURE"},
    "unknown_task": {"type": "NotRegistered", "message": True, "state": "FAILURE"},
    "retries_twice": ["again", 2],
    "retries_once": 1,
    "countdown": "in time",
    "ignores_its_result": {"runs": 1, "stored": [], "get": [None, None]},
    "priority": ["Priority: 0", "Priority: 5", "Priority: 9"],
    "link": [4, 20, [True]],
    "link_error_by_name": ["ValueError", 1],
    "link_error_in_place": ["ValueError", 1],
    "chain_of_3": [80, 8, 4],
    "chain_with_immutable_step": 21,
    "group_of_10": list(range(0, 20, 2)),
    "group_of_300": list(range(0, 600, 2)),
    "chord_of_10": 90,
    "chord_keeps_order": list(range(10)),
    "group_then_task": 20,
    "chain_of_task_group_of_chains_task_task": 114,
    "chord_with_failing_header": {"raised": True, "state": "FAILURE", "stored": "ChordError", "says": True, "errbacks": 1},
}
