"""What a pipeline tells OpenTelemetry: a span for each stage of a batch, and metrics of rows and budgets."""

import subprocess
import sys

CODE = """
import anyio
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([reader]))

from jumpstarter.pipelines import *

class Traced(Pipeline):
    rows = MemoryRows(range(5), name="numbers", batch=2)
    budget = Budget("traced", requests=10 / day)

    @step(cost=1)
    async def call(self, rows):
        current_batch().fail([row for row in rows if row == 3])

Traced.run_sync()
names = [span.name for span in spans.get_finished_spans()]
print(*[names.count(f"{stage} numbers") for stage in ("poll", "process", "settle")])
for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:
    for point in metric.data.data_points:
        print(metric.name, point.attributes.get("jumpstarter.outcome", point.attributes.get("jumpstarter.unit")), point.value)
"""


def test_stages_are_spans_and_rows_and_budgets_are_metrics():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True)
    first, *lines = done.stdout.splitlines()
    polls, processes, settles = map(int, first.split())
    assert (processes, settles) == (3, 3)
    assert polls >= 3
    assert "jumpstarter.pipeline.rows done 4" in lines
    assert "jumpstarter.pipeline.rows failed 1" in lines
    assert "jumpstarter.budget.remaining requests 8" in lines or "jumpstarter.budget.remaining requests 7" in lines
