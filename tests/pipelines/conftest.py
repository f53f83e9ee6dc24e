"""Pipelines are tested on asyncio and on trio, in virtual time that budgets, leases and loops share."""

import uuid

import pytest

from jumpstarter.pipelines.clocks import shared_clock
from jumpstarter.pipelines.stores import open_store
from jumpstarter.testing.clock import LoopClock, virtual_backend
from tests.redis_server import redis_server, shared_redis  # noqa: F401 - fixtures


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual_backend(request.param)


@pytest.fixture
def virtual_clock():
    with shared_clock(LoopClock()) as clock:
        yield clock


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request, tmp_path):
    """A store with nothing in it."""
    match request.param:
        case "memory":
            return open_store(f"memory://{uuid.uuid4()}")
        case "sqlite":
            return open_store(f"sqlite:///{tmp_path}/store.db")
        case "redis":
            return open_store(request.getfixturevalue("redis_server").url)


#: Pairs that tests of pipelines are not run in: each store is seen on both backends by the tests of one of the others.
_LEFT_OUT = ("[asyncio-sqlite]", "[trio-redis]")


def pytest_collection_modifyitems(config, items):
    left_out = [item for item in items if item.fspath.basename == "test_pipeline.py" and item.name.endswith(_LEFT_OUT)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
