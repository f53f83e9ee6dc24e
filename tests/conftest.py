"""Fixtures for all tests: every test marked ``anyio`` runs on asyncio and on trio, in real time unless its folder says more."""

import logging
import os

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("simulation", "the simulated workers of tests/simulation")
    group.addoption("--simulation-seed", type=int, metavar="SEED", help="tell this story only, and print it")
    group.addoption("--simulation-seeds", type=int, metavar="COUNT", help="tell so many stories of each kind")


def pytest_collection_modifyitems(items):
    """`make test` has 25 minutes for everything."""
    if "RELIABILITY" in os.environ:
        return
    skip = pytest.mark.skip(reason="heavy: `make chaos` runs it, or RELIABILITY=short (or full)")
    for item in items:
        if item.get_closest_marker("heavy"):
            item.add_marker(skip)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture(autouse=True)
def logging_is_as_before():
    """Workers and apps set up logging for their whole process; the next test must not be deaf for it."""
    loggers = [logging.getLogger(name) for name in ("", "jumpstarter", "celery", "celery.task")]
    before = [(logger.level, logger.propagate, logger.disabled, logger.handlers[:]) for logger in loggers]
    disabled = logging.root.manager.disable
    yield
    logging.root.manager.disable = disabled
    for logger, (level, propagate, off, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.disabled, logger.handlers[:] = propagate, off, handlers
