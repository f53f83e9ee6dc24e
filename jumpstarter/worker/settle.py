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
from typing import Final, Self

from jumpstarter.abc.broker import Broker
from jumpstarter.abc.results import Results
from jumpstarter.errors import BrokerUnavailable, ResultsUnavailable
from jumpstarter.jobs import Document, Outcome, Park, Quarantine, Settlement
from jumpstarter.telemetry import tracing

logger = logging.getLogger(__name__)

_BATCH: Final = 256  # outcomes in a round trip; larger ones gain nothing (peers.md) and hold the server up
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
        on_settled: Callable[[], None] | None = None,
        patience: float = 30.0,
    ) -> None:
        """:param results: None when nothing stores results.
        :param on_parked: called when messages were parked, so that whoever promotes them can look when the next one is due.
        :param on_settled: called when a batch is settled.
        :param patience: seconds that leaving the context manager goes on trying while a server is away.
        """
        self._broker = broker
        self._results = results
        self._incarnation = incarnation
        self._on_trouble = on_trouble
        self._on_parked = on_parked
        self._on_settled = on_settled
        self._patience = patience
        self._outcomes: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="settle", daemon=True)
        #: Takes an outcome; from any thread; never blocks.
        self.put: Callable[[Outcome], None] = self._outcomes.put

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
            batch = [first]
            try:
                while len(batch) < _BATCH:
                    outcome = self._outcomes.get_nowait()
                    if outcome is None:
                        self._outcomes.put(None)
                        break
                    batch.append(outcome)
            except queue.Empty:
                pass
            self._settle_patiently(batch)
            if self._on_settled is not None:
                self._on_settled()

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
        joins: list[str] = []
        settlements = [self._settlement(outcome, joins) for outcome in outcomes]
        held = self._broker.settle(settlements, incarnation=self._incarnation)
        for outcome, was_held in zip(outcomes, held, strict=True):
            if not was_held:
                logger.warning(
                    "%s: another worker owns this message by now (or the last attempt to settle it succeeded); left alone",
                    _label(outcome),
                )
        for join in joins:
            self._stored_at().close_join(join)
        if self._on_parked is not None and any(isinstance(outcome.action, Park) for outcome in outcomes):
            self._on_parked()

    def _settlement(self, outcome: Outcome, joins: list[str]) -> Settlement:
        """What the broker has to do; stores what it cannot store itself."""
        publish, documents = outcome.publish, outcome.documents
        if outcome.part is not None:
            # Counted before the ack: a crash in between counts the same member again, which changes nothing.
            bodies = self._stored_at().add_part(outcome.part)
            if bodies is not None:
                messages, results = outcome.part.complete(bodies)
                publish, documents = [*publish, *messages], [*documents, *results]
                joins.append(outcome.part.join)
        return Settlement(outcome.delivery, outcome.action, publish, self._writes(documents))

    def _writes(self, documents: Sequence[Document]) -> Sequence[object]:
        """The documents as part of the settlement where one server keeps both, else stored now: before the ack, so that a crash in
        between repeats the job rather than losing its result."""
        if not documents or self._results is None:
            return ()
        if self._results.server == self._broker.server:
            return self._results.writes(documents)
        self._results.put(documents)
        return ()

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


def _label(outcome: Outcome) -> str:
    job = outcome.job
    return f"{job.name}[{job.id}]" if job is not None else f"message {outcome.delivery.tag}"
