"""One run: files of Celery's tests, in one environment, on servers of its own. Answers the verdict of every test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.environments import Environment
from tests.rabbitmq_server import RabbitServer
from tests.redis_server import RedisServer

PLUGIN = Path(__file__).parent / "plugin"

#: What is run by which name: folders and files of the unpacked distribution.
SUITES: dict[str, tuple[str, ...]] = {
    "integration": ("t/integration",),
    "unit": (
        "t/unit/tasks",
        "t/unit/app/test_schedules.py",
        "t/unit/app/test_routes.py",
        "t/unit/app/test_annotations.py",
        "t/unit/app/test_exceptions.py",
        "t/unit/events/test_state.py",
        "t/unit/utils",
    ),
}
#: These are for the control plane, and for beat.
LEFT_OUT = ("test_inspect.py", "test_beat.py", "test_connection_recovery.py")
#: What the suites take for broker and results; ``none``: memory, no servers.
BROKERS = ("redis", "rabbitmq", "rpc", "none")
#: Seconds for a file with nobody's verdict: its process is ended, and the next file has its turn.
FILE_SECONDS = 1500.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one test: ``passed``, ``failed``, ``skipped``; ``uncollected`` for a file that cannot be imported."""

    id: str
    outcome: str
    seconds: float = 0.0
    why: str = ""

    @property
    def file(self) -> str:
        return self.id.partition("::")[0]


def files_of(root: Path, suite: str) -> list[str]:
    """The files of a suite (or of a path that is given instead), relative to ``root``."""
    found: list[str] = []
    for part in SUITES.get(suite, (suite.partition("::")[0],)):
        path = root / part
        if not path.exists():
            raise SystemExit(f"there is no {part} in Celery's distribution; suites are {', '.join(SUITES)}")
        tests = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
        found += [str(test.relative_to(root)) for test in tests if suite not in SUITES or test.name not in LEFT_OUT]
    return found


@contextmanager
def servers(broker: str) -> Iterator[dict[str, str]]:
    """Private servers while the block lasts; the variables by which the suites find them."""
    if broker == "none":
        yield {}
        return
    with RedisServer() as redis:
        found = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port), "TEST_BROKER": redis.url, "TEST_BACKEND": redis.url}
        if broker == "redis":
            yield found
            return
        with RabbitServer() as rabbit:
            found["TEST_BROKER"] = rabbit.url.replace("amqp://", "pyamqp://")
            if broker == "rpc":
                found["TEST_BACKEND"] = "rpc"
            yield found


def run(
    environment: Environment,
    root: Path,
    files: Sequence[str],
    *,
    variables: Mapping[str, str],
    ids: Sequence[str] = (),
    options: Sequence[str] = (),
    limit: float = 120.0,
    log: Path,
) -> list[Verdict]:
    """Run the files, each in a process of its own, and answer the verdicts.

    :param ids: these tests of the files only; all of them if empty.
    :param options: more options of pytest.
    :param limit: seconds for one test.
    :param log: a folder for what the processes print, one file for each.
    """
    log.mkdir(parents=True, exist_ok=True)
    verdicts: list[Verdict] = []
    for file in files:
        wanted = [each for each in ids if each.startswith(file + "::")]
        if ids and not wanted:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
            outcomes, own = Path(folder, "outcomes"), dict(variables)
            if wanted:
                Path(folder, "ids").write_text("".join(f"{each}\n" for each in wanted), encoding="utf-8")
                own["CONFORMANCE_IDS"] = str(Path(folder, "ids"))
            own |= {"CONFORMANCE_OUTCOMES": str(outcomes), "CONFORMANCE_LIMIT": str(limit)}
            _pytest(environment, root, [file, *options], own, log / (file.replace("/", ".") + f".{environment.name}.log"))
            found = _read(outcomes)
        verdicts += found
        print(f"{environment.name:8} {file}: {_count(found)}  ({time.monotonic() - began:.0f} s)", flush=True)
    return verdicts


def _count(verdicts: Sequence[Verdict]) -> str:
    outcomes = [verdict.outcome for verdict in verdicts]
    return ", ".join(f"{outcomes.count(each)} {each}" for each in dict.fromkeys(sorted(outcomes))) or "no test"


def _pytest(environment: Environment, root: Path, arguments: Sequence[str], variables: Mapping[str, str], log: Path) -> None:
    """Run pytest; what it or its children print goes to ``log``. Nothing of its group outlives it."""
    steering = (
        "CELERY",
        "COMPAT_CELERY",
        "JUMPSTARTER",
        "OTEL_",
        "PYTEST",
        "COV_",
        "PYTHONPATH",
        "PYTHONWARNINGS",
        "TEST_",
        "REDIS_",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    path = f"{environment.programs}{os.pathsep}{kept['PATH']}"
    # Celery's own runs set WORKER_LOGLEVEL so: tests read the worker's log. The root is on the path as there, since subprocesses
    # import ``t`` too.
    own = {
        "PATH": path,
        "PYTHONPATH": os.pathsep.join([str(root), str(PLUGIN)]),
        "PYTHONUNBUFFERED": "1",
        "WORKER_LOGLEVEL": "INFO",
        **variables,
    }
    plugins = [
        "-p",
        "celery.contrib.pytest",
        "-p",
        "conformance_plugin",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:anyio",
    ]
    command = [
        str(environment.python),
        "-m",
        "pytest",
        *plugins,
        "--rootdir",
        str(root),
        "-c",
        str(root / "pytest.ini"),
        *arguments,
    ]
    with log.open("wb") as out:
        popen = subprocess.Popen(
            command,
            cwd=root,
            env={**kept, **dict(environment.variables), **own},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            popen.wait(FILE_SECONDS)
        except subprocess.TimeoutExpired:
            out.write(b"\nended by the runner: it took too long\n")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()


def _read(outcomes: Path) -> list[Verdict]:
    """The verdicts; a test that began and did not end took the process along, or was ended with it: failed."""
    found: dict[str, Verdict] = {}
    lines = outcomes.read_text(encoding="utf-8").splitlines() if outcomes.exists() else []
    for line in map(json.loads, lines):
        if line["outcome"] == "began":
            found[line["id"]] = Verdict(line["id"], "failed", why="the process ended during this test")
        else:
            found[line["id"]] = Verdict(line["id"], line["outcome"], line.get("seconds", 0.0), line.get("why", ""))
    return list(found.values())
