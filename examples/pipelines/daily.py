"""An API that allows 10 requests and 1,000 rows a day. Each run takes as many rows as the rest of the day's allowance has room for.

``jumpstarter pipeline run examples.pipelines.daily:Geocode``
"""

from math import ceil

from examples.pipelines import API, STORE
from examples.pipelines.http import HttpApi
from jumpstarter.pipelines import (
    Budget,
    NextRun,
    Pipeline,
    Source,
    backoff,
    day,
    hours,
    minutes,
    next_run,
    on_failed,
    resource,
    step,
)


class Geocode(Pipeline):
    """Spread the rows that are left over the requests that are left."""

    rows = Source("addresses", store=STORE, batch=1000, lease=minutes(10), key="id")
    budget = Budget("geocoder", requests=10 / day, rows=1000 / day, tz="Europe/Zagreb")

    @resource
    def api(self):
        return HttpApi(f"{API}/geocode")

    @next_run
    async def size(self, room):
        return NextRun(rows=ceil(room.rows / room.requests))

    @step(cost=dict(requests=1, rows=len), retry=backoff(tries=3), timeout=30)
    async def geocode(self, rows):
        return await self.api(rows)

    @on_failed
    async def later(self, rows):
        await self.rows.put_back(rows, after=hours(1))
