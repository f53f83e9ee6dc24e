"""Publishes the cases of the golden messages, and prints each message as it lies in Redis: one line of JSON each.

Run by genuine Celery's interpreter (see ``tests/wire/golden.py``), and by ours as ``python -m compat_celery golden_program.py``. It
imports celery, nothing of ours. What is random or depends on the machine stays as it is, but for the machine's name.
"""

import json
import os
import socket
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from uuid import UUID

socket.gethostname = lambda: "golden"

import redis  # noqa: E402 - after the name is changed
from celery import Celery, chain, chord, group  # noqa: E402
from kombu import Exchange, Queue  # noqa: E402

URL = os.environ["GOLDEN_URL"]
PRIORITY = "\x06\x16"
CERTIFICATE = os.environ.get("GOLDEN_CERTIFICATE")

app = Celery("golden", broker=URL, backend=URL)
app.conf.task_queues = [
    Queue("celery", Exchange("celery"), "celery"),
    Queue("orders", Exchange("shop", type="topic"), "order.#"),
]
store = redis.Redis.from_url(URL)

#: Calls of ``golden.echo`` as data, so that readers know what has to come out: arguments and options.
TYPED = [datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=UTC), date(2030, 1, 2), time(3, 4, 5), Decimal("1.10"), UUID(int=7), b"\x00\xff"]
CALLS = {
    "plain": ([1, 2.5], {"word": "x"}, {}),
    "no arguments": ([], {}, {}),
    "text": (["håå®ƒ \u2028 \U0001f600 \"'\\"], {"naïve": "\x00\x1f"}, {}),
    "nested": ([[1, [2, {"three": [None, True, False]}]], -(2**53)], {"empty": {}}, {}),
    "typed values": (TYPED, {}, {}),
    "eta": ([1], {}, {"eta": datetime(2040, 5, 6, 7, 8, 9, tzinfo=UTC)}),
    "countdown": ([1], {}, {"countdown": 3600}),
    "expires at": ([1], {}, {"expires": datetime(2040, 5, 6, 7, 8, 9, tzinfo=UTC)}),
    "expires in": ([1], {}, {"expires": 3600}),
    "priority 0": ([1], {}, {"priority": 0}),
    "priority 5": ([1], {}, {"priority": 5}),
    "priority 9": ([1], {}, {"priority": 9}),
    "limits": ([1], {}, {"time_limit": 20, "soft_time_limit": 10}),
    "retries": ([1], {}, {"retries": 2}),
    "ignored result": ([1], {}, {"ignore_result": True}),
    "shadow": ([1], {}, {"shadow": "another name"}),
    "headers": ([1], {}, {"headers": {"tenant": "t-1", "depth": [1, {"a": None}]}}),
    "property": ([1], {}, {"app_id": "golden"}),
    "reply to": ([1], {}, {"reply_to": "somebody"}),
    "stamps": ([1], {}, {"stamped_headers": ["batch"], "batch": "b-1"}),
    "family": ([1], {}, {"root_id": "the-root", "parent_id": "the-parent"}),
    "in a group": ([1], {}, {"group_id": "the-group", "group_index": 3}),
    "topic": ([1], {}, {"queue": "orders", "routing_key": "order.paid"}),
    "transient": ([1], {}, {"delivery_mode": 1}),
}
#: Each serializer with each compression.
ENCODINGS = [
    (serializer, compression)
    for serializer in ("json", "pickle", "yaml", "msgpack")
    for compression in (None, "gzip", "bzip2", "lzma", "zstd", "brotli")
]


@app.task(name="golden.echo")
def echo(*args, **kwargs):
    """What it was called with."""
    return [args, kwargs]


@app.task(name="golden.total")
def total(numbers):
    """A body."""
    return sum(numbers)


@app.task(name="golden.error")
def error(task_id):
    """An errback."""


def call(name, protocol=2, **more):
    """Publish one of the calls."""
    args, kwargs, options = CALLS[name]
    echo.apply_async(args, kwargs, task_id=f"id of {name}", **options, **more)


