"""Counts the calls of our own functions that jobs cost in a child process, from claim to ack. Run through the alias; prints JSON:
lists of thread, module, function and number.

    counted.py <redis url> bare|observed <jobs>

A program of its own, so that what other tests have imported or subscribed to does not count. All threads of the child are profiled
from its start on, but for the one that tells what was counted so far.
"""

import collections
import json
import os
import sys
import threading

from celery import Celery, signals

from compat_celery.app.publisher import broker_for, bulk_publish
from compat_celery.worker.application import CeleryApplication
from jumpstarter.nodes import EmbeddedNode, NodeSetup
from jumpstarter.worker import WorkerOptions

URL, OBSERVED, JOBS = sys.argv[1], sys.argv[2] == "observed", int(sys.argv[3])
OURS = ("jumpstarter", "compat_celery", "celery")
WARM_UP = 200

app = Celery("counted", broker=URL, backend=URL)
calls = collections.Counter()
question, answer = os.pipe(), os.pipe()


@app.task(name="noop")
def noop(number):
    """Nothing."""


def count(frame, event, _argument):
    """A profile function. "call" is also what it is told when a generator or a coroutine goes on."""
    if event == "call":
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in OURS:
            calls[threading.get_ident(), module, frame.f_code.co_name] += 1


def tell():
    """In a thread of the child: answer each question with what was counted up to then."""
    while os.read(question[0], 1):
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        told = [[names.get(thread), *who, number] for (thread, *who), number in calls.copy().items()]
        os.write(answer[1], json.dumps(told).encode() + b"\n")


def ask():
    """What the child has counted up to now."""
    os.write(question[1], b"?")
    told = b""
    while not told.endswith(b"\n"):
        told += os.read(answer[0], 1 << 20)
    return {tuple(who): number for *who, number in json.loads(told)}


@signals.worker_process_init.connect
def begin(**_):
    """In the child's main thread, before it has any others."""
    threading.Thread(target=tell, daemon=True).start()
    threading.setprofile(count)
    sys.setprofile(count)


if OBSERVED:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    for signal in (signals.task_prerun, signals.task_success, signals.task_postrun):
        signal.connect(lambda **_: None, weak=False)


def run(jobs):
    """In one batch; all is settled when it returns, as results and acks are one step."""
    with bulk_publish(app):
        results = [noop.delay(number) for number in range(jobs)]
    for result in results:
        assert result.get(timeout=30) is None


# The profiler makes jobs ten times as long; without it so many would be claimed ahead as well.
options = WorkerOptions(name="counted", queues=("celery",), pool="prefork", concurrency=1, look_ahead_seconds=10.0)
application = CeleryApplication(app, "counted")
with EmbeddedNode(NodeSetup(application=application, broker=broker_for(app), results=app.backend.results, options=options)):
    run(WARM_UP)
    before = ask()
    run(JOBS)
    after = ask()
spent = {who: number - before.get(who, 0) for who, number in after.items()}
print(json.dumps([[*who, number] for who, number in spent.items() if number]))
