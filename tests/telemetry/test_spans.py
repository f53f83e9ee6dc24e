"""Messages' spans, as a collector gets them."""

from __future__ import annotations

import pytest

from tests.telemetry.collector import Collector
from tests.telemetry.conftest import Run

ONE_MESSAGE = """
    from jumpstarter.telemetry import configure, tracing
    URL = "redis://user:secret@broker.example:6380/0"
    with configure("shop", resource={"service.instance.id": "child-1"}):
        assert tracing.enabled
        headers = {"task": "shop.charge"}
        with tracing.publish("orders", url=URL, message_id="m1", conversation_id="root"):
            tracing.inject(headers)
        tracing.received("orders", [headers], url=URL, count=1, seconds=0.25)
        facts = {"message_id": "m1", "conversation_id": "root", "job": "shop.charge", "attempt": 2}
        with tracing.process("orders", headers, url=URL, **facts) as span:
            span.outcome("SUCCESS")
            with tracing.span("ask the bank"):
                pass
        tracing.settled("orders", [headers], url=URL, count=1, seconds=0.5)
"""


def test_publish_and_process_share_a_trace_and_batches_link_to_it(run: Run, collector: Collector) -> None:
    run(ONE_MESSAGE, collector.environment)
    spans = {span.name: span for span in collector.spans}
    assert {name: span.kind for name, span in spans.items()} == {
        "send orders": "PRODUCER",
        "receive orders": "CLIENT",
        "process orders": "CONSUMER",
        "ask the bank": "INTERNAL",
        "settle orders": "CLIENT",
    }
    send, process = spans["send orders"], spans["process orders"]
    assert process.trace_id == send.trace_id
    assert process.parent_id == send.span_id
    assert spans["ask the bank"].parent_id == process.span_id
    for batch in (spans["receive orders"], spans["settle orders"]):
        assert batch.trace_id != send.trace_id
        assert batch.links == [(send.trace_id, send.span_id)]
    assert spans["receive orders"].end - spans["receive orders"].start == pytest.approx(0.25, abs=0.001)


def test_attributes_follow_the_messaging_conventions_and_hold_no_password(run: Run, collector: Collector) -> None:
    run(ONE_MESSAGE, collector.environment)
    spans = {span.name: span for span in collector.spans}
    server = {
        "messaging.system": "redis",
        "server.address": "broker.example",
        "server.port": 6380,
        "messaging.destination.name": "orders",
    }
    assert spans["process orders"].attributes == {
        **server,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": "m1",
        "messaging.message.conversation_id": "root",
        "jumpstarter.job.name": "shop.charge",
        "jumpstarter.job.attempt": 2,
        "jumpstarter.job.status": "SUCCESS",
    }
    assert spans["receive orders"].attributes == {
        **server,
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.batch.message_count": 1,
    }
    assert "secret" not in repr(collector.spans)
    assert spans["process orders"].resource["service.name"] == "shop"
    assert spans["process orders"].resource["service.instance.id"] == "child-1"


def test_metrics_of_the_conventions_go_with_the_spans_without_ids(run: Run, collector: Collector) -> None:
    run(ONE_MESSAGE, collector.environment)
    points = {(point.name, point.attributes.get("messaging.operation.name")): point for point in collector.points}
    assert points["messaging.client.sent.messages", "send"].value == 1
    assert points["messaging.client.consumed.messages", "receive"].value == 1
    assert points["messaging.process.duration", "process"].value == 1
    assert {name for metric, name in points if metric == "messaging.client.operation.duration"} == {"send", "receive", "settle"}
    assert not any("messaging.message.id" in point.attributes for point in collector.points)


def test_a_failed_job_names_its_error_and_its_measurement_too(run: Run, collector: Collector) -> None:
    run(
        """
        from jumpstarter.telemetry import configure, tracing
        with configure("shop"):
            with tracing.process("orders", {}, url="sqlite:///x.db", message_id="m1") as span:
                span.outcome("FAILURE", LookupError("no such order"))
            try:
                with tracing.process("orders", {}, url="sqlite:///x.db", message_id="m2"):
                    raise RuntimeError("worker's own")
            except RuntimeError as error:
                assert str(error) == "worker's own"
        """,
        collector.environment,
    )
    failed, broken = sorted(collector.spans, key=lambda span: span.attributes["messaging.message.id"])
    assert (failed.is_error, failed.message, failed.attributes["error.type"]) == (True, "no such order", "LookupError")
    assert failed.events == ["exception"]
    assert (broken.is_error, broken.attributes["error.type"]) == (True, "RuntimeError")
    kinds = {point.attributes.get("error.type") for point in collector.points if point.name == "messaging.process.duration"}
    assert kinds == {"LookupError", "RuntimeError"}


