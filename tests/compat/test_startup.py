"""What a program loads before its first call is published. The seconds are measured by benchmarks/startup.py."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import redis

from tests.redis_server import redis_server, shared_redis

__all__ = ("redis_server", "shared_redis")

#: What takes long to import (benchmarks/startup.py), and a client does without.
HEAVY = (
    "kombu",
    "amqp",
    "billiard",
    "redis",
    "asyncio",
    "anyio",
    "click",
    "opentelemetry.sdk",
    "importlib.metadata",
    "ssl",
    "psutil",
)

PROGRAM = """
import sys
import compat_celery

compat_celery.install_as_celery()
from celery import Celery, shared_task

app = Celery("startup", broker={broker!r}, backend="redis://localhost:1/0")

@shared_task
def add(x, y):
    return x + y

{call}
print(*sys.modules)
"""


def modules(call: str, broker: str) -> set[str]:
    program = PROGRAM.format(call=call, broker=broker)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(ran.stdout.split())


def newest(url: str) -> bytes:
    with redis.Redis.from_url(url) as client:
        return client.lindex("celery", 0)


def test_a_client_of_redis_needs_no_kombu(redis_server) -> None:
    loaded = modules("add.delay(1, 2)", redis_server.url)
    assert [name for name in HEAVY if name in loaded] == []
    assert "compat_celery.canvas" not in loaded


def test_what_is_left_out_comes_when_it_is_asked_for(redis_server) -> None:
    calls = """
from celery.exceptions import NotPublished, OperationalError, SoftTimeLimitExceeded
import kombu.exceptions, billiard.exceptions
assert OperationalError is kombu.exceptions.OperationalError is add.OperationalError is app.Task.OperationalError
assert issubclass(NotPublished, OperationalError) and NotPublished.__module__ == "celery.exceptions"
assert SoftTimeLimitExceeded is billiard.exceptions.SoftTimeLimitExceeded
result = add.delay(1, 2)
assert result.backend is app.backend
assert app.amqp.default_queue.name == app.amqp.plain_default_queue.name == "celery"
assert isinstance(app.amqp.plain_default_queue, kombu.Queue)
assert app.amqp.Connection is kombu.Connection
from datetime import UTC, datetime
add.delay(datetime(2024, 1, 2, tzinfo=UTC), {b"x": 1}["x".encode()])
"""
    assert "kombu.entity" in modules(calls, redis_server.url)
    raw = newest(redis_server.url)
    body = json.loads(base64.b64decode(json.loads(raw)["body"]))
    assert body[0][0] == {"__type__": "datetime", "__value__": "2024-01-02T00:00:00+00:00"}


def test_a_codec_put_in_jsons_place_is_used(redis_server) -> None:
    calls = """
from kombu.serialization import register
import json
register("json", lambda data: json.dumps(["mine", data[0]]), json.loads, "application/json", "utf-8")
add.delay(1, 2)
"""
    modules(calls, redis_server.url)
    raw = newest(redis_server.url)
    assert json.loads(base64.b64decode(json.loads(raw)["body"])) == ["mine", [1, 2]]
