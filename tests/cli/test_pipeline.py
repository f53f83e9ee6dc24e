"""``jumpstarter pipeline``: run to the end with a report, stop on a signal, say how far it is."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)

MODULE = """
from jumpstarter.pipelines import *

class Upload(Pipeline):
    rows = SqliteRows("texts", path="shop.db")

    @sink
    async def upload(self, rows):
        print("uploaded", sorted(rows), flush=True)

class Answer(Pipeline):
    rows = SqliteRows("prompts", path="shop.db", batch=2)
    budget = Budget("llm", requests=1000 / day, rows=5000 / day)

    @step(cost=dict(requests=1, rows=len))
    async def ask(self, rows):
        return [row.upper() for row in rows]

flow = Answer >> Upload
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shop.py").write_text(textwrap.dedent(MODULE))
    return tmp_path


def command(folder, *arguments):
    program = Path(sys.executable).parent / "jumpstarter"
    return subprocess.run([program, "pipeline", *arguments], cwd=folder, capture_output=True, text=True, timeout=50, check=False)


def put(folder, *rows):
    code = f"import shop; shop.Answer.rows.put_nowait({list(rows)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=50)


def test_a_flow_runs_to_its_end_and_reports_and_tells_its_status_afterwards(folder):
    put(folder, "a", "b", "c")
    done = command(folder, "run", "shop:flow", "--until", "settled")
    assert done.returncode == 0, done.stderr
    assert "Answer:\n  3 rows done" in done.stdout
    uploaded = [line for line in done.stdout.splitlines() if line.startswith("uploaded")]
    assert sum(line.count("'") // 2 for line in uploaded) == 3
    status = command(folder, "status", "shop:Answer")
    assert "100% 3 done, 0 open | requests 998/1000, rows 4997/5000" in status.stdout
    found = json.loads(command(folder, "status", "shop:flow", "--json").stdout)
    assert [each["totals"]["done"] for each in found] == [3, 3]
    assert found[0]["budgets"]["llm"][1]["left"] == 4997


def test_a_signal_lets_it_finish_and_end_well(folder):
    program = Path(sys.executable).parent / "jumpstarter"
    put(folder, "a")
    with subprocess.Popen([program, "pipeline", "run", "shop:flow"], cwd=folder, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "uploaded ['A']\n"
        running.send_signal(signal.SIGTERM)
        assert "1 rows done" in running.communicate(timeout=40)[0]
        assert running.returncode == 0


def test_the_progress_is_on_the_terminal_and_the_actors_can_be_looked_at(folder, monkeypatch):
    monkeypatch.setenv("JUMPSTARTER_WINDOWS", str(folder / "windows"))
    program = Path(sys.executable).parent / "jumpstarter"
    put(folder, "a", "b", "c")
    terminal, theirs = os.openpty()
    with (
        open(terminal, "rb", buffering=0) as screen,  # noqa: PTH123 - a descriptor has no path
        subprocess.Popen(
            [program, "pipeline", "run", "shop:flow"], cwd=folder, stdout=subprocess.PIPE, stderr=theirs, text=True
        ) as running,
    ):
        os.close(theirs)
        shown = ""
        try:
            while "Answer ████████████████████████ 100% 3 done, 0 open" not in shown or "Upload" not in shown:
                shown += screen.read(1000).decode(errors="replace")
            actors = subprocess.run([program, "actors"], capture_output=True, text=True, timeout=30, check=True).stdout
        finally:
            running.send_signal(signal.SIGINT)
        running.communicate(timeout=40)
        rest = screen.read(1000).decode()
    assert (shown + rest).endswith("\x1b[2A\r\n\r\n"), "the report begins below"
    assert "| requests 99" in shown
    assert "rows 4997/5000, resets in" in shown
    assert "\x1b[2A" in shown, "the next look is written over this one"
    assert "(Answer): health.healthy | flow.running | work." in actors
    assert "(Upload): health.healthy" in actors


def test_a_window_that_cannot_be_opened_is_told_and_keeps_nobody_from_working(folder, monkeypatch):
    monkeypatch.setenv("JUMPSTARTER_WINDOWS", str(folder / "shop.py"))
    put(folder, "a")
    done = command(folder, "run", "shop:flow", "--until", "settled")
    assert done.returncode == 0
    assert "will not show this process" in done.stderr
    assert "1 rows done" in done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [("shop", "must be module:Class"), ("nobody:X", "cannot be imported"), ("shop:Budget", "neither a pipeline class nor a flow")],
)
def test_what_is_no_pipeline_is_told(folder, name, says):
    done = command(folder, "status", name)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
