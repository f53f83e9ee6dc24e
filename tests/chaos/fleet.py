"""The processes of a run: nodes that can be killed, stopped and started again, publishers, and the ledger they all write to.

Every fault goes through here, so that it is in the ledger with the processes that it hit and the interval in which it did.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.chaos.app.note import boot_time
from tests.chaos.checker import Rules, Verdict, check
from tests.chaos.grounds import Grounds
from tests.peers import ROOT, DeadlineMissed, Ledger, Program, Side, eventually

APP = Path(__file__).parent / "app"
#: Seconds for which nothing may happen before a run counts as over, beyond the lease: a claim that somebody still holds would be
#: given away by then.
_REST = 1.0
#: Seconds that a program may take to start: many of them start at a time, and none of that is what is tried here.
_START = 90.0


@dataclass(slots=True, eq=False)
class Node:
    """One life of one node.

    :ivar name: of this life: a node that is started again has another one.
    :ivar slots: children, each of which runs one job at a time.
    """

    name: str
    program: Program
    slots: int
    has_template: bool
    _ready: bool = False

    @property
    def is_ready(self) -> bool:
        """It has said so, in Celery's words."""
        self._ready = self._ready or " ready." in self.program.text()
        return self._ready

    @property
    def is_over(self) -> bool:
        """Its process has ended."""
        return self.program.is_over

    def children(self) -> list[int]:
        """The processes that run jobs. Genuine Celery forks them from its main process, ours from the template that is its only
        child."""
        parents = self.inner()[1:] if self.has_template else [self.program.pid]
        return [child for parent in parents for child in _children_of(parent)]

    def inner(self) -> list[int]:
        """The processes that run no jobs: the parent, and the template if there is one."""
        return [self.program.pid, *(_children_of(self.program.pid) if self.has_template else ())]

    def freeze(self) -> list[int]:
        """Stop every process of it; answer the children. The parents first, so that no child is forked behind our back."""
        _signal(signal.SIGSTOP, self.inner())
        children = self.children()
        _signal(signal.SIGSTOP, children)
        return children

    def thaw(self) -> None:
        """Let every process of it go on."""
        _signal(signal.SIGCONT, [*self.children(), *self.inner()])


