"""Put a worker together and run it: as this process (a node with children, or solo), or embedded in a thread of this process.

The only place that knows workers, executors and processes at once.
"""

from __future__ import annotations

import gc
import importlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import anyio
import anyio.to_thread

from jumpstarter.abc.application import Application
from jumpstarter.abc.broker import Broker
from jumpstarter.abc.executor import Executor
from jumpstarter.abc.results import Results
from jumpstarter.actors import Actor
from jumpstarter.actors.threads import Doorbell
from jumpstarter.errors import ActorCrashed, ActorError
from jumpstarter.executors import CallingThreadExecutor, ForkTemplate, InlineExecutor, LoopExecutor, ThreadExecutor
from jumpstarter.telemetry import configure
from jumpstarter.worker import Node, Parts, Worker, WorkerOptions
from jumpstarter.worker.beside import reasons, run_beside
from jumpstarter.worker.child import loop_options, run_child
from jumpstarter.worker.children import SEATS
from jumpstarter.worker.link import PARKED, RETIRING, Link
from jumpstarter.worker.marks import Marks
from jumpstarter.worker.probe import facts, tell_probes
from jumpstarter.worker.remote import Beside, Remote

logger = logging.getLogger(__name__)

ActorT = TypeVar("ActorT", bound=Actor)

#: Seconds within which a signal that comes again is the same one: `timeout` and some supervisors send it to the process and to its
#: group, and nobody who sees that a worker does not stop says so that soon.
_ONE_SIGNAL = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSetup:
    """All that a node needs.

    :ivar on_ready: called in the node's process once all children are ready.
    :ivar on_stopping: called there when a signal to stop arrives, with its number and the kind of shutdown: ``warm``, ``soft`` or
        ``cold``.
    :ivar worker_class: the actor that runs in each child.
    :ivar statefile: a file that is kept up to date for ``jumpstarter probe``.
    :ivar beside: what else lives in the node's process while it is ready, in threads of its own.
    """

    application: Application
    broker: Broker
    results: Results | None
    options: WorkerOptions
    on_ready: Callable[[], None] = lambda: None
    on_stopping: Callable[[int, str], None] = lambda _signal, _how: None
    worker_class: type[Worker] = Worker
    statefile: str | None = None
    beside: Beside | None = None


def run_node(setup: NodeSetup) -> int:
    """Run a worker in this process until it is told to stop (SIGTERM, SIGINT); answer the exit code.

    To be called in the main thread, with no other thread running: children are forked from here.

    :raises BrokerUnavailable: the broker does not answer at the start.
    :raises ResultsUnavailable: the same for the results.
    """
    setup.broker.ping()
    if setup.results is not None:
        setup.results.ping()
    if setup.options.pool == "solo":
        return _run_solo(setup)
    _preload(setup)
    # What is there by now stays: kept from the garbage collector, its pages remain shared with the children.
    gc.collect()
    gc.freeze()
    marks, template = _fork_template(setup)
    telemetry = configure(_service(setup))
    try:
        return _run_actor(setup, lambda: _node(setup, marks, template), lambda node: node.kill())
    finally:
        telemetry.shutdown(5)


def _service(setup: NodeSetup) -> str:
    return os.environ.get("OTEL_SERVICE_NAME", setup.application.name)


def _fork_template(setup: NodeSetup) -> tuple[Marks, ForkTemplate]:
    options = setup.options
    marks = Marks(options.children * SEATS, options.all_slots)

    def child(seat: int, incarnation: str, channel: socket.socket) -> int:
        return _child_main(setup, marks, seat, incarnation, channel)

    return marks, ForkTemplate(child, rlimits=options.rlimits)


def _preload(setup: NodeSetup) -> None:
    """Import and compile what every process of the node will need, so that they share it: 20 MB less with two children."""
    backend = setup.options.backend
    importlib.import_module(f"anyio._backends._{backend}")
    importlib.import_module("jumpstarter.telemetry._live")
    loop_options(backend)
    setup.worker_class.prepare(setup.options)
    Node.prepare(setup.options)


def _node(setup: NodeSetup, marks: Marks, template: ForkTemplate) -> Node:
    return Node(setup.options, setup.application, setup.broker, setup.results, template, marks)


