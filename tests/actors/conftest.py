"""Actors are tested on asyncio and on trio, in virtual time. Tests with threads override the backend (``parts.real_time``)."""

import pytest

from jumpstarter.testing.clock import virtual_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual_backend(request.param)
