"""Genuine Celery and our own command line as programs: started, watched and ended.

Used by tests/wire, tests/ownership, tests/cli, tests/end_to_end and benchmarks; imports neither of the two, nor pytest.

Everything here waits for a condition until a deadline. Every program gets a session of its own and is ended by its process id and
group, so nothing outlives a test.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import redis

ROOT = Path(__file__).resolve().parents[1]
CELERY_VERSION = "5.7.0"
#: What pip puts into the peer's environment. pydantic is imported by ``t/integration/tasks.py``.
PEER_PACKAGES = (f"celery[redis]=={CELERY_VERSION}", "hiredis>=3.0", "pydantic>=2.8")
#: What our side needs to import ``t/integration/tasks.py``.
TASKS_PACKAGES = ("pydantic>=2.8",)
TASKS_FILES = ("t/__init__.py", "t/integration/__init__.py", "t/integration/tasks.py")
#: A worker that has not said "ready" by then never will; a loaded machine needs 2 to 5 seconds.
START_DEADLINE = 40.0

T = TypeVar("T")


class DeadlineMissed(AssertionError):
    """Something that had to happen did not happen in time."""


class ProgramEnded(AssertionError):
    """A program that had to go on running ended."""


class PeerUnavailable(Exception):
    """Genuine Celery could not be installed (no package index, most likely)."""


def eventually(condition: Callable[[], T], *, within: float, what: str, every: float = 0.01) -> T:
    """The first truthy value of ``condition``, looked at every few milliseconds.

    :raises DeadlineMissed: after ``within`` seconds; says ``what`` was waited for.
    """
    deadline = time.monotonic() + within
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise DeadlineMissed(f"{what}: not within {within:g} s")
        time.sleep(every)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------------------------------------------------------- redis


class RedisServer:
    """A private redis-server on a free port, with its files in ``folder``.

    :ivar durable: with an append-only file, so that a restart finds what was written.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder = folder
        self.durable = durable
        self.port = free_port()
        self._popen: subprocess.Popen[bytes] | None = None
        self._client: redis.Redis | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        """A connection for looking on; text is not decoded."""
        if self._client is None:
            self._client = redis.Redis(port=self.port, socket_timeout=10)
        return self._client

    def start(self) -> Self:
        """Return when the server answers."""
        executable = shutil.which("redis-server")
        if executable is None:
            raise FileNotFoundError("redis-server is not installed; on Debian: apt-get install redis-server")
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        options += ["--appendonly", "yes", "--appendfsync", "always"] if self.durable else ["--appendonly", "no"]
        with (self.folder / "redis.log").open("ab") as log:
            self._popen = subprocess.Popen([executable, *options], stdout=log, stderr=log, start_new_session=True)
        eventually(self._answers, within=15, what=f"redis-server on port {self.port} answers")
        return self

    def _answers(self) -> bool:
        if self._popen is None or self._popen.poll() is not None:
            raise ProgramEnded(f"redis-server ended: {(self.folder / 'redis.log').read_text(errors='replace')[-500:]}")
        with suppress(redis.RedisError):
            return bool(self.client.ping())
        return False

    def freeze(self) -> None:
        """Stop the process (SIGSTOP): connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once (SIGKILL); ``start`` brings it back on the same port."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._popen is not None:
            self._signal(signal.SIGKILL)
            self._popen.wait(10)
            self._popen = None

    def _signal(self, number: signal.Signals) -> None:
        if self._popen is not None:
            with suppress(ProcessLookupError):
                self._popen.send_signal(number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.kill()

    def at_rest(self, name: str = "celery") -> bool:
        """True when the queue is empty at every priority and nobody holds a message of it: nothing more can start."""
        pipe = self.client.pipeline()
        for step in ("", "\x06\x163", "\x06\x166", "\x06\x169"):
            pipe.llen(name + step)
        pipe.hlen("unacked")
        pipe.zcard("jumpstarter.parked")
        return not any(pipe.execute())


# ------------------------------------------------------------------------------------------------------------- programs


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would steer Celery, OpenTelemetry or ourselves, plus ``more``."""
    steering = ("CELERY", "COMPAT_CELERY", "JUMPSTARTER", "OTEL_", "PYTEST", "COV_", "PYTHONPATH", "PYTHONWARNINGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


class Program:
    """A running command that writes to a log file."""

    def __init__(self, command: Sequence[str | Path], *, folder: Path, env: Mapping[str, str], log: Path) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                self.command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_over(self) -> bool:
        """It has ended."""
        return self._popen.poll() is not None

    def text(self) -> str:
        """All it has printed until now."""
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str, *, within: float) -> None:
        """Return when ``words`` stand in the log.

        :raises ProgramEnded: it ended without having printed them; shows the end of the log.
        """

        def printed() -> bool:
            code = self._popen.poll()
            if words in self.text():
                return True
            if code is not None:
                raise ProgramEnded(
                    f"{' '.join(self.command)} ended with code {code} before it printed {words!r}:\n{self.text()[-4000:]}"
                )
            return False

        try:
            eventually(printed, within=within, what=f"{words!r} in the log of {' '.join(self.command)}", every=0.02)
        except DeadlineMissed as missed:
            raise DeadlineMissed(f"{missed}\n{self.text()[-4000:]}") from None

    def send(self, number: signal.Signals) -> None:
        """Signal the process itself, not its children."""
        self._popen.send_signal(number)

    def wait(self, *, within: float) -> int:
        """The exit code.

        :raises DeadlineMissed: it still runs.
        """
        try:
            return self._popen.wait(within)
        except subprocess.TimeoutExpired:
            raise DeadlineMissed(f"{' '.join(self.command)} still runs after {within:g} s:\n{self.text()[-4000:]}") from None

    def kill(self) -> None:
        """SIGKILL to it and to all of its children at once, as when a machine dies."""
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.kill()