def canvases():
    """What is published when a canvas is called, by its name."""
    add = echo
    return {
        "link": lambda: add.apply_async((1,), link=add.s(2), link_error=error.s()),
        "links": lambda: add.apply_async((1,), link=[add.s(2), add.si(3)], link_error=[error.s(), error.si("x")]),
        "chain": lambda: chain(add.s(1), add.s(2), add.si(3)).apply_async(),
        "chain of options": lambda: chain(add.s(1).set(queue="orders"), add.s(2).set(priority=3, countdown=0)).apply_async(),
        "chain with errback": lambda: chain(add.s(1), add.s(2)).on_error(error.s()).apply_async(),
        "chain with link": lambda: chain(add.s(1), add.s(2)).apply_async(link=add.s(9)),
        "group": lambda: group(add.s(1), add.s(2)).apply_async(),
        "group of chains": lambda: group(chain(add.s(1), add.s(2)), add.s(3)).apply_async(),
        "chord": lambda: chord([add.s(1), add.s(2)], total.s()).apply_async(),
        "chord with a chain as body": lambda: chord([add.s(1), add.s(2)], total.s() | add.s(1)).apply_async(),
        "chord with errback": lambda: chord([add.s(1), add.s(2)], total.s().on_error(error.s())).apply_async(),
        "group then task": (group(add.s(1), add.s(2)) | total.s() | add.s(5)).apply_async,
        "task then group then task": (add.s(1) | group(add.s(1), add.s(2)) | total.s()).apply_async,
        "chords in a header": lambda: chord([chord([add.s(1), add.s(2)], total.s()), add.s(3)], total.s()).apply_async(),
        "map": lambda: add.map([1, 2]).apply_async(),
        "starmap": lambda: add.starmap([(1, 2), (3, 4)]).apply_async(),
        "chunks": lambda: add.chunks([(1, 2), (3, 4), (5, 6)], 2).apply_async(),
        "stamped": lambda: _stamped(chain(add.s(1), add.s(2))),
        "by name": lambda: app.send_task("golden.elsewhere", (1,), {"a": 2}),
    }


def _stamped(canvas):
    canvas.stamp(batch="b-1")
    canvas.apply_async()


def taken():
    """The messages that are in Redis now, each with the key of its list; the oldest first."""
    found = []
    for key in sorted(store.scan_iter(match="*", _type="list")):
        found += [(key.decode(), raw.decode()) for raw in reversed(store.lrange(key, 0, -1))]
        store.delete(key)  # nothing else: bindings and the results' subscriptions stay
    return found


def told(kind, case):
    """Print what was published."""
    for key, raw in taken():
        print(json.dumps({"kind": kind, "case": case, "list": key, "raw": raw}))


def cases():
    """Publish and print all."""
    for protocol in (2, 1):
        app.conf.task_protocol = protocol
        app.amqp.__dict__.pop("create_task_message", None)  # it is cached, on both sides
        for name in CALLS:
            call(name)
            told(f"call, protocol {protocol}", name)
        for name, publish in canvases().items():
            publish()
            told(f"canvas, protocol {protocol}", name)
        for serializer, compression in ENCODINGS:
            for name in ("plain", "nested") if serializer in ("yaml", "msgpack") else ("plain", "nested", "typed values"):
                call(name, serializer=serializer, compression=compression)
                told(f"encoding, protocol {protocol}, {serializer}, {compression}", name)


def signed():
    """The serializer ``auth``: what is signed changes with each signature, so it is only read."""
    folder = CERTIFICATE
    app.conf.update(task_serializer="auth", accept_content=["auth"])
    where = {"security_key": "key.pem", "security_certificate": "cert.pem", "security_cert_store": "cert.pem"}
    app.conf.update({setting: f"{folder}/{file}" for setting, file in where.items()})
    app.setup_security()
    app.conf.task_protocol = 2
    app.amqp.__dict__.pop("create_task_message", None)
    for name in ("plain", "nested", "typed values"):
        call(name, serializer="auth")
        told("signed, protocol 2", name)


if __name__ == "__main__":
    store.flushdb()
    app.finalize()
    cases()
    if CERTIFICATE:
        signed()
    sys.stdout.flush()
