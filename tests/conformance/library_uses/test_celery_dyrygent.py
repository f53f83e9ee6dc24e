"""celery-dyrygent: takes canvases apart into its own workflows, whose processor is a task that retries itself."""

import pytest
from celery import chain, chord, group
from celery_dyrygent.tasks import register_workflow_processor
from celery_dyrygent.workflows import Workflow

ran = []


@pytest.fixture
def tasks(app):
    ran.clear()
    app.conf.result_extended = True

    @app.task(name="note", shared=False)
    def note(word):
        ran.append(word)
        return word

    @app.task(name="fail", shared=False)
    def fail():
        raise ValueError("no")

    register_workflow_processor(app)
    return app.tasks


def processed(app, working, canvas):
    workflow = Workflow()
    workflow.set_retry_policy("random", 1, 1)
    workflow.add_celery_canvas(canvas)
    with working(app):
        workflow.apply_async().get(timeout=50)


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        (lambda s: chain(s("a"), s("b"), s("c")), ["a", "b", "c"]),
        (lambda s: chain(s("a"), group(s("b"), s("b")), s("c")), ["a", "b", "b", "c"]),
        (lambda s: chord([s("a"), chain(s("a"), s("a"))], s("b")), ["a", "a", "a", "b"]),
        (lambda s: group(s("a"), s("a")), ["a", "a"]),
    ],
)
def test_a_canvas_is_worked_off_in_its_order(app, tasks, working, shape, order):
    processed(app, working, shape(tasks["note"].si))
    assert ran == order


def test_what_depends_on_a_failure_does_not_run(app, tasks, working):
    processed(app, working, chain(tasks["note"].si("a"), tasks["fail"].si(), tasks["note"].si("b")))
    assert ran == ["a"]
