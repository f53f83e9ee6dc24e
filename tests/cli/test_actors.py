"""``jumpstarter actors``: what it shows of a process that has a window."""

import json
import os
import subprocess
import sys

import anyio
import pytest

from jumpstarter.actors import Actor, Window, child, hosted
from jumpstarter.cli import main
from jumpstarter.errors import ActorCrashed


class Leaf(Actor):
    pass


class Tree(Actor):
    leaf = child(Leaf)


@pytest.fixture(autouse=True)
def windows(tmp_path, monkeypatch):
    folder = tmp_path / "windows"
    monkeypatch.setenv("JUMPSTARTER_WINDOWS", str(folder))
    return folder


@pytest.fixture
def shown(capsys):
    """Runs the command beside a process that shows a tree: this one."""

    def show(*options):
        async def life():
            async with hosted(Tree(name="tree")), hosted(Window(name="window")):
                return await anyio.to_thread.run_sync(main, ["actors", *options])

        return anyio.run(life), capsys.readouterr()

    return show


def test_it_shows_the_live_tree(shown, windows):
    code, printed = shown()
    assert code == 0
    assert printed.out.splitlines() == [
        f"process {os.getpid()}",
        "  tree (Tree): health.healthy | flow.running",
        "    leaf (Leaf): health.healthy | flow.running",
        "  window (Window): health.healthy | flow.running | answer.running",
    ]
    assert list(windows.iterdir()) == [], "the socket goes with the window"


def test_it_shows_it_as_json_and_as_a_diagram(shown):
    code, printed = shown("--json", "--pid", str(os.getpid()))
    assert code == 0
    (process,) = json.loads(printed.out)
    assert [actor["name"] for actor in process["actors"]] == ["tree", "window"]
    code, printed = shown("--mermaid")
    assert printed.out.startswith("flowchart TD\n")
    assert "<b>leaf</b>" in printed.out


def test_nothing_to_see_is_said(shown, windows, capsys):
    assert main(["actors"]) == 1
    assert "host a jumpstarter.actors.Window" in capsys.readouterr().err
    code, _ = shown("--pid", "1")
    assert code == 1


def test_the_socket_of_a_process_that_was_killed_is_removed(windows, capsys):
    program = "import anyio\nfrom jumpstarter.actors import Window, run\nanyio.run(run, Window())"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        path = windows / f"{process.pid}.sock"
        try:
            for _ in range(1000):
                if path.exists() and main(["actors", "--pid", str(process.pid)]) == 0:
                    break
                process.poll()
                assert process.returncode is None
                subprocess.run(["sleep", "0.02"], check=True)
            else:
                pytest.fail("no window")
        finally:
            process.kill()
    assert path.exists()
    assert main(["actors"]) == 1
    assert not path.exists()


def test_a_folder_that_others_may_write_to_is_refused(windows):
    windows.mkdir()
    windows.chmod(0o777)

    async def life():
        async with hosted(Window()):
            pytest.fail("it must not start")

    with pytest.raises(ActorCrashed):
        anyio.run(life)


def test_what_is_no_window_is_told(windows, capsys):
    windows.mkdir()
    (windows / "7.sock").mkdir()
    assert main(["actors"]) == 1
    assert "process 7 does not answer" in capsys.readouterr().err
