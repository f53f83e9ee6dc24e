"""A stand-in for an OpenTelemetry collector: a real HTTP server that speaks OTLP/HTTP with protobuf, and remembers.

::

    with Collector() as collector:
        environment = os.environ | collector.environment
        ...
        spans = collector.wait_for(lambda c: [s for s in c.spans if s.name == "process orders"])
"""

from __future__ import annotations

import gzip
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

T = TypeVar("T")


@dataclass(frozen=True)
class Span:
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: float
    end: float
    attributes: Mapping[str, Any]
    links: Sequence[tuple[str, str]]
    events: Sequence[str]
    is_error: bool
    message: str
    resource: Mapping[str, Any]


@dataclass(frozen=True)
class Log:
    event_name: str
    severity: str
    body: str
    time: float
    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """One data point of a metric; ``value`` is a sum, a gauge, or a histogram's count."""

    name: str
    value: float
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    unit: str = ""


@dataclass
class Collector:
    """Listens on a free port of this machine from the beginning to the end of a ``with`` block."""

    spans: list[Span] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        handler = type("Handler", (_Handler,), {"collector": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make a process send everything here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_BLRP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        }

    @property
    def transitions(self) -> list[Log]:
        """The log events of state transitions, oldest first."""
        return sorted((log for log in self.logs if log.event_name == "jumpstarter.state.transition"), key=lambda log: log.time)

    def wait_for(self, find: Callable[[Self], T], timeout: float = 10.0) -> T:
        """What ``find`` finds, as soon as it is true; asked again whenever something arrives. Fails after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while not (found := find(self)):
                left = deadline - time.monotonic()
                if left <= 0 or not self.changed.wait(left):
                    raise AssertionError(
                        f"not there after {timeout:g} s; there are the spans {sorted({span.name for span in self.spans})}, "
                        f"{len(self.logs)} logs and the metrics {sorted({point.name for point in self.points})}"
                    )
            return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    collector: ClassVar[Collector]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        match self.headers.get("Content-Encoding"):
            case "gzip":
                body = gzip.decompress(body)
            case "deflate":
                body = zlib.decompress(body)
        receive, response = _ROUTES[self.path]
        with self.collector.changed:
            self.collector.requests.append(self.path)
            receive(self.collector, body)
            self.collector.changed.notify_all()
        answer = response().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        pass


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind) if kind else None


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _receive_spans(collector: Collector, body: bytes) -> None:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(group.resource.attributes)
        for span in (span for scope in group.scope_spans for span in scope.spans):
            collector.spans.append(
                Span(
                    name=span.name,
                    kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start=span.start_time_unix_nano / 1e9,
                    end=span.end_time_unix_nano / 1e9,
                    attributes=_attributes(span.attributes),
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    events=[event.name for event in span.events],
                    is_error=span.status.code == span.status.STATUS_CODE_ERROR,
                    message=span.status.message,
                    resource=resource,
                )
            )


def _receive_logs(collector: Collector, body: bytes) -> None:
    for group in ExportLogsServiceRequest.FromString(body).resource_logs:
        resource = _attributes(group.resource.attributes)
        for log in (log for scope in group.scope_logs for log in scope.log_records):
            collector.logs.append(
                Log(
                    event_name=log.event_name,
                    severity=log.severity_text,
                    body=str(_value(log.body)),
                    time=log.time_unix_nano / 1e9,
                    trace_id=log.trace_id.hex(),
                    span_id=log.span_id.hex(),
                    attributes=_attributes(log.attributes),
                    resource=resource,
                )
            )


def _receive_metrics(collector: Collector, body: bytes) -> None:
    for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        resource = _attributes(group.resource.attributes)
        for metric in (metric for scope in group.scope_metrics for metric in scope.metrics):
            kind = metric.WhichOneof("data")
            for point in getattr(metric, kind).data_points:
                value = point.count if kind == "histogram" else getattr(point, point.WhichOneof("value"))
                collector.points.append(Point(metric.name, value, _attributes(point.attributes), resource, metric.unit))


_ROUTES = {
    "/v1/traces": (_receive_spans, ExportTraceServiceResponse),
    "/v1/logs": (_receive_logs, ExportLogsServiceResponse),
    "/v1/metrics": (_receive_metrics, ExportMetricsServiceResponse),
}
