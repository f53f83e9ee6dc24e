"""Periodic tasks, kept in step by hand: each looks into a Redis list for what the one before has left there, under a mutex."""

import json
import os
import urllib.request

import redis
from celery import Celery

SCHEDULE = float(os.environ["SCHEDULE"])
BATCH = int(os.environ["BATCH"])

app = Celery("periodic", broker=os.environ["REDIS"])
client = redis.Redis.from_url(os.environ["REDIS"])

app.conf.beat_schedule = {
    name: {"task": f"{app.main}.{name}", "schedule": SCHEDULE, "options": {"expires": SCHEDULE}}
    for name in ("load", "call", "store", "report")
}


@app.task(name="periodic.load")
def load():
    with client.lock("load", timeout=600):
        # One ahead: all four look at the same moment, and a call that finds nothing loaded has lost a whole period.
        while client.llen("loaded") < 2:
            rows = client.lpop("rows", BATCH)
            if not rows:
                break
            client.rpush("loaded", json.dumps([json.loads(row) for row in rows]))


@app.task(name="periodic.call")
def call():
    lock = client.lock("call", timeout=600)
    if not lock.acquire(blocking=False):
        return
    try:
        batch = client.lindex("loaded", 0)
        if batch is None:
            return
        request = urllib.request.Request(os.environ["API"], batch, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                client.rpush("results", answer.read())
        except OSError as error:
            client.rpush("failures", json.dumps([str(error), json.loads(batch)]))
        client.lpop("loaded")
    finally:
        lock.release()


@app.task(name="periodic.store")
def store():
    with client.lock("store", timeout=600):
        while results := client.lpop("results"):
            client.incrby("stored", len(json.loads(results)))


@app.task(name="periodic.report")
def report():
    with client.lock("report", timeout=600):
        while failure := client.lpop("failures"):
            _, rows = json.loads(failure)
            client.rpush("rows", *[json.dumps(row) for row in rows])
