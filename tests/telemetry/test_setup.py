"""Setting OpenTelemetry up in a process: consoles, forks, providers of the user's, collectors that are away."""

from __future__ import annotations

import json
import socket

import pytest

from tests.telemetry.collector import Collector
from tests.telemetry.conftest import Run

A_SPAN = """
    import sys
    from jumpstarter.telemetry import configure, tracing
    with configure("shop"):
        with tracing.process("orders", {}, url="memory://", message_id="m1"):
            pass
"""


def test_the_console_shows_spans_at_once(run: Run) -> None:
    result = run(
        """
        import os
        from jumpstarter.telemetry import configure, tracing
        configure("shop")
        with tracing.process("orders", {}, url="memory://", message_id="m1"):
            pass
        os._exit(0)  # without a shutdown
        """,
        {"OTEL_TRACES_EXPORTER": "console"},
    )
    assert json.loads(result.stdout)["name"] == "process orders"


def test_a_second_call_returns_the_same(run: Run) -> None:
    run(
        """
        from jumpstarter.telemetry import configure
        assert configure("shop") is configure("other")
        """,
        {"OTEL_TRACES_EXPORTER": "console"},
    )


@pytest.mark.parametrize("variable", ["OTEL_SERVICE_NAME=bookshop", "OTEL_RESOURCE_ATTRIBUTES=service.name=bookshop"])
def test_the_service_name_of_the_environment_wins(run: Run, collector: Collector, variable: str) -> None:
    name, _, value = variable.partition("=")
    run(A_SPAN, {**collector.environment, name: value})
    assert collector.spans[0].resource["service.name"] == "bookshop"


def test_a_child_that_configures_after_the_fork_reports_for_itself(run: Run, collector: Collector) -> None:
    run(
        """
        import os
        from jumpstarter.telemetry import StateTransition, bus, configure
        children = []
        for number in (1, 2):
            child = os.fork()
            if child == 0:
                with configure("shop", resource={"service.instance.id": f"child-{number}"}):
                    bus.emit(StateTransition(f"w{number}", "Worker", "", "starting", "started", "ready", 1.0))
                os._exit(0)
            children.append(child)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        """,
        collector.environment,
    )
    told = {log.attributes["jumpstarter.machine"]: log.resource["service.instance.id"] for log in collector.transitions}
    assert told == {"w1": "child-1", "w2": "child-2"}


def test_a_child_of_a_configured_process_tells_everything_once(run: Run, collector: Collector) -> None:
    run(
        """
        import os, warnings
        from jumpstarter.telemetry import StateTransition, bus, configure
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of a fork beside the exporter's threads: it is the point
        configure("shop")
        child = os.fork()
        if child == 0:
            with configure("shop"):
                bus.emit(StateTransition("child", "Worker", "", "starting", "started", "ready", 1.0))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """,
        collector.environment,
    )
    assert [log.attributes["jumpstarter.machine"] for log in collector.transitions] == ["child"]


def test_a_provider_of_the_users_is_used_as_it_is(run: Run, collector: Collector) -> None:
    result = run(
        """
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        mine = TracerProvider()
        seen = InMemorySpanExporter()
        mine.add_span_processor(SimpleSpanProcessor(seen))
        trace.set_tracer_provider(mine)

        from jumpstarter.telemetry import StateTransition, bus, configure, tracing
        telemetry = configure("shop")
        assert telemetry.enabled and tracing.enabled and trace.get_tracer_provider() is mine
        with tracing.process("orders", {}, url="memory://", message_id="m1"):
            pass
        bus.emit(StateTransition("w", "Worker", "started.health", "healthy", "degraded", "report_warning", 1.0))
        assert telemetry.shutdown()
        assert [span.name for span in seen.get_finished_spans()] == ["process orders", "Worker degraded"]
        with mine.get_tracer("users own").start_as_current_span("still alive"):
            pass
        assert seen.get_finished_spans()[-1].name == "still alive"
        """,
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
    )
    assert not collector.spans
    assert result.stderr == ""