@dataclass(slots=True, eq=False)
class Fleet:
    """Everything that runs on some grounds. A context manager: all of it ends with the block.

    :ivar lease: seconds, ours only.
    :ivar transport: ``broker_transport_options``.
    :ivar env: more environment for the nodes.
    """

    side: Side
    grounds: Grounds
    folder: Path
    lease: float = 2.0
    transport: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    ledger: Ledger = field(init=False)
    _stack: ExitStack = field(default_factory=ExitStack)
    _lives: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "ledger").touch()
        self.ledger = Ledger(self.folder / "ledger")

    @property
    def is_ours(self) -> bool:
        return self.side.name == "ours"

    # Processes

    def environment(self, **more: str) -> dict[str, str]:
        """For nodes and publishers. Ours may import ``tests.chaos``, for crash points and planted faults."""
        path = (APP, ROOT) if self.is_ours else (APP,)
        settings = {
            "CHAOS_BROKER": self.grounds.broker,
            "CHAOS_RESULTS": self.grounds.results,
            "CHAOS_LEDGER": str(self.ledger.path),
            "CHAOS_LEASE": str(self.lease),
            "CHAOS_TRANSPORT": json.dumps(dict(self.transport)),
        }
        return self.side.environment(*path, **{**settings, **self.env, **more})

    def node(self, name: str, *, slots: int = 2, **more: str) -> Node:
        """Start a node; it may not be ready yet."""
        self._lives += 1
        life = f"{name}.{self._lives}"
        options = ["-n", f"{life}@chaos", "-c", str(slots)]
        if not self.is_ours:
            options += ["--without-gossip", "--without-mingle"]
        program = self.side.worker(
            "chaos_app",
            *options,
            folder=self.folder,
            env=self.environment(CHAOS_NODE=life, **more),
            log=self.folder / f"{life}.log",
        )
        node = Node(life, self._stack.enter_context(program), slots, has_template=self.is_ours)
        self.nodes.append(node)
        return node

    def ready_node(self, name: str, *, slots: int = 2, **more: str) -> Node:
        """Start a node and wait until it is ready."""
        node = self.node(name, slots=slots, **more)
        self.wait_ready([node])
        return node

    def wait_ready(self, nodes: Iterable[Node]) -> None:
        """Return when all of them have said that they are."""
        for node in nodes:
            node.program.wait_for(" ready.", within=_START)

    def publisher(self, plan: Mapping[str, Any], **more: str) -> Program:
        """Start a process that publishes by the plan; see app/producer.py."""
        command = [*self.side.python, APP / "producer.py", json.dumps(dict(plan))]
        log = self.folder / "publishers.log"
        program = Program(command, folder=self.folder, env=self.environment(**more), log=log)
        return self._stack.enter_context(program)

    def publish(self, *items: Sequence[Any]) -> None:
        """Publish these (kind, value) in a process of its own and wait for its end."""
        program = self.publisher({"kind": "once", "list": [list(item) for item in items]})
        assert program.wait(within=_START) == 0, program.text()[-2000:]

    # Faults

    def kill_child(self, node: Node, pid: int) -> None:
        """SIGKILL to one process that runs jobs."""
        began = boot_time()
        _signal(signal.SIGKILL, [pid])
        _wait_gone([pid])
        self.note("kill", what="child", pids=[pid], slots=1, began=began, node=None, of=node.name)

    def kill_node(self, node: Node, *, all_at_once: bool = True) -> None:
        """SIGKILL to all processes of a node, as when a machine dies, or to the parent alone, which takes the others along."""
        began = boot_time()
        _signal(signal.SIGSTOP, node.inner())
        inner, children = node.inner(), node.children()
        _signal(signal.SIGKILL, [*inner, *children] if all_at_once else inner[:1])
        _signal(signal.SIGCONT, inner[1:])  # it has to hear of its parent's death
        node.program.wait(within=10)
        _wait_gone([*inner, *children])
        what = "node" if all_at_once else "parent"
        self.note("kill", what=what, pids=children, slots=node.slots, began=began, node=node.name)
        self.nodes.remove(node)

    def note(self, event: str, **facts: Any) -> None:
        """One line in the ledger; ``ended`` is now unless given."""
        now = boot_time()
        line = json.dumps({"event": event, "pid": os.getpid(), "time": now, "ended": now, **facts})
        with self.ledger.path.open("ab", buffering=0) as file:
            file.write(line.encode() + b"\n")

    # The ledger

    def running(self) -> dict[int, Mapping[str, Any]]:
        """The jobs that have started and not finished, by their processes; those of dead processes among them."""
        running: dict[int, Mapping[str, Any]] = {}
        for entry in self.ledger.entries():
            if entry["event"] == "start":
                running[entry["pid"]] = entry
            elif entry["event"] == "finish" and running.get(entry["pid"], {}).get("run") == entry["run"]:
                del running[entry["pid"]]
        return running

    def outstanding(self) -> set[str]:
        """What was published with success and has neither finished nor come to rest in quarantine."""
        names: dict[str, set[str]] = {"ok": set(), "finish": set(), "quarantined": set()}
        for entry in self.ledger.entries():
            if entry["event"] in names:
                names[entry["event"]].add(entry["id"])
        return names["ok"] - names["finish"] - names["quarantined"]

    def note_quarantined(self) -> None:
        """Note what rests in quarantine and was not noted before. Genuine Celery has none."""
        if self.is_ours:
            known = {entry["id"] for entry in self.ledger.entries(event="quarantined")}
            for name in set(self.grounds.quarantined()) - known:
                self.note("quarantined", id=name)

    def settle_down(self, *, within: float, every: Callable[[], None] = lambda: None) -> bool:
        """Wait until all that was published is accounted for, and then until nothing has happened for longer than a lease; answer
        whether that came to pass in time."""

        def accounted_for() -> bool:
            every()
            if not self.outstanding():
                return True
            self.note_quarantined()
            return not self.outstanding()

        try:
            eventually(accounted_for, within=within, what="all jobs are accounted for", every=0.2)
            eventually(self._at_rest(self.lease + _REST), within=within, what="the ledger comes to rest", every=0.1)
        except DeadlineMissed:
            return False
        return True

    def _at_rest(self, seconds: float) -> Callable[[], bool]:
        since, seen = time.monotonic(), -1

        def at_rest() -> bool:
            nonlocal since, seen
            count = len(self.ledger.entries())
            if count != seen:
                since, seen = time.monotonic(), count
            return time.monotonic() - since >= seconds

        return at_rest

    def verdict(self, **rules: Any) -> Verdict:
        """What the ledger proves now."""
        self.note_quarantined()
        return check(self.ledger.entries(), Rules(lease=self.lease, **{"atomic": self.grounds.atomic, **rules}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        # What is stopped would not die of its parent's death before it goes on.
        for node in self.nodes:
            if not node.is_over:
                _signal(signal.SIGKILL, [*node.inner(), *node.children()])
        self._stack.close()


def _signal(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _children_of(pid: int) -> list[int]:
    # The kernel's own list. psutil looks at every process of the machine, which takes longer than a kill may.
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            children += [int(child) for child in task.read_text().split()]
    return children


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _wait_gone(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            eventually(lambda pid=pid: not _alive(pid), within=10, what=f"process {pid} is dead", every=0.001)
        except DeadlineMissed:
            _signal(signal.SIGKILL, [pid])  # it should have died of its parent's death; a test must leave nothing behind
            raise
