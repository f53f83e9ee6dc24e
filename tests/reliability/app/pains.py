"""The application of the pains: tasks that note their starts and ends in a ledger outside the broker, and some that misbehave."""

import ctypes
import json
import os
import signal
import sys
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Pool, Process

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.worker.control import inspect_command

app = Celery("pains", broker=os.environ["PAINS_BROKER"], backend=os.environ["PAINS_RESULTS"])
app.conf.update(json.loads(os.environ.get("PAINS_SETTINGS", "{}")))
LATE = {"acks_late": True, "reject_on_worker_lost": True}


def note(event, task, **facts):
    """One line in the ledger, written at once: lines of several processes do not mix."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    entry = {"event": event, "id": task.request.id, "task": task.name, "pid": os.getpid(), "time": now, **facts}
    file = os.open(os.environ["PAINS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(entry).encode() + b"\n")
    finally:
        os.close(file)


@app.task(bind=True, **LATE)
def hold(self, seconds, ballast=""):
    note("start", self, size=len(ballast))
    time.sleep(seconds)
    note("finish", self)
    return len(ballast)


@app.task(bind=True, **LATE)
def hold_interpreter(self, seconds):
    """In C, without letting go of the interpreter's lock."""
    note("start", self)
    ctypes.PyDLL(None).sleep(seconds)
    note("finish", self)


@app.task(bind=True)
def hold_early(self, seconds):
    """Acked early, as is Celery's default."""
    note("start", self)
    time.sleep(seconds)
    note("finish", self)


@app.task(bind=True, **LATE)
def kill_yourself(self):
    note("start", self)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, **LATE)
def die_once_and_tell(self, mark):
    """Kill the process the first time; the second time return something that is different for every run."""
    note("start", self)
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        note("finish", self)
    return str(uuid.uuid4())


@app.task(bind=True)
def gather(self, values):
    note("start", self, got=values)
    return values


@app.task(bind=True)
def due(self, at):
    """:param at: wall time at which it was to begin."""
    note("start", self, late=time.time() - at)


@app.task(soft_time_limit=0.5, time_limit=20)
def tidy():
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        return "tidied up"


@app.task
def forever():
    while True:
        time.sleep(0.01)


@app.task(bind=True, **LATE)
def family(self, kind):
    """Work in processes of its own."""
    numbers = [-1, -2, -3]
    if kind == "pool":
        with Pool(2) as pool:
            return pool.map(abs, numbers)
    if kind == "futures":
        with ProcessPoolExecutor(2) as executor:
            return list(executor.map(abs, numbers))
    process = Process(target=time.sleep, args=(600,))
    process.start()
    note("start", self, grandchild=process.pid)
    process.join()
    return []


@inspect_command()
def loaded(state, name):
    """Whether the node's process has imported a module."""
    return name in sys.modules


if os.environ.get("PAINS_LEASES"):  # a worker renews all leases thrice within the shortest

    @app.task(bind=True, lease=8, **LATE)
    def hold_patient(self, seconds):
        note("start", self)
        time.sleep(seconds)

    @app.task(bind=True, lease=2, **LATE)
    def hold_eager(self, seconds):
        note("start", self)
        time.sleep(seconds)


if os.environ.get("PAINS_NEW"):

    @app.task(bind=True)
    def only_in_the_new_version(self):
        note("start", self)
        return "known"
