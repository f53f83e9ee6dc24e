"""The application of the ownership trials: tasks that work for a while and write their starts and ends into a ledger.

Genuine workers and ours are given this same file.
"""

import json
import os
import time

from celery import Celery

URL = os.environ["OWNED_URL"]
LEDGER = os.environ["OWNED_LEDGER"]
NODE = os.environ["OWNED_NODE"]

app = Celery("owned", broker=URL, backend=URL)
app.conf.worker_lease = float(os.environ["OWNED_LEASE"])  # ours, seconds; genuine Celery knows no leases
app.conf.broker_transport_options = json.loads(os.environ["OWNED_TRANSPORT"])


def note(event, number, task_id):
    """One line in the ledger. CLOCK_BOOTTIME is the same for all processes and is never set back."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    line = json.dumps({"event": event, "number": number, "id": task_id, "pid": os.getpid(), "node": NODE, "time": now})
    file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode() + b"\n")  # one write: lines of several processes do not mix
    finally:
        os.close(file)


def work(task, number, seconds):
    """Hold the message for so many seconds."""
    note("start", number, task.request.id)
    time.sleep(seconds)
    note("finish", number, task.request.id)


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def hold(self, number, seconds):
    """Runs again when its process dies."""
    work(self, number, seconds)


@app.task(bind=True, acks_late=True)
def hold_once(self, number, seconds):
    """Is stored as lost when its process dies."""
    work(self, number, seconds)
