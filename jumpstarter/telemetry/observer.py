"""Turns transitions into spans, log events and metrics. Comes from: the bus. Goes to: the process's OpenTelemetry providers.

Every transition is a log event ``jumpstarter.state.transition``: it is exported soon, and so survives a crash that would take an
unfinished span with it. Transitions of a machine's life and of its health are also short spans. Those between the beginning of a
start, stop or restart and its end form one trace::

    start Worker                      from initializing → starting to … → started
      Worker starting
      acquire db                      acquiring → held
      Worker starting.tasks
      Worker started
    Worker started.health.degraded    a trace of its own

A step of an operation covers the time in the state it left; a step out of rest is a point in time.

There is never a span for a long-lived state, because a span is exported at its end; ``jumpstarter.actor.status`` tells those.

Nothing is locked: the steps of one machine come one after the other, and what machines share is touched by single dict operations.
A lock held here while the SDK takes its own would meet the exporter's thread, which holds the SDK's and asks for the statuses.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from jumpstarter.telemetry._live import SCOPE
from jumpstarter.telemetry.bus import StateTransition
from jumpstarter.telemetry.measures import Measure, measures
from jumpstarter.telemetry.tracing import is_real

EVENT_NAME = "jumpstarter.state.transition"

_SEVERITIES = {
    "info": (SeverityNumber.INFO, "INFO"),
    "warning": (SeverityNumber.WARN, "WARN"),
    "error": (SeverityNumber.ERROR, "ERROR"),
}

#: A state of the life that opens an operation → the name of the operation.
_OPENING = {"starting": "start", "stopping": "stop", "restarting": "restart"}
#: States of the life in which no operation is under way.
_RESTING = frozenset({"initializing", "started", "stopped", "crashed"})
_ENDED = frozenset({"stopped", "crashed"})
#: A state of a resource that takes its time → the name of what is done meanwhile.
_RESOURCE_VERBS = {"acquiring": "acquire", "releasing": "release"}
RESOURCES = "resources."

_ROOT = Context()


#: (kind, region, state) → how many machines.
Statuses = Tally[tuple[str, str, str]]


def head(path: str) -> str:
    """``starting.resources.db`` → ``starting``."""
    return path.partition(".")[0]


def leaf(path: str) -> str:
    """``started.health`` → ``health``."""
    return path.rpartition(".")[2]


def span_name(event: StateTransition) -> str | None:
    """The name of the span of a transition; None for the machine's work and for the entry of an initial state, which make none."""
    if event.source == "":
        return None
    if event.region.startswith(RESOURCES):
        verb = _RESOURCE_VERBS.get(event.source)
        return f"{verb} {event.region.removeprefix(RESOURCES)}" if verb else None
    is_life = event.region == "" or leaf(event.region) == "health"
    return f"{event.kind} {event.target}" if is_life else None


def attributes_of(event: StateTransition) -> dict[str, AttributeValue]:
    """What a log event or a span says about a transition. Facts without a prefix get ``jumpstarter.``."""
    attributes: dict[str, AttributeValue] = {
        "jumpstarter.machine": event.machine,
        "jumpstarter.kind": event.kind,
        "jumpstarter.region": event.region,
        "jumpstarter.from": event.source,
        "jumpstarter.to": event.target,
        "jumpstarter.trigger": event.trigger,
    }
    for key, value in event.attributes.items():
        attributes[key if "." in key else f"jumpstarter.{key}"] = (
            value if isinstance(value, bool | int | float | str) else str(value)
        )
    return attributes


@dataclass(slots=True)
class _Machine:
    """What is remembered of one machine while it lives: its open operation, and the state of each region."""

    kind: str
    operation: Span | None = None
    context: Context = field(default_factory=lambda: _ROOT)
    regions: dict[str, str] = field(default_factory=dict)


