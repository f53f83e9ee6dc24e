"""What type checkers infer of messages, handlers and children (tests/actors/typed.py), and that it is true at run time."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.actors import typed

ROOT = Path(__file__).parents[2]


@pytest.mark.anyio
async def test_what_is_inferred_is_what_happens():
    await typed.main()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mypy_infers_messages_and_answers():
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "-m", "tests.actors.typed"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
