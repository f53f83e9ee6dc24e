"""Settle: turn outcomes into stored results, sent messages and acks. Comes from: execute, admit, and nodes with a dead child.

The one place that acks. Outcomes are taken in whatever batch has gathered while the last one travelled, so one round trip
serves one job when there is little to do and hundreds when there is much. While the server is away the batch is kept and tried
again: nothing that was done is forgotten, and nothing is acked whose result could not be stored.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, Self

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Fence, Results
from jumpstarter.errors import BrokerUnavailable, ResultsUnavailable
from jumpstarter.jobs import ACKED, Action, Completed, Envelope, Job, Outcome, Park, Quarantine, Settlement
from jumpstarter.telemetry import tracing

logger = logging.getLogger(__name__)

_BATCH: Final = 256  # outcomes in a round trip; larger ones gain nothing (peers.md) and hold the server up
_FENCED_FOR: Final = 86_400.0  # seconds: longer than any worker sleeps and wakes up again with its connection alive
_FEW: Final = 16  # outcomes that a slot settles itself when it has nothing else to do
#: Seconds from one settlement to the next, at least, while more outcomes are on their way. A round trip takes as long, but where a
#: settlement costs none (an ack on AMQP does not) the thread would be woken for each outcome: twice the processor time of a job
#: that does nothing.
_PAUSE: Final = 0.003
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 2.0  # seconds between attempts while a server is away

#: Told of each failed attempt to settle, and with None once it works again.
OnTrouble = Callable[[Exception | None], None]


class Settler:
    """Settles the outcomes of one incarnation, in a thread of its own. Use as a context manager: leaving it settles what is
    left."""

    def __init__(
        self,
        broker: Broker,
        results: Results | None,
        incarnation: str,
        *,
        on_trouble: OnTrouble,
        on_parked: Callable[[], None] | None = None,
        on_settled: Callable[[Sequence[Outcome]], None] | None = None,
        more_come: Callable[[], bool] = lambda: False,
        patience: float = 30.0,
    ) -> None:
        """:param results: None when nothing stores results.
        :param on_parked: called when messages were parked, so that whoever promotes them can look when the next one is due.
        :param on_settled: called with each batch that is settled.
        :param more_come: whether jobs wait for a slot, so that more outcomes are on their way: those that come soon are settled
            together.
        :param patience: seconds that leaving the context manager goes on trying while a server is away.
        """
        self._broker = broker
        self._results = results
        self._incarnation = incarnation
        self._on_trouble = on_trouble
        self._on_parked = on_parked
        self._on_settled = on_settled
        self._more_come = more_come
        self._patience = patience
        # With results elsewhere: joins that outcomes on their way complete (by the outcome's id), and those that are done with.
        self._completing: dict[int, str] = {}
        self._to_close: list[str] = []
        self._outcomes: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._give_up = threading.Event()
        self._busy = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="settle", daemon=True)
        #: Takes an outcome; from any thread; never blocks.
        self.put: Callable[[Outcome], None] = self._outcomes.put

    @property
    def _are_together(self) -> bool:
        """Broker and results are on one server. Asked anew each time: a server may turn out to forbid it."""
        return self._results is not None and self._results.server == self._broker.server

    @property
    def pending(self) -> int:
        """Outcomes that were put and are not on their way yet."""
        return self._outcomes.qsize()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Settle what is left and end the thread. Gives up when the server stays away longer than ``patience``."""
        self._outcomes.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._give_up.set()
            self._thread.join()

    def _serve(self) -> None:
        while (first := self._outcomes.get()) is not None:
            began = time.monotonic()
            batch = [first, *self._take(_BATCH - 1)]
            with self._busy:
                self._settle_patiently(batch)
            if self._on_settled is not None:
                self._on_settled(batch)
            if self._outcomes.qsize() < _BATCH and self._more_come():
                time.sleep(max(0.0, _PAUSE - (time.monotonic() - began)))

    def _take(self, most: int) -> list[Outcome]:
        """What has gathered."""
        taken: list[Outcome] = []
        while len(taken) < most:
            try:
                outcome = self._outcomes.get_nowait()
            except queue.Empty:
                break
            if outcome is None:  # the sign to end: for the thread
                self._outcomes.put(None)
                break
            taken.append(outcome)
        return taken

    def put_last(self, outcome: Outcome) -> None:
        """Take an outcome from a thread that has nothing else to do, and settle it there, with the few that may wait, if nothing
        else is being settled: two switches of threads less, which is 0.2 ms of the 1.7 ms that a call and its result take on an
        idle machine.
        """
        if self._outcomes.qsize() > _FEW or not self._busy.acquire(blocking=False):
            self._outcomes.put(outcome)
            return
        batch = [*self._take(_FEW), outcome]
        try:
            self.settle(batch)
        except Exception:  # noqa: BLE001 - the thread, which meets the same error, knows what to do
            for each in batch:
                self._outcomes.put(each)
            return
        finally:
            self._busy.release()
        if self._on_settled is not None:
            self._on_settled(batch)

    def _settle_patiently(self, batch: Sequence[Outcome]) -> None:
        """Settle, as often as it takes."""
        delay, troubled = _FIRST_DELAY, False
        while not self._give_up.is_set():
            try:
                self.settle(batch)
            except (BrokerUnavailable, ResultsUnavailable) as error:
                troubled = True
                self._on_trouble(error)
                self._give_up.wait(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
            except Exception as error:  # noqa: BLE001 - logged, with the outcome that caused it set aside
                # Not the server's absence: something in the batch cannot be carried out. The others must not suffer from it.
                if len(batch) > 1:
                    for outcome in batch:
                        self._settle_patiently([outcome])
                else:
                    self._set_aside(batch[0], error)
                return
            else:
                if troubled:
                    self._on_trouble(None)
                return
        logger.error("gave up settling %d job(s): they will be delivered again once the lease has run out", len(batch))

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Carry out a batch, in the calling thread.

        :raises BrokerUnavailable: nothing, or nothing that may not be repeated, was done.
        :raises ResultsUnavailable: the same.
        """
        if not tracing.enabled:
            self._settle(outcomes)
            return
        started, failure = time.monotonic(), None
        try:
            self._settle(outcomes)
        except Exception as error:
            failure = error
            raise
        finally:
            headers = [outcome.delivery.envelope.headers for outcome in outcomes if outcome.delivery.envelope is not None]
            tracing.settled(
                outcomes[0].delivery.queue,
                headers,
                url=self._broker.url,
                count=len(outcomes),
                seconds=time.monotonic() - started,
                error=failure,
            )

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        if self._broker.acks_at_start:
            outcomes = [outcome for outcome in outcomes if not _is_settled(outcome)]
            if not outcomes:
                return
        self._completing.clear()
        settlements = self._together(outcomes) if self._are_together else self._apart(outcomes)
        answers = self._broker.settle(settlements, incarnation=self._incarnation)
        completed, has_parked = self._read(answers, outcomes)
        if self._to_close:
            self._close_joins()
        if completed:
            self._complete(completed)
        if self._on_parked is not None and has_parked:
            self._on_parked()

    def _read(
        self, answers: Sequence[bool | Completed], outcomes: Sequence[Outcome]
    ) -> tuple[list[tuple[Outcome, Completed]], bool]:
        """Those that completed a join, and whether any was parked."""
        completed: list[tuple[Outcome, Completed]] = []
        has_parked = False
        for outcome, answer in zip(outcomes, answers, strict=True):
            has_parked = has_parked or type(outcome.action) is Park
            if isinstance(answer, Completed):
                completed.append((outcome, answer))
            elif not answer:
                _log_taken(outcome)
            elif id(outcome) in self._completing:
                self._to_close.append(self._completing[id(outcome)])
        return completed, has_parked

    # Results on the broker's own server: everything happens in its settle, or nothing does.

    def _together(self, outcomes: Sequence[Outcome]) -> list[Settlement]:
        """The documents of all outcomes are handed over at once: this is on the way of every message."""
        results = self._results
        documents = [document for outcome in outcomes for document in outcome.documents]
        writes = iter(results.writes(documents) if results is not None else ())
        settlements = []
        for outcome in outcomes:
            job, part = outcome.job, outcome.part
            settlement = Settlement(
                outcome.delivery,
                ACKED if job is not None and job.acked else outcome.action,
                outcome.publish,
                tuple(islice(writes, len(outcome.documents))),
                results.part_write(part) if results is not None and part is not None else None,
            )
            settlements.append(settlement)
        return settlements

    def _complete(self, completed: Sequence[tuple[Outcome, Completed]]) -> None:
        """Those whose part was the last of its join: settle them with what the parts come to. Until then they are still claimed, so
        a crash in between repeats the job, which completes the join again."""
        results = self._stored_at()
        settlements = []
        for outcome, answer in completed:
            assert outcome.part is not None
            messages, documents = outcome.part.complete(answer.bodies)
            settlements.append(
                Settlement(
                    outcome.delivery,
                    _action(outcome),
                    [*outcome.publish, *messages],
                    results.writes([*outcome.documents, *documents]),
                    closes=results.close_write(outcome.part.join),
                )
            )
        answers = self._broker.settle(settlements, incarnation=self._incarnation)
        too_late = []
        for (outcome, _), settled in zip(completed, answers, strict=True):
            if isinstance(settled, Completed):
                too_late.append(outcome)
            elif not settled:
                _log_taken(outcome)
        if too_late:
            # A copy of the same job has closed the join meanwhile: nothing was done, and now their parts complete nothing.
            self._broker.settle(self._together(too_late), incarnation=self._incarnation)

    # Results elsewhere: stored before the ack, so that a crash in between repeats the job rather than losing its result.

    def _apart(self, outcomes: Sequence[Outcome]) -> list[Settlement]:
        results = self._results
        if results is None:
            return [Settlement(outcome.delivery, _action(outcome), outcome.publish) for outcome in outcomes]
        self._store(results, outcomes)
        counted = [outcome for outcome in outcomes if outcome.part is not None]
        follow_ups = self._count(results, counted) if counted else {}
        return [
            Settlement(outcome.delivery, _action(outcome), [*outcome.publish, *follow_ups.get(id(outcome), ())])
            for outcome in outcomes
        ]

    def _store(self, results: Results, outcomes: Sequence[Outcome]) -> None:
        documents = [(document, _fence(outcome)) for outcome in outcomes for document in outcome.documents]
        if documents:
            results.put([document for document, _ in documents], by=[fence for _, fence in documents])

    def _count(self, results: Results, outcomes: Sequence[Outcome]) -> dict[int, Sequence[Envelope]]:
        """Count parts; the messages that complete joins, by the outcome they go out with. A join is closed only when those are
        sent: a crash in between completes it again."""
        parts = [outcome.part for outcome in outcomes if outcome.part is not None]
        follow_ups: dict[int, Sequence[Envelope]] = {}
        for outcome, part, bodies in zip(
            outcomes, parts, results.add_parts(parts, by=[_fence(outcome) for outcome in outcomes]), strict=True
        ):
            if bodies is None:
                continue
            messages, documents = part.complete(bodies)
            if documents:
                results.put(documents)
            follow_ups[id(outcome)] = messages
            self._completing[id(outcome)] = part.join
        return follow_ups

    def _close_joins(self) -> None:
        # Only those whose body was sent: were a refused settlement to close its join, whoever has the job now would find nothing to
        # complete, and the body would be lost.
        while self._to_close:
            self._stored_at().close_join(self._to_close[0])
            del self._to_close[0]

    def fence(self, jobs: Sequence[Job]) -> None:
        """Before these repeated jobs begin: have what their earlier attempts may still write refused. Where the results lie on the
        broker's server, the claim itself does that."""
        if self._results is not None and not self._are_together:
            self._results.fence([Fence(job.id, job.delivery.attempt) for job in jobs], _FENCED_FOR)

    def _stored_at(self) -> Results:
        assert self._results is not None, "a part of a join comes only from applications that store results"
        return self._results

    def _set_aside(self, outcome: Outcome, error: Exception) -> None:
        """An outcome that the servers refuse: keep the message with the reason, and go on."""
        logger.error("%s: cannot be settled and goes to quarantine", _label(outcome), exc_info=error)
        reason = Quarantine(f"its outcome ({outcome.status}) could not be settled: {error!r}")
        try:
            self._broker.settle([Settlement(outcome.delivery, reason)], incarnation=self._incarnation)
        except Exception:
            logger.exception("%s: not even quarantine took it; it stays claimed until this process ends", _label(outcome))


def _is_settled(outcome: Outcome) -> bool:
    """The message was acked before its job began, and nothing else came of it."""
    job = outcome.job
    return job is not None and job.acked and not (outcome.documents or outcome.publish or outcome.part)


def _action(outcome: Outcome) -> Action:
    return ACKED if outcome.job is not None and outcome.job.acked else outcome.action


def _fence(outcome: Outcome) -> Fence | None:
    return None if outcome.job is None else Fence(outcome.job.id, outcome.delivery.attempt)


def _log_taken(outcome: Outcome) -> None:
    logger.warning(
        "%s: another worker owns this message by now (or the last attempt to settle it succeeded); left alone", _label(outcome)
    )


def _label(outcome: Outcome) -> str:
    job = outcome.job
    return f"{job.name}[{job.id}]" if job is not None else f"message {outcome.delivery.tag}"
