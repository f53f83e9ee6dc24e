"""Fixtures for all tests: every test marked ``anyio`` runs on asyncio and on trio, in real time unless its folder says more."""

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("simulation", "the simulated workers of tests/simulation")
    group.addoption("--simulation-seed", type=int, metavar="SEED", help="tell this story only, and print it")
    group.addoption("--simulation-seeds", type=int, metavar="COUNT", help="tell so many stories of each kind")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param
