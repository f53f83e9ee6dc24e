"""The kit is tested as it is used: on asyncio and on trio, in virtual time."""

import pytest

from jumpstarter.testing.clock import virtual_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual_backend(request.param)
