"""A world of nodes under virtual time. Everything that happens is drawn from one seed.

The parts are the worker's own: :class:`Receiver`, ``admit``, :class:`Settler`, :class:`LeaseKeeper` and ``bury``, on the memory
broker. What drives them here, one step at a time, is in production the worker's and the node's actors with their threads.

A *process* (a child, or the parent of children) dies or is stopped between two of its steps, and also in the middle of one, before
or after any call to a server. To stop a process in the middle of a call the rest of the world goes on *inside* that call. That
needs no threads, so a seed tells the same story every time.
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import random
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from jumpstarter.brokers.memory import MemoryBroker
from jumpstarter.embedded.space import Space
from jumpstarter.errors import BrokerUnavailable, ResultsUnavailable
from jumpstarter.jobs import RETURN, Ack, Job, Outcome, Quarantine
from jumpstarter.results.memory import MemoryResults
from jumpstarter.worker.admit import admit
from jumpstarter.worker.bury import Death, bury
from jumpstarter.worker.capacity import Claim
from jumpstarter.worker.lease import LeaseKeeper
from jumpstarter.worker.options import WorkerOptions
from jumpstarter.worker.receive import Receiver
from jumpstarter.worker.settle import Settler
from tests.simulation.application import QUEUE, Story, envelope, headers_of
from tests.simulation.ledger import Expected, Fault, Join, Ledger, Run

T = TypeVar("T")

LEASE = 10.0
SHORTEST_LEASE = 4.0
MAX_ATTEMPTS = 6
#: Seconds in which things go wrong, and at most until all has come to rest after that.
TROUBLE = 40.0
PATIENCE = 300.0
#: A stop or an outage this short must not cost anybody a claim: leases are renewed thrice within the shortest.
SHORT = (0.05, 0.4)
LONG = (1.2 * LEASE, 4 * LEASE)
#: How deep stops may lie within each other.
_DEEPEST = 4

_names = itertools.count()


class Killed(BaseException):
    """SIGKILL, as the code of the process sees it: it just ends here."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a story may bring.

    :ivar apart: results live on another server than the messages.
    :ivar calm: no faults at all, so nothing may be repeated.
    """

    apart: bool = False
    calm: bool = False


class VirtualClock:
    """Stands still until the world moves it."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class Process:
    """Something that can be killed and stopped."""

    def __init__(self, name: str, node: Node) -> None:
        self.name = name
        self.node = node
        self.is_alive = True
        self.stopped_until = 0.0


