"""django-user-tasks: each call of a user's task, and each chain, group and chord of them, has a row in Django's database, made by
what receivers of ``before_task_publish`` find in the messages (in protocol 1, as Open edX sets it)."""

import os
import time

import django
import pytest
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{os.environ['LIBRARY_FOLDER']}/user-{os.getpid()}.db"}
    },
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "rest_framework", "user_tasks"],
    USE_TZ=True,
    SECRET_KEY="for tests only",
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    ROOT_URLCONF=__name__,
)
django.setup()

from celery import chain, chord, group, shared_task  # noqa: E402 - Django is set up first
from django.contrib.auth import get_user_model  # noqa: E402
from django.core.management import call_command  # noqa: E402
from user_tasks.models import UserTaskStatus  # noqa: E402
from user_tasks.tasks import UserTask  # noqa: E402

urlpatterns = []


@pytest.fixture
def user():
    call_command("migrate", verbosity=0)
    UserTaskStatus.objects.all().delete()
    return get_user_model().objects.get_or_create(username="somebody")[0].pk


@pytest.fixture
def app(app):
    app.conf.task_protocol = 1
    app.set_default()
    return app


class Steps(UserTask):
    """So many steps."""

    abstract = True

    @staticmethod
    def calculate_total_steps(arguments_dict):
        return arguments_dict["n"]

    @classmethod
    def generate_name(cls, arguments_dict):
        return f"{arguments_dict['n']} steps"


@shared_task(base=Steps, bind=True)
def steps(self, user_id, n):
    if n == 13:
        raise ValueError("thirteen")
    for _ in range(n):
        self.status.increment_completed_steps()
    return n


def eventually(task_id, state):
    """The row of a task once it is in that state: rows are changed by receivers of signals."""
    deadline = time.monotonic() + 20
    while (row := of(task_id)).state != state and time.monotonic() < deadline:
        time.sleep(0.02)
    return row


def of(task_id):
    return UserTaskStatus.objects.get(task_id=task_id)


def test_a_call_has_a_row_that_follows_it(app, user, working):
    result = steps.delay(user, 3)
    row = of(result.id)
    assert (row.state, row.name, row.total_steps, row.completed_steps) == ("Pending", "3 steps", 3, 0)
    with working(app):
        assert result.get(timeout=20) == 3
        row = eventually(result.id, "Succeeded")
    assert (row.state, row.completed_steps, row.attempts) == ("Succeeded", 3, 1)


def test_a_failure_is_told(app, user, working):
    result = steps.delay(user, 13)
    with working(app):
        with pytest.raises(ValueError, match="thirteen"):
            result.get(timeout=20)
        assert eventually(result.id, "Failed").state == "Failed"


def test_a_chain_has_a_row_above_those_of_its_steps(app, user, working):
    result = chain(steps.si(user, 1), steps.si(user, 2)).delay()
    rows = list(UserTaskStatus.objects.order_by("created"))
    (above,) = [row for row in rows if row.is_container]
    assert above.total_steps == 3
    with working(app):
        result.get(timeout=20)
        assert eventually(result.id, "Succeeded").state == "Succeeded"


def test_a_group_has_a_row_above_those_of_its_members(app, user, working):
    result = group(steps.s(user, 1), steps.s(user, 2)).delay()
    above = of(result.id)
    assert (above.task_class, above.total_steps) == ("celery.group", 3)
    with working(app):
        assert result.get(timeout=20) == [1, 2]


def test_a_chord_has_rows_for_its_header_and_its_body(app, user, working):
    result = chord([steps.s(user, 1) for _ in range(30)], steps.si(user, 3)).delay()
    kinds = sorted(row.task_class for row in UserTaskStatus.objects.filter(is_container=True))
    assert kinds == ["celery.chord", "celery.group"]
    assert of(result.id).total_steps == 3
    with working(app):
        assert result.get(timeout=20) == 3
