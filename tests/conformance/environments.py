"""Where the suites run: Celery's tests unpacked, one environment with genuine Celery, one with ours and no celery in it.

Everything is made under ``.cache`` at the first call and found there afterwards. Safe to call from several processes at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "conformance"
CELERY_VERSION = "5.7.0"

#: What the suites import beside celery. No pytest-rerunfailures: what passes only now and then does not pass.
SUITE_PACKAGES = (
    "pytest>=8.3",
    "pytest-click>=1.1",
    "pytest-order>=1.3",
    "pytest-subtests>=0.13",
    "pytest-timeout>=2.3",
    "cryptography",
    "django",
    "ephem",
    "freezegun>=1.5",
    "hiredis>=3.0",
    "msgpack",
    "pydantic>=2.8",
    "python-dateutil",
    "pyyaml",
    "redis>=5.2.1",
    "sqlalchemy",
    "tblib",
    "tzdata",
)
GENUINE_PACKAGES = (f"celery[redis]=={CELERY_VERSION}", *SUITE_PACKAGES)

#: Celery's settings for pytest stand in a file of its distribution that we do not unpack.
_PYTEST_INI = """[pytest]
addopts = --strict-markers
python_classes = test_*
xfail_strict = true
markers =
    sleepdeprived_patched_module
    masked_modules
    patched_environ
    patched_module
    amqp
"""


class CannotDownload(Exception):
    """Pip could not fetch what is needed (no package index, most likely)."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A place to run Celery's tests in.

    :ivar name: ``ours`` or ``genuine``.
    :ivar python: its interpreter.
    :ivar variables: what its programs need in their environment.
    """

    name: str
    python: Path
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def programs(self) -> Path:
        """The folder of its programs, for PATH: tests start ``celery`` by its name."""
        return self.python.parent


def sources() -> Path:
    """The folder that holds Celery's ``t``: the root of every run.

    :raises CannotDownload: pip could not fetch the source distribution.
    """
    folder = CACHE / f"celery-{CELERY_VERSION}"
    with _made_once(folder, [_PYTEST_INI]) as is_new:
        if is_new:
            archive = CACHE / f"celery-{CELERY_VERSION}.tar.gz"
            if not archive.exists():
                command = ["download", "--no-binary", ":all:", "--no-deps", f"celery=={CELERY_VERSION}", "--dest", str(CACHE)]
                _pip(Path(sys.executable), *command)
            with tarfile.open(archive) as files:
                inside = f"celery-{CELERY_VERSION}/"
                members = [member for member in files.getmembers() if member.name.startswith(inside + "t/")]
                for member in members:
                    member.name = member.name.removeprefix(inside)
                files.extractall(folder, members, filter="data")
            (folder / "pytest.ini").write_text(_PYTEST_INI)
    return folder


def genuine() -> Environment:
    """Genuine Celery and what its tests need.

    :raises CannotDownload: pip could not fetch them.
    """
    folder = CACHE / "genuine"
    with _made_once(folder, GENUINE_PACKAGES) as is_new:
        if is_new:
            _make_venv(folder, *GENUINE_PACKAGES)
    return Environment("genuine", folder / "bin" / "python")


def ours() -> Environment:
    """This checkout and what Celery's tests need; ``import celery`` and the command ``celery`` are ours.

    :raises CannotDownload: pip could not fetch them.
    """
    folder = CACHE / "ours"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # The code itself is installed as it lies here; only what pip does is done anew.
    installed = json.dumps([project[key] for key in ("dependencies", "scripts", "entry-points")])
    with _made_once(folder, [*SUITE_PACKAGES, installed]) as is_new:
        if is_new:
            _make_venv(folder, *SUITE_PACKAGES, "--editable", str(ROOT))
            _write_command(folder / "bin")
            _refuse_genuine(folder / "bin" / "python")
    return Environment("ours", folder / "bin" / "python", (("COMPAT_CELERY", "1"),))


def this_one() -> Environment:
    """Ours again, in the environment of the running tests: enough for the short tier, and made already."""
    return Environment("ours", Path(sys.executable), (("COMPAT_CELERY", "1"),))


def _write_command(folder: Path) -> None:
    """The command ``celery``, as genuine Celery installs one."""
    shim = folder / "celery"
    shim.write_text(f"#!{folder / 'python'}\nimport sys\nfrom compat_celery.bin.celery import main\nsys.exit(main())\n")
    shim.chmod(0o755)


def _refuse_genuine(python: Path) -> None:
    """What is measured must be ours alone."""
    code = "import pathlib, sysconfig; print((pathlib.Path(sysconfig.get_path('purelib')) / 'celery').exists())"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    if found != "False":
        raise AssertionError("genuine Celery got into the environment for ours: one of SUITE_PACKAGES depends on it")


def _make_venv(folder: Path, *packages: str) -> None:
    _run([sys.executable, "-m", "venv", str(folder)])
    _pip(folder / "bin" / "python", "install", *packages)


@contextlib.contextmanager
def _made_once(folder: Path, recipe: Sequence[str]) -> Iterator[bool]:
    """Whether the folder has to be made, by this recipe; it counts as made when the block is left without an error."""
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE.parent / ".gitignore").write_text("*\n")
    done, wanted = CACHE / f"{folder.name}.json", json.dumps([*recipe, sys.version])
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_new = not (folder.exists() and done.exists() and done.read_text() == wanted)
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        yield is_new
        if is_new:
            done.write_text(wanted)


def _pip(python: Path, *arguments: str) -> None:
    _run([str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments])


def _run(command: Sequence[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COMPAT_CELERY", "PYTHONPATH"))}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if finished.returncode:
        last = "\n".join(finished.stderr.strip().splitlines()[-3:])
        raise CannotDownload(f"{' '.join(command[1:4])} … failed:\n{last}")
