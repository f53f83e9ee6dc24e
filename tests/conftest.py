"""Fixtures for all tests: every test marked ``anyio`` runs on asyncio and on trio, in real time unless its folder says more."""

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param