class Conversation:
    """A program that answers lines of JSON with lines of JSON; one question at a time. What it logs goes to a file."""

    def __init__(self, command: Sequence[str | Path], *, folder: Path, env: Mapping[str, str], log: Path) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        with log.open("ab") as err:
            self._popen = subprocess.Popen(
                self.command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, start_new_session=True
            )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="conversation", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._answers.put(line)
        self._answers.put(b"")  # the end: whoever asks then must not wait for the deadline

    def ask(self, question: Mapping[str, Any], *, within: float = 60.0) -> Any:
        """Send the question and return the answer.

        :raises ProgramEnded: the program is gone. :raises DeadlineMissed: no answer after ``within`` seconds.
        """
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(json.dumps(question).encode() + b"\n")
            self._popen.stdin.flush()
            line = self._answers.get(timeout=within)
        except BrokenPipeError:
            line = b""
        except queue.Empty:
            raise DeadlineMissed(f"no answer to {question} within {within:g} s; its log:\n{self._tail()}") from None
        if not line:
            raise ProgramEnded(f"{' '.join(self.command)} ended; its log:\n{self._tail()}")
        return json.loads(line)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """End the program."""
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait(10)
        self._reader.join(10)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


# ---------------------------------------------------------------------------------------------------------------- sides


@dataclass(frozen=True, slots=True)
class Side:
    """How one of the two implementations is run.

    :ivar name: ``genuine`` or ``ours``.
    :ivar celery: the beginning of a celery command line, to which ``-A app worker …`` is added.
    :ivar python: the beginning of a command line that runs a program which imports ``celery``.
    :ivar path: folders for PYTHONPATH, so that ``t.integration.tasks`` can be imported.
    """

    name: str
    celery: tuple[str, ...]
    python: tuple[str, ...]
    path: tuple[Path, ...] = ()

    def environment(self, *folders: Path, **more: str) -> dict[str, str]:
        """An environment for its programs: ``folders`` and :attr:`path` on PYTHONPATH."""
        return clean_environment(PYTHONPATH=os.pathsep.join(str(folder) for folder in (*folders, *self.path)), **more)

    def worker(self, app: str, *options: str, folder: Path, env: Mapping[str, str], log: Path, level: str = "info") -> Program:
        """Start a worker; it may not be ready yet (see :func:`wait_ready`, which needs the level ``info``)."""
        return Program([*self.celery, "-A", app, "worker", "-l", level, *options], folder=folder, env=env, log=log)


