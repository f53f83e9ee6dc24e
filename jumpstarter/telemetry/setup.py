"""Switches OpenTelemetry on for one process, when its environment asks for it. Comes from: cli, worker. Goes to: the SDK, the bus.

The standard variables decide (``OTEL_TRACES_EXPORTER``, ``OTEL_LOGS_EXPORTER``, ``OTEL_METRICS_EXPORTER``,
``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_SDK_DISABLED`` …; the SDK reads the rest itself). One difference from the specification,
where a signal that nobody mentions is sent to a collector on this machine: here it stays off unless an endpoint is set, because a
worker without a collector should not look for one.

A provider that is there already, set by the user or by ``opentelemetry-instrument``, is used as it is and never replaced.

Call it in each process after its last fork and after the user's own start-up code: an exporter has threads, and those stay behind.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from jumpstarter.telemetry import tracing
from jumpstarter.telemetry.bus import bus

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

logger = logging.getLogger(__name__)

SIGNALS = ("traces", "logs", "metrics")

_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

#: Each line about an exporter that fails is written at most once in so many seconds.
QUIET_SECONDS = 300.0

#: Longest wait at the end for a collector that was away in the last minute: it will hardly come back just now.
HOPELESS_SECONDS = 0.5


def wanted(environ: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The exporters that the environment asks for, by signal; signals that are off are left out."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return {}
    found = {signal: _exporters(environ, signal.upper()) for signal in SIGNALS}
    return {signal: names for signal, names in found.items() if names}


def _exporters(environ: Mapping[str, str], signal: str) -> tuple[str, ...]:
    named = environ.get(f"OTEL_{signal}_EXPORTER", "").strip()
    has_endpoint = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    names = [name.strip() for name in named.split(",")] if named else ["otlp"] if has_endpoint else []
    return tuple(name for name in names if name and name != "none")


def entry_point_name(environ: Mapping[str, str], signal: str, exporter: str) -> str:
    """``otlp`` → the exporter of the protocol that is asked for; ``http/protobuf`` when nothing is said."""
    if exporter != "otlp":
        return exporter
    general = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip() or "http/protobuf"
    protocol = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "").strip() or general
    return _PROTOCOLS.get(protocol, protocol)


class Telemetry:
    """What :func:`configure` switched on in this process. Leaving it as a context manager shuts it down.

    :ivar enabled: whether anything is recorded, through providers of ours or of the user's.
    """

    def __init__(self, own: Sequence[Any], used: Sequence[Any], unsubscribe: Callable[[], None] | None) -> None:
        self.enabled = bool(own or used)
        self.pid = os.getpid()
        self.own = list(own)
        self._used = list(used)
        self._unsubscribe = unsubscribe

    def shutdown(self, timeout: float = 5.0) -> bool:
        """Send what is still to be sent, within ``timeout`` seconds in all; record nothing any more. Idempotent.

        Providers of ours are shut down; the user's are only flushed. When the collector was away a moment ago, less time is
        spent on it.

        :returns: whether everything was sent in time. If not, a warning is logged and the rest is lost.
        """
        if not self.enabled:
            return True
        self.enabled = False
        self.detach()
        tracing.switch_off()
        steps = [provider.shutdown for provider in self.own] + [p.force_flush for p in self._used if hasattr(p, "force_flush")]
        patience = min(timeout, HOPELESS_SECONDS) if _Quiet.has_heard_lately() else timeout
        in_time = _run_all(steps, patience)
        if not in_time:
            logger.warning("telemetry could not be sent within %g s; the rest is lost", patience)
        return in_time

    def detach(self) -> None:
        """Stop listening to the bus."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.shutdown()


class _Process:
    """What was configured in this process, or in the one that it was forked from."""

    telemetry: Telemetry | None = None


def configure(service_name: str, *, resource: Mapping[str, Any] = MappingProxyType({})) -> Telemetry:
    """Switch on what the environment asks for; when it asks for nothing, do nothing: no provider, no thread, no import of the SDK.

    Never raises for a bad variable or a missing exporter: logs a warning that names it and goes on without. A second call in the
    same process returns what the first did.

    :param service_name: ``service.name`` unless ``OTEL_SERVICE_NAME`` or ``OTEL_RESOURCE_ATTRIBUTES`` say otherwise.
    :param resource: more attributes of this process, such as ``service.instance.id``.
    """
    previous = _Process.telemetry
    if previous is not None and previous.pid == os.getpid():
        return previous
    if previous is not None:
        previous.detach()  # inherited by fork; its machines belong to the parent
    try:
        telemetry = _configure(service_name, resource, inherited=previous)
    except Exception:
        logger.warning("OpenTelemetry could not be set up; going on without it", exc_info=True)
        tracing.switch_off()
        telemetry = Telemetry((), (), None)
    _Process.telemetry = telemetry
    return telemetry


def _configure(service_name: str, resource: Mapping[str, Any], inherited: Telemetry | None) -> Telemetry:
    own = [] if inherited is None else inherited.own  # the SDK restarts the threads of inherited providers after a fork
    exporters = wanted(os.environ)
    if not own and exporters:
        own = _build(service_name, resource, exporters)
    is_on = tracing.settle_providers()
    if not (is_on or own):
        return Telemetry((), (), None)
    from jumpstarter.telemetry.observer import Observer  # noqa: PLC0415 - only a process that records loads OpenTelemetry

    used = [provider for provider in _current_providers() if provider not in own]
    return Telemetry(own, used, bus.subscribe(Observer.from_providers()))


