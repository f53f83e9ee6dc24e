"""Brokers for tests of what goes between processes. In real time, because brokers wait in threads; on asyncio, and on trio where
the broker is in memory."""

import uuid

import pytest

from tests.rabbitmq_server import rabbitmq_server
from tests.redis_server import redis_server, shared_redis

__all__ = ["rabbitmq_server", "redis_server", "shared_redis"]

PLACES = [("memory", "asyncio"), ("memory", "trio"), ("sqlite", "asyncio"), ("redis", "asyncio"), ("rabbitmq", "asyncio")]


@pytest.fixture(params=PLACES, ids=["-".join(place) for place in PLACES])
def place(request):
    return request.param


@pytest.fixture
def anyio_backend(place):
    return place[1]


@pytest.fixture
def broker_url(place, request, tmp_path):
    match place[0]:
        case "memory":
            return f"memory://{uuid.uuid4()}"
        case "sqlite":
            return f"sqlite:///{tmp_path}/broker.db"
        case "redis":
            return request.getfixturevalue("redis_server").url
        case "rabbitmq":
            return request.getfixturevalue("rabbitmq_server").url


@pytest.fixture(params=["redis", "rabbitmq"])
def server_url(request, tmp_path):
    """A broker that several processes share."""
    return request.getfixturevalue(f"{request.param}_server").url