def wait_ready(worker: Program, *, within: float = START_DEADLINE) -> Program:
    """Return when the worker has said that it is ready, in the words that Celery prints: ``<node> ready.``."""
    worker.wait_for(" ready.", within=within)
    return worker


def genuine(peer: Peer) -> Side:
    """Genuine Celery in its own environment; nothing of ours is on its path."""
    return Side("genuine", (str(peer.python), "-m", "celery"), (str(peer.python),), (peer.sources,))


def both_sides() -> dict[str, Side]:
    """Both sides by their names.

    With ``PROOFS_OURS=genuine`` in the environment our side is played by genuine Celery as well. That proves the proofs: what
    fails then is the test's fault (or, in tests/ownership, what genuine Celery cannot do).

    :raises PeerUnavailable: see :func:`install_peer`.
    """
    peer = install_peer()
    return {"genuine": genuine(peer), "ours": our_side(peer.sources, peer.libraries)}


def our_side(*path: Path) -> Side:
    """Our side, or its stand-in (see :func:`both_sides`). Needs no genuine Celery, but for the stand-in."""
    if os.environ.get("PROOFS_OURS") == "genuine":
        return replace(genuine(install_peer()), name="ours")
    command = Path(sys.executable).parent / "jumpstarter"
    return Side("ours", (str(command), "celery"), (sys.executable, "-m", "compat_celery"), path)


@dataclass(frozen=True, slots=True)
class Peer:
    """Genuine Celery, installed.

    :ivar python: the interpreter of its virtual environment.
    :ivar sources: a folder with the unmodified ``t/integration/tasks.py`` of the source distribution, as the package ``t``.
    :ivar libraries: a folder with what ``tasks.py`` imports beside celery, for *our* interpreter.
    """

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def sources(self) -> Path:
        return self.folder / "sources"

    @property
    def libraries(self) -> Path:
        return self.folder / "libraries"


def install_peer() -> Peer:
    """Genuine Celery under ``.cache`` of the project: made by pip at the first call, found there afterwards.

    Takes 15 to 60 seconds the first time. Safe to call from several processes at once.

    :raises PeerUnavailable: pip could not download it.
    """
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    peer = Peer(cache / f"peer-celery-{CELERY_VERSION}")
    recipe = json.dumps([PEER_PACKAGES, TASKS_PACKAGES, TASKS_FILES, sys.version])
    done = peer.folder / "recipe.json"
    with (cache / "peer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done.exists() and done.read_text() == recipe):
            shutil.rmtree(peer.folder, ignore_errors=True)
            peer.folder.mkdir()
            _run([sys.executable, "-m", "venv", str(peer.folder / "venv")])
            _pip(peer.python, "install", *PEER_PACKAGES)
            _pip(Path(sys.executable), "install", "--target", str(peer.libraries), *TASKS_PACKAGES)
            _fetch_tasks(peer)
            done.write_text(recipe)  # last: a broken download is not taken for a finished one
    return peer


def _fetch_tasks(peer: Peer) -> None:
    """Take the task module out of the source distribution as it is."""
    _pip(peer.python, "download", "--no-deps", "--no-binary", "celery", "--dest", str(peer.folder), f"celery=={CELERY_VERSION}")
    with tarfile.open(peer.folder / f"celery-{CELERY_VERSION}.tar.gz") as archive:
        for name in TASKS_FILES:
            member = archive.extractfile(f"celery-{CELERY_VERSION}/{name}")
            assert member is not None, name
            target = peer.sources / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(member.read())


def _pip(python: Path, *arguments: str) -> None:
    _run([str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments])


def _run(command: Sequence[str]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        last = "\n".join(finished.stderr.strip().splitlines()[-3:])
        raise PeerUnavailable(f"genuine Celery {CELERY_VERSION} could not be installed; {' '.join(command[1:4])} … said:\n{last}")


# --------------------------------------------------------------------------------------------------- messages and ledger


def raw_message(task: str, args: Sequence[Any], *, task_id: str | None = None, queue_name: str = "celery") -> bytes:
    """What a genuine client writes into the Redis list for ``task.delay(*args)`` (protocol 2; Kombu's envelope).

    Tests compare it with the genuine client's bytes; see tests/wire/test_harness.py.
    """
    task_id = task_id or str(uuid.uuid4())
    body = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    headers: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": repr(tuple(args)),
        "kwargsrepr": "{}",
        "origin": "loader@localhost",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties = {
        "correlation_id": task_id,
        "reply_to": str(uuid.UUID(int=0)),
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue_name},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": str(uuid.uuid4()),
    }
    envelope = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    }
    return json.dumps(envelope).encode()