class World:
    """One story. :meth:`tell` tells it, and answers what must not have happened."""

    def __init__(self, seed: int, kind: Kind, parts: Parts | None = None) -> None:
        self.random = random.Random(seed)
        self.kind = kind
        self.parts = parts or Parts()
        self.clock = VirtualClock()
        self.ledger = Ledger()
        self.story: list[str] = []
        self.application = Story(self.ledger)
        name = f"simulation-{next(_names)}"
        self.space = Space.of(f"memory://{name}")
        self.results_space = Space.of(f"memory://{name}-results") if kind.apart else self.space
        self.machines: list[Machine] = []
        #: Until when the servers answer nobody, and nobody hears their answers.
        self.away_until = 0.0
        self._events: list[tuple[float, int, Process | None, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._depth = 0
        self.troubled_until = self.clock.time + TROUBLE
        #: How often a call to a server is where something happens.
        self._risk = 0.0 if kind.calm else self.random.choice([0.0, 0.01, 0.03])

    # Time

    def after(self, seconds: float, action: Callable[[], None], process: Process | None = None) -> None:
        """Do this in so many seconds, if the process is alive then, and once it is not stopped."""
        heapq.heappush(self._events, (self.clock.time + seconds, next(self._numbers), process, action))

    def run(self, until: float) -> None:
        """Let the world go on."""
        while self._events and self._events[0][0] <= until:
            at, _, process, action = heapq.heappop(self._events)
            self.clock.time = max(self.clock.time, at)
            if process is not None and not process.is_alive:
                continue
            if process is not None and process.stopped_until > self.clock.time:
                self.after(process.stopped_until - self.clock.time + 1e-6, action, process)
                continue
            with suppress(Killed):
                action()
        self.clock.time = max(self.clock.time, until)

    def say(self, text: str) -> None:
        """Note what happens, for whoever has to understand a violation."""
        self.story.append(f"{self.clock.time - 1_000_000.0:9.3f} {text}")

    @property
    def is_troubled(self) -> bool:
        """Things may still go wrong."""
        return self.clock.time < self.troubled_until

    # Faults

    def boundary(self, process: Process | None, where: str) -> None:
        """A process is about to call a server, or has just heard from it: this is where it dies or is stopped."""
        if process is None or not self.is_troubled or self.random.random() >= self._risk:
            return
        match self.random.choice(["kill", "kill node", "stop", "stop node", "stop node"]):
            case "kill":
                self.say(f"{process.name} is killed {where}")
                process.node.kill(process)
            case "kill node":
                self.say(f"{process.node.name} is killed {where} of {process.name}")
                process.node.kill_all()
            case "stop":
                self.stop([process], where)
            case _:
                self.stop(process.node.processes, where)
        self._go_on_inside(process)
        if not process.is_alive:
            raise Killed

    def stop(self, processes: list[Process], where: str) -> None:
        """SIGSTOP, and SIGCONT some time later."""
        seconds = self.random.uniform(*self.random.choice([SHORT, LONG]))
        self.say(f"{', '.join(one.name for one in processes)} stopped for {seconds:.1f} s {where}")
        for one in processes:
            one.stopped_until = max(one.stopped_until, self.clock.time + seconds)
            # A child's lease is renewed by its parent: to be stopped alone excuses nothing.
            if isinstance(one, Node) and seconds > SHORT[1]:
                self.ledger.faults.append(Fault("stop", one.name, self.clock.time, self.clock.time + seconds))

    def _go_on_inside(self, process: Process) -> None:
        # Stops that begin while others last end before them, so this one may last longer than it was meant to; in the deepest one
        # nothing more may go wrong.
        began = self.clock.time
        self._depth += 1
        risk, self._risk = self._risk, 0.0 if self._depth >= _DEEPEST else self._risk
        while process.is_alive and process.stopped_until > self.clock.time:
            self.run(process.stopped_until)
        self._depth -= 1
        self._risk = risk
        if isinstance(process, Node) and self.clock.time - began > SHORT[1]:
            self.ledger.faults.append(Fault("stop", process.name, began, self.clock.time))

    def ring(self) -> None:
        """Something may have come back to a queue: idle children look."""
        for machine in self.machines:
            for child in machine.node.children:
                child.ring()

    def begin_outage(self) -> None:
        """The servers, or the network before them, are away."""
        seconds = self.random.uniform(*self.random.choice([SHORT, SHORT, LONG]))
        self.say(f"the servers are away for {seconds:.1f} s")
        self.away_until = self.clock.time + seconds
        if seconds > SHORT[1]:
            # Those who try again do so with pauses: the first renewal comes a little after the end.
            self.ledger.faults.append(Fault("outage", "everywhere", self.clock.time, self.away_until + 2.0))

    # The story

    def tell(self) -> list[str]:
        """Tell the story to its end; answer the violations."""
        with _quiet():
            self._publish()
            self.machines = [Machine(self, f"node{number}", children=self.random.randint(1, 2)) for number in range(2)]
            if not self.kind.calm:
                self._plan_faults()
            self.run(self.troubled_until)
            self._heal()
            given_up_at = self.clock.time + PATIENCE
            while not self._is_at_rest() and self.clock.time < given_up_at:
                self.run(self.clock.time + 5.0)
            found = self.ledger.check(self.documents(), self._resting(), MAX_ATTEMPTS)
            if not self._is_at_rest():
                found.append(f"no rest after {PATIENCE:g} quiet seconds: {self._unrest()}")
        for space in {self.space.name, self.results_space.name}:
            Space._spaces.pop(space)
        return found

    def _plan_faults(self) -> None:
        plans: list[Callable[[], None]] = [
            self._kill_somebody,
            self._stop_somebody,
            self._stop_a_node,
            self._restart,
            self.begin_outage,
        ]
        for _ in range(self.random.randint(1, 10)):
            self.after(self.random.uniform(0.0, TROUBLE), self.random.choice(plans))

    def _kill_somebody(self) -> None:
        node = self.random.choice(self.machines).node
        if not node.is_alive:
            return
        if self.random.random() < 0.4:
            self.say(f"{node.name} is killed")
            node.kill_all()
        elif node.children:
            child = self.random.choice(node.children)
            self.say(f"{child.name} is killed")
            node.kill(child)

    def _stop_somebody(self) -> None:
        self.stop([self.random.choice(self.random.choice(self.machines).node.processes)], "")

    def _stop_a_node(self) -> None:
        self.stop(self.random.choice(self.machines).node.processes, "")

    def _restart(self) -> None:
        self.random.choice(self.machines).node.stop_warmly()

    def _heal(self) -> None:
        self.say("from here on nothing goes wrong")
        self.away_until = 0.0

    def _publish(self) -> None:
        for number in range(self.random.randint(5, 14)):
            at = self.random.uniform(0.0, TROUBLE * 0.7)
            shape = self.random.random()
            if shape < 0.3:
                self.after(at, partial(self._publish_join, f"join{number}"))
            else:
                self.after(at, partial(self._publish_job, f"job{number}", shape))

    def _publish_job(self, id: str, shape: float) -> None:
        headers: dict[str, Any] = {"seconds": self._seconds()}
        expected = Expected()
        if shape < 0.4:
            headers["kills"] = self.random.choice([1, 2, 99])
        elif shape < 0.5:
            headers["early_ack"] = expected.early_ack = True
        elif shape < 0.6:
            headers["fails"] = self.random.choice([[1], [2, 3], [1, 2, 3, 4, 5, 6]])
        elif shape < 0.7:
            headers["due"] = expected.due = self.clock.now() + self.random.uniform(1.0, 15.0)
        elif shape < 0.72:
            headers["unknown"] = True
        else:
            headers["steps"] = self.random.randint(0, 3)
        if self.random.random() < 0.2:
            headers["lease"] = self.random.choice([SHORTEST_LEASE, 3 * LEASE])
        self.ledger.expected[id] = expected
        for step in range(headers.get("steps", 0)):
            self.ledger.expected[id + "+" * (step + 1)] = Expected()
        self._send([envelope(id, **headers)])

    def _publish_join(self, name: str) -> None:
        members = [f"{name}.{index}" for index in range(self.random.randint(1, 4))]
        self.ledger.joins[name] = Join(members, f"{name}.body")
        self.ledger.expected[f"{name}.body"] = Expected()
        envelopes = []
        for index, member in enumerate(members):
            # Elsewhere than on the broker's server a body that was sent may not be marked as sent: copies may send it again.
            copies = 2 if not self.kind.apart and self.random.random() < 0.15 else 1
            self.ledger.expected[member] = Expected(copies=copies)
            envelopes += [envelope(member, seconds=self._seconds(), join=name, index=index)] * copies
        MemoryResults(self._results_url, clock=self.clock).open_join(name, len(members), None)
        self._send(envelopes)

    def _send(self, envelopes: list[Any]) -> None:
        if self.clock.time < self.away_until:
            self.after(0.5, partial(self._send, envelopes))
        else:
            Server(self).publish(envelopes)
            self.ring()

    def _seconds(self) -> float:
        return self.random.choice([0.01, 0.3, 2.0, 1.5 * SHORTEST_LEASE, 1.5 * LEASE])

    # What is to be seen at the end

    @property
    def _results_url(self) -> str:
        return f"memory://{self.results_space.name}"

    def documents(self) -> dict[str, bytes]:
        """All results, by job."""
        return {key: stored.body for key, stored in self.results_space.documents.items()}

    def _resting(self) -> set[str]:
        return {json.loads(resting.message.head)[0]["id"] for resting in self.space.quarantine.values()}

    def _is_at_rest(self) -> bool:
        return not (any(self.space.waiting.values()) or self.space.claims or self.space.parked)

    def _unrest(self) -> str:
        waiting = [message for heap in self.space.waiting.values() for _, _, message in heap]
        states = {"waiting": waiting, "claimed": self.space.claims.values(), "parked": [one[2] for one in self.space.parked]}
        return "; ".join(f"{name}: {[json.loads(one.head)[0]['id'] for one in those]}" for name, those in states.items() if those)


@contextmanager
def _quiet() -> Any:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


# The servers, and the lines to them


class Server(MemoryBroker):
    """The broker's server, which tells the ledger what it took and what it let go."""

    def __init__(self, world: World) -> None:
        super().__init__(f"memory://{world.space.name}", clock=world.clock)
        self.world = world

    def _send(self, messages: Any) -> None:
        messages = list(messages)
        for message, _ in messages:
            self.world.ledger.published[json.loads(message.head)[0]["id"]] += 1
        super()._send(messages)

    def _settle(self, settlement: Any, messages: Any, incarnation: str) -> Any:
        answer = super()._settle(settlement, messages, incarnation)
        if answer is True and isinstance(settlement.action, Ack | Quarantine):
            job = headers_of(settlement.delivery)["id"]
            self.world.ledger.settled[job] += 1
            stored = self.world.results_space.documents.get(job)
            self.world.ledger.stored.setdefault(job, None if stored is None else stored.body)
        return answer


def _line(name: str, base: type) -> Any:
    """A method that calls the server, unless something comes between."""

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        self.world.boundary(self.process, f"before {name}")
        if self.world.clock.time < self.world.away_until:
            raise (BrokerUnavailable if base is Server else ResultsUnavailable)(self.url, "an outage")
        answer = getattr(base, name)(self, *arguments, **options)
        if name in _RINGING and (answer.returned or answer.promoted if name == "reap" else answer):
            self.world.ring()
        self.world.boundary(self.process, f"after {name}")
        return answer

    return call


#: What may bring something back to a queue.
_RINGING = {"settle", "release", "reap"}


class Line(Server):
    """The broker as one process sees it."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world)
        self.process = process

    publish, claim, settle, hold, renew, held, release, reap = (
        _line(name, Server) for name in ("publish", "claim", "settle", "hold", "renew", "held", "release", "reap")
    )

    def wait(self, queues: Any, timeout: float, *, incarnation: str) -> bool:
        return False


class ResultsLine(MemoryResults):
    """The results as one process sees them."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(f"memory://{world.results_space.name}", clock=world.clock)
        self.world = world
        self.process = process

    put, add_parts, fence, close_join = (_line(name, MemoryResults) for name in ("put", "add_parts", "fence", "close_join"))


# The processes


@dataclass
class Parts:
    """What a node is made of. Stories with a planted fault replace one."""

    line: type[Line] = Line
    results: type[ResultsLine] = ResultsLine
    settler: type[Settler] = Settler
    keeper: type[LeaseKeeper] = LeaseKeeper
    bury: Callable[..., list[Outcome]] = bury
    #: Settles jobs before they run.
    acks_first: bool = False


class Machine:
    """Where one node lives after the other."""

    def __init__(self, world: World, name: str, children: int) -> None:
        self.world = world
        self.name = name
        self.children = children
        self._lives = itertools.count(1)
        self._start()

    def _start(self) -> None:
        self.node = Node(self.world, self)

    def start_again(self, seconds: float) -> None:
        """Somebody does so when the node has ended."""
        self.world.after(seconds, self._start)

    def name_of_next(self) -> str:
        """For the next process."""
        return f"{self.name}/{next(self._lives)}"


class Node(Process):
    """A parent process: renews, buries and replaces."""

    def __init__(self, world: World, machine: Machine) -> None:
        super().__init__(machine.name, self)
        self.world = world
        self.machine = machine
        self.is_stopping = False
        self.options = WorkerOptions(
            name=self.name, queues=(QUEUE,), lease=LEASE, shortest_lease=SHORTEST_LEASE, max_attempts=MAX_ATTEMPTS
        )
        self.line = world.parts.line(world, self)
        self.results = world.parts.results(world, self)
        self.children: list[Child] = []
        self.unburied: list[Child] = []
        self.keeper = world.parts.keeper(
            self.line,
            LEASE,
            lambda: [child.incarnation for child in [*self.children, *self.unburied]],
            on_trouble=lambda _: None,
            every=self.options.renewed_every,
            clock=world.clock,
        )
        for _ in range(machine.children):
            self._spawn()
        world.after(0.0, self._keep, self)

    @property
    def processes(self) -> list[Process]:
        """All that live on this node now."""
        return [self, *self.children]

    def _spawn(self) -> None:
        if not self.is_stopping:
            self.children.append(Child(self.world, self, self.machine.name_of_next()))

    def _keep(self) -> None:
        self.world.after(self.keeper.turn(), self._keep, self)

    # Ends

    def kill(self, process: Process) -> None:
        """SIGKILL for one process. Children do not outlive their parent."""
        if process is self:
            self.kill_all()
        elif isinstance(process, Child) and process.is_alive:
            now = self.world.clock.time
            process.is_alive = False
            self.world.ledger.faults.append(Fault("kill", process.name, now, now))
            self.children.remove(process)
            self.unburied.append(process)
            self.world.after(0.01, partial(self._bury, process), self)

    def kill_all(self) -> None:
        """SIGKILL for the whole node; somebody starts it again."""
        if self.is_alive:
            now = self.world.clock.time
            for process in self.processes:
                process.is_alive = False
            self.world.ledger.faults.append(Fault("node killed", self.name, now, now))
            self.machine.start_again(self.world.random.uniform(0.5, 2 * LEASE))

    def stop_warmly(self) -> None:
        """SIGTERM: finish what runs, hand back the rest, end, and be started again."""
        if self.is_alive and not self.is_stopping:
            self.world.say(f"{self.name} is told to stop")
            self.is_stopping = True
            for child in self.children:
                self.world.after(0.001, child.stop, child)
            self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self.children or self.unburied:
            self.world.after(0.5, self._end_if_empty, self)
            return
        self.world.say(f"{self.name} has ended")
        self.is_alive = False
        self.machine.start_again(1.0)

    def has_ended(self, child: Child) -> None:
        """A child ended by itself."""
        child.is_alive = False
        self.children.remove(child)

    # What comes of what a dead child held; see Node._bury_now.

    def _bury(self, child: Child) -> None:
        world = self.world
        try:
            held = self.line.held(child.incarnation)
            death = Death(evidence="signal 9")
            outcomes = world.parts.bury(held, child.started, world.application, death, max_attempts=MAX_ATTEMPTS)
            if outcomes:
                world.parts.settler(self.line, self.results, child.incarnation, on_trouble=lambda _: None).settle(outcomes)
            self.line.release(child.incarnation)
        except (BrokerUnavailable, ResultsUnavailable):
            world.after(0.5, partial(self._bury, child), self)
            return
        self.unburied.remove(child)
        self._spawn()


class Child(Process):
    """A worker's process with one slot."""

    def __init__(self, world: World, node: Node, name: str) -> None:
        super().__init__(name, node)
        self.world = world
        self.incarnation = f"{name}-{world.random.getrandbits(32):x}"
        self.line = world.parts.line(world, self)
        self.results = world.parts.results(world, self)
        self.settler = world.parts.settler(self.line, self.results, self.incarnation, on_trouble=lambda _: None)
        self.receiver = Receiver(self.line, self.incarnation, node.options)
        self.started: dict[str, float] = {}
        self.backlog: list[tuple[Job, float]] = []
        self.running: Job | None = None
        self.outcomes: list[Outcome] = []
        self.batch: list[Outcome] = []
        self.look_ahead = world.random.choice([0, 0, 2, 5])
        self._ended = threading.Event()
        self._is_idle = False
        self._is_settling = False
        self._soon(self._poll)

    def _soon(self, step: Callable[[], None], longest: float = 0.02) -> None:
        self.world.after(self.world.random.uniform(0.001, longest), step, self)

    def ring(self) -> None:
        """There may be something to claim."""
        if self._is_idle:
            self._is_idle = False
            self._soon(self._poll)

    # receive → admit → secure → backlog

    def _poll(self) -> None:
        if self.node.is_stopping:
            return
        try:
            is_busy = self._receive()
        except BrokerUnavailable:
            self._soon(self._poll, longest=0.5)
            return
        # While there is room and nothing to claim: until something rings. While there is none: until a job has ended.
        self._is_idle = not is_busy
        if is_busy:
            self._soon(self._poll)

    def _receive(self) -> bool:
        room = 1 + self.look_ahead - len(self.backlog) - (self.running is not None)
        if room <= 0:
            return False
        looks = iter([[Claim(room, (QUEUE,))]])
        claimed = self.world.clock.time
        deliveries = self.receiver.receive(lambda: next(looks, []), self._ended)
        admitted = admit(deliveries, self.world.application, now=self.world.clock.now(), max_attempts=MAX_ATTEMPTS)
        self._put(*admitted.outcomes)
        try:
            self._secure(admitted.jobs)
        except (BrokerUnavailable, ResultsUnavailable):
            self._return(admitted.jobs)
            return True
        if self.node.is_stopping:
            self._return(admitted.jobs)
            return True
        self.backlog += [(job, claimed) for job in admitted.jobs]
        self._begin()
        return bool(deliveries)

    def _secure(self, jobs: list[Job]) -> None:
        """As Worker._secure_now does."""
        for job in jobs:
            if job.lease is not None and job.lease != LEASE:
                self.line.hold([job.delivery.tag], job.lease, incarnation=self.incarnation)
        repeated = [job for job in jobs if job.delivery.attempt > 1]
        if repeated:
            self.settler.fence(repeated)

    def _return(self, jobs: list[Job]) -> None:
        self._put(*(Outcome(job.delivery, job, "RETURNED", RETURN) for job in jobs))

    def _relieve(self, job: Job) -> None:
        """Hand back what waits behind a long job."""
        if self.running is job:
            self._give_up_backlog()

    def _give_up_backlog(self) -> None:
        jobs, self.backlog = self.backlog, []
        self._return([job for job, _ in jobs])

    # execute

    def _begin(self) -> None:
        if self.running is not None or not self.backlog:
            return
        job, claimed = self.backlog.pop(0)
        self.running = job
        self.started[job.delivery.tag] = self.world.clock.time
        run = Run(self.name, self.node.name, job.delivery.attempt, claimed, self.world.clock.time)
        self.world.ledger.runs[job.id].append(run)
        self.world.say(f"{self.name} begins {job.id}, attempt {job.delivery.attempt}")
        if self.world.parts.acks_first:
            self._put(Outcome(job.delivery, job, "RUNNING"))
        self.world.after(0.5, partial(self._relieve, job), self)
        self.world.after(headers_of(job.delivery)["seconds"], partial(self._end, job, run), self)

    def _end(self, job: Job, run: Run) -> None:
        run.ended = self.world.clock.time
        if job.delivery.attempt <= headers_of(job.delivery).get("kills", 0):
            self.world.say(f"{job.id} kills {self.name}")
            self.node.kill(self)
            return
        self.running = None
        self.world.say(f"{self.name} has ended {job.id}, attempt {job.delivery.attempt}")
        self._put(job.handler.run(job))
        self._begin()
        self.ring()

    # settle; as Settler._settle_patiently does: the batch is kept until it is carried out

    def _put(self, *outcomes: Outcome) -> None:
        self.outcomes += outcomes
        if self.outcomes and not self._is_settling:
            self._is_settling = True
            self._soon(self._settle, longest=0.1)

    def _settle(self) -> None:
        if not self.batch:
            self.batch, self.outcomes = self.outcomes, []
        try:
            self.settler.settle(self.batch)
        except (BrokerUnavailable, ResultsUnavailable):
            self._soon(self._settle, longest=1.0)
            return
        self.batch = []
        self._is_settling = False
        self._put()

    # stop

    def stop(self) -> None:
        """Hand back what has not begun, finish what has."""
        self._give_up_backlog()
        self._leave_when_done()

    def _leave_when_done(self) -> None:
        if self.running is not None or self.outcomes or self.batch:
            self._soon(self._leave_when_done, longest=0.3)
            return
        try:
            self.line.release(self.incarnation)
        except BrokerUnavailable:
            self._soon(self._leave_when_done, longest=1.0)
            return
        self.node.has_ended(self)
