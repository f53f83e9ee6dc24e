"""The application of the wire tests, as a Celery user writes it. Genuine workers and ours are given this same file.

``t.integration.tasks`` is the task module of Celery's own integration tests, unmodified; the few tasks below say what it cannot:
when a task started, in which worker it ran, and that it retried twice.
"""

import json
import os
import time

from celery import Celery

URL = os.environ["WIRE_URL"]
WORKER = os.environ.get("WIRE_WORKER", "")

app = Celery("wire", broker=URL, backend=URL, include=["t.integration.tasks"])


@app.task
def clock():
    """When this task started, in seconds since the epoch."""
    return time.time()


@app.task(bind=True, max_retries=5)
def retry_twice(self, word):
    """Fails twice, then tells how often it was retried."""
    if self.request.retries < 2:
        raise self.retry(exc=ValueError(word), countdown=0.1)
    return [word, self.request.retries]


@app.task(ignore_result=True)
def mark(ledger, number, seconds):
    """Works for a while, then writes its number and its worker into the ledger."""
    time.sleep(seconds)
    line = json.dumps({"number": number, "worker": WORKER}) + "\n"
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())  # one write: lines of several processes do not mix
    finally:
        os.close(file)


def note(ledger, **entry):
    """Write a line into the ledger."""
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (json.dumps({**entry, "worker": WORKER}) + "\n").encode())
    finally:
        os.close(file)


@app.task
def part(ledger, number, place, seconds):
    """A task of a chord's header: works for a while, and answers with its place."""
    time.sleep(seconds)
    note(ledger, part=number)
    return place


@app.task
def body(places, ledger, number):
    """The body of a chord."""
    note(ledger, fired=number, places=places)
