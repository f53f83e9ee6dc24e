"""Calls the shop's tasks, watched by whoever watches."""

import os
from pathlib import Path

import shop

if "SPANS_FILE" in os.environ:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider()
    out = Path(os.environ["SPANS_FILE"]).open("a")  # noqa: SIM115 - for as long as the program runs
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))
    trace.set_tracer_provider(provider)

if "SENTRY_FILE" in os.environ:
    import sentry_sdk

    with sentry_sdk.start_transaction(name="client"):
        assert shop.add.delay(1, 2).get(timeout=60) == 3
    sentry_sdk.flush()
else:
    assert shop.add.delay(1, 2).get(timeout=60) == 3
try:
    shop.fail.delay().get(timeout=60)
except ValueError as error:
    print(error)
