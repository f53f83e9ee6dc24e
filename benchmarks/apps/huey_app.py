"""The same application for huey. Its blocking pop is the default; ``notify_result`` lets a caller block for the result as well."""

import time

from huey import RedisHuey
from notes import burn, note, setting

RESULTS = bool(setting("BENCH_RESULTS"))
NOTIFY = bool(setting("BENCH_CALLS"))
huey = RedisHuey("bench", url=setting("BENCH_BROKER"), results=RESULTS, store_none=RESULTS, notify_result=NOTIFY)


@huey.task()
def nothing(number: int) -> int:
    """Note the number."""
    note(number)
    return number


@huey.task()
def compute(number: int, seconds: float) -> int:
    """Keep a core busy."""
    began = time.monotonic()
    burn(seconds)
    note(number, began)
    return number


def send(number: int) -> None:
    """One message."""
    nothing(number)


def send_bulk(numbers: range) -> None:
    """It has no bulk call: one by one on one connection, in a pipeline of the client library."""
    pipe = huey.storage.conn.pipeline(transaction=False)
    for number in numbers:
        pipe.lpush(huey.storage.queue_key, huey.serialize_task(nothing.s(number)))
    pipe.execute()


def send_works(numbers: range) -> None:
    """Tasks that compute 10 ms."""
    for number in numbers:
        compute(number, 0.01)


def call(number: int) -> int:
    """One message and its result."""
    return int(nothing(number).get(blocking=True, timeout=30))
