"""Applications and libraries from PyPI that ship Celery tasks, unmodified, through the alias: ``make conformance SUITE=libraries``.

::

    python -m tests.conformance.libraries                     all of them, ours and genuine Celery; writes the page of the docs
    python -m tests.conformance.libraries celery-once          these only; the page stays
    python -m tests.conformance.libraries --side ours -- -x -k name        anything behind -- goes to pytest

Each has an environment of its own without celery in it (genuine Celery lies in a folder beside, for the runs that compare). Its own
tests for its tasks are run where its source distribution brings some, and tests of ours that use it as its documentation says
(``library_uses``). What genuine Celery passes, ours must pass.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.environments import CACHE, CELERY_VERSION, ROOT, CannotDownload, _made_once, _make_venv, _pip
from tests.peers import RedisServer

PAGE = ROOT / "docs" / "reference" / "libraries.md"
USES = Path(__file__).parent / "library_uses"
#: What every environment has.
COMMON = ("pytest>=8.3", "pytest-timeout>=2.3", "redis>=5.2.1,<7", "hiredis>=3.0")
#: Seconds for a library's tests.
PATIENCE = 420


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """One of them.

    :ivar name: on PyPI. :ivar version: that is installed.
    :ivar what: what it brings, for the page.
    :ivar shape: ``canvases``, ``base class`` …: what of Celery's API it leans on.
    :ivar packages: what else its tests need.
    :ivar tests: files or folders in its source distribution that are run; none: only tests of ours.
    :ivar options: of pytest, for those.
    :ivar celery: the genuine one that it is compared with, where it does not run with 5.7.0.
    :ivar left_out: of those tests, with the reason.
    """

    name: str
    version: str
    what: str
    shape: str
    packages: Sequence[str] = ()
    tests: Sequence[str] = ()
    options: Sequence[str] = ()
    variables: Sequence[tuple[str, str]] = ()
    celery: str = CELERY_VERSION
    left_out: Sequence[tuple[str, str]] = field(default=())

    @property
    def uses(self) -> Path:
        """Tests of ours for it."""
        return USES / f"test_{self.name.replace('-', '_')}.py"


def for_django(name: str, version: str, what: str, shape: str, *packages: str) -> Library:
    """One of Celery's own for Django, ``django-celery-<name>``: their tests are laid out alike."""
    return Library(
        name=f"django-celery-{name}",
        version=version,
        what=what,
        shape=shape,
        packages=("pytest-django", "case", *packages),
        tests=("t/unit",),
    )


