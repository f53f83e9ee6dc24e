"""A loop of tasks: a signal starts the next round when one is over, under a mutex; a periodic task starts it when it has died."""

import json
import os
import urllib.request

import redis
from celery import Celery, chain
from celery.signals import task_failure, task_postrun

BATCH = int(os.environ["BATCH"])

app = Celery("signals", broker=os.environ["REDIS"])
client = redis.Redis.from_url(os.environ["REDIS"])
app.conf.beat_schedule = {"start": {"task": "signals.start", "schedule": float(os.environ["SCHEDULE"])}}


def go_round():
    if client.set("running", 1, nx=True, ex=600):
        chain(load.s(), call.s(), store.s()).apply_async()


@app.task(name="signals.start")
def start():
    go_round()


@app.task(name="signals.load")
def load():
    rows = client.lpop("rows", BATCH) or []
    return [json.loads(row) for row in rows]


@app.task(name="signals.call")
def call(rows):
    if not rows:
        return []
    request = urllib.request.Request(os.environ["API"], json.dumps(rows).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@app.task(name="signals.store")
def store(results):
    client.incrby("stored", len(results))


@task_failure.connect(sender=call)
def put_back(args=(), **_):
    client.rpush("rows", *[json.dumps(row) for row in args[0]])
    client.delete("running")
    go_round()


@task_postrun.connect(sender=store)
def again(**_):
    client.delete("running")
    if client.llen("rows"):
        go_round()
