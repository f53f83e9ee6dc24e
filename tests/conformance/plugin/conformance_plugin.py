"""A pytest plugin for the runs of both sides: one line of JSON per test, written when its verdict is known.

Imports nothing of this project: it is loaded into environments that have none of it. The file is in ``CONFORMANCE_OUTCOMES``; a
test that began and has no verdict when the process is gone took it along.
"""

from __future__ import annotations

import json
import os
import time

import pytest

_OUTCOMES = os.environ["CONFORMANCE_OUTCOMES"]
_LIMIT = float(os.environ.get("CONFORMANCE_LIMIT") or 0)
_WANTED = os.environ.get("CONFORMANCE_IDS")

_reports: dict = {}
_began: dict = {}


def _write(**line):
    with open(_OUTCOMES, "a", encoding="utf-8") as file:  # noqa: PTH123 - as small as can be
        file.write(json.dumps(line) + "\n")


def pytest_configure(config):
    # Marks of plugins that are not installed here on purpose (re-runs hide failures).
    for mark in ("flaky", "celery", "order", "timeout"):
        config.addinivalue_line("markers", f"{mark}(*args, **kwargs): used by the suite")


def pytest_collection_modifyitems(config, items):
    if _WANTED:
        with open(_WANTED, encoding="utf-8") as file:  # noqa: PTH123
            wanted = {line.rstrip("\n") for line in file}
        left = [item for item in items if item.nodeid in wanted]
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in wanted])
        items[:] = left
    if _LIMIT:
        # In front of the suite's own marks, which allow five minutes each.
        for item in items:
            item.add_marker(pytest.mark.timeout(_LIMIT), append=False)


def pytest_runtest_logstart(nodeid, location):
    _reports[nodeid] = []
    _began[nodeid] = time.monotonic()
    _write(id=nodeid, outcome="began")


def pytest_runtest_logreport(report):
    _reports.setdefault(report.nodeid, []).append(report)


def pytest_runtest_logfinish(nodeid, location):
    reports = _reports.pop(nodeid, [])
    failed = next((report for report in reports if report.failed), None)
    if failed is not None:
        outcome, why = "failed", failed.longreprtext.strip().splitlines()[-1:]
    elif any(report.skipped for report in reports):
        # An expected failure is told as skipped by pytest.
        outcome, why = "skipped", [str(report.longrepr[-1]) for report in reports if isinstance(report.longrepr, tuple)][:1]
    else:
        outcome, why = "passed", []
    _write(id=nodeid, outcome=outcome, seconds=round(time.monotonic() - _began[nodeid], 3), why="".join(why)[:300])


def pytest_collectreport(report):
    if report.failed:
        _write(id=report.nodeid, outcome="uncollected", why=(report.longreprtext.strip().splitlines() or [""])[-1][:300])
