"""The application of the chaos runs: tasks that work for a while and write their starts and ends into a ledger outside the broker.

Genuine workers and ours are given this same file. In workers of ours ``CHAOS_POINT`` and ``CHAOS_FAULT`` arm what is in
tests/chaos/points.py and tests/chaos/faults.py; those wrap the real methods, nothing in the product knows of them.
"""

import json
import os
import signal
import time
from pathlib import Path

from celery import Celery
from note import boot_time, new_run, note

NODE = os.environ.get("CHAOS_NODE", "")
#: Seconds after which a task that waits for its gate gives up: a broken run must end.
PATIENCE = 60

app = Celery("chaos", broker=os.environ["CHAOS_BROKER"], backend=os.environ["CHAOS_RESULTS"])
app.conf.update(
    broker_transport_options=json.loads(os.environ.get("CHAOS_TRANSPORT", "{}")),
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_publish_retry=False,  # what a publisher notes must be what became of one attempt
    worker_prefetch_multiplier=1,
    worker_lease=float(os.environ.get("CHAOS_LEASE", "2")),  # ours, seconds; genuine Celery knows no leases
)


class Run:
    """One run of a task, from its start to its finish in the ledger."""

    def __init__(self, task, **facts):
        request = task.request
        self.facts = {"id": request.id, "task": task.name, "node": NODE, "run": new_run()}
        note(
            "start",
            parent=request.parent_id,
            redelivered=bool((request.delivery_info or {}).get("redelivered")),
            **self.facts,
            **facts,
        )

    def finish(self, **facts):
        note("finish", **self.facts, **facts)


def work_for(seconds):
    """Hold a slot. In slices, so that "in the midst of a job" is not "in one system call"."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.05))


@app.task(bind=True)
def work(self, seconds):
    """A job of so many seconds."""
    run = Run(self)
    work_for(seconds / 2)
    reach("in-run")
    work_for(seconds / 2)
    run.finish()


@app.task(bind=True)
def part(self, number, seconds):
    """A member of a chord's header."""
    run = Run(self)
    work_for(seconds)
    run.finish()
    return number


@app.task(bind=True)
def gather(self, numbers, size):
    """The body of a chord whose header's members return 0 … size - 1."""
    run = Run(self, got=numbers, size=size)
    run.finish()


@app.task(bind=True)
def step(self, seconds):
    """A link of a chain, or a callback."""
    run = Run(self)
    work_for(seconds)
    run.finish()


@app.task(bind=True)
def die_once(self, mark):
    """Kill the process that runs it, the first time."""
    run = Run(self)
    try:
        Path(mark).touch(exist_ok=False)
    except FileExistsError:
        run.finish()
        return
    now = boot_time()
    note("kill", what="die_once", pids=[os.getpid()], slots=1, began=now, ended=now + 0.1)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True)
def held(self, gate):
    """Run until the gate is there, or this process's own; answer the name of the run: a result then tells which run it is from."""
    run = Run(self)
    gates = Path(gate), Path(f"{gate}.{os.getpid()}")
    end = time.monotonic() + PATIENCE
    while not any(path.exists() for path in gates) and time.monotonic() < end:
        time.sleep(0.01)
    run.finish()
    return run.facts["run"]


@app.task(bind=True)
def tell(self, got):
    """Note what came from the jobs before: a chord's body, a callback."""
    run = Run(self, got=got)
    run.finish()


def reach(_point):
    """Nothing, unless a crash point is armed."""


if os.environ.get("CHAOS_POINT") or os.environ.get("CHAOS_FAULT"):
    from tests.chaos import faults, points

    points.arm()
    faults.plant()
    reach = points.reach
