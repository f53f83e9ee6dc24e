"""Probes of a node: what its state file says, and what ``jumpstarter probe`` answers, with real processes."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from jumpstarter.actors import Actor, run
from jumpstarter.cli import main
from jumpstarter.statefile import State, live, process_start, read, ready, record
from jumpstarter.worker.beside import run_beside
from jumpstarter.worker.probe import StateFile, facts, tell_probes
from tests.peers import ROOT, Program, clean_environment, eventually

GOOD = {"node": "toys@here", "lifecycle": "started", "health": "healthy", "children": {"child_0": "running", "child_1": "running"}}


# What a probe concludes.


def state(*, age: float = 0.0, **changes: Any) -> State:
    """This process's state, as of so many seconds ago."""
    return State(os.getpid(), process_start(os.getpid()) or 0, time.monotonic() - age, {**GOOD, **changes})


def test_a_node_that_runs_is_live_and_ready() -> None:
    me = f"toys@here (process {os.getpid()})"
    assert live(state()) == (True, f"{me} is live")
    assert ready(state()) == (True, f"{me} is ready")


@pytest.mark.parametrize("age", [5.1, 3600, -3600])
def test_a_loop_that_was_silent_for_too_long_is_not_live(age: float) -> None:
    """A beat from the future is one of before the machine was started again."""
    for verdict in (live(state(age=age)), ready(state(age=age))):
        assert not verdict.is_good
        assert f"its loop has not run for {age:.1f} s (5 s are allowed)" in verdict.why


def test_how_long_it_may_be_silent_can_be_said() -> None:
    assert live(state(age=7), max_age=8).is_good
    assert not live(state(age=7), max_age=6).is_good


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lifecycle": "starting"}, "it is starting"),
        ({"lifecycle": "stopping"}, "it is stopping"),
        ({"health": "degraded"}, "it is degraded"),
        ({"health": "unhealthy", "concerns": "broker: away"}, "it is unhealthy (broker: away)"),
        ({"children": {"child_0": "running", "child_1": "absent"}}, "child_1 is absent"),
        (
            {"children": {f"child_{n}": "starting" for n in range(5)}},
            "child_0 is starting, child_1 is starting, child_2 is starting and 2 more",
        ),
    ],
)
def test_what_keeps_a_node_from_being_ready_leaves_it_live(changes: dict[str, Any], why: str) -> None:
    assert live(state(**changes)).is_good
    assert ready(state(**changes)) == (False, f"toys@here (process {os.getpid()}) is not ready: {why}")


def test_a_node_without_children_is_ready_by_itself() -> None:
    assert ready(state(children={})).is_good


def test_facts_that_say_nothing_are_not_ready() -> None:
    assert not ready(state()._replace(facts={})).is_good


def test_a_process_that_has_ended_is_not_live_nor_is_another_under_its_number() -> None:
    ended = subprocess.Popen(["true"])
    eventually(lambda: process_start(ended.pid) is None, within=10, what="it ends")  # and is a zombie
    assert not live(state()._replace(pid=ended.pid)).is_good
    ended.wait()
    assert not live(state()._replace(pid=ended.pid)).is_good
    mine = state()
    assert "there is no such process" in live(mine._replace(started=mine.started - 1)).why


# The file.


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with StateFile(tmp_path / "state") as file:
        assert read(file.path).facts == {}
        before = time.monotonic()
        file.write({**GOOD, "note": "ü" * 5000})
        found = read(file.path)
        assert found.pid == os.getpid()
        assert before <= found.beat <= time.monotonic()
        assert found.facts == {**GOOD, "note": "ü" * 5000}
        file.write(GOOD)  # shorter
        assert read(file.path).facts == GOOD


def test_a_beat_changes_the_time_alone(tmp_path: Path) -> None:
    with StateFile(tmp_path / "state") as file:
        file.write(GOOD)
        first = read(file.path)
        file.beat()
        second = read(file.path)
    assert second.beat > first.beat
    assert second._replace(beat=0) == first._replace(beat=0)


def test_the_file_is_removed_at_the_end_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state")
    file.close()
    file.close()
    assert list(tmp_path.iterdir()) == []


def test_a_probe_of_another_user_may_read_it(tmp_path: Path) -> None:
    with StateFile(tmp_path / "state") as file:
        assert file.path.stat().st_mode & 0o777 == 0o644


def test_a_file_that_was_left_by_a_killed_node_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"of old")
    with StateFile(tmp_path / "state") as file:
        assert read(file.path).pid == os.getpid()


def test_a_link_is_replaced_rather_than_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    (tmp_path / "state").symlink_to(tmp_path / "precious")
    with StateFile(tmp_path / "state"):
        pass
    assert (tmp_path / "precious").read_text() == "data"


