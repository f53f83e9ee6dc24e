"""Off means off: no provider, no thread, no import, no call."""

from __future__ import annotations

import pytest

from jumpstarter.telemetry.setup import entry_point_name, wanted
from tests.telemetry.conftest import Run


def test_with_nothing_set_nothing_of_opentelemetry_is_loaded_and_no_thread_starts(run: Run) -> None:
    run(
        """
        import sys, threading
        from jumpstarter.telemetry import bus, configure, tracing
        telemetry = configure("shop")
        headers = {}
        tracing.inject(headers)
        with tracing.process("orders", headers, url="redis://localhost", message_id="1") as span:
            span.outcome("SUCCESS")
        assert not telemetry.enabled and not tracing.enabled and not bus.active
        assert headers == {}
        assert telemetry.shutdown(1)
        assert threading.active_count() == 1
        loaded = [name for name in sys.modules if name.startswith("opentelemetry")]
        assert not loaded, loaded
        """
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    ],
    ids=["exporters none", "SDK disabled"],
)
def test_switched_off_by_the_environment_is_off_too(run: Run, environment: dict[str, str]) -> None:
    run(
        """
        import sys, threading
        from jumpstarter.telemetry import bus, configure, tracing
        assert not configure("shop").enabled and not tracing.enabled and not bus.active
        assert threading.active_count() == 1
        assert not any(name.startswith("opentelemetry.exporter") for name in sys.modules)
        """,
        environment,
    )


def test_a_hot_path_that_asks_first_makes_not_one_call(run: Run) -> None:
    result = run(
        """
        import cProfile, pstats
        from jumpstarter.telemetry import bus, configure, tracing
        configure("shop")

        def job():
            if tracing.enabled:
                raise AssertionError
            if bus.active:
                raise AssertionError

        profile = cProfile.Profile()
        profile.enable()
        for _ in range(1000):
            job()
        profile.disable()
        calls = {name: entry[1] for (_, _, name), entry in pstats.Stats(profile).stats.items()}
        print({name: count for name, count in calls.items() if name != "job" and "Profiler" not in name})
        """
    )
    assert result.stdout.strip() == "{}"


def test_before_configure_a_look_at_the_flag_costs_few_calls(run: Run) -> None:
    result = run(
        """
        import cProfile, pstats
        from jumpstarter.telemetry import tracing
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(1000):
            tracing.enabled
        profile.disable()
        print(pstats.Stats(profile).total_calls // 1000)
        """
    )
    assert int(result.stdout) <= 3


def test_a_look_stays_cheap_when_a_library_has_loaded_the_sdk_and_a_provider_is_found_all_the_same(run: Run) -> None:
    """redis-py 8 loads it with the first connection."""
    result = run(
        """
        import cProfile, pstats
        import opentelemetry.sdk.metrics
        import opentelemetry.trace
        from jumpstarter.telemetry import tracing
        assert not tracing.enabled
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(1000):
            tracing.enabled
        profile.disable()
        print(pstats.Stats(profile).total_calls // 1000)
        from opentelemetry.sdk.trace import TracerProvider
        opentelemetry.trace.set_tracer_provider(TracerProvider())
        assert tracing.enabled
        """
    )
    assert int(result.stdout) <= 8


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {}),
        ({"OTEL_TRACES_EXPORTER": "console"}, {"traces": ("console",)}),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, {"traces": ("otlp", "console")}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, {"traces": ("otlp",), "logs": ("otlp",), "metrics": ("otlp",)}),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none"},
            {"traces": ("otlp",), "logs": ("otlp",)},
        ),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c:4318/v1/logs"}, {"logs": ("otlp",)}),
        ({"OTEL_SDK_DISABLED": "True", "OTEL_TRACES_EXPORTER": "console"}, {}),
    ],
)
def test_the_environment_says_which_signals_go_where(environ: dict[str, str], expected: dict[str, tuple[str, ...]]) -> None:
    assert wanted(environ) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "otlp_proto_http"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, "otlp_proto_http"),
    ],
)
def test_otlp_means_the_exporter_of_the_protocol_asked_for(environ: dict[str, str], expected: str) -> None:
    assert entry_point_name(environ, "traces", "otlp") == expected
    assert entry_point_name(environ, "traces", "console") == "console"
