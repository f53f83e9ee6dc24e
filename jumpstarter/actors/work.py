"""What tasks, loops, timers and health checks do while they run: the bodies of their activities, and what follows their errors.

Comes from: plan. Goes to: activities, which start and end these bodies. Tells: the host (events of their regions, failures).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from jumpstarter.actors.activities import Activity, Body, Run, unwrapped
from jumpstarter.actors.backoff import Restarts
from jumpstarter.actors.breakers import Circuit, region_name
from jumpstarter.actors.declare import CheckSpec
from jumpstarter.actors.health import Hysteresis
from jumpstarter.actors.port import HostPort
from jumpstarter.errors import Unwell

if TYPE_CHECKING:
    from jumpstarter.actors.plan import TaskPlan

logger = logging.getLogger(__name__)


def task_activities(host: HostPort, plan: TaskPlan) -> list[Activity]:
    """The activity of a task, timer or loop, and the one that waits for its restart."""
    body = _body(host, plan)
    restarts = Restarts(plan.spec.intensity)
    if plan.region is None:
        return [_unregioned(host, plan, body, restarts)]
    delay = [0.0]
    circuit = host.circuits.get(plan.name)

    def on_end(error: Exception | None) -> None:
        if error is None:
            if circuit is not None:
                circuit.succeeded()
            host.post(f"{plan.name}.done") if plan.spec.kind == "task" else None
            return
        if circuit is not None:
            delay[0] = _after_failure(plan, circuit, error)
            host.post(f"{plan.name}.fail", detail=error)
            return
        next_delay = restarts.next_delay(anyio.current_time())
        host.post(f"{plan.name}.fail", detail=error)
        if next_delay is None:
            host.fail(error)
            return
        delay[0] = next_delay
        logger.warning("%s: %s %r failed; again in %.3g s", host.name, plan.spec.kind, plan.name, next_delay, exc_info=error)

    async def wait(_: Run) -> None:
        await (anyio.sleep_forever() if math.isinf(delay[0]) else anyio.sleep(delay[0]))

    def retry(error: Exception | None) -> None:
        assert error is None
        host.post(f"{plan.name}.retry")

    main = Activity(
        plan.name,
        body,
        plan.states,
        on_end=on_end,
        permits=plan.during,
        zone=plan.zone,
        on_leave=plan.spec.on_leave,
        flows=plan.flows,
    )
    return [main, Activity(f"{plan.name}, retry", wait, (f"{plan.region}.failed",), on_end=retry, zone=frozenset())]


def _after_failure(plan: TaskPlan, circuit: Circuit, error: Exception) -> float:
    """Seconds until a task with a breaker is tried again; while the circuit is open, only its probe ends the wait."""
    is_open = circuit.failed(anyio.current_time(), error)
    return math.inf if is_open else plan.spec.intensity.retry.delay(1)


def check_activity(host: HostPort, name: str, spec: CheckSpec) -> Activity:
    """The activity of a health check."""

    async def body(_: Run) -> None:
        hysteresis = Hysteresis(spec.fail_after, spec.recover_after, spec.degrade_after)
        ill_since: float | None = None
        while True:
            due = anyio.current_time() + spec.every
            complaint = await _complaint(getattr(host.actor, name), spec.timeout)
            match hysteresis.note(succeeded=complaint is None):
                case "degraded":
                    host.post("report_warning", source=name, detail=complaint)
                case "failed":
                    host.post(f"report_{spec.severity}", source=name, detail=complaint)
                    ill_since = anyio.current_time() if ill_since is None else ill_since
                case "recovered":
                    host.post("recover", source=name)
                    ill_since = None
            if spec.unhealthy_for is not None and ill_since is not None:
                # It ends at the deadline, not at the first question after it.
                ends = ill_since + spec.unhealthy_for
                await anyio.sleep_until(min(due, ends))
                if anyio.current_time() >= ends:
                    raise Unwell(host.name, f"health check {name!r} failed", spec.unhealthy_for)
            await anyio.sleep_until(due)

    return Activity(f"check {name}", body, ("started",), on_end=_crash_on_error(host), zone=frozenset())


def timeout_activity(host: HostPort, state: str, seconds: float, event: str) -> Activity:
    """What sends the timeout event of a state, unless the state is left before."""

    async def body(_: Run) -> None:
        await anyio.sleep(seconds)

    def on_end(_: Exception | None) -> None:
        host.post(event)

    return Activity(f"timeout of {state}", body, (state,), on_end=on_end, zone=frozenset())


def circuit_activity(circuit: Circuit) -> Activity:
    """What lets a circuit that is open rest, and then be tried."""

    async def body(_: Run) -> None:
        await anyio.sleep(circuit.rest)

    def on_end(_: Exception | None) -> None:
        circuit.probe()

    state = f"started.{region_name(circuit.name)}.open"
    return Activity(f"rest of circuit {circuit.name}", body, (state,), on_end=on_end, zone=frozenset())


def trial_activity(circuit: Circuit) -> Activity:
    """What calls the trial of a task a success when it has lasted as long as failures count."""

    async def body(_: Run) -> None:
        await anyio.sleep(circuit.within)

    def on_end(_: Exception | None) -> None:
        circuit.succeeded()

    state = f"started.{region_name(circuit.name)}.half_open"
    return Activity(f"trial of circuit {circuit.name}", body, (state,), on_end=on_end, zone=frozenset())


def unwell_activity(host: HostPort) -> Activity:
    """What fails an actor that was unhealthy for too long."""

    async def body(_: Run) -> None:
        seconds = host.actor.unhealthy_for
        if seconds is None:
            return
        await anyio.sleep(seconds)
        concerns = ", ".join(f"{source} ({concern})" for source, concern in host.actor.concerns.items())
        raise Unwell(host.name, f"unhealthy because of {concerns}", seconds)

    on_end = _crash_on_error(host)
    return Activity("unhealthy_for", body, ("started.health.unhealthy",), on_end=on_end, zone=frozenset())


async def _complaint(check: Callable[[], Awaitable[object]], limit: float) -> object:
    """None when all is well, else what is wrong."""
    try:
        with anyio.fail_after(limit):
            answer = await check()
    except Exception as error:  # noqa: BLE001 - a check that fails in whatever way counts as failed
        return unwrapped(error) if str(error) else type(error).__name__
    return None if answer is None or answer else f"answered {answer!r}"


def _unregioned(host: HostPort, plan: TaskPlan, body: Body, restarts: Restarts) -> Activity:
    """A task that runs outside of ``started`` as well has no region there: it restarts itself."""

    async def again(run: Run) -> None:
        while True:
            try:
                return await body(run)
            except Exception as error:
                delay = restarts.next_delay(anyio.current_time())
                if delay is None:
                    raise
                logger.warning("%s: task %r failed; again in %.3g s", host.name, plan.name, delay, exc_info=error)
            await anyio.sleep(delay)

    on_leave = plan.spec.on_leave
    return Activity(plan.name, again, plan.states, on_end=_crash_on_error(host), zone=plan.zone, on_leave=on_leave)


def _crash_on_error(host: HostPort) -> Callable[[Exception | None], None]:
    def on_end(error: Exception | None) -> None:
        if error is not None:
            host.fail(error)

    return on_end


def _body(host: HostPort, plan: TaskPlan) -> Body:
    match plan.spec.kind:
        case "loop":
            return _loop(host, plan)
        case "timer":
            return _timer(host, plan)
        case "task":
            return _task(host, plan)


def _task(host: HostPort, plan: TaskPlan) -> Body:
    async def body(_: Run) -> None:
        await getattr(host.actor, plan.name)()

    return body


def _timer(host: HostPort, plan: TaskPlan) -> Body:
    every = plan.spec.every

    async def body(_: Run) -> None:
        due = anyio.current_time() + every
        while True:
            await anyio.sleep_until(due)
            await getattr(host.actor, plan.name)()
            # What fell due meanwhile is skipped, and the rhythm is kept.
            due += every * max(1, math.ceil((anyio.current_time() - due) / every))

    return body


def _loop(host: HostPort, plan: TaskPlan) -> Body:
    assert plan.loop is not None
    first, *others = (getattr(host.actor, plan.loop.methods[stage]) for stage in plan.loop.stages)
    first_event, *other_events = (f"{plan.name}.{stage}" for stage in plan.loop.stages)

    async def enter(event: str) -> None:
        host.post(event)
        host.pump()
        # The step may have suspended this very loop.
        await checkpoint_if_cancelled()

    async def poll(run: Run) -> Any:
        if not others:
            return await first()
        # Until the first of several stages has returned there is nothing in hand, so leaving may interrupt it.
        with anyio.CancelScope() as run.nap:
            return await first()
        return None

    async def body(run: Run) -> None:
        idle = 0
        while not run.is_leaving:
            value = await poll(run)
            run.nap = None
            if value is not None:
                idle = 0
                for stage, event in zip(others, other_events, strict=True):
                    await enter(event)
                    value = await stage(value)
                await checkpoint()  # stages that never wait would shut everybody else out
            elif not run.is_leaving:
                idle += 1
                await enter(f"{plan.name}.waiting")
                with anyio.CancelScope() as run.nap:
                    await anyio.sleep(plan.spec.idle.delay(idle))
                run.nap = None
            if not run.is_leaving:
                await enter(first_event)

    return body