def _child_main(setup: NodeSetup, marks: Marks, seat: int, incarnation: str, channel: socket.socket) -> int:
    """The life of a child process, in its main thread."""
    options = setup.options
    index = seat % options.children
    # What log formats show as %(processName)s.
    multiprocessing.current_process().name = f"child-{index}"
    setup.application.child_started()
    telemetry = configure(_service(setup))
    link = Link(channel)
    worker = setup.worker_class(
        _parts(setup),
        options,
        incarnation,
        name=f"{options.name}/{index}",
        marks=marks.ring(seat),
        on_parked=lambda: link.say(PARKED),
        on_retiring=lambda: link.say(RETIRING),
        leave=lambda: _leave(setup, telemetry),
    )
    executor = worker.executor
    try:
        return run_child(
            worker,
            link,
            serve=executor.serve if isinstance(executor, CallingThreadExecutor) else None,
            close_executor=lambda: _close(worker),
            backend=options.backend,
        )
    finally:
        setup.application.child_stopping()
        telemetry.shutdown(5)


def _leave(setup: NodeSetup, telemetry: Any) -> NoReturn:
    """End a child in which jobs run that never end: all else is settled."""
    setup.application.child_stopping()
    telemetry.shutdown(5)
    os._exit(0)


def _parts(setup: NodeSetup) -> Parts:
    def make_executor(run: Any, on_outcome: Any, on_slot: Any) -> Executor:
        match setup.options.pool:
            case "prefork":
                return CallingThreadExecutor(run, on_outcome, on_slot)
            case "solo":
                return InlineExecutor(run, on_outcome, on_slot)
            case _:
                return ThreadExecutor(setup.options.sync_slots, run, on_outcome, on_slot)

    return Parts(
        application=setup.application,
        broker=setup.broker,
        results=setup.results,
        make_executor=make_executor,
        make_thread_executor=ThreadExecutor,
        make_loop_executor=LoopExecutor,
    )


def _close(worker: Worker) -> None:
    """End the threads of its slots."""
    for executor in worker.executors.values():
        if isinstance(executor, ThreadExecutor | CallingThreadExecutor):
            executor.close()


def _in_process_worker(setup: NodeSetup) -> Worker:
    return setup.worker_class(_parts(setup), setup.options, uuid.uuid4().hex, keeps_lease=True)


def _run_solo(setup: NodeSetup) -> int:
    setup.application.child_started()
    telemetry = configure(_service(setup))
    try:
        # Nothing outlives this process that could be left behind: a cold stop just ends it, and the lease runs out.
        return _run_actor(setup, lambda: _in_process_worker(setup), lambda _worker: os._exit(1))
    finally:
        setup.application.child_stopping()
        telemetry.shutdown(5)


def _run_actor(setup: NodeSetup, make: Callable[[], ActorT], kill: Callable[[ActorT], None]) -> int:
    """Host the actor until it stops, and obey the process's signals."""
    options = setup.options
    try:
        anyio.run(_host, setup, make, kill, backend=options.backend, backend_options=loop_options(options.backend))
    except ActorCrashed as error:
        logger.error("%s", reasons(error))
        logger.debug("the crash in full", exc_info=error.__cause__)
        return 1
    return 0


async def _host(setup: NodeSetup, make: Callable[[], ActorT], kill: Callable[[ActorT], None]) -> None:
    actor = make()
    companions: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        partial(_obey_signals, setup, actor, kill),
        partial(_accompany, setup, actor, Doorbell(), setup.on_ready),
    ]
    if setup.statefile is not None:
        companions.append(partial(tell_probes, setup.statefile, partial(_facts, actor)))
    await run_beside(actor, *companions)


async def _accompany(setup: NodeSetup, actor: Actor, doorbell: Doorbell, on_ready: Callable[[], object]) -> None:
    """Have what lives beside the node begin when it has started, then announce it; end it when the node has."""
    try:
        await actor.wait("started")
    except ActorError:
        return
    if setup.beside is None:
        on_ready()
        return
    assert isinstance(actor, Node | Worker)
    end = await anyio.to_thread.run_sync(setup.beside, Remote(actor, doorbell, setup.options))
    try:
        on_ready()
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(end)


def _facts(actor: Actor) -> Mapping[str, Any]:
    return facts(actor, actor.child_states if isinstance(actor, Node) else {})


