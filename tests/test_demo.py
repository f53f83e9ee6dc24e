"""``make demo`` shows what it promises, on this environment's Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def shown() -> str:
    result = subprocess.run(
        [sys.executable, "scripts/demo.py"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=110, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_every_order_is_worked_on_and_the_summary_says_so(shown: str) -> None:
    assert "58/58 tasks done" in shown
    assert "tasks succeeded   57" in shown


@pytest.mark.slow
def test_the_card_that_could_not_be_charged_was_charged_at_the_second_attempt(shown: str) -> None:
    assert "charged at attempt 2" in shown


@pytest.mark.slow
def test_the_failed_invoice_is_told_to_support(shown: str) -> None:
    assert "NoAddress: no address is known for Finn" in shown
    assert "support was told: no address is known for Finn" in shown


@pytest.mark.slow
def test_group_and_chord_come_out_right(shown: str) -> None:
    assert "7 labels printed" in shown
    assert "sales of 489.00 (expected 489.00)" in shown


@pytest.mark.slow
def test_the_workers_state_changes_are_shown_between_the_shops_lines(shown: str) -> None:
    changes = [line for line in shown.splitlines() if line.startswith("worker │") and "→" in line]
    assert any("started" in line for line in changes)
    assert any("stopping" in line for line in changes)