def test_a_client_may_set_its_provider_after_its_first_publish(run: Run) -> None:
    run(
        """
        from jumpstarter.telemetry import tracing
        headers = {}
        with tracing.publish("orders", url="memory://"):
            tracing.inject(headers)
        assert not tracing.enabled and headers == {}

        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        assert not tracing.enabled
        trace.set_tracer_provider(TracerProvider())
        assert tracing.enabled
        with tracing.publish("orders", url="memory://"):
            tracing.inject(headers)
        assert headers["traceparent"].startswith("00-")
        """
    )


def url_of_nobody() -> str:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def test_in_a_worker_what_configure_found_is_for_good(run: Run) -> None:
    run(
        """
        from jumpstarter.telemetry import configure, tracing
        configure("shop")
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        trace.set_tracer_provider(TracerProvider())
        headers = {}
        with tracing.publish("orders", url="memory://"):
            tracing.inject(headers)
        assert not tracing.enabled and headers == {}
        """
    )


def test_a_collector_that_is_away_costs_one_line_per_signal_and_a_bounded_end(run: Run) -> None:
    result = run(
        """
        import logging, time
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        from jumpstarter.telemetry import configure, tracing
        telemetry = configure("shop")
        for _ in range(1000):
            with tracing.process("orders", {}, url="memory://", message_id="m1"):
                pass
        began = time.monotonic()
        telemetry.shutdown(timeout=2)
        assert time.monotonic() - began < 3
        """,
        {"OTEL_EXPORTER_OTLP_ENDPOINT": url_of_nobody(), "OTEL_BSP_SCHEDULE_DELAY": "60000"},
    )
    lines = [line for line in result.stderr.splitlines() if line]
    assert sum("/v1/traces" in line for line in lines) == 1, result.stderr
    assert len(lines) <= 4, result.stderr
    assert "Traceback" not in result.stderr


def test_a_process_does_not_wait_at_its_end_for_a_collector_that_was_away_a_moment_ago(run: Run) -> None:
    run(
        """
        import logging, threading, time
        from jumpstarter.telemetry import configure, tracing
        from opentelemetry.exporter.otlp.proto.http import trace_exporter

        heard = threading.Event()

        class Ear(logging.Handler):
            def emit(self, record):
                heard.set()

        logging.getLogger(trace_exporter.__name__).addHandler(Ear())
        telemetry = configure("shop")
        with tracing.process("orders", {}, url="memory://", message_id="m1"):
            pass
        assert heard.wait(30)
        began = time.monotonic()
        telemetry.shutdown(timeout=20)
        assert time.monotonic() - began < 3
        """,
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url_of_nobody(), "OTEL_BSP_SCHEDULE_DELAY": "50"},
    )


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "telegraph"},
            "OTEL_TRACES_EXPORTER: no exporter 'telegraph' is installed (there are: console, otlp_proto_http",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_TRACES_EXPORTER: no exporter 'otlp_proto_grpc' is installed",
        ),
        (
            {"OTEL_METRICS_EXPORTER": "console", "OTEL_METRIC_EXPORT_INTERVAL": "-1"},
            "OpenTelemetry could not be set up; going on without it",
        ),
    ],
)
def test_a_bad_variable_is_named_in_a_warning_and_the_program_goes_on(run: Run, environment: dict[str, str], said: str) -> None:
    result = run(A_SPAN + "    print('done', file=sys.stderr)\n", environment)
    assert said in result.stderr
    assert result.stderr.rstrip().endswith("done")


def test_a_users_processor_that_raises_is_reported_once_and_the_job_goes_on(run: Run) -> None:
    result = run(
        """
        from opentelemetry import trace
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

        class Broken(SpanProcessor):
            def on_start(self, span, parent_context=None):
                raise RuntimeError("out of order")

        provider = TracerProvider()
        provider.add_span_processor(Broken())
        trace.set_tracer_provider(provider)
        from jumpstarter.telemetry import configure, tracing
        configure("shop")
        ran = []
        for number in range(3):
            with tracing.process("orders", {}, url="memory://", message_id="m1") as span:
                ran.append(number)
                span.outcome("SUCCESS")
        tracing.received("orders", [{}], url="memory://", count=1, seconds=0.1)
        assert ran == [0, 1, 2]
        """
    )
    assert result.stderr.count("said once") == 1
