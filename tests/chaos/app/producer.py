"""A publisher of a chaos run: notes what it wants to publish, publishes it, and notes what became of that.

Runs as ``celery``'s genuine client or as ours. Keeps so many jobs of its own on their way (it reads the ledger for those that have
finished) until it gets SIGTERM or has published as many as it was told to.
"""

import json
import os
import random
import signal
import sys
import time
import uuid
from pathlib import Path

import chaos_app
from celery import chain, chord
from note import note


class Outstanding:
    """The ids of this publisher that have not finished."""

    def __init__(self):
        self.ids = set()
        self._read = 0

    def count(self):
        """How many there are, by the ledger."""
        with Path(os.environ["CHAOS_LEDGER"]).open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                entry = json.loads(line)
                if entry["event"] == "finish":
                    self.ids.discard(entry["id"])
        return len(self.ids)


def publish(ids, send):
    """Publish once, with notes around it. Whether it arrived is unknown after any error: the answer may be what was lost."""
    for name in ids:
        note("invoke", id=name)
    try:
        send()
    except Exception as error:  # noqa: BLE001 - whatever it is, the ledger has it
        for name in ids:
            note("unknown", id=name, error=f"{type(error).__name__}: {error}"[:300])
        return False
    for name in ids:
        note("ok", id=name)
    return True


def new_ids(count):
    return [str(uuid.uuid4()) for _ in range(count)]


def one_job(seconds, **options):
    """Ids and how to send them, for a plain job."""
    ids = new_ids(1)
    return ids, lambda: chaos_app.work.apply_async((seconds,), task_id=ids[0], **options)


def one_chord(sizes):
    """The same for a chord whose header's members take so many seconds each."""
    *members, body = ids = new_ids(len(sizes) + 1)
    header = [
        chaos_app.part.s(number, seconds).set(task_id=name)
        for number, (name, seconds) in enumerate(zip(members, sizes, strict=True))
    ]
    return ids, lambda: chord(header)(chaos_app.gather.s(len(sizes)).set(task_id=body))


def one_chain(sizes):
    """The same for a chain."""
    ids = new_ids(len(sizes))
    steps = [chaos_app.step.si(seconds).set(task_id=name) for name, seconds in zip(ids, sizes, strict=True)]
    return ids, lambda: chain(*steps).apply_async()


def one_held(gate):
    """The same for a job that runs until the gate is there."""
    ids = new_ids(1)
    return ids, lambda: chaos_app.held.apply_async((gate,), task_id=ids[0])


def kill_its_process(mark):
    """The same for a job that kills the process that runs it, the first time."""
    ids = new_ids(1)
    return ids, lambda: chaos_app.die_once.apply_async((mark,), task_id=ids[0])


def storm(plan):
    """Until SIGTERM: jobs of 0 … ``longest`` seconds, ``chords`` of a hundred are chords."""
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    dice = random.Random(plan["seed"])
    outstanding = Outstanding()
    while not stop:
        if outstanding.count() >= plan["outstanding"]:
            time.sleep(0.02)
            continue
        longest = plan["longest"]
        if dice.random() * 100 < plan["chords"]:
            ids, send = one_chord([dice.uniform(0, longest / 2) for _ in range(3)])
        else:
            ids, send = one_job(dice.uniform(0, longest))
        if publish(ids, send):
            outstanding.ids.update(ids)
        else:
            time.sleep(0.05)


def once(plan):
    """What the plan lists, one after the other."""
    makers = {"job": one_job, "chord": one_chord, "chain": one_chain, "die": kill_its_process, "held": one_held}
    for kind, value, *options in plan["list"]:
        publish(*makers[kind](value, *options) if not options else makers[kind](value, **options[0]))


if __name__ == "__main__":
    plan = json.loads(sys.argv[1])
    {"storm": storm, "once": once}[plan["kind"]](plan)
