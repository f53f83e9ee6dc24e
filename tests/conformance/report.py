"""What a run showed, beside genuine Celery: on the screen, and as the page ``docs/reference/conformance.md``.

The runs' verdicts are kept in ``.cache``, so that the page can be written again; the page itself is in the repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.conformance import yardstick
from tests.conformance.environments import CACHE, CELERY_VERSION, ROOT
from tests.conformance.runs import BROKERS, SUITES, Verdict

PAGE = ROOT / "docs" / "reference" / "conformance.md"


def keep(suite: str, broker: str, side: str, verdicts: Sequence[Verdict]) -> None:
    """Keep the verdicts of a whole run."""
    _kept(suite, broker, side).write_text(json.dumps([asdict(verdict) for verdict in verdicts]))


def kept(suite: str, broker: str, side: str) -> list[Verdict]:
    """The verdicts of the last whole run here; empty if there was none."""
    path = _kept(suite, broker, side)
    return [Verdict(**each) for each in json.loads(path.read_text())] if path.exists() else []


def _kept(suite: str, broker: str, side: str) -> Path:
    return CACHE / f"{suite}-{broker}-{side}.verdicts.json"


def missed(verdicts: Sequence[Verdict], frozen: Iterable[str], excepted: Iterable[str]) -> list[Verdict]:
    """What of the yardstick did not pass, in the order of the yardstick."""
    by_id = {verdict.id: verdict for verdict in verdicts}
    left_out = set(excepted)
    wanted = [by_id.get(each, Verdict(each, "uncollected", why="it was not found")) for each in frozen if each not in left_out]
    return [verdict for verdict in wanted if verdict.outcome != "passed"]


def share(suite: str, verdicts: Sequence[Verdict], frozen: Sequence[str]) -> tuple[str, bool]:
    """How much of the whole yardstick passed, in words, and whether that is as much as we promise. What is left out counts as
    missed, so that a longer list of exceptions cannot hide a fall."""
    outcomes = {verdict.id: verdict.outcome for verdict in verdicts}
    passed = sum(outcomes.get(each) == "passed" for each in frozen)
    least = yardstick.LEAST.get(suite, 0)
    promise = f" (at least {least} % are promised)" if least else ""
    return f"{passed} of {len(frozen)}, {100 * passed / len(frozen):.1f} %{promise}", 100 * passed >= least * len(frozen)


def table(suite: str, verdicts: Sequence[Verdict], frozen: Sequence[str]) -> list[str]:
    """Lines of a Markdown table: for each file what ours did and how many ids of the yardstick it has and passed."""
    excepted = yardstick.exceptions(suite)
    files = sorted({verdict.file for verdict in verdicts} | {each.partition("::")[0] for each in frozen})
    lines = [
        "| file | passed | failed | skipped | genuine passes | of these ours | left out |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows = []
    for file in files:
        outcomes = {verdict.id: verdict.outcome for verdict in verdicts if verdict.file == file}
        ids = [each for each in frozen if each.partition("::")[0] == file]
        count = list(outcomes.values()).count
        rows.append(
            [
                count("passed"),
                count("failed") + count("uncollected"),
                count("skipped"),
                len(ids),
                sum(outcomes.get(each) == "passed" for each in ids),
                sum(each in excepted for each in ids),
            ]
        )
        lines.append(f"| `{file.removeprefix('t/')}` | " + " | ".join(map(str, rows[-1])) + " |")
    totals = [sum(column) for column in zip(*rows, strict=True)] if rows else [0] * 6
    lines.append("| **all** | " + " | ".join(f"**{total}**" for total in totals) + " |")
    return lines


_HEAD = f"""# Conformance

Celery {CELERY_VERSION}'s own tests, run against Jumpstarter: `import celery` gives `compat_celery`, and no celery is installed.
This page is written by `make conformance`, which downloads the tests from PyPI and runs them, against genuine Celery as well.
Both sides have three tries. *Genuine passes* counts the ids that genuine Celery passes here; *left out* are ids that reach into its
implementation, listed below with the reason.
"""


def write_page() -> None:
    """Write the page from the last runs and the yardsticks."""
    parts = [_HEAD]
    for suite in SUITES:
        for broker in BROKERS:
            verdicts = kept(suite, broker, "ours")
            if verdicts:
                parts += [f"## {suite}, {broker}\n", *table(suite, verdicts, yardstick.read(suite, broker)), ""]
        reasons = yardstick.exceptions(suite)
        if reasons:
            parts += [f"## Left out of {suite}\n", *(f"- `{each.removeprefix('t/')}`: {why}" for each, why in reasons.items()), ""]
    PAGE.write_text("\n".join(parts), encoding="utf-8")