def _current_providers() -> list[Any]:
    from opentelemetry import _logs, metrics, trace  # noqa: PLC0415 - as above

    current = (trace.get_tracer_provider(), _logs.get_logger_provider(), metrics.get_meter_provider())
    return [provider for provider in current if tracing.is_real(provider)]


def _build(service_name: str, resource: Mapping[str, Any], exporters: Mapping[str, Sequence[str]]) -> list[Any]:
    """Set a provider for each signal that has an exporter and no provider yet; answer those."""
    from opentelemetry import _logs, metrics, trace  # noqa: PLC0415 - as above

    described: Resource | None = None
    built: list[Any] = []
    for signal, current, make, put in (
        ("traces", trace.get_tracer_provider, _tracer_provider, trace.set_tracer_provider),
        ("logs", _logs.get_logger_provider, _logger_provider, _logs.set_logger_provider),
        ("metrics", metrics.get_meter_provider, _meter_provider, metrics.set_meter_provider),
    ):
        if signal not in exporters or tracing.is_real(current()):
            continue
        loaded = [exporter for name in exporters[signal] if (exporter := _load(signal, name)) is not None]
        if loaded:
            described = described or _describe(service_name, resource)
            provider = make(described, loaded)
            put(provider)
            built.append(provider)
    return built


def _describe(service_name: str, attributes: Mapping[str, Any]) -> Resource:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above

    described = Resource.create(dict(attributes))  # reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    if str(described.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
        described = described.merge(Resource({"service.name": service_name}))
    return described


def _load(signal: str, exporter: str) -> Any | None:
    """An exporter by its name in the environment, or None with a warning."""
    name = entry_point_name(os.environ, signal, exporter)
    group = f"opentelemetry_{signal}_exporter"
    from importlib.metadata import entry_points  # noqa: PLC0415 - 30 ms, and most programs export nothing

    found = tuple(entry_points(group=group, name=name))
    if not found:
        known = ", ".join(sorted(entry_points(group=group).names)) or "none"
        hint = "; `pip install celery-jumpstarter[otlp]` brings it" if name == "otlp_proto_http" else ""
        logger.warning("OTEL_%s_EXPORTER: no exporter %r is installed (there are: %s)%s", signal.upper(), name, known, hint)
        return None
    try:
        made = found[0].load()()
    except Exception as error:  # noqa: BLE001 - an exporter may raise anything over its own variables; the worker goes on
        logger.warning("OTEL_%s_EXPORTER: %r cannot be used: %s", signal.upper(), name, error)
        return None
    logging.getLogger(type(made).__module__).addFilter(_Quiet())
    return made


def _tracer_provider(resource: Resource, exporters: Sequence[Any]) -> Any:
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor  # noqa: PLC0415 - as above

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        # The console is for people who watch: at once, not in batches.
        is_console = isinstance(exporter, ConsoleSpanExporter)
        provider.add_span_processor(SimpleSpanProcessor(exporter) if is_console else BatchSpanProcessor(exporter))
    return provider


def _logger_provider(resource: Resource, exporters: Sequence[Any]) -> Any:
    from opentelemetry.sdk._logs import LoggerProvider  # noqa: PLC0415 - as above
    from opentelemetry.sdk._logs.export import (  # noqa: PLC0415 - as above
        BatchLogRecordProcessor,
        ConsoleLogRecordExporter,
        SimpleLogRecordProcessor,
    )

    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        is_console = isinstance(exporter, ConsoleLogRecordExporter)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter) if is_console else BatchLogRecordProcessor(exporter))
    return provider


def _meter_provider(resource: Resource, exporters: Sequence[Any]) -> Any:
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - as above
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader  # noqa: PLC0415 - as above

    # Some "exporters" (Prometheus) are readers themselves.
    readers = [each if isinstance(each, MetricReader) else PeriodicExportingMetricReader(each) for each in exporters]
    return MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)


class _Quiet(logging.Filter):
    """Lets each message of a logger through once in QUIET_SECONDS: a collector that is away is worth one line, not one a second."""

    _last_heard = -math.inf

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[object, float] = {}

    @classmethod
    def has_heard_lately(cls) -> bool:
        """Whether an exporter of this process had something to complain of in the last minute."""
        return time.monotonic() - cls._last_heard < 60

    def filter(self, record: logging.LogRecord) -> bool:
        now = _Quiet._last_heard = time.monotonic()
        if now - self._said.get(record.msg, -QUIET_SECONDS) < QUIET_SECONDS:
            return False
        self._said[record.msg] = now
        return True


def _run_all(steps: Sequence[Callable[[], object]], timeout: float) -> bool:
    """Call all of them at the same time; answer whether all came back within ``timeout`` seconds.

    On threads of their own, because the SDK's own limits do not hold: a flush ignores its timeout, a shutdown waits up to 30 s.
    """
    deadline = time.monotonic() + timeout
    threads = [
        threading.Thread(target=_quietly, args=(step,), name="jumpstarter-telemetry-shutdown", daemon=True) for step in steps
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def _quietly(step: Callable[[], object]) -> None:
    try:
        step()
    except Exception as error:  # noqa: BLE001 - the process ends; what an exporter raises then concerns nobody else
        logger.warning("telemetry could not be sent: %s", error)
