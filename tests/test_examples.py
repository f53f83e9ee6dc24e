"""The examples run as the documentation shows them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments):
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_worker_of_ones_own():
    printed = run("examples.actors.render_worker")
    assert "too hot: warning" in printed
    assert printed.splitlines()[-1] == "['0.png', '1.png', '2.png', 'late.png']"


def test_a_gateway_that_degrades():
    printed = run("examples.actors.gateway")
    assert "sender (Sender): health.degraded.offline" in printed
    assert printed.splitlines()[-1] == "sent again, with what was kept"


def test_a_sign_up_driven_by_events():
    assert run("examples.actors.sign_up").splitlines() == [
        "Ada is number 1",
        "Grace is number 2",
        "Edsger is number 3",
        "['* Welcome, Ada! *', '* Welcome, Edsger! *', '* Welcome, Grace! *']",
    ]


@pytest.mark.parametrize(("module", "state"), [("render_worker", "rendering"), ("gateway", "offline")])
def test_their_diagrams_are_drawn(module, state):
    drawn = run(f"examples.actors.{module}", "--diagram")
    assert drawn.startswith("stateDiagram-v2\n")
    assert state in drawn
