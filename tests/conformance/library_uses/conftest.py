"""A Redis, apps on it, and a worker in a thread: by Celery's own names, so that the same tests run with genuine Celery."""

import itertools
import os

import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker

URL = os.environ["LIBRARY_REDIS"]
_numbers = itertools.count()


@pytest.fixture
def url():
    redis.Redis.from_url(f"{URL}/0").flushall()
    return f"{URL}/0"


@pytest.fixture
def app(url):
    app = Celery(f"uses{next(_numbers)}", broker=url, backend=url)
    app.conf.update(broker_connection_retry_on_startup=True, result_expires=600)
    app.set_current()
    yield app
    app.close()


@pytest.fixture
def working():
    """``with working(app):`` a worker runs the app's tasks."""
    return lambda app, **options: start_worker(app, perform_ping_check=False, shutdown_timeout=20, **options)
