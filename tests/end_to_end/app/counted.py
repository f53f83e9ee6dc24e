"""Counts the calls of our own functions that one message costs, from its claim to its ack. Run through the alias; prints JSON.

A program of its own, so that what other tests have imported or subscribed to does not count.
"""

import collections
import json
import sys
import threading
import time

from celery import Celery

from compat_celery.app.publisher import broker_for, bulk_publish
from compat_celery.worker.application import CeleryApplication
from jumpstarter.nodes import EmbeddedNode, NodeSetup
from jumpstarter.telemetry import configure
from jumpstarter.worker import WorkerOptions

WARM_UP, COUNTED = 500, 2_000

app = Celery("counted", broker=sys.argv[1], backend=sys.argv[1])
calls = collections.Counter()


@app.task(name="noop")
def noop(number):
    """Nothing."""


def count(frame, event, _argument):
    """A profile function: calls of Python functions that are ours."""
    if event == "call":
        file = frame.f_code.co_filename
        for package in ("/jumpstarter/", "/compat_celery/"):
            if package in file:
                calls[package + file.rpartition(package)[2], frame.f_code.co_name] += 1


def publish(numbers):
    """All in one round trip."""
    with bulk_publish(app):
        return [noop.delay(number) for number in numbers]


def finish(results):
    """Until all have their results; this thread's own calls are not counted."""
    for result in results:
        assert result.get(timeout=30) is None


configure("counted")
options = WorkerOptions(name="counted", queues=("celery",), pool="threads", concurrency=1)
setup = NodeSetup(
    application=CeleryApplication(app, "counted"), broker=broker_for(app), results=app.backend.results, options=options
)
node = EmbeddedNode(setup)
warm = publish(range(WARM_UP))
threading.setprofile(count)
node.start()
threading.setprofile(None)
finish(warm)
results = publish(range(COUNTED))
before = calls.copy()
finish(results)
while broker_for(app).depth("celery"):
    time.sleep(0.01)
node.stop()
calls.subtract(before)
per_job = {f"{file}:{name}": number / COUNTED for (file, name), number in calls.items() if number >= COUNTED // 2}
print(json.dumps(per_job))
