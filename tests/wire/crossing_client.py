"""A client of the app ``crossing``, run by genuine Celery or by ours: answers lines of JSON with lines of JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from typing import Any

from celery import group
from crossing import app
from kombu import Exchange

TIMEOUT = 60.0


def replies(queue: str) -> dict[str, Any]:
    """What comes back from the worker behind a queue."""
    where, fail = app.tasks["where"], app.tasks["fail"]
    seen: list[str] = []
    failed = fail.apply_async(queue=queue)
    try:
        failed.get(timeout=TIMEOUT)
    except ValueError as error:
        raised = [type(error).__name__, list(error.args)]
    called = where.apply_async((1,), queue=queue)
    together = group(where.s(number).set(queue=queue) for number in range(10)).apply_async()
    return {
        "one": called.get(timeout=TIMEOUT),
        "state": called.state,
        "raised": raised,
        "failed": failed.state,
        "group": together.join_native(timeout=TIMEOUT),
        "progress": app.tasks["progress"]
        .apply_async(queue=queue)
        .get(timeout=TIMEOUT, on_message=lambda message: seen.append(message["status"])),
        "chain": (where.s(1).set(queue=queue) | where.si(2).set(queue=queue)).apply_async().get(timeout=TIMEOUT),
        "seen": seen[-1],
    }


def broadcast(path: str, word: str) -> None:
    """Tell everybody to write the word down."""
    # Genuine Celery takes an exchange that its process has not declared for a direct one, on Redis, and nobody hears it.
    app.tasks["note"].apply_async((path, word), queue="news", declare=[Exchange("news", type="fanout")])


def watch(queue: str) -> dict[str, Any]:
    """What a monitor learns of the worker behind a queue, which somebody else has told to report."""
    state = app.events.State()
    heard: list[dict[str, Any]] = []

    def on_event(event: dict[str, Any]) -> None:
        heard.append(event)
        state.event(event)

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": on_event})
        with receiver.consumer_context() as (listening, _, _):

            def until(done: Any) -> None:
                end = time.monotonic() + TIMEOUT
                while not done() and time.monotonic() < end:
                    with contextlib.suppress(TimeoutError):
                        listening.drain_events(timeout=0.2)
                assert done(), heard

            # Heartbeats say that it hears, and that the worker is there.
            until(lambda: [event for event in heard if event["type"] == "worker-heartbeat"])
            done = app.tasks["where"].apply_async((1,), queue=queue)
            failed = app.tasks["fail"].apply_async(queue=queue)
            until(lambda: {"task-succeeded", "task-failed"} <= {event["type"] for event in heard})
    (worker,) = state.workers.values()
    return {
        "worker": [worker.hostname, worker.alive, worker.sw_ident],
        "states": [state.tasks[done.id].state, state.tasks[failed.id].state],
        "name": state.tasks[done.id].name,
        "args": state.tasks[done.id].args,
        "by": state.tasks[done.id].worker.hostname,
        "exception": state.tasks[failed.id].exception,
        "types": [event["type"] for event in heard if event.get("uuid") == done.id],
    }


CASES = {"replies": replies, "broadcast": broadcast, "watch": watch}

for line in sys.stdin:
    question = json.loads(line)
    try:
        answer = {"observed": CASES[question["case"]](**question["arguments"])}
    except Exception:  # noqa: BLE001 - the test shows it
        answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