def test_a_bulk_of_messages_is_one_send_that_links_what_was_created(run: Run, collector: Collector) -> None:
    run(
        """
        from jumpstarter.telemetry import configure, tracing
        with configure("shop"):
            batch = [{} for _ in range(200)]
            for headers in batch:
                with tracing.create("orders", url="memory://shop") as span:
                    span.inject(headers)
            with tracing.send("orders", batch, url="memory://shop", count=len(batch)):
                pass
        """,
        {**collector.environment, "OTEL_SPAN_LINK_COUNT_LIMIT": "1000"},
    )
    created = {(span.trace_id, span.span_id) for span in collector.spans if span.name == "create orders"}
    (send,) = [span for span in collector.spans if span.name == "send orders"]
    assert len(created) == 200
    assert send.kind == "CLIENT"
    assert send.attributes["messaging.batch.message_count"] == 200
    assert len(send.links) == 128
    assert set(send.links) <= created
    assert [point.value for point in collector.points if point.name == "messaging.client.sent.messages"][-1] == 200


def test_after_a_block_the_span_before_it_is_the_current_one_again(run: Run, collector: Collector) -> None:
    run(
        """
        from opentelemetry import trace
        from jumpstarter.telemetry import configure, tracing
        with configure("shop"):
            with tracing.span("outer"):
                outer = trace.get_current_span()
                with tracing.process("orders", {}, url="memory://", message_id="m1"):
                    assert trace.get_current_span() is not outer
                assert trace.get_current_span() is outer
            assert trace.get_current_span() is trace.INVALID_SPAN
        """,
        collector.environment,
    )


def test_a_stage_is_a_trace_of_its_own_even_within_another_span(run: Run, collector: Collector) -> None:
    run(
        """
        from jumpstarter.telemetry import configure, tracing
        with configure("shop"):
            headers = {}
            with tracing.span("outer"):
                tracing.inject(headers)
                with tracing.stage("process orders", headers=[headers], attributes={"jumpstarter.kind": "Geocode"}):
                    pass
        """,
        collector.environment,
    )
    spans = {span.name: span for span in collector.spans}
    stage, outer = spans["process orders"], spans["outer"]
    assert (stage.parent_id, stage.links) == ("", [(outer.trace_id, outer.span_id)])
    assert stage.attributes["jumpstarter.kind"] == "Geocode"


@pytest.mark.parametrize(
    "headers", [{"traceparent": 7}, {"traceparent": "00-nonsense"}, {"traceparent": "x" * 5000, "tracestate": None}]
)
def test_headers_from_strangers_make_a_trace_of_its_own_and_no_error(
    run: Run, collector: Collector, headers: dict[str, object]
) -> None:
    run(
        f"""
        from jumpstarter.telemetry import configure, tracing
        with configure("shop"):
            with tracing.process("orders", {headers!r}, url="not a url://[", message_id="m1"):
                pass
        """,
        collector.environment,
    )
    (span,) = collector.spans
    assert span.parent_id == ""


def test_baggage_and_tracestate_travel_with_the_message(run: Run, collector: Collector) -> None:
    result = run(
        """
        from jumpstarter.telemetry import configure, tracing
        from opentelemetry import baggage, context
        with configure("shop"):
            upstream = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "tracestate": "vendor=1", "baggage": "customer=7"}
            with tracing.process("orders", upstream, url="memory://", message_id="m1"):
                headers = {}
                with tracing.publish("invoices", url="memory://"):
                    tracing.inject(headers)
                print(headers["tracestate"], headers["baggage"], baggage.get_baggage("customer"))
        """,
        collector.environment,
    )
    assert result.stdout.split() == ["vendor=1", "customer=7", "7"]
    assert {span.trace_id for span in collector.spans} == {"a" * 32}
