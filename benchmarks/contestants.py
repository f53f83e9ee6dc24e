"""Who takes part: ours, genuine Celery and eight other task queues, each in the configuration that measured best for it.

Each peer has a virtual environment of its own under ``.cache`` (pip makes it at the first call, 5 to 20 s), and none of ours on
its path. Their applications are in ``apps``, one module each; ``apps/client.py`` is the client of all.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import redis

from tests.peers import CELERY_VERSION, ROOT, PeerUnavailable, Program, clean_environment, install_peer

APPS = Path(__file__).parent / "apps"

#: What pip puts into each peer's environment. hiredis and uvloop where they can use it: nobody is measured in slow clothes.
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "huey": ("huey==3.5.4", "redis==7.4.0", "hiredis>=3.0"),
    "repid": ("repid[redis]==2.1.4", "typing_extensions>=4.12", "hiredis>=3.0", "uvloop>=0.21"),
    "dramatiq": ("dramatiq[redis,rabbitmq]==2.2.1", "hiredis>=3.0"),
    "taskiq": ("taskiq==0.13.0", "taskiq-redis==1.2.4", "hiredis>=3.0", "uvloop>=0.21", "orjson>=3.10"),
    "saq": ("saq[redis]==0.26.4", "typing_extensions>=4.12", "hiredis>=3.0", "uvloop>=0.21"),
    "arq": ("arq==0.28.0", "hiredis>=3.0", "uvloop>=0.21"),
    "streaq": ("streaq==7.2.0", "hiredis>=3.0", "uvloop>=0.21"),
    "rq": ("rq==2.12.0", "hiredis>=3.0"),
}


@cache
def install(library: str) -> Path:
    """The ``bin`` folder of a peer's environment.

    :raises PeerUnavailable: pip could not download it.
    """
    if library == "celery":
        return install_peer().python.parent
    if library == "ours":
        # pip does this to what it installs, as to all others here: a process that compiles its own modules is larger and slower.
        _run([sys.executable, "-m", "compileall", "-q", str(ROOT / "jumpstarter"), str(ROOT / "compat_celery")])
        return Path(sys.executable).parent
    folder = ROOT / ".cache" / f"peer-{library}"
    folder.parent.mkdir(exist_ok=True)
    recipe = json.dumps([PACKAGES[library], sys.version])
    done = folder / "recipe.json"
    with (folder.parent / f"peer-{library}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done.exists() and done.read_text() == recipe):
            _run([sys.executable, "-m", "venv", "--clear", str(folder)])
            pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
            _run([*pip, "install", *PACKAGES[library]])
            done.write_text(recipe)  # last: a broken download is not taken for a finished one
    return folder / "bin"


def _run(command: Sequence[str]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise PeerUnavailable(f"{' '.join(command[-3:])} failed:\n{finished.stderr[-500:]}")


@cache
def version(library: str) -> str:
    """For people: ``huey 3.5.4``."""
    if library == "ours":
        return "ours"
    if library == "celery":
        return f"celery {CELERY_VERSION}"
    asked = PACKAGES[library][0].partition("==")
    return f"{asked[0].partition('[')[0]} {asked[2]}"


Settled = Callable[[redis.Redis, int], bool]


def _keys(client: redis.Redis, tasks: int) -> bool:
    # One key for each result; a dozen keys of other kinds may be among them.
    return int(client.dbsize()) >= tasks


def _huey_settled(client: redis.Redis, tasks: int) -> bool:
    return int(client.hlen("huey.results.bench")) >= tasks


def _saq_settled(client: redis.Redis, _tasks: int) -> bool:
    return not client.zcard("saq:default:incomplete")


@dataclass(frozen=True, slots=True)
class Contestant:
    """One configuration of one library.

    :ivar app: the module in ``apps``.
    :ivar commands: what is started beside each other, the first word being a program of its environment.
    :ivar variables: environment that this configuration needs.
    :ivar tasks: how many no-op tasks it does in about four seconds, roughly: slow ones need not hold the others up.
    :ivar settled: whether so many results are stored, looked at when all tasks have run.
    :ivar stores: False where it cannot store results, None where it cannot leave it.
    :ivar broker: ``redis`` or ``rabbitmq``.
    """

    name: str
    library: str
    app: str
    commands: tuple[tuple[str, ...], ...]
    tasks: int
    variables: Mapping[str, str] = field(default_factory=dict)
    settled: Settled = _keys
    stores: bool | None = True
    broker: str = "redis"

    def environment(self, *, broker: str, results: str | None, notes: Path, **more: str) -> dict[str, str]:
        """Of its workers and clients."""
        kept = {"BENCH_BROKER": broker, "BENCH_NOTES": str(notes), "PYTHONPATH": str(APPS), **self.variables, **more}
        if results:
            kept["BENCH_RESULTS"] = results
        kept["PATH"] = f"{install(self.library)}{os.pathsep}{os.environ['PATH']}"
        return clean_environment(**kept)

    @contextmanager
    def working(self, folder: Path, env: Mapping[str, str]) -> Iterator[list[Program]]:
        """Its workers, running until the end of the block."""
        with ExitStack() as stack:
            log = folder / f"{self.name}.log"
            programs = []
            for command in self.commands:
                executable = install(self.library) / command[0]
                programs.append(stack.enter_context(Program([executable, *command[1:]], folder=APPS, env=env, log=log)))
            yield programs

    def client(self, verb: str, count: int, *way: str, env: Mapping[str, str], timeout: float = 300) -> Any:
        """What ``apps/client.py`` answers."""
        start = ["-m", "compat_celery"] if self.library == "ours" else []
        python, program = str(install(self.library) / "python"), str(APPS / "client.py")
        command = [python, *start, program, self.app, verb, str(count), *way]
        done = subprocess.run(command, cwd=APPS, env=dict(env), capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode:
            raise AssertionError(f"the client of {self.name} failed:\n{done.stdout[-500:]}{done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def ours(name: str, pool: str, slots: int, tasks: int, broker: str = "redis", **variables: str) -> Contestant:
    """A configuration of ours."""
    command = ("jumpstarter", "celery", "-A", "fast", "worker", "-l", "warning", "-P", pool, "-c", str(slots))
    return Contestant(name, "ours", "fast", (command,), tasks, variables, broker=broker)


def celery(name: str, pool: str, slots: int, tasks: int, *options: str, broker: str = "redis", **variables: str) -> Contestant:
    """A configuration of genuine Celery."""
    command = ("python", "-m", "celery", "-A", "fast", "worker", "-l", "warning", "-P", pool, "-c", str(slots), *options)
    return Contestant(name, "celery", "fast", (command,), tasks, variables, broker=broker)


#: What measured best for it: deep prefetch, and no chatter between workers.
TUNED = ("--without-gossip", "--without-mingle", "--without-heartbeat")
HUEY = ("huey_consumer", "huey_app.huey", "-w", "4", "-k", "process", "-n", "-q")
REPID = ("python", "repid_app.py")
SAQ = ("saq", "saq_app.settings", "--workers", "2")
DRAMATIQ = ("dramatiq", "dramatiq_app", "-p", "2", "-t", "4", "--path", ".", "--skip-logging")
PREFETCHING = {"dramatiq_queue_prefetch": "500"}
TASKIQ = ("taskiq", "worker", "taskiq_app:broker", "--workers", "2", "--log-level", "WARNING")
#: With results, each task at a time wants a connection of its own for storing: few of them are faster.
FEW = ("--max-async-tasks", "20", "--max-prefetch", "100")
DEEP = ("--max-async-tasks", "1000", "--max-prefetch", "1000")

CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        ours("ours-prefork", "prefork", 2, 40_000),
        ours("ours-threads", "threads", 10, 30_000),
        ours("ours-solo", "solo", 1, 20_000),
        ours("ours-rabbitmq", "prefork", 2, 30_000, broker="rabbitmq"),
        celery("celery-prefork", "prefork", 2, 3_000, *TUNED, BENCH_PREFETCH="128"),
        celery("celery-default", "prefork", 2, 3_000),
        celery("celery-threads", "threads", 10, 2_000, *TUNED, BENCH_PREFETCH="128"),
        celery("celery-solo", "solo", 1, 3_000, *TUNED, BENCH_PREFETCH="128"),
        celery("celery-rabbitmq", "prefork", 2, 10_000, *TUNED, broker="rabbitmq", BENCH_PREFETCH="128"),
        Contestant("huey", "huey", "huey_app", (HUEY,), 20_000, settled=_huey_settled),
        Contestant("repid", "repid", "repid_app", (REPID,), 25_000, stores=False),
        Contestant("dramatiq", "dramatiq", "dramatiq_app", (DRAMATIQ,), 15_000, PREFETCHING),
        Contestant("dramatiq-rabbitmq", "dramatiq", "dramatiq_app", (DRAMATIQ,), 30_000, PREFETCHING, broker="rabbitmq"),
        Contestant("taskiq", "taskiq", "taskiq_app", ((*TASKIQ, *FEW),), 10_000),
        Contestant("taskiq-deep", "taskiq", "taskiq_app", ((*TASKIQ, *DEEP),), 15_000),
        Contestant("taskiq-stream", "taskiq", "taskiq_app", ((*TASKIQ, *DEEP),), 15_000, {"BENCH_STREAM": "1"}),
        Contestant("saq", "saq", "saq_app", (SAQ,), 12_000, settled=_saq_settled, stores=None),
    )
}
