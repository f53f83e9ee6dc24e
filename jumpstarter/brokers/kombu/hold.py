"""What one incarnation holds on one of Kombu's other transports, and the channel that it has it from. Comes from: plain.

A channel of Kombu is used by one thread at a time. Most transports forget a message when they hand it out, and Kombu's channel puts
back what is not acked when it is closed: as long as the process ends in order, nothing is lost.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kombu.exceptions import OperationalError
from kombu.transport import virtual

from jumpstarter.brokers.kombu import parcels
from jumpstarter.brokers.kombu.message import DELIVERIES, DUE
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import Ack, Acked, Action, Delivery, Park, Quarantine, Requeue, Return, Settlement

if TYPE_CHECKING:
    from jumpstarter.brokers.kombu.plain import KombuBroker

log = logging.getLogger(__name__)

#: Where messages rest in quarantine. Hyphens: Amazon SQS takes no dots.
QUARANTINE: Final = "jumpstarter-quarantine"

_abandoned: list[Any] = []


class Channel:
    """A connection with one channel, made at first use."""

    def __init__(self, broker: KombuBroker) -> None:
        self._broker = broker
        self._lock = threading.RLock()
        self._connection: Any = None
        self._channel: Any = None
        self._declared: set[str] = set()
        self.errors: tuple[type[Exception], ...] = (OperationalError, OSError)

    @contextlib.contextmanager
    def use(self) -> Iterator[Any]:
        """The channel, for nobody else meanwhile.

        :raises BrokerUnavailable: there is no connection, or it failed in the block.
        """
        if not self._lock.acquire(timeout=self._broker.timeout):
            raise BrokerUnavailable(self._broker.url, "another thread waits for its answer")
        try:
            yield self._open()
        except self.errors as error:
            raise BrokerUnavailable(self._broker.url, repr(error)) from error
        finally:
            self._lock.release()

    def _open(self) -> Any:
        if self._channel is None:
            connection = self._broker.connect()
            self.errors = (*self.errors, *connection.connection_errors, *connection.channel_errors)
            self._channel = connection.default_channel
            self._connection = connection
        return self._channel

    def declare(self, channel: Any, queue: str) -> None:
        """The queue exists: as the application says, or else by its name."""
        if queue not in self._declared:
            known = self._broker.queues.get(queue)
            if known is None:
                channel.queue_declare(queue=queue, durable=True)
            elif not known.no_declare:
                known.bind(channel).declare()
            self._declared.add(queue)

    def fail(self) -> None:
        """The next use connects anew. For channels that hold nothing."""
        connection, self._connection, self._channel = self._connection, None, None
        self._declared.clear()
        with contextlib.suppress(Exception):  # it is broken, whatever it says of that
            connection.release()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's channel. Kombu would put back what the parent holds when the child ends, and a
        client that is collected may say goodbye in the parent's name."""
        _abandoned.append((self._connection, self._channel))
        qos: Any = getattr(self._channel, "_qos", None)
        if isinstance(qos, virtual.QoS):
            qos._on_collect.cancel()
            qos._delivered.clear()

    def close(self) -> None:
        """Hang up. What is not acked goes back, where the transport can do that."""
        with self._lock:
            if self._connection is not None:
                self.fail()


@dataclass(slots=True, eq=False)
class _Claim:
    """A message that is neither acked nor back in its queue.

    :ivar sent: how many of its settlement's messages are sent: where the transport fails in between, the others are sent later.
    """

    message: Any
    queue: str
    tag: str = ""
    epoch: int = 0
    sent: int = 0