def load(client: redis.Redis, messages: Iterable[bytes], *, queue_name: str = "celery", batch: int = 500) -> int:
    """Push the messages into the queue, ``batch`` of them in a call; answer how many."""
    count = 0
    waiting: list[bytes] = []
    for message in messages:
        waiting.append(message)
        if len(waiting) == batch:
            count += _push(client, queue_name, waiting)
    return count + (_push(client, queue_name, waiting) if waiting else 0)


def _push(client: redis.Redis, queue_name: str, messages: list[bytes]) -> int:
    client.lpush(queue_name, *messages)
    pushed = len(messages)
    messages.clear()
    return pushed


@dataclass(slots=True)
class Ledger:
    """An append-only file outside the broker, written by tasks (one ``O_APPEND`` write per line of JSON), read here."""

    path: Path
    _read: int = field(default=0, repr=False)
    _entries: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def entries(self, **wanted: Any) -> list[dict[str, Any]]:
        """All entries in the order of writing, or those whose fields are as ``wanted``."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                for line in file:
                    if line.endswith(b"\n"):
                        self._read += len(line)
                        self._entries.append(json.loads(line))
        return [entry for entry in self._entries if all(entry.get(name) == value for name, value in wanted.items())]

    def wait(self, count: int, *, within: float, **wanted: Any) -> list[dict[str, Any]]:
        """The entries that are as ``wanted``, when there are at least ``count`` of them."""

        def enough() -> list[dict[str, Any]] | None:
            found = self.entries(**wanted)
            return found if len(found) >= count else None

        found = eventually(enough, within=within, what=f"{count} entries like {wanted} in the ledger")
        assert found is not None
        return found


def quiet(ledger: Ledger, redis_server: RedisServer, *, lasting: float, within: float) -> None:
    """Return when every task that started has finished, the broker holds nothing, and that has lasted for ``lasting`` seconds.

    An empty broker alone does not mean the end: a genuine worker may keep a second copy of a message in memory whose ``unacked``
    entry went with the first copy's ack (both have one delivery tag). With all slots free such a copy starts at once.
    """
    since = time.monotonic()
    seen = -1

    def over() -> bool:
        nonlocal since, seen
        entries = ledger.entries()
        running = sum({"start": 1, "finish": -1}.get(entry.get("event", ""), 0) for entry in entries)
        if len(entries) != seen or running or not redis_server.at_rest():
            since, seen = time.monotonic(), len(entries)
        return time.monotonic() - since >= lasting

    eventually(over, within=within, what=f"no task runs, waits or is held for {lasting:g} s", every=0.05)


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A temporary folder for scripts (tests have ``tmp_path``)."""
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        yield Path(name)
