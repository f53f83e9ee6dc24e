"""A pipeline."""

import os

import redis

from examples.pipelines.http import HttpApi
from jumpstarter.pipelines import Pipeline, RedisRows, backoff, minutes, resource, sink, step

client = redis.Redis.from_url(os.environ["REDIS"])


class Looped(Pipeline):
    rows = RedisRows("rows", url=os.environ["REDIS"], batch=int(os.environ["BATCH"]), lease=minutes(10))

    @resource
    def api(self):
        return HttpApi(os.environ["API"], timeout=60)

    @step(retry=backoff(tries=3))
    async def call(self, rows):
        return await self.api(rows)

    @sink
    def store(self, results):
        client.incrby("stored", len(results))
