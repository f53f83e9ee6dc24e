"""What an analyst's query found goes to an API whose calls move revenue. What was asked and every failed request is kept for audit,
beside the loop: the audit may crash or stall, the loop does not notice.

``jumpstarter pipeline run examples.pipelines.revenue:Revenue --run-id $(date +%F)``
"""

import json
from pathlib import Path

from examples.pipelines import API, STORE
from examples.pipelines.http import HttpApi
from jumpstarter.pipelines import (
    BatchFailed,
    BatchSettled,
    Budget,
    Pipeline,
    RequestFailed,
    Source,
    backoff,
    current_batch,
    hours,
    minutes,
    on_failed,
    resource,
    second,
    side,
    step,
)


class Revenue(Pipeline):
    """Ten calls a second, a hundred bids each."""

    rows = Source("bids", store=STORE, batch=100, lease=minutes(10), key="job_id")
    budget = Budget("revenue", requests=10 / second)
    audit = Path("audit")

    @resource
    def api(self):
        return HttpApi(f"{API}/bids")

    @step(cost=1, retry=backoff(tries=3), timeout=30)
    async def send(self, rows):
        return await self.api(rows, Idempotency_Key=current_batch().id)

    @on_failed
    async def later(self, rows):
        await self.rows.put_back(rows, after=hours(1))

    @side(on_full="drop_oldest")
    def keep_rows(self, event: BatchSettled):
        self.write("settled", event)

    @side(durable=True)
    def keep_failures(self, event: RequestFailed | BatchFailed):
        self.write("failed", event)

    def write(self, name, event):
        self.audit.mkdir(exist_ok=True)
        with (self.audit / f"{event.run_id}-{name}.jsonl").open("a") as file:
            file.write(json.dumps(vars(event)) + "\n")
