"""Waiting for things that a worker does, in integration tests: :class:`Manager`."""

from __future__ import annotations

import itertools
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TextIO

from kombu.exceptions import ContentDisallowed
from kombu.utils.functional import retry_over_time

from compat_celery import states
from compat_celery.contrib.testing.worker import running
from compat_celery.exceptions import TimeoutError  # noqa: A004 - Celery's name
from compat_celery.result import ResultSet
from compat_celery.utils.text import truncate
from compat_celery.utils.time import humanize_seconds

__all__ = ("Manager", "ManagerMixin", "Sentinel")


class Sentinel(Exception):
    """What was waited for has not happened yet."""


class ManagerMixin:
    """Adds waiting and asking to a class that has an ``app``."""

    app: Any

    def _init_manager(
        self, block_timeout: float = 1800.0, no_join: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.stdout = sys.stdout if stdout is None else stdout
        self.stderr = sys.stderr if stderr is None else stderr
        self.connerrors = self.app.connection().recoverable_connection_errors
        self.block_timeout = block_timeout
        self.no_join = no_join

    def remark(self, s: str, sep: str = "-") -> None:
        """Print a line."""
        print(f"{sep}{s}", file=self.stdout)

    def warn(self, s: str) -> None:
        """Print a line to where errors go."""
        print(s, file=self.stderr)

    # Waiting.

    def wait_for(
        self,
        fun: Callable[..., Any],
        catch: Any,
        desc: str = "thing",
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        errback: Callable[..., Any] | None = None,
        max_retries: int = 10,
        interval_start: float = 0.1,
        interval_step: float = 0.5,
        interval_max: float = 5.0,  # noqa: ARG002 - Celery's signature
        emit_warning: bool = False,
        **options: Any,
    ) -> Any:
        """Call ``fun`` until it raises none of the errors in ``catch``; answers what it returns.

        :param max_retries: calls after the first; then the error is raised.
        :param interval_start: seconds before the second call; before each further one ``interval_step`` more.
        """

        def on_error(error: Exception, intervals: Iterator[float], retries: int) -> float:
            interval = next(intervals)
            if emit_warning:
                self.warn(f"still waiting for {desc}, again {humanize_seconds(interval, 'in', ' ', microseconds=True)}: {error!r}")
            if errback:
                errback(error, interval, retries)
            return interval

        return self.retry_over_time(
            fun,
            catch,
            args=list(args),
            kwargs=kwargs or {},
            errback=on_error,
            max_retries=max_retries,
            interval_start=interval_start,
            interval_step=interval_step,
            **options,
        )

    def ensure_not_for_a_while(
        self,
        fun: Callable[..., Any],
        catch: Any,
        desc: str = "thing",
        max_retries: int = 20,
        interval_start: float = 0.1,
        interval_step: float = 0.02,
        interval_max: float = 1.0,
        emit_warning: bool = False,
        **_options: Any,
    ) -> None:
        """The opposite of :meth:`wait_for`: ``fun`` has to go on raising.

        :raises AssertionError: it did not.
        """
        try:
            self.wait_for(
                fun,
                catch,
                desc=desc,
                max_retries=max_retries,
                interval_start=interval_start,
                interval_step=interval_step,
                interval_max=interval_max,
                emit_warning=emit_warning,
            )
        except catch:
            return
        raise AssertionError(f"Should not have happened: {desc}")

    def retry_over_time(self, *args: Any, **kwargs: Any) -> Any:
        """Kombu's."""
        return retry_over_time(*args, **kwargs)

    def true_or_raise(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``fun`` returns, if that is true.

        :raises Sentinel: it is not.
        """
        answer = fun(*args, **kwargs)
        if not answer:
            raise Sentinel
        return answer

    # Results.

    def join(self, r: Any, propagate: bool = False, max_retries: int | None = 10, **kwargs: Any) -> Any:
        """The values of a result, or of a set of them; waits again when that takes longer than its ``timeout``.

        :raises AssertionError: some never came.
        """
        if self.no_join:
            return None
        results = r if isinstance(r, ResultSet) else self.app.ResultSet([r])
        for _ in range(max_retries) if max_retries else itertools.count():
            received: list[str] = []
            try:
                return results.get(callback=partial(_note, received), propagate=propagate, **kwargs)
            except (socket.timeout, TimeoutError) as error:  # noqa: UP041 - the two are not one in every Python that we run on
                missing = truncate(", ".join(self.missing_results(results)))
                self.remark(f"Still waiting for {len(results) - len(received)}/{len(results)}: [{missing}]: {error!r}", "!")
            except self.connerrors as error:
                self.remark(f"join: connection lost: {error!r}", "!")
        raise AssertionError("Test failed: Missing task results")

    def missing_results(self, r: Iterable[Any]) -> list[str]:
        """The ids of those results that are not known yet."""
        return [result.id for result in r if result.id not in result.backend._cache]

    def assert_result_tasks_in_progress_or_completed(
        self, async_results: Any, interval: float = 0.5, desc: str = "waiting for tasks to be started or completed", **policy: Any
    ) -> Any:
        """Wait until all of these tasks have at least begun."""
        return self.assert_task_state_from_result(
            self.is_result_task_in_progress, async_results, interval=interval, desc=desc, **policy
        )

    def assert_task_state_from_result(self, fun: Callable[..., Any], results: Any, interval: float = 0.5, **policy: Any) -> Any:
        """Wait until ``fun(results)`` is true."""
        return self.wait_for(partial(self.true_or_raise, fun, results, timeout=interval), (Sentinel,), **policy)

    @staticmethod
    def is_result_task_in_progress(results: Iterable[Any], **_: Any) -> bool:
        """Whether all of them have begun."""
        return all(result.state in {states.STARTED, states.SUCCESS} for result in results)

    # Asking workers.

    def inspect(self, timeout: float = 3.0) -> Any:
        """Questions to workers; the answers of those that this process runs are enough."""
        return self.app.control.inspect(timeout=timeout, limit=len(running) or None)

    def query_tasks(self, ids: Sequence[str], timeout: float = 0.5) -> Iterator[tuple[str, Any]]:
        """What each worker knows about these tasks."""
        yield from (self.inspect(timeout).query_task(*ids) or {}).items()

    def query_task_states(self, ids: Sequence[str], timeout: float = 0.5) -> dict[str, set[str]]:
        """The ids by the states that workers say they are in."""
        found: dict[str, set[str]] = defaultdict(set)
        for _, reply in self.query_tasks(ids, timeout=timeout):
            for task_id, (state, _) in reply.items():
                found[state].add(task_id)
        return found

    def assert_accepted(
        self, ids: Sequence[str], interval: float = 0.5, desc: str = "waiting for tasks to be accepted", **policy: Any
    ) -> Any:
        """Wait until workers run all of these tasks."""
        return self.assert_task_worker_state(self.is_accepted, ids, interval=interval, desc=desc, **policy)

    def assert_received(
        self, ids: Sequence[str], interval: float = 0.5, desc: str = "waiting for tasks to be received", **policy: Any
    ) -> Any:
        """Wait until workers have all of these tasks."""
        return self.assert_task_worker_state(self.is_received, ids, interval=interval, desc=desc, **policy)

    def assert_task_worker_state(self, fun: Callable[..., Any], ids: Any, interval: float = 0.5, **policy: Any) -> Any:
        """Wait until ``fun(ids)`` is true."""
        return self.wait_for(partial(self.true_or_raise, fun, ids, timeout=interval), (Sentinel,), **policy)

    def is_received(self, ids: Sequence[str], **kwargs: Any) -> bool:
        """Whether workers have all of these tasks."""
        return self._are_in(("reserved", "active", "ready"), ids, **kwargs)

    def is_accepted(self, ids: Sequence[str], **kwargs: Any) -> bool:
        """Whether workers run all of these tasks."""
        return self._are_in(("active", "ready"), ids, **kwargs)

    def _are_in(self, wanted: Iterable[str], ids: Sequence[str], timeout: float = 0.5) -> bool:
        found = self.query_task_states(ids, timeout=timeout)
        known: set[str] = set().union(*(found.get(state, set()) for state in wanted))
        return known.issuperset(ids)

    def wait_until_idle(self) -> None:
        """Drop what waits in the queues, and return when the workers run nothing."""
        control = self.app.control
        with self.app.connection() as connection:
            while control.purge(connection=connection):
                pass
            questions = self.inspect(1.0)
            questions.connection = connection
            while self._is_busy(questions):
                pass

    def _is_busy(self, questions: Any) -> bool:
        try:
            return any((questions.active() or {}).values())
        except ContentDisallowed:  # the test has changed what is accepted
            return False


def _note(received: list[str], task_id: str, _value: Any) -> None:
    received.append(task_id)


class Manager(ManagerMixin):
    """Waiting and asking, for one app."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        self._init_manager(**kwargs)