def test_a_node_does_not_remove_the_file_of_its_successor(tmp_path: Path) -> None:
    old = StateFile(tmp_path / "state")
    with StateFile(tmp_path / "state") as new:
        new.write(GOOD)
        old.close()
        assert read(new.path).facts == GOOD


def test_a_forked_process_does_not_remove_the_file(tmp_path: Path) -> None:
    with StateFile(tmp_path / "state") as file:
        pid = os.fork()
        if pid == 0:
            file.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert read(file.path).pid == os.getpid()


def test_a_folder_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StateFile(tmp_path / "no" / "state")


def test_readers_never_see_half_a_record(tmp_path: Path) -> None:
    """While another process writes short and long ones as fast as it can."""
    path = tmp_path / "state"
    writer = os.fork()
    if writer == 0:
        with StateFile(path) as file:
            for number in itertools.count():
                file.write({"number": number, "text": str(number) * (number * 37 % 3000)})
    try:
        eventually(path.exists, within=10, what="the file is there")
        seen: set[int] = set()
        while len(seen) < 300:
            seen.add(read_number(path))
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)


def read_number(path: Path) -> int:
    found = read(path).facts
    if not found:
        return 0
    assert found["text"] == str(found["number"]) * (found["number"] * 37 % 3000)
    return int(found["number"])


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def modernise(path: Path) -> None:
    """As a later version would write it."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 12, 99)
    struct.pack_into("<I", data, 8, zlib.crc32(data[12:]))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.write_bytes(b""), "is no state file"),
        (lambda path: path.write_bytes(b"something else entirely, and longer than a header"), "is no state file"),
        (spoil, "is damaged"),
        (modernise, "is written in version 99"),
    ],
)
def test_a_file_that_cannot_be_understood_says_so(change: Callable[[Path], None], why: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "state"
    path.write_bytes(record(state()))
    assert main(["probe", "ready", "--statefile", str(path)]) == 0
    change(path)
    assert main(["probe", "ready", "--statefile", str(path)]) == 1
    assert why in capsys.readouterr().out


# An actor and its loop.


class Toy(Actor):
    """Healthy, until somebody complains."""


@pytest.mark.anyio
async def test_the_file_follows_the_actor_from_before_its_start_until_it_has_stopped(tmp_path: Path) -> None:
    path = tmp_path / "state"
    toy = Toy(name="toys@here")
    children = {"child_0": "running"}
    seen: list[str] = []

    def look() -> dict[str, Any]:
        said = facts(toy, children)
        seen.append(said["lifecycle"])
        return said

    async def watch() -> None:
        await toy.wait("started")
        await says(path, "is ready", ready)
        toy.report_warning("broker", "away")
        await says(path, "it is degraded (broker: warning: away)", ready)
        assert live(read(path)).is_good
        toy.recover("broker")
        children["child_0"] = "starting"
        await says(path, "child_0 is starting", ready)
        toy.post("stop")

    with anyio.fail_after(20):
        await run_beside(toy, lambda: tell_probes(path, look, every=0.01), watch)
    assert not path.exists()
    assert seen[0] in {"initializing", "starting"}


async def says(path: Path, words: str, question: Callable[[State], Any]) -> None:
    await until(lambda: path.exists() and words in question(read(path)).why)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a file rings no bell
        await anyio.sleep(0.005)


@pytest.mark.anyio
async def test_a_disk_that_fails_does_not_stop_the_node(tmp_path: Path, monkeypatch, caplog) -> None:
    """It is said once, and the file is written again as soon as that works."""
    path, pwrite, failures = tmp_path / "state", os.pwrite, []

    def fail(descriptor: int, data: bytes, offset: int) -> int:
        if len(failures) < 5:
            failures.append(1)
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, data, offset)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: tell_probes(path, lambda: GOOD, every=0.01))
            await until(path.exists)
            monkeypatch.setattr(os, "pwrite", fail)
            before = read(path).beat
            await until(lambda: len(failures) == 5 and read(path).beat > before)
            group.cancel_scope.cancel()
    assert caplog.text.count("No space left on device") == 1


@pytest.mark.anyio
async def test_an_actor_that_is_at_rest_is_not_ready(tmp_path: Path) -> None:
    toy = Toy(name="toys@here")
    assert facts(toy, {})["lifecycle"] == "initializing"
    async with anyio.create_task_group() as group:
        group.start_soon(run, toy)
        await toy.wait("started")
        assert facts(toy, {"child_0": "running"}) == {
            "node": "toys@here",
            "lifecycle": "started",
            "health": "healthy",
            "concerns": "",
            "children": {"child_0": "running"},
        }
        await toy.stop()
    assert facts(toy, {})["lifecycle"] == "stopped"


# The command, and a node that gets into trouble.

NODE = """
    import signal, sys, time
    import anyio
    from jumpstarter.worker.probe import tell_probes

    facts = {facts!r}

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: tell_probes({path!r}, lambda: facts, every=0.05))
            with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM) as signals:
                async for number in signals:
                    if number == signal.SIGUSR1:
                        time.sleep(600)  # the loop is wedged
                    elif number == signal.SIGUSR2:
                        facts["health"] = "degraded"
                    else:
                        group.cancel_scope.cancel()

    anyio.run(main)
