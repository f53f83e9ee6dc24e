"""edx-celeryutils: base classes that log the calls of a task, and keep those that failed in Django's database."""

import logging
import os
import time

import django
import pytest
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{os.environ['LIBRARY_FOLDER']}/edx-{os.getpid()}.db"}},
    INSTALLED_APPS=["celery_utils"],
    USE_TZ=True,
)
django.setup()

from celery_utils.logged_task import LoggedTask  # noqa: E402 - Django is set up first
from celery_utils.models import FailedTask  # noqa: E402
from celery_utils.persist_on_failure import LoggedPersistOnFailureTask, PersistOnFailureTask  # noqa: E402
from django.core.management import call_command  # noqa: E402


@pytest.fixture(autouse=True)
def database():
    call_command("migrate", verbosity=0)
    FailedTask.objects.all().delete()


def test_a_call_is_logged(app, caplog):
    @app.task(base=LoggedTask, name="logged", shared=False)
    def logged(a, b):
        return a + b

    with caplog.at_level(logging.INFO):
        result = logged.apply_async(args=(1, 2), kwargs={})
    assert f"Task logged[{result.id}] submitted with arguments (1, 2), {{}}" in caplog.text


def appeared(condition):
    """What the condition gives once it is true: a result may be there before the task's ``on_failure`` is through."""
    deadline = time.monotonic() + 20
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_a_failure_is_logged(app, working):
    told = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("celery_utils.logged_task").addHandler(handler)

    @app.task(base=LoggedTask, shared=False)
    def fail():
        raise ValueError("broken")

    with working(app):
        result = fail.delay()
        with pytest.raises(ValueError, match="broken"):
            result.get(timeout=20)
        assert appeared(lambda: any(f"[{result.id}] failed due to Traceback" in message for message in told))


@pytest.mark.parametrize("base", [PersistOnFailureTask, LoggedPersistOnFailureTask])
def test_a_task_that_failed_is_kept_with_its_arguments(app, working, base):
    @app.task(base=base, name="kept", shared=False)
    def kept(a, b=None):
        raise ValueError(f"{a}, {b}")

    with working(app):
        result = kept.delay(1, b="two")
        with pytest.raises(ValueError, match="two"):
            result.get(timeout=20)
        (failed,) = appeared(lambda: list(FailedTask.objects.all()))
    assert (failed.task_name, failed.task_id, failed.args, failed.kwargs) == ("kept", result.id, [1], {"b": "two"})


def test_a_kept_task_can_be_applied_again(app, working):
    broken = [True]

    @app.task(base=PersistOnFailureTask, name="mended", shared=False)
    def mended(number):
        if broken:
            raise ValueError("not yet")
        return number

    app.set_default()
    with working(app):
        with pytest.raises(ValueError, match="not yet"):
            mended.delay(7).get(timeout=20)
        broken.clear()
        (failed,) = appeared(lambda: list(FailedTask.objects.all()))
        failed.reapply()
        assert appeared(lambda: app.AsyncResult(failed.task_id).state == "SUCCESS")