class Observer:
    """A subscriber of the bus. Machines of several threads may emit at once."""

    def __init__(self, tracer: Tracer | None, logger: Logger | None, meter: Meter | None) -> None:
        self._tracer = tracer
        self._logger = logger
        self._metrics = _Metrics(meter, self._statuses) if meter is not None else None
        self._machines: dict[str, _Machine] = {}

    @classmethod
    def from_providers(cls) -> Observer:
        """Made from those providers of this process that record."""
        tracers, loggers, meters = trace.get_tracer_provider(), _logs.get_logger_provider(), metrics.get_meter_provider()
        return cls(
            tracers.get_tracer(SCOPE) if is_real(tracers) else None,
            loggers.get_logger(SCOPE) if is_real(loggers) else None,
            meters.get_meter(SCOPE) if is_real(meters) else None,
        )

    def __call__(self, event: StateTransition) -> None:
        machine = self._machines.get(event.machine)
        if machine is None:
            machine = self._machines[event.machine] = _Machine(event.kind)
        self._log(event, self._trace(event, machine))
        self._count(event, machine)
        if event.region == "" and head(event.target) in _ENDED:
            self._machines.pop(event.machine, None)

    def _log(self, event: StateTransition, context: Context) -> None:
        if self._logger is None:
            return
        number, text = _SEVERITIES[event.severity]
        self._logger.emit(
            timestamp=int(event.time * 1e9),
            context=context,
            severity_number=number,
            severity_text=text,
            body=event.detail or f"{event.machine}: {event.source or '·'} → {event.target}",
            attributes=attributes_of(event),
            event_name=EVENT_NAME,
        )

    def _trace(self, event: StateTransition, machine: _Machine) -> Context:
        """Make the spans of a step; answer the context that its log event belongs to."""
        name = span_name(event)
        if self._tracer is None or name is None:
            return machine.context
        end = int(event.time * 1e9)
        took_time = machine.operation is not None or event.region.startswith(RESOURCES)
        start = end - int(float(event.attributes.get("duration", 0.0)) * 1e9) if took_time else end
        if event.region == "":
            self._open(event, machine, end)
        span = self._tracer.start_span(name, machine.context, SpanKind.INTERNAL, attributes_of(event), start_time=start)
        _judge(span, event)
        span.end(end)
        context = set_span_in_context(span, machine.context)
        if event.region == "" and head(event.target) in _RESTING:
            self._close(event, machine, end)
        return context

    def _open(self, event: StateTransition, machine: _Machine, now: int) -> None:
        """A start, stop or restart begins. A stop ends what is under way; the start within a restart is a part of it."""
        name = _OPENING.get(head(event.target))
        if name is None or head(event.source) == head(event.target) or self._tracer is None:
            return
        if machine.operation is not None:
            if name != "stop":
                return
            self._close(event, machine, now)
        attributes: dict[str, AttributeValue] = {"jumpstarter.machine": event.machine, "jumpstarter.kind": event.kind}
        machine.operation = self._tracer.start_span(f"{name} {event.kind}", _ROOT, SpanKind.INTERNAL, attributes, start_time=now)
        machine.context = set_span_in_context(machine.operation, _ROOT)

    @staticmethod
    def _close(event: StateTransition, machine: _Machine, end: int) -> None:
        if machine.operation is not None:
            _judge(machine.operation, event)
            machine.operation.end(end)
        machine.operation, machine.context = None, _ROOT

    def _count(self, event: StateTransition, machine: _Machine) -> None:
        if self._metrics is None:
            return
        self._metrics.transition(event)
        machine.regions[event.region] = event.target
        if event.region == "" and head(event.target) != "started":
            # What lay inside ``started`` was left with it, silently.
            machine.regions = {region: state for region, state in machine.regions.items() if head(region) != "started"}

    def _statuses(self) -> Statuses:
        """How many machines of each kind are in each state of each region now. Called by the exporter's thread."""
        return Tally(
            (machine.kind, region, state)
            for machine in list(self._machines.values())
            for region, state in list(machine.regions.items())
        )


def _judge(span: Span, event: StateTransition) -> None:
    has_failed = event.severity == "error" or (event.region.startswith(RESOURCES) and event.severity == "warning")
    if has_failed:
        span.set_status(Status(StatusCode.ERROR, event.detail or None))


def _observing(measure: Measure) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, attributes) for value, attributes in measure.look()]

    return observe


class _Metrics:
    """``jumpstarter.actor.…``: by kind, region and state; never by machine, of which there are many."""

    def __init__(self, meter: Meter, statuses: Callable[[], Statuses]) -> None:
        self._transitions = meter.create_counter("jumpstarter.actor.transitions", "{transition}", "Transitions of actors.")
        self._restarts = meter.create_counter("jumpstarter.actor.restarts", "{restart}", "Restarts of actors.")
        self._duration = meter.create_histogram("jumpstarter.actor.state.duration", "s", "How long a state lasted.")
        meter.create_observable_up_down_counter(
            "jumpstarter.actor.status", [self._status], "{actor}", "How many actors are in a state now."
        )
        self._statuses = statuses
        for measure in measures:
            make = meter.create_observable_counter if measure.only_grows else meter.create_observable_up_down_counter
            make(measure.name, [_observing(measure)], measure.unit, measure.description)

    def transition(self, event: StateTransition) -> None:
        where = {"jumpstarter.kind": event.kind, "jumpstarter.region": event.region}
        self._transitions.add(1, {**where, "jumpstarter.from": event.source, "jumpstarter.to": event.target})
        if (lasted := event.attributes.get("duration")) is not None:
            self._duration.record(float(lasted), {**where, "jumpstarter.state": event.source})
        if event.region == "" and head(event.target) == "restarting" and head(event.source) != "restarting":
            self._restarts.add(1, {"jumpstarter.kind": event.kind})

    def _status(self, _options: CallbackOptions) -> Iterable[Observation]:
        for (kind, region, state), count in self._statuses().items():
            yield Observation(count, {"jumpstarter.kind": kind, "jumpstarter.region": region, "jumpstarter.state": state})
