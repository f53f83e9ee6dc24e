"""The actor: what users subclass and what others call. Its life is run by its host.

Comes from: users and the worker. Goes to: plan (when a class is created), host (everything else).
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import anyio

from jumpstarter.actors.backoff import Backoff
from jumpstarter.actors.checks import check_declarations
from jumpstarter.actors.declare import During, Resource, states_of
from jumpstarter.actors.family import ChildSpec, RestartWhen, Strategy
from jumpstarter.actors.health import Concern
from jumpstarter.actors.host import Host
from jumpstarter.actors.letters import Letter, Mailbox
from jumpstarter.actors.messages import Command, Message
from jumpstarter.actors.modes import State
from jumpstarter.actors.plan import Declared, Plan, declared, frozen, make_plan
from jumpstarter.actors.ref import ASK_TIMEOUT, ActorRef, ask, desk_for
from jumpstarter.actors.threads import DedicatedThread
from jumpstarter.actors.timers import Timer
from jumpstarter.actors.view import StateView
from jumpstarter.actors.waiting import Waiter
from jumpstarter.actors.watching import link, monitor
from jumpstarter.errors import ActorCrashed, ActorError, ConfigurationError, StopTimeout
from jumpstarter.states import Chart

R = TypeVar("R")
A = TypeVar("A", bound="Actor")

_names: dict[str, itertools.count[int]] = {}


class Actor:
    """A component whose life is a hierarchical state machine.

    Subclasses declare resources, tasks, loops, timers and health checks, and override the hooks ``on_start`` … ``on_stopped``. To
    run one: ``await run(actor)``, or ``async with hosted(actor)``.

    :ivar name: unique in this process when it is not given: the class's, with a number from the second on.
    """

    #: Seconds that starting may take in all; None for no limit.
    start_timeout: float | None = None
    #: Seconds for draining when the actor stops: ``on_stopping``, and what finishes instead of being cancelled.
    stop_grace: float = 30.0
    #: Seconds for the release of each resource that has no limit of its own.
    release_timeout: float = 10.0
    #: How long to wait before a restart; grows while restarts follow each other.
    restart_backoff: Backoff = Backoff(0.1, 30.0)
    #: How many messages may wait, and what happens when there is no room.
    mailbox: Mailbox = Mailbox()
    #: What happens when a child has crashed.
    strategy: Strategy = Strategy()
    #: Seconds of being unhealthy after which the actor fails, so that its supervisor restarts it; None: never.
    unhealthy_for: float | None = None

    _declared: ClassVar[Declared]
    _plans: ClassVar[dict[Any, Plan]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._declared = declared(cls)
        check_declarations(cls, cls._declared)
        cls._plans = {}
        regions = inspect.getattr_static(cls, "regions")
        if isinstance(regions, classmethod):
            cls._plan_for(regions.__get__(None, cls)())
        elif regions is vars(Actor)["regions"]:
            cls._plan_for({})

    def __init__(self, *, name: str | None = None) -> None:
        self.name = name if name is not None else _unique(type(self).__name__)
        self._host = Host(self, self.name, self._plan_for(self.regions()))

    def regions(self) -> Mapping[str, Mapping[str, Any]]:
        """Further regions of ``started``, by name: definitions with ``states``, ``initial`` and ``transitions``.

        Asked for once per instance, before ``__init__`` of :class:`Actor` returns; as a class method once per class. Callbacks
        named in it are methods of the actor.
        """
        return {}

    # -- hooks --

    async def on_start(self) -> None:
        """All resources are held; what it does not finish keeps the actor in ``starting``. An error crashes the actor."""

    async def on_ready(self) -> None:
        """The actor has started, its tasks begin. Cancelled when ``started`` is left. An error crashes the actor."""

    async def on_stopping(self) -> None:
        """The actor drains: tasks are cancelled or finishing, resources are held. Within the grace. Only if it had started."""

    async def on_failure(self, error: BaseException) -> None:
        """The actor fails: its tasks have ended, its resources are still held."""

    async def on_stopped(self) -> None:
        """Everything is released; the actor is about to be ``stopped`` or ``crashed``."""

    async def on_error(self, message: Any, error: Exception) -> None:  # noqa: ARG002 - for those who override it
        """A message that was told, not asked, could not be handled; it is a dead letter now. As it is, it raises the error, and an
        error in it crashes the actor. Override it to go on with the next message."""
        raise error

    # -- from any thread --

    @property
    def state(self) -> StateView:
        """The active states, as they were after the last step. From any thread."""
        return self._host.state

    @property
    def chart(self) -> Chart:
        """The compiled chart of its class; ``chart.mermaid()`` draws it. From any thread."""
        return self._host.plan.chart

    @property
    def concerns(self) -> Mapping[str, Concern]:
        """What is wrong, by source; health is the worst of it. From any thread."""
        return self._host.health.concerns

    @property
    def failure(self) -> BaseException | None:
        """Why the actor fails or crashed. From any thread."""
        return self._host.failure

    @property
    def threads(self) -> Mapping[str, DedicatedThread]:
        """The threads of the resources that have one of their own and are held, by name."""
        return MappingProxyType(self._host.threads)

    def post(self, event: str, /, **data: Any) -> None:
        """Queue an event for the chart; its hooks get the data. Never blocks; from any thread and from signal handlers.

        An event that no active state has a transition for does nothing.

        :raises ActorError: no transition of the chart has such an event.
        """
        if event not in self._host.plan.events:
            self._host.plan.require_event(event)
        self._host.enqueue(event, data, None)

    def report_warning(self, source: str, detail: object = None) -> None:
        """Say that something works worse: the actor is at least ``degraded`` until the source recovers. From any thread."""
        self._host.post("report_warning", source=source, detail=detail)

    def report_problem(self, source: str, detail: object = None) -> None:
        """Say that something does not work: the actor is ``unhealthy`` until the source recovers. From any thread."""
        self._host.post("report_problem", source=source, detail=detail)

    def recover(self, source: str) -> None:
        """Take back what this source reported. From any thread."""
        self._host.post("recover", source=source)

    def report_lost(self, resource: str, error: BaseException | None = None) -> None:
        """Say that a resource which is held does not work any more: it is released and acquired anew. From any thread."""
        if resource not in (one.name for one in self._host.plan.resources):
            raise ActorError(f"{self.name} has no resource {resource!r}")
        self._host.post("resource_lost", resource=resource, error=error)

    def fail(self, error: BaseException) -> None:
        """Crash the actor with this cause; what it holds is released first. From any thread."""
        self._host.fail(error)

    # -- messages: from any thread; what is awaited, from any event loop --

    @property
    def ref(self) -> ActorRef:
        """What to hand to others: it can be told, asked and compared."""
        return ActorRef(self._host)

    @property
    def mailbox_depth(self) -> int:
        """How many messages wait, those included that were put aside."""
        return self._host.desk.depth if self._host.desk is not None else 0

    @property
    def dead_letters(self) -> int:
        """How many messages for this actor were not handled; see :data:`jumpstarter.actors.dead_letters` for which."""
        return self._host.desk.dead if self._host.desk is not None else 0

    async def tell(self, message: Message) -> None:
        """See :meth:`ActorRef.tell`."""
        desk, letter = desk_for(self._host, message), Letter(message)
        if not desk.offer(letter):
            await desk.put(letter)

    def tell_nowait(self, message: Message) -> None:
        """See :meth:`ActorRef.tell_nowait`."""
        desk_for(self._host, message).put_nowait(Letter(message))

    async def ask(self, message: Command[R], *, timeout: float = ASK_TIMEOUT) -> R:  # noqa: ASYNC109 - a deadline is part of asking
        """See :meth:`ActorRef.ask`."""
        answer: R = await ask(self._host, message, timeout)
        return answer

    # -- from its own methods, in the loop that hosts it --

    @property
    def message_id(self) -> str | None:
        """In a handler: the id of the message if it came from another process. It is the same when the message comes again, which
        it may: delivery is at least once."""
        letter = self._host.desk.current if self._host.desk is not None else None
        return getattr(letter, "id", None)

    def postpone(self) -> None:
        """In a handler: put the message aside, to be handled again when a state has changed that handlers are bound to.

        :raises ActorError: no message is being handled.
        """
        if self._host.desk is None or not self._host.desk.postpone():
            raise ActorError(f"{self.name}: postpone() is for handlers, while they handle a message")

    def send_after(self, seconds: float, what: Message | str, *, name: str | None = None, during: During = None) -> None:
        """Tell itself a message, or post itself an event, after so many seconds.

        :param name: by which it can be cancelled, and is replaced; default: that of the message's class or of the event.
        :param during: states; it is cancelled when the last of them is left, and not started when none is active.
        :raises ActorError: the actor is neither starting nor started.
        :raises NotHandled: it has no handler for such messages.
        """
        self._start_timer(seconds, what, name, during, every=False, is_silence=False)

    def send_every(self, seconds: float, what: Message | str, *, name: str | None = None, during: During = None) -> None:
        """As :meth:`send_after`, again and again."""
        self._start_timer(seconds, what, name, during, every=True, is_silence=False)

    def send_after_silence(self, seconds: float, what: Message | str, *, name: str | None = None, during: During = None) -> None:
        """As :meth:`send_after`, once no message was handled for so many seconds."""
        self._start_timer(seconds, what, name, during, every=False, is_silence=True)

    def cancel_timer(self, name: str) -> bool:
        """Cancel what was to be sent. True when there was something."""
        return self._host.timers is not None and self._host.timers.cancel(name)

    async def spawn(self, child: A, *, restart: RestartWhen = "never", significant: bool = False) -> A:
        """Run another actor as a child of this one, and wait until it has started. It is stopped when this one stops.

        :param restart: see :func:`~jumpstarter.actors.child`.
        :param significant: when it ends and is not to be restarted, this actor stops (after a crash: fails).
        :raises ActorCrashed: it crashed and is not restarted.
        :raises ActorError: this actor is neither starting nor started, or the child runs already.
        """
        return await self._host.make_family().spawn(child, ChildSpec(restart=restart, significant=significant))

    @property
    def family(self) -> tuple[Actor, ...]:
        """Its children, in the order of their start."""
        return self._host.family.actors if self._host.family is not None else ()

    def monitor(self, other: Actor | ActorRef) -> Callable[[], None]:
        """Have a :class:`~jumpstarter.actors.Down` told to this actor when the other one stops or crashes, until the returned
        function is called.

        :raises NotHandled: it has no handler for :class:`Down`.
        """
        return monitor(self._host, other._host)

    def link(self, other: Actor | ActorRef) -> Callable[[], None]:
        """When one of the two crashes, the other fails as well, until the returned function is called."""
        return link(self._host, other._host)

    # -- from any task of the event loop that hosts it --

    async def start(self) -> None:
        """Start, and wait until it has started. Returns at once when it has.

        :raises ActorCrashed: it failed while starting; the reason is the ``__cause__``.
        :raises ActorError: nobody hosts it, or it was stopped meanwhile.
        """
        self._require_host("start")
        await self._request("start", lambda state: "started" in state.active, "started")

    async def stop(self, *, grace: float | None = None) -> None:
        """Stop, and wait until it has stopped or crashed. Does nothing when it is at rest.

        :param grace: seconds for draining, in place of ``stop_grace``; 0 cancels at once. A second call can only shorten it.
        :raises StopTimeout: something ignores its cancellation, or a release hangs. The actor goes on stopping.
        """
        if not self._host.is_serving:
            return
        limit = self.stop_grace if grace is None else grace
        waiter = Waiter(lambda _: self._host.is_at_rest)
        self._host.enqueue("stop", {"grace": limit}, waiter)
        with anyio.move_on_after(self._host.patience(limit)) as scope:
            await waiter.over.wait()
        if scope.cancelled_caught:
            raise StopTimeout(self.name, limit)

    async def restart(self) -> None:
        """Stop, back off, start again, and wait until it has started. From ``started`` or ``crashed``.

        :raises ActorCrashed: it failed on its way.
        :raises ActorError: it can not be restarted from where it is.
        """
        self._require_host("restart")
        await self._request("restart", lambda state: "started" in state.active, "started", refusable=True)

    async def pause(self) -> None:
        """Suspend tasks, loops and timers, and wait until they have ended (or until somebody resumes).

        :raises ActorError: it has not started.
        """
        self._require_host("pause")
        await self._request(
            "pause", lambda state: "started" in state.active and "started.flow.pausing" not in state.active, "paused"
        )

    async def resume(self) -> None:
        """Let tasks, loops and timers run again.

        :raises ActorError: it has not started.
        """
        self._require_host("resume")
        await self._request("resume", lambda state: "started.flow.running" in state.active, "started.flow.running")

    async def wait(self, state: str | State) -> None:
        """Wait until the state is active; see :meth:`StateView.matches`. For a child that will be restarted, beyond its crash.

        :raises ActorCrashed: the actor crashed instead.
        :raises ActorError: the actor stopped instead.
        :raises DefinitionError: there is no such state.
        """
        path = self._host.plan.names.find(state, "wait: ")
        waiter = Waiter(lambda view: path in view.active, is_patient=True)
        self._host.watch(waiter, at_rest="crashed" in self.state.active)
        await self._over(waiter, path)

    async def wait_stopped(self) -> None:
        """Wait until it has stopped.

        :raises ActorCrashed: it crashed; the reason is the ``__cause__``.
        """
        waiter = Waiter(lambda view: view.active[0] in ("stopped", "crashed"))
        self._host.watch(waiter)
        await waiter.over.wait()
        self._raise_crash()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.state}>"

    # -- inside --

    def _start_timer(
        self, seconds: float, what: Message | str, name: str | None, during: During, *, every: bool, is_silence: bool
    ) -> None:
        if isinstance(what, str):
            if what not in self._host.plan.events:
                self._host.plan.require_event(what)
        else:
            desk_for(self._host, what)
        if not seconds > 0:
            raise ConfigurationError(f"a timer takes more than 0 seconds, not {seconds!r}")
        states = frozenset(self._host.plan.names.find(state, "timer: ") for state in states_of(during))
        timer = Timer(seconds, what, every=every, during=states, is_silence=is_silence)
        own_name = what if isinstance(what, str) else type(what).__name__
        self._host.make_timers().start(self._host.task_group, name or own_name, timer)

    @classmethod
    def _plan_for(cls, regions: Mapping[str, Mapping[str, Any]]) -> Plan:
        if "_plans" not in vars(cls):  # Actor itself
            cls._declared, cls._plans = declared(cls), {}
        key = frozen(regions)
        plan = cls._plans.get(key)
        if plan is None:
            plan = cls._plans[key] = make_plan(cls, cls._declared, regions)
        return plan

    async def _request(self, event: str, is_met: Any, state: str, *, refusable: bool = False) -> None:
        waiter = Waiter(is_met)
        before = str(self.state)
        self._host.enqueue(event, {}, waiter)
        await waiter.over.wait()
        if refusable and not waiter.was_handled:
            raise ActorError(f"{self.name} cannot {event} while it is {before}")
        await self._over(waiter, state)

    async def _over(self, waiter: Waiter, state: str) -> None:
        await waiter.over.wait()
        if waiter.has_missed:
            self._raise_crash()
            raise ActorError(f"{self.name} is {self.state} and did not get to {state!r}")

    def _raise_crash(self) -> None:
        if "crashed" in self.state.active:
            raise ActorCrashed(self.name) from self.failure

    def _require_host(self, what: str) -> None:
        if not self._host.is_serving:
            raise ActorError(f"{self.name} cannot {what}: nobody hosts it; use 'await run(actor)' or 'async with hosted(actor)'")

    def _missing(self, resource: Resource[Any]) -> Any:
        """What an attribute of a resource is while the resource is not held."""
        if resource.optional:
            return None
        raise ActorError(f"{self.name}: resource {resource.name!r} is not held now; the actor is {self.state}")

    # Guards of the life cycle.

    def _has_failed(self) -> bool:
        return self._host.failure is not None

    def _is_healthy(self) -> bool:
        return self._host.health.level == "healthy"

    def _is_degraded(self) -> bool:
        return self._host.health.level == "degraded"

    def _is_unhealthy(self) -> bool:
        return self._host.health.level == "unhealthy"


def _unique(name: str) -> str:
    number = next(_names.setdefault(name, itertools.count(1)))
    return name if number == 1 else f"{name}-{number}"