class Hold:
    """What one incarnation holds. Thread-safe."""

    def __init__(self, broker: KombuBroker, incarnation: str) -> None:
        self._broker = broker
        self._incarnation = incarnation
        self._serial = itertools.count(1)
        self._held: dict[str, _Claim] = {}
        self._aside: deque[_Claim] = deque()
        self._parked: list[tuple[float, int, _Claim]] = []
        self._lock = threading.Lock()
        self._done: set[str] = set()
        self._turn = 0
        self._keeper: threading.Thread | None = None
        self._closed = threading.Event()
        self.channel = Channel(broker)

    # Claiming

    def claim(self, queues: Sequence[str], limit: int) -> list[Delivery]:
        """See :meth:`jumpstarter.abc.broker.Broker.claim`."""
        with self.channel.use() as channel:
            taken = self._take_aside(queues, limit)
            for queue in self._in_turn(queues):
                while len(taken) < limit and (claim := self._get(channel, queue)) is not None:
                    taken.append(claim)
            epoch = self._broker.next_epoch() if taken else 0
            return [self._hand_out(claim, epoch) for claim in taken]

    def look(self, queues: Sequence[str]) -> bool:
        """Whether a claim from these queues would find something; takes a message aside for it."""
        with self.channel.use() as channel:
            self.take_due()
            if any(claim.queue in queues for claim in self._aside):
                return True
            for queue in self._in_turn(queues):
                claim = self._get(channel, queue)
                if claim is not None:
                    self._aside.append(claim)
                    return True
            return False

    def _in_turn(self, queues: Sequence[str]) -> list[str]:
        self._turn += 1
        first = self._turn % len(queues)
        return [*queues[first:], *queues[:first]]

    def _get(self, channel: Any, queue: str) -> _Claim | None:
        """The next message of the queue that is due; those that are not are parked."""
        self.channel.declare(channel, queue)
        while True:
            try:
                message = channel.basic_get(queue)
            except (KeyError, TypeError, ValueError) as error:
                # The transport took it out before it found that out; there is nothing to put anywhere.
                log.error("What was in queue %r is no message, and the transport has dropped it: %r", queue, error)
                continue
            if message is None:
                return None
            claim = _Claim(message, queue)
            due = (message.headers or {}).get(DUE)
            if not isinstance(due, float) or due <= self._broker.clock.now():
                return claim
            self._park(claim, due)

    def _take_aside(self, queues: Sequence[str], limit: int) -> list[_Claim]:
        self.take_due()
        taken = [claim for claim in self._aside if claim.queue in queues][:limit]
        for claim in taken:
            self._aside.remove(claim)
        return taken

    def take_due(self) -> int:
        """What was parked and is due can be claimed; how many these are."""
        now, count = self._broker.clock.now(), 0
        with self._lock:
            while self._parked and self._parked[0][0] <= now:
                self._aside.append(heapq.heappop(self._parked)[2])
                count += 1
        return count

    def _hand_out(self, claim: _Claim, epoch: int) -> Delivery:
        claim.tag, claim.epoch, claim.sent = f"{self._incarnation}.{epoch}.{next(self._serial)}", epoch, 0
        self._held[claim.tag] = claim
        return parcels.delivery_of(claim.message, claim.queue, claim.tag, epoch)

    def _park(self, claim: _Claim, due: float) -> None:
        with self._lock:
            heapq.heappush(self._parked, (due, next(self._serial), claim))

    def next_due(self) -> float | None:
        """Seconds until the next of the parked messages is due."""
        with contextlib.suppress(IndexError):
            return max(0.0, self._parked[0][0] - self._broker.clock.now())
        return None

    def deliveries(self) -> list[Delivery]:
        """What was handed out and is not settled."""
        held = list(self._held.values())
        return [parcels.delivery_of(claim.message, claim.queue, claim.tag, claim.epoch) for claim in held]

    # Settling

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """See :meth:`jumpstarter.abc.broker.Broker.settle`. One after the other: what was done when it fails is not done again."""
        # All is encoded before anything is sent: what cannot be encoded fails here, and nothing is done.
        prepared = [[parcels.parcel_of(envelope) for envelope in settlement.publish] for settlement in settlements]
        with self.channel.use() as channel:
            before = self._done.copy()
            answers = [self._settle(channel, *each, before) for each in zip(settlements, prepared, strict=True)]
            self._done.clear()
            return answers

    def _settle(self, channel: Any, settlement: Settlement, messages: list[parcels.Parcel], before: set[str]) -> bool:
        tag = settlement.delivery.tag
        claim = self._held.get(tag)
        if claim is None:
            return tag in before  # by the same call, which failed further on
        self._send(channel, claim, [*messages, *self._instead(settlement.action, claim)])
        if isinstance(settlement.action, Park) and settlement.action.due > self._broker.clock.now():
            self._park(claim, settlement.action.due)
        else:
            channel.basic_ack(claim.message.delivery_tag)
        del self._held[tag]
        self._done.add(tag)
        return True

    def _send(self, channel: Any, claim: _Claim, messages: Sequence[parcels.Parcel]) -> None:
        for parcel in messages[claim.sent :]:
            self.channel.declare(channel, parcel.queue)
            parcel.send(channel)
            claim.sent += 1

    def _instead(self, action: Action, claim: _Claim) -> list[parcels.Parcel]:
        """What is sent in the place of the message, which is acked then."""
        match action:
            case Return():
                return [self._copy(claim)]
            case Requeue():
                return [self._copy(claim, grown=1)]
            case Park(due):
                return [] if due > self._broker.clock.now() else [self._copy(claim)]
            case Quarantine(reason, evidence):
                return [parcels.resting(claim.message, claim.queue, QUARANTINE, reason, evidence)]
            case Ack() | Acked():
                return []

    def _copy(self, claim: _Claim, *, grown: int = 0, due: float | None = None) -> parcels.Parcel:
        count = parcels.count_of(claim.message) + grown
        return parcels.copy_of(claim.message, claim.queue, {DELIVERIES: count or None, DUE: due})

    # Ends

    def release(self, kept: Collection[str], *, counted: bool) -> int:
        """Return what is held, but for the tags to keep; how many."""
        with self.channel.use() as channel:
            gone = [claim for tag, claim in self._held.items() if tag not in kept]
            for claim in gone:
                self._give_back(channel, claim, self._copy(claim, grown=int(counted)))
                del self._held[claim.tag]
            while self._aside:
                self._give_back(channel, self._aside[0], self._copy(self._aside[0]))
                self._aside.popleft()
            while self._parked:
                due, _, claim = self._parked[0]
                self._give_back(channel, claim, self._copy(claim, due=due))
                heapq.heappop(self._parked)
            return len(gone)

    def _give_back(self, channel: Any, claim: _Claim, copy: parcels.Parcel) -> None:
        claim.sent = 0
        self._send(channel, claim, [copy])
        channel.basic_ack(claim.message.delivery_tag)

    def close(self) -> None:
        """Hang up."""
        self._closed.set()
        self.channel.close()

    # Visibility, where a transport hides what it has handed out for so long only

    def keep_visible(self) -> None:
        """See to it that what is held stays hidden from others, from a thread of its own. (The transports of Google Pub/Sub and
        Azure Service Bus do that themselves.)"""
        if self._keeper is None:
            with self.channel.use() as channel:
                can_hide = hasattr(type(channel), "sqs") or hasattr(type(channel), "pgmq")
                seconds = channel.visibility_timeout if can_hide else None
            self._keeper = threading.Thread(target=self._keep, args=(seconds,), name="visibility", daemon=True)
            if seconds:
                self._keeper.start()

    def _keep(self, seconds: float) -> None:
        while not self._closed.wait(seconds / 3):
            try:
                with self.channel.use() as channel:
                    claims = [*self._held.values(), *self._aside, *(claim for _, _, claim in self._parked)]
                    for claim in claims:
                        _hide(channel, claim.message.delivery_info, int(seconds))
            except BrokerUnavailable as error:
                log.warning("%s: what it holds may be given to others soon: %s", self._incarnation, error)


def _hide(channel: Any, info: Any, seconds: int) -> None:
    if "pgmq_msg_id" in info:
        channel.pgmq.set_vt(info["pgmq_queue"], info["pgmq_msg_id"], seconds)
        return
    client = channel.sqs(queue=channel.canonical_queue_name(info["routing_key"]))
    handle = info["sqs_message"]["ReceiptHandle"]
    client.change_message_visibility(QueueUrl=info["sqs_queue"], ReceiptHandle=handle, VisibilityTimeout=seconds)
