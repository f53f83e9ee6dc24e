"""Is each pain's test able to fail? Takes the guard against it out of a copy of the package, the way a careless change would, and
runs the test there: it has to notice.

    python -m tests.reliability.guards             # all of them, about half an hour
    python -m tests.reliability.guards 4 21 #258   # some, by the number of the pain or of the rival's bug
    python -m tests.reliability.guards --list

Ends with 1 when a test did not notice. The installed package and the working tree stay as they are.
:mod:`tests.reliability.removals` has the table; ``test_guards.py`` sees to it that the table fits the source.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.peers import ROOT
from tests.reliability.removals import REMOVALS, Removal

_FOLDERS = ("jumpstarter", "compat_celery", "tests")
#: Seconds for one test, when it hangs instead of failing, and for all tests of one guard.
_ONE, _ALL = 150, 500


@contextmanager
def copy_of_the_package() -> Iterator[Path]:
    """A folder with the package, its tests and an environment in which they are what is imported."""
    with tempfile.TemporaryDirectory(prefix="guards-") as name:
        folder = Path(name).resolve()
        for each in _FOLDERS:
            shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        if (ROOT / ".cache").exists():  # genuine Celery, for the tests that have it
            (folder / ".cache").symlink_to(ROOT / ".cache")
        _make_environment(folder)
        yield folder


def _make_environment(folder: Path) -> None:
    """One that has what this one has, with the copy before it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    mine, packages = Path(sys.executable).parent, sysconfig.get_path("purelib")
    (site,) = (folder / ".venv").glob("lib/python*/site-packages")
    (site / "copy.pth").write_text(f"{folder}\nimport site; site.addsitedir({packages!r})\n")
    script = folder / ".venv" / "bin" / "jumpstarter"
    lines = (mine / "jumpstarter").read_text().split("\n", 1)
    script.write_text(f"#!{folder}/.venv/bin/python\n{lines[1]}")
    script.chmod(0o755)


@contextmanager
def without(removal: Removal, folder: Path) -> Iterator[None]:
    """The guard is out of the copy within the block."""
    before = {edit.file: (folder / edit.file).read_text() for edit in removal.edits}
    try:
        for edit in removal.edits:
            path = folder / edit.file
            path.write_text(edit.applied_to(path.read_text()))
        yield
    finally:
        for file, text in before.items():
            (folder / file).write_text(text)


def notices(removal: Removal, folder: Path) -> tuple[bool, str]:
    """Whether one of its tests fails without the guard, and what they said last."""
    python = folder / ".venv" / "bin" / "python"
    options = ["-q", "-x", "--tb=line", "-p", "no:randomly", "-p", "no:cacheprovider", "--timeout", str(_ONE)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    (folder / "tmp").mkdir(exist_ok=True)
    env |= {"RELIABILITY": "short", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder / "tmp")}
    with without(removal, folder):
        command = [str(python), "-m", "pytest", *options, *removal.tests]
        try:
            told = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=_ALL, check=False)
        except subprocess.TimeoutExpired:
            return False, f"no end within {_ALL} s"
        finally:
            _end_what_is_left(folder)
    lines = [line for line in told.stdout.splitlines() if line.strip()]
    why = next((line for line in lines if "Error" in line or "assert" in line), lines[-1] if lines else "")
    # 1: tests failed. Anything else (a module that cannot be imported, no test of that name) is no proof.
    return told.returncode == 1, f"{why[-150:]}{'' if told.returncode in (0, 1) else f' (pytest ended with {told.returncode})'}"


def _end_what_is_left(folder: Path) -> None:
    """A test that hangs is ended with its process, and leaves its servers and workers behind: all of them live in the copy."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                process.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 when a test did not notice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="of pains, or of the rivals' bugs (#258)")
    parser.add_argument("--list", action="store_true", help="show the table and do nothing")
    options = parser.parse_args(arguments)
    wanted = [removal for removal in REMOVALS if not options.numbers or removal.number in options.numbers]
    if not wanted:
        parser.error(f"there is none of these: {', '.join(dict.fromkeys(removal.number for removal in REMOVALS))}")
    if options.list:
        for removal in wanted:
            print(f"{removal.number:>6}  {removal.what}\n        {' '.join(removal.tests)}")
        return 0
    blind = 0
    with copy_of_the_package() as folder:
        for removal in wanted:
            began = time.monotonic()
            noticed, why = notices(removal, folder)
            blind += not noticed
            verdict = "noticed" if noticed else "NOT NOTICED"
            print(
                f"{removal.number:>6}  {verdict:<11}  {time.monotonic() - began:5.0f} s  {removal.what}\n        {why}", flush=True
            )
    print(f"{len(wanted) - blind} of {len(wanted)} noticed")
    return 1 if blind else 0


if __name__ == "__main__":
    sys.exit(main())
