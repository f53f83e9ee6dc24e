"""Every keyword of a table goes to one API, and its answer to another. No schedule, no mutex: one pipeline feeds the next.

``jumpstarter pipeline run examples.pipelines.keywords:flow --until settled``
"""

import sqlite3

from examples.pipelines import API, STORE
from examples.pipelines.http import HttpApi
from jumpstarter.pipelines import Budget, Pipeline, Source, SqlQuery, backoff, minutes, resource, second, sink, step

DATABASE = "keywords.db"
PAGE = "select id, text from keywords where id > ? order by id limit ?"


class Rank(Pipeline):
    """The second API: 50 requests a second, 500 keywords each."""

    rows = Source("volumes", store=STORE, batch=500, lease=minutes(5))
    budget = Budget("ranks", requests=50 / second)
    database = DATABASE

    @resource
    def api(self):
        return HttpApi(f"{API}/ranks")

    @step(cost=1, retry=backoff(tries=3), timeout=30)
    async def rank(self, rows):
        return await self.api(rows)

    @sink
    def store(self, results):
        with sqlite3.connect(self.database, timeout=30) as connection:
            connection.execute("create table if not exists ranks (id integer primary key, rank text)")
            rows = [(result["row"]["row"]["id"], result["answer"]) for result in results]
            connection.executemany("insert or replace into ranks values (?, ?)", rows)
        connection.close()


class Volume(Pipeline):
    """The first API: 100 requests a second, 1,000 keywords each."""

    rows = SqlQuery("keywords", DATABASE, PAGE, cursor="id", store=STORE, batch=1000)
    budget = Budget("volumes", requests=100 / second)

    @resource
    def api(self):
        return HttpApi(f"{API}/volumes")

    @step(cost=1, retry=backoff(tries=3), timeout=30)
    async def volume(self, rows):
        return await self.api(rows)


flow = Volume >> Rank
