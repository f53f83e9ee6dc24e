"""A start that cannot work ends at once: one clear sentence on stderr, an exit code that is not 0, and no traceback of ours."""

from __future__ import annotations

import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers import ROOT, clean_environment, free_port, our_side

pytestmark = pytest.mark.timeout(60)

#: A start that fails takes no longer than this (seconds), not even with a broker that nobody listens for.
SOON = 30


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a sound application, ``sound.py``, whose broker is a file; tests add broken ones."""
    write(
        tmp_path,
        "sound",
        f"""
        from celery import Celery

        app = Celery("sound", broker="sqlite:///{tmp_path}/broker.db", backend="sqlite:///{tmp_path}/broker.db")

        @app.task
        def add(x, y):
            return x + y
        """,
    )
    return tmp_path


def write(folder: Path, module: str, text: str) -> None:
    (folder / f"{module}.py").write_text(textwrap.dedent(text))


def start(folder: Path, *arguments: str) -> Ended:
    """Run ``jumpstarter celery`` with the arguments in the folder, to its end."""
    command = [*our_side().celery, *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def says(ended: Ended, *words: str) -> None:
    """The command failed with a sentence that has all the words (in either case), and without a traceback."""
    assert ended.code > 0, ended
    for word in words:
        assert word.lower() in ended.err.lower(), ended.err
    assert "Traceback" not in ended.err, ended.err


def test_an_unknown_app_module(folder: Path) -> None:
    says(start(folder, "-A", "nowhere", "worker"), "nowhere")


def test_a_module_without_an_app(folder: Path) -> None:
    write(folder, "empty", "VALUE = 1\n")
    says(start(folder, "-A", "empty", "worker"), "empty")


def test_an_attribute_that_is_not_there(folder: Path) -> None:
    says(start(folder, "-A", "sound:nothing", "worker"), "sound:nothing")


def test_an_attribute_that_is_no_app(folder: Path) -> None:
    write(folder, "number", "app = 7\n")
    says(start(folder, "-A", "number:app", "worker"), "number:app")


BROKEN = """
    from celery import Celery

    app = Celery("broken", broker="memory://")

    import a_module_that_is_not_installed
    """


def test_an_import_error_in_the_app_module_shows_its_traceback(folder: Path) -> None:
    write(folder, "broken", BROKEN)
    shows_the_import_error(start(folder, "-A", "broken", "worker"), "broken.py", "line 6")


def test_an_import_error_in_an_included_task_module_shows_its_traceback(folder: Path) -> None:
    write(folder, "tasks", "\nimport a_module_that_is_not_installed\n")
    write(
        folder,
        "including",
        f"""
        from celery import Celery

        app = Celery("including", broker="sqlite:///{folder}/broker.db", include=["tasks"])
        """,
    )
    shows_the_import_error(start(folder, "-A", "including", "worker"), "tasks.py", "line 2")


def shows_the_import_error(ended: Ended, *where: str) -> None:
    """The user's own lines are shown; the frames of the machinery that imported them are not."""
    assert ended.code > 0, ended
    for word in (*where, "ModuleNotFoundError", "a_module_that_is_not_installed"):
        assert word in ended.err, ended.err
    frames = [line for line in ended.err.splitlines() if line.lstrip().startswith('File "')]
    assert not [line for line in frames if str(ROOT / "jumpstarter") in line or str(ROOT / "compat_celery") in line], ended.err


def test_a_broker_that_nobody_listens_for(folder: Path) -> None:
    port = free_port()
    ended = start(folder, "-A", "sound", "-b", f"redis://:secret@127.0.0.1:{port}/0", "worker", "-c", "1")
    says(ended, "broker", str(port))
    assert "secret" not in ended.err + ended.out


def test_a_broker_of_an_unknown_kind(folder: Path) -> None:
    says(start(folder, "-A", "sound", "-b", "carrierpigeon://loft", "worker"), "carrierpigeon")


def test_a_broker_file_in_a_folder_that_does_not_exist(folder: Path) -> None:
    says(start(folder, "-A", "sound", "-b", f"sqlite:///{folder}/missing/broker.db", "worker"), "missing")


def test_an_unknown_option(folder: Path) -> None:
    says(start(folder, "-A", "sound", "worker", "--no-such-option"), "--no-such-option")


def test_an_unknown_command(folder: Path) -> None:
    says(start(folder, "-A", "sound", "wroker"), "wroker")


@pytest.mark.parametrize(("option", "value"), [("-c", "many"), ("-l", "loudest"), ("-P", "swimming")])
def test_an_option_with_a_value_that_makes_no_sense(folder: Path, option: str, value: str) -> None:
    says(start(folder, "-A", "sound", "worker", option, value), value)


def test_an_unknown_pool_names_those_that_there_are(folder: Path) -> None:
    says(start(folder, "-A", "sound", "worker", "-P", "swimming"), "swimming", "prefork", "threads")