LIBRARIES = (
    Library(
        name="apache-airflow-providers-celery",
        version="3.26.0",
        what="Airflow's Celery executor",
        shape="its own app and tasks, bulk publishing, results of many tasks at once",
        packages=("apache-airflow-core", "apache-airflow-task-sdk", "psycopg2-binary"),
        celery="5.6.*",
    ),
    Library(
        name="celery-dyrygent",
        version="0.8.0",
        what="workflows of any shape, kept by a task that looks after them",
        shape="canvases",
    ),
    Library(name="celery-heimdall", version="1.0.1", what="unique and rate-limited tasks", shape="base class"),
    Library(name="celery-once", version="3.0.1", what="tasks that are in the queue once at most", shape="base class"),
    Library(
        name="celery-redbeat",
        version="2.4.2",
        what="a scheduler that keeps its schedule in Redis",
        shape="beat's classes",
        packages=("fakeredis", "python-dateutil", "pytz"),
        tests=("tests",),
    ),
    Library(name="celery-singleton", version="0.3.1", what="tasks of which one call at a time exists", shape="base class"),
    for_django("beat", "2.9.0", "a scheduler that keeps its schedule in Django's database", "beat's classes", "pytest<9", "ephem"),
    for_django(
        "results", "2.6.0", "results in Django's database and cache", "result backends", "pytest-benchmark", "psycopg2-binary"
    ),
    Library(
        name="django-user-tasks",
        version="4.0.0",
        what="Open edX: tasks of users, with their progress and what they made",
        shape="canvases, base class",
    ),
    Library(
        name="edx-celeryutils",
        version="2.0.0",
        what="Open edX: tasks that log their calls, or are kept when they fail",
        shape="base classes",
    ),
)
BY_NAME = {library.name: library for library in LIBRARIES}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a library is installed.

    :ivar sources: its source distribution, unpacked. :ivar genuine: a folder with genuine Celery and nothing else.
    """

    python: Path
    sources: Path | None
    genuine: Path


def recipe(library: Library, packages: Sequence[str]) -> list[str]:
    """What its environment is made of; when that changes, it is made anew."""
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [*packages, library.celery, str(bool(library.tests)), *ours]


def install(library: Library) -> Place:
    """Its environment, made at the first call.

    :raises CannotDownload: pip could not fetch it.
    """
    folder = CACHE / f"library-{library.name}"
    packages = [f"{library.name}=={library.version}", *COMMON, *library.packages]
    python, genuine, sources = folder / "bin" / "python", folder / "genuine", folder / "sources"
    with _made_once(folder, recipe(library, packages)) as is_new:
        if is_new:
            _make_venv(folder, *packages, "--editable", str(ROOT))
            _pip(python, "uninstall", "--yes", "celery")
            _pip(python, "install", "--no-deps", "--target", str(genuine), f"celery=={library.celery}")
            if library.tests:
                command = ["download", "--no-deps", "--no-binary", library.name, "--dest", str(folder)]
                _pip(python, *command, f"{library.name}=={library.version}")
                (archive,) = folder.glob("*.tar.gz")
                with tarfile.open(archive) as files:
                    files.extractall(sources, filter="data")
    inside = next(sources.iterdir()) if library.tests else None
    return Place(python, inside, genuine)


@dataclass(frozen=True, slots=True)
class Found:
    """What pytest found: outcomes by test."""

    outcomes: dict[str, str]

    @property
    def passed(self) -> set[str]:
        return {test for test, outcome in self.outcomes.items() if outcome == "passed"}

    @property
    def failed(self) -> set[str]:
        return {test for test, outcome in self.outcomes.items() if outcome == "failed"}


def _is_own(library: Library, tests: Sequence[str | Path]) -> bool:
    return list(tests) == list(library.tests)


def run(library: Library, place: Place, side: str, tests: Sequence[str | Path], folder: Path, options: Sequence[str]) -> Found:
    """Run some of its tests on one side."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("COMPAT_CELERY", "PYTHON", "VIRTUAL_ENV"))}
    env |= {"HOME": str(folder), "PATH": f"{place.python.parent}{os.pathsep}{os.environ['PATH']}", **dict(library.variables)}
    env |= {"COMPAT_CELERY": "1"} if side == "ours" else {"PYTHONPATH": str(place.genuine)}
    with RedisServer(folder / f"redis-{side}") as server:
        env |= {"LIBRARY_REDIS": server.url.removesuffix("/0"), "LIBRARY_FOLDER": str(folder)}
        command = [str(place.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "30", f"--junitxml={report}"]
        left_out = [option for test, _ in library.left_out for option in ("--deselect", test)]
        is_own = _is_own(library, tests)
        cwd = place.sources if is_own else folder
        log = folder / f"{library.name}-{side}.log"
        with log.open("w" if is_own or not library.tests else "a") as output:
            subprocess.run(
                [*command, *left_out, *options, *map(str, tests)],
                cwd=cwd,
                env=env,
                stdout=output,
                stderr=output,
                timeout=PATIENCE,
                check=False,
            )
    return Found(dict(_outcomes(report))) if report.exists() else Found({"it did not start": "failed"})


def _outcomes(report: Path) -> Iterator[tuple[str, str]]:
    for case in ET.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        yield f"{case.get('classname')}::{case.get('name')}", outcome


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the page."""

    library: Library
    own: tuple[int, int] | None
    uses: tuple[int, int] | None
    missed: Sequence[str]


def compare(library: Library, sides: Sequence[str], folder: Path, options: Sequence[str]) -> Line:
    """Run all of its tests: what ours pass, of what genuine Celery passes."""
    place = install(library)
    missed: list[str] = []

    def both(tests: Sequence[str | Path], more: Sequence[str]) -> tuple[int, int]:
        found = {side: run(library, place, side, tests, folder, [*more, *options]) for side in sides}
        reference = found[sides[0]].passed
        for test in sorted(found[sides[0]].failed):
            print(f"    (fails on the side of {sides[0]}: {test})", flush=True)
        mine = found[sides[-1]].passed
        missed.extend(sorted(reference - mine) or ([] if reference else ["nothing passes with genuine Celery"]))
        return len(mine & reference), len(reference)

    own = both(list(library.tests), library.options) if library.tests else None
    uses = both([library.uses], ["-c", str(USES / "pytest.ini"), "--rootdir", str(USES)]) if library.uses.exists() else None
    return Line(library, own, uses, missed)


def page(lines: Sequence[Line]) -> str:
    """The page of the documentation."""
    head = f"""# Libraries

Applications and libraries from PyPI that ship Celery tasks, installed without Celery and run, unmodified, through the alias. *Its
own tests* are those that its source distribution brings; *uses* are tests of ours that use it as its documentation says, with a
worker and Redis. Each number is what Jumpstarter passes, of what genuine Celery {CELERY_VERSION} passes in the same environment.
`make conformance SUITE=libraries` writes this page.

| library | version | what it brings | leans on | its own tests | uses |
|---|---|---|---|---:|---:|
"""

    def figures(pair: tuple[int, int] | None) -> str:
        return "-" if pair is None else f"{pair[0]} of {pair[1]}"

    rows = [
        f"| {line.library.name} | {line.library.version} | {line.library.what} | {line.library.shape} "
        f"| {figures(line.own)} | {figures(line.uses)} |\n"
        for line in lines
    ]
    older = "".join(
        f"\nCompared with Celery {line.library.celery}, since {line.library.name} does not import with {CELERY_VERSION}.\n"
        for line in lines
        if line.library.celery != CELERY_VERSION
    )
    notes = [f"- `{test}` of {line.library.name}: {why}\n" for line in lines for test, why in line.library.left_out]
    missing = [f"- `{test}` of {line.library.name}\n" for line in lines for test in line.missed]
    tail = "\nLeft out, with both:\n\n" + "".join(notes) if notes else ""
    tail += "\nNot passed by Jumpstarter:\n\n" + "".join(missing) if missing else ""
    return head + "".join(rows) + older + tail


def main(arguments: Sequence[str]) -> int:
    """0 when ours pass all that genuine Celery passes."""
    both = list(arguments)
    own, rest = (both[: both.index("--")], both[both.index("--") + 1 :]) if "--" in both else (both, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *BY_NAME], metavar="library", help=", ".join(BY_NAME))
    parser.add_argument("--side", choices=("ours", "genuine", "both"), default="both")
    parser.add_argument("--install", action="store_true", help="make the environments only")
    asked = parser.parse_args(own)
    sides = ("genuine", "ours") if asked.side == "both" else (asked.side,)
    chosen = [BY_NAME[name] for name in asked.names] or list(LIBRARIES)
    lines: list[Line] = []
    logs = CACHE / "logs" / "libraries"
    logs.mkdir(parents=True, exist_ok=True)
    try:
        for library in chosen:
            if asked.install:
                install(library)
                continue
            line = compare(library, sides, logs, rest)
            lines.append(line)
            print(
                f"{library.name} {library.version}: its own tests {line.own}, uses {line.uses}",
                *line.missed,
                sep="\n    ",
                flush=True,
            )
    except CannotDownload as why:
        print(f"cannot run: {why}", file=sys.stderr)
        return 2
    if not asked.names and asked.side == "both" and not asked.install and not rest:
        PAGE.write_text(page(lines))
    return 1 if any(line.missed for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
