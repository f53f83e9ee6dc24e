"""A user's program with OpenTelemetry set up by its own hands: publishes tasks at once, then waits for their results."""

import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from seen import work

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)

results = [work.delay(0.3) for _ in range(int(sys.argv[1]))]
print(*[result.get(timeout=30) for result in results])
