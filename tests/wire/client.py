"""A Celery client that is asked for cases by name, one line of JSON each, and answers with what it observed.

Run by genuine Celery's interpreter, and by ours as ``python -m compat_celery client.py``. It imports celery, nothing of ours. What
the observations have to be stands in cases.py.
"""

import json
import os
import sys
import time
import traceback

import redis
from celery import chain, chord, group, uuid
from proj import URL, app, body, clock, mark, part, retry_twice
from t.integration import tasks

PATIENCE = 30  # seconds for any one result
CASES = {}

store = redis.Redis.from_url(URL)


def case(function):
    """Make the function a case under its own name."""
    CASES[function.__name__] = function
    return function


def get(result):
    """The value of the result."""
    return result.get(timeout=PATIENCE)


def failure(result):
    """How the result failed: the name of the exception's class and its message."""
    try:
        return {"returned": get(result)}
    except Exception as error:  # noqa: BLE001 - which one it is, is what the case is about
        return {"type": type(error).__name__, "message": str(error), "state": result.state}


def appeared(key):
    """The bytes under ``key``, when there are any; None when patience is over."""
    deadline = time.monotonic() + PATIENCE
    while not (found := store.get(key)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def counted(key):
    """The number under ``key``, when it has become at least 1, and after one more task went all the way round."""
    appeared(key)
    get(tasks.add.delay(0, 0))
    return int(store.get(key) or 0)


@case
def add():
    return get(tasks.add.delay(2, 3))


@case
def mul():
    return get(tasks.mul.delay(6, 7))


@case
def keyword_arguments():
    return [get(tasks.add.delay(x=1, y=2, z=3)), get(tasks.add.apply_async((1,), {"y": 5}))]


@case
def tsum():
    return get(tasks.tsum.delay([1, 2, 3, 4]))


@case
def nested_data():
    data = {"list": [1, 2.5, None, True, {"deep": ["håå®ƒ", "\u2028", ""]}], "empty": {}, "number": -(2**53)}
    return get(tasks.identity.delay(data)) == data


@case
def raises():
    return failure(tasks.raise_error.delay())


@case
def unknown_task():
    answer = failure(app.send_task("nobody.knows.this", (1,)))
    return {**answer, "message": "nobody.knows.this" in answer["message"]}


@case
def retries_twice():
    return get(retry_twice.delay("again"))


@case
def retries_once():
    return get(tasks.retry_once.delay())


@case
def countdown():
    published = time.time()
    started = get(clock.apply_async(countdown=2))
    late = started - published
    return "early" if late < 2 else "in time" if late < 6 else f"{late:.1f} s"


@case
def ignores_its_result():
    key = f"ran-{uuid()}"
    result = tasks.redis_count.apply_async(kwargs={"redis_key": key}, ignore_result=True)
    declared = tasks.add_ignore_result.delay(1, 2)
    stored = [name for name in (result.id, declared.id) if counted(key) and store.exists(f"celery-task-meta-{name}")]
    return {"runs": counted(key), "stored": stored, "get": [get(result), get(declared)]}


@case
def priority():
    return [get(tasks.return_priority.apply_async(priority=number)) for number in (0, 5, 9)]


@case
def link():
    result = tasks.add.apply_async((2, 2), link=tasks.add.s(16).set(task_id=(following := uuid())))
    return [get(result), get(app.AsyncResult(following)), [child.id == following for child in result.children]]


@case
def link_error_by_name():
    """The errback takes one argument: it is sent as a task with the id of the one that failed."""
    result = tasks.raise_error.apply_async(link_error=tasks.errback_old_style.s())
    return [failure(result)["type"], counted(result.id)]


@case
def link_error_in_place():
    """The errback takes three arguments: the worker calls it itself."""
    result = tasks.raise_error.apply_async(link_error=tasks.errback_new_style.s())
    return [failure(result)["type"], counted(result.id)]


@case
def chain_of_3():
    result = (tasks.add.s(2, 2) | tasks.add.s(4) | tasks.mul.s(10)).apply_async()
    return [get(result), get(result.parent), get(result.parent.parent)]


@case
def chain_with_immutable_step():
    return get(chain(tasks.add.s(2, 2), tasks.add.si(10, 10), tasks.add.s(1)).apply_async())


@case
def group_of_10():
    return get(group(tasks.add.s(i, i) for i in range(10)).apply_async())


@case
def group_of_300():
    return get(group(tasks.add.s(i, i) for i in range(300)).apply_async())


@case
def chord_of_10():
    return get(chord([tasks.add.s(i, i) for i in range(10)])(tasks.tsum.s()))


@case
def chord_keeps_order():
    return get(chord([tasks.identity.s(i) for i in range(10)])(tasks.identity.s()))


@case
def group_then_task():
    return get((group(tasks.add.s(i, i) for i in range(5)) | tasks.tsum.s()).apply_async())


@case
def chain_of_task_group_of_chains_task_task():
    inner = group(chain(tasks.add.s(1), tasks.add.s(2)), chain(tasks.add.s(3), tasks.add.s(4)))
    return get(chain(tasks.add.s(1, 1), inner, tasks.tsum.s(), tasks.add.s(100)).apply_async())


@case
def chord_with_failing_header():
    body = tasks.tsum.s().on_error(tasks.errback_old_style.s())
    result = chord([tasks.add.s(1, 1), tasks.raise_error.s(), tasks.add.s(2, 2)])(body)
    answer = failure(result)  # the header's own error, if it is known before the body's
    stored = json.loads(appeared(f"celery-task-meta-{result.id}"))
    return {
        "raised": answer.get("type") in ("ChordError", "ValueError"),
        "state": result.state,
        "stored": stored["result"]["exc_type"],
        "says": "deliberate error" in str(stored["result"]["exc_message"]),
        "errbacks": counted(result.id),
    }


@case
def chords(ledger, first, count, size, seconds):
    """Send chords; how many."""
    for number in range(first, first + count):
        chord([part.s(ledger, number, place, seconds) for place in range(size)], body.s(ledger, number)).apply_async()
    return count


@case
def marks(ledger, first, count, seconds):
    """Publish that many marks; returns when all are published."""
    for number in range(first, first + count):
        mark.delay(ledger, number, seconds)
    return count


def answer(question):
    """What the case observed, or the traceback of what went wrong in this client."""
    began = time.monotonic()
    try:
        observed = CASES[question["case"]](**question.get("arguments", {}))
    except Exception:  # noqa: BLE001 - it is told to the test, and the next case is asked
        return {"error": traceback.format_exc()}
    return {"observed": observed, "seconds": round(time.monotonic() - began, 3)}


def main():
    """Answer until standard input ends. Standard output is for answers only: whatever prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