"""


@pytest.fixture
def statefile(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def node(statefile: Path, tmp_path: Path) -> Iterator[Program]:
    """A process whose loop beats; SIGUSR1 wedges it, SIGUSR2 makes it degraded."""
    script = tmp_path / "node.py"
    script.write_text(textwrap.dedent(NODE).format(facts=json.loads(json.dumps(GOOD)), path=str(statefile)))
    with Program([sys.executable, script], folder=ROOT, env=clean_environment(), log=tmp_path / "log") as program:
        eventually(lambda: statefile.exists() and probe("ready", statefile)[0] == 0, within=20, what="the node is ready")
        yield program


def probe(question: str, statefile: Path) -> tuple[int, str]:
    """The command's exit code, and the one sentence that it says."""
    jumpstarter = Path(sys.executable).parent / "jumpstarter"
    command = [str(jumpstarter), "probe", question, "--statefile", str(statefile), "--max-age", "2"]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    return done.returncode, done.stdout.strip()


def answers(question: str, statefile: Path, code: int, words: str) -> str:
    """The sentence of the probe, as soon as its code and its words are these."""

    def answer() -> str | None:
        found, sentence = probe(question, statefile)
        return sentence if found == code and words in sentence else None

    sentence = eventually(answer, within=20, what=f"{question} answers {code}, {words!r}; it says {probe(question, statefile)}")
    assert sentence is not None
    return sentence


def test_a_node_in_good_order_is_live_and_ready(node: Program, statefile: Path) -> None:
    assert probe("live", statefile) == (0, f"toys@here (process {node.pid}) is live")
    assert probe("ready", statefile) == (0, f"toys@here (process {node.pid}) is ready")


def test_a_degraded_node_is_live_and_not_ready(node: Program, statefile: Path) -> None:
    """As when the broker is stopped."""
    node.send(signal.SIGUSR2)
    assert answers("ready", statefile, 1, "it is degraded").endswith("is not ready: it is degraded")
    assert probe("live", statefile)[0] == 0


def test_a_wedged_loop_is_not_live(node: Program, statefile: Path) -> None:
    node.send(signal.SIGUSR1)
    answers("live", statefile, 1, "its loop has not run for")
    assert probe("ready", statefile)[0] == 1


def test_a_stopped_process_is_not_live_until_it_goes_on(node: Program, statefile: Path) -> None:
    node.send(signal.SIGSTOP)
    answers("live", statefile, 1, "its loop has not run for")
    node.send(signal.SIGCONT)
    answers("live", statefile, 0, "is live")


def test_a_killed_node_is_not_live_though_its_file_is_there(node: Program, statefile: Path) -> None:
    node.send(signal.SIGKILL)
    answers("live", statefile, 1, "there is no such process")
    assert statefile.exists()
    node.wait(within=10)
    assert "there is no such process" in probe("ready", statefile)[1]


def test_a_node_that_ended_by_itself_leaves_no_file(node: Program, statefile: Path) -> None:
    node.send(signal.SIGTERM)
    assert node.wait(within=20) == 0
    assert probe("live", statefile) == (1, f"not live: there is no state file {statefile}, so no worker runs with it")
    assert list(statefile.parent.glob(".*")) == []


def test_a_misspelt_question_is_the_callers_mistake(capsys) -> None:
    for arguments in (["probe", "alive", "--statefile", "x"], ["probe", "live"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "usage: jumpstarter probe" in capsys.readouterr().err


def test_a_probe_imports_nothing_heavy() -> None:
    code = "import sys; from jumpstarter.cli import main; main(['probe', 'live', '--statefile', '/nowhere']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    modules = set(done.stdout.splitlines()[-1].split())
    heavy = {
        "anyio",
        "asyncio",
        "opentelemetry",
        "redis",
        "pathlib",
        "dataclasses",
        "importlib.metadata",
        "inspect",
        "tempfile",
        "logging",
    }
    assert {"jumpstarter.statefile"} <= modules
    assert modules & heavy == set()
    assert {name for name in modules if name.startswith("jumpstarter")} == {
        "jumpstarter",
        "jumpstarter.cli",
        "jumpstarter.cli.probe",
        "jumpstarter.statefile",
    }


def test_a_probe_costs_less_than_150_ms(statefile: Path) -> None:
    """Of a processor: what a machine that runs other tests makes of it by the clock says nothing."""
    costs = []
    for _ in range(5):
        statefile.write_bytes(record(state()))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "toys@here" in probe("ready", statefile)[1]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) < 0.15
