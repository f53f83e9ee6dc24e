"""Programs in processes of their own: a process has one set of OpenTelemetry providers, and they cannot be taken back."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest

from tests.telemetry.collector import Collector

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def run() -> Run:
    """Run a program with the given ``OTEL_*`` variables; it must end well and quickly."""

    def run_program(program: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
            env=clean | (environment or {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result

    return run_program
