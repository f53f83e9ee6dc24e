"""The short tier of `make bench`: every benchmark runs to its end, and what they measure is not far from what is promised.

Goals are eased here, because other tests run beside: a benchmark that finds half or a fourth of what is promised on a quiet
machine has found a fault, not a busy neighbour.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import Line, eased, finish, parser, table, versus
from benchmarks.noted import Notes
from tests.peers import PeerUnavailable, install_peer

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

#: On a quiet machine each takes 5 to 25 s.
slow = [pytest.mark.slow, pytest.mark.timeout(400)]


def run(script: str, *options: str, code: int = 0) -> str:
    """What the benchmark printed; it has to end with this exit code."""
    command = [sys.executable, BENCHMARKS / script, *options]
    done = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture
def celery() -> None:
    """Genuine Celery, or no test."""
    try:
        install_peer()
    except PeerUnavailable as error:
        pytest.skip(str(error))


class TestWhatIsMeasured:
    def test_a_ratio_is_the_median_of_the_rounds_ratios_so_that_drift_between_rounds_does_not_count(self) -> None:
        # Both are ten times slower in the second round: no ratio of medians would be 2.
        line = versus("speed", [200.0, 20.0, 400.0], [100.0, 10.0, 100.0], goal=">= 2")
        assert line.ratio == 2
        assert line.ok

    @pytest.mark.parametrize(
        ("ratio", "goal", "ok"),
        [(2.49, ">= 2.5", False), (2.5, ">= 2.5", True), (1.51, "<= 1.5", False), (1.5, "<= 1.5", True), (0.0, "", True)],
    )
    def test_a_goal_is_reached_or_missed(self, ratio: float, goal: str, ok: bool) -> None:
        line = Line("what", "ours", "peer", ratio, goal)
        assert line.ok is ok
        assert ("MISSED" in table([line])) is not ok

    def test_easing_makes_goals_easier_in_both_directions(self) -> None:
        more, less = eased([Line("a", "", "", 1.0, ">= 3"), Line("b", "", "", 1.0, "<= 1.5")], 2.0)
        assert (more.goal, less.goal) == (">= 1.5", "<= 3")

    @pytest.mark.parametrize(("options", "code"), [(["--check"], 1), ([], 0), (["--check", "--ease", "2"], 0)])
    def test_a_goal_that_is_missed_ends_with_an_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int
    ) -> None:
        answer = tmp_path / "answer.json"
        lines = [Line("speed", "2", "1", 2.0, ">= 3"), Line("more", "2", "1", 2.0, ">= 1")]
        assert finish(lines, parser("").parse_args([*options, "--json", str(answer)])) == code
        shown = capsys.readouterr()
        assert ("MISSED" in shown.out) is ("--ease" not in options)
        assert shown.err == ("MISSED: speed\n" if code else "")
        assert [line["ratio"] for line in json.loads(answer.read_text())] == [2.0, 2.0]

    @pytest.mark.parametrize(("numbers", "fault"), [([0, 2], "1 did not run"), ([0, 1, 2, 1], "1 ran more than once")])
    def test_a_run_that_loses_or_repeats_a_task_is_no_measurement(self, tmp_path: Path, numbers: list[int], fault: str) -> None:
        noted = self.noted(tmp_path, numbers)
        with pytest.raises(AssertionError, match=fault):
            noted.check(3)

    def test_notes_tell_who_ran_when(self, tmp_path: Path) -> None:
        first, second = self.noted(tmp_path, [0, 1]).check(2)
        assert (first.number, second.number) == (0, 1)
        assert first.began <= first.ended <= second.began
        assert first.pid != os.getpid()

    @staticmethod
    def noted(folder: Path, numbers: list[int]) -> Notes:
        """Written as tasks write them, in a process of their own."""
        noted = Notes(folder / "notes")
        program = f"import notes\nfor number in {numbers}: notes.note(number)"
        env = {**os.environ, "BENCH_NOTES": str(noted.path)}
        subprocess.run([sys.executable, "-c", program], cwd=BENCHMARKS / "apps", env=env, check=True)
        return noted


class TestTheShortTier:
    pytestmark = slow

    def test_charts_are_measured(self) -> None:
        assert "memoised step, worker's chart" in run("states.py", "--rounds", "1")

    def test_actors_are_measured(self) -> None:
        """That goals are met is shown on a quiet machine; here a stream may be slow and an actor fast, or the other way round."""
        assert "tell → handled" in run("actors.py", "--short")

    def test_the_sketch_of_a_child_is_measured(self) -> None:
        assert "batches of 100" in run("ceiling.py", "--short")

    def test_a_worker_is_several_times_as_fast_as_celery(self, celery: None) -> None:
        """25 times is promised on a quiet machine for 40,000 tasks; here are an eighth of them."""
        run("throughput.py", "--short", "--only", "ours-prefork,celery-prefork", "--check", "--ease", "5")

    def test_results_may_be_left_out(self) -> None:
        assert "ours-threads" in run("throughput.py", "--short", "--results", "off", "--only", "ours-threads")

    def test_publishing_is_faster_than_celerys(self, celery: None) -> None:
        run("publishing.py", "--short", "--check", "--ease", "3")

    def test_a_call_comes_back_sooner_than_from_celery(self, celery: None) -> None:
        run("latency.py", "--short", "--only", "ours-prefork,celery-prefork", "--check", "--ease", "4")

    @pytest.mark.heavy
    def test_tasks_that_take_time_run_beside_each_other(self) -> None:
        # 1,000 that wait 50 ms in 250 slots: 0.2 s at best, 50 s one after the other. Only that misses the eased goal, 6 s.
        run("waiting.py", "--short", "--check", "--ease", "20")

    def test_an_idle_node_leaves_the_broker_alone(self) -> None:
        run("idle.py", "--short", "--only", "ours-prefork", "--check", "--ease", "2")

    def test_large_canvases_publish_little_and_come_to_their_results(self) -> None:
        run("canvases.py", "--short", "--ours", "--parts", "bytes,chord", "--check")

    @pytest.mark.heavy
    def test_unusual_loads_are_carried(self, celery: None) -> None:
        assert "ETAs waiting" in run("shapes.py", "--short", "--check", "--ease", "4")
