"""A few dozen ids of Celery's integration suite, in every `make test`; the whole of it is `make conformance`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import environments, runs, yardstick

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_celerys_own_tests_pass(tmp_path: Path) -> None:
    ids = yardstick.short()
    try:
        root = environments.sources()
    except environments.CannotDownload as why:
        pytest.skip(f"Celery's tests cannot be downloaded: {why}")
    files = sorted({each.partition("::")[0] for each in ids})
    with runs.servers("redis") as variables:
        verdicts = runs.run(environments.this_one(), root, files, variables=variables, ids=ids, limit=60, log=tmp_path)
    outcomes = {verdict.id: verdict.outcome for verdict in verdicts}
    missed = [each for each in ids if outcomes.get(each) != "passed"]
    assert not missed, "\n".join([*missed, *(log.read_text(errors="replace")[-4000:] for log in tmp_path.glob("*.log"))])


def test_the_short_tier_is_of_the_yardstick() -> None:
    assert set(yardstick.short()) <= set(yardstick.read("integration", "redis"))