async def _obey_signals(setup: NodeSetup, actor: ActorT, kill: Callable[[ActorT], None]) -> None:
    """SIGTERM and SIGINT: warm, finish what runs. The second of them, or SIGQUIT: cold, end the children now and hand back what
    they had begun; with ``soft_shutdown``, only after so many seconds or at the next signal."""
    steps = _Steps(setup.options.soft_shutdown)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT) as signals:
        async with anyio.create_task_group() as group:
            async for number in signals:
                step = steps.next(number, anyio.current_time())
                if step is None:
                    continue
                logger.warning("%s shutdown (%s)%s", step, signal.Signals(number).name, _PROSPECTS[step])
                setup.on_stopping(number, step)
                if step == "cold":
                    kill(actor)
                    continue
                actor.post("stop")
                if step == "soft":
                    group.start_soon(_kill_after, setup.options.soft_shutdown, partial(kill, actor))


async def _kill_after(seconds: float, kill: Callable[[], None]) -> None:
    await anyio.sleep(seconds)
    logger.warning("cold shutdown: the %g s of the soft one are over", seconds)
    kill()


_PROSPECTS = {
    "warm": ": finishing what runs; repeat to end at once",
    "soft": ": what runs is handed back if it does not finish in time; repeat to end at once",
    "cold": ": what runs is handed back",
}


class _Steps:
    """Which kind of shutdown a signal asks for. Celery's names: ``warm``, ``soft``, ``cold``."""

    def __init__(self, soft_shutdown: float) -> None:
        self._soft_shutdown = soft_shutdown
        self._last: str | None = None
        self._last_at = 0.0
        #: As Celery: a supervisor that only knows SIGTERM can ask for the quicker way.
        self._term_is_quit = os.environ.get("REMAP_SIGTERM") == "SIGQUIT"

    def next(self, number: int, now: float) -> str | None:
        """The kind, or None for the same signal come twice."""
        is_quit = number == signal.SIGQUIT or (number == signal.SIGTERM and self._term_is_quit)
        if self._last is not None and now - self._last_at < _ONE_SIGNAL and not (is_quit and self._last == "warm"):
            return None
        if self._last is None and not is_quit:
            step = "warm"
        elif self._soft_shutdown > 0 and self._last in (None, "warm"):
            step = "soft"
        else:
            step = "cold"
        self._last, self._last_at = step, now
        return step


class EmbeddedNode:
    """A worker in a thread of this process, for notebooks and tests. A context manager: ready when entered, stopped when left.

    ``threads``, ``async`` and ``solo`` run the jobs in this process; ``prefork`` forks its children from the node's thread.
    """

    def __init__(self, setup: NodeSetup) -> None:
        self._setup = setup
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._actor: Actor | None = None
        self._doorbell: Doorbell | None = None
        self._thread = threading.Thread(target=self._live, name=f"node {setup.options.name}", daemon=True)

    def start(self) -> None:
        """Start and wait until it is ready.

        :raises ActorCrashed: it could not start; the reason is the cause.
        :raises BrokerUnavailable: the broker does not answer.
        """
        self._setup.broker.ping()
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self, timeout: float | None = None) -> bool:
        """Finish what runs and end; wait ``timeout`` seconds for it (None: as long as it takes). True once it has ended."""
        if self._actor is not None:
            self._actor.post("stop")
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def call_soon(self, call: Callable[[], object]) -> None:
        """Have something called on the node's loop, from any thread. Not before it is ready."""
        assert self._doorbell is not None, "start() comes first"
        self._doorbell.ring(call)

    @property
    def actor(self) -> Actor:
        """The worker, or the node of a prefork pool."""
        assert self._actor is not None, "start() comes first"
        return self._actor

    def _live(self) -> None:
        setup, options = self._setup, self._setup.options
        forks = options.pool == "prefork"
        try:
            if forks:
                marks, template = _fork_template(setup)
                self._actor = _node(setup, marks, template)
            else:
                setup.application.child_started()
                self._actor = _in_process_worker(setup)
            anyio.run(self._host, self._actor, backend=options.backend, backend_options=loop_options(options.backend))
        except BaseException as error:
            self._failure = error
            if self._ready.is_set():
                logger.exception("the embedded node %s ended with an error", options.name)
        finally:
            if isinstance(self._actor, Worker):
                _close(self._actor)
                setup.application.child_stopping()
            self._ready.set()

    async def _host(self, actor: Actor) -> None:
        doorbell = self._doorbell = Doorbell()
        await run_beside(actor, partial(_accompany, self._setup, actor, doorbell, self._is_ready))

    def _is_ready(self) -> None:
        self._setup.on_ready()
        self._ready.set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()
