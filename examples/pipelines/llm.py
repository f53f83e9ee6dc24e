"""Prompts go to a language model that allows one request a minute; the texts are uploaded by a loop of its own.

``jumpstarter pipeline run examples.pipelines.llm:flow``
"""

from pathlib import Path

from examples.pipelines import API, STORE
from examples.pipelines.http import HttpApi
from jumpstarter.pipelines import Budget, Pipeline, Source, backoff, minute, minutes, resource, sink, step


class Upload(Pipeline):
    """As fast as texts come."""

    rows = Source("texts", store=STORE, batch=20)
    folder = Path("texts")

    @sink(retry=backoff(tries=5))
    def upload(self, rows):
        self.folder.mkdir(exist_ok=True)
        for text in rows:
            (self.folder / f"{text['row']['id']}.txt").write_text(text["answer"])


class Answer(Pipeline):
    """One prompt a minute."""

    rows = Source("prompts", store=STORE, batch=1, lease=minutes(5), key="id")
    budget = Budget("llm", requests=1 / minute)

    @resource
    def api(self):
        return HttpApi(f"{API}/complete")

    @step(cost=1, retry=backoff(tries=3), timeout=120)
    async def ask(self, rows):
        return await self.api(rows)


flow = Answer >> Upload
