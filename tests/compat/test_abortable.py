"""Tasks that are asked to end, and look whether they were."""

from __future__ import annotations

import threading

from compat_celery.contrib.abortable import AbortableAsyncResult, AbortableTask
from compat_celery.contrib.embedded import embedded_worker
from tests.compat.inline_worker import make_app


def test_a_task_finds_that_it_was_aborted() -> None:
    app, runs, aborted = make_app(), threading.Event(), threading.Event()

    @app.task(bind=True, base=AbortableTask)
    def export(self: AbortableTask) -> tuple[bool, bool]:
        before = self.is_aborted()
        runs.set()
        assert aborted.wait(10)
        return before, self.is_aborted()

    with embedded_worker(app, pool="threads"):
        result = export.delay()
        assert isinstance(result, AbortableAsyncResult)
        assert runs.wait(10)
        assert not result.is_aborted()
        result.abort()
        assert result.is_aborted()
        aborted.set()
        assert tuple(result.get(timeout=10)) == (False, True)
        assert not result.is_aborted()


def test_another_tasks_state_may_be_asked_for() -> None:
    app = make_app()
    export = app.task(base=AbortableTask, name="export")(lambda: None)
    AbortableAsyncResult("elsewhere", app=app).abort()
    assert export.is_aborted(task_id="elsewhere")
    assert not export.is_aborted(task_id="nowhere")
