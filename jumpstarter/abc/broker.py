"""The port of brokers: durable queues with claims, leases and fenced settlement.

All methods block and may be called from any thread; an implementation keeps one connection per calling thread (or locks). They
survive ``fork``: a child opens connections of its own. Each raises :class:`~jumpstarter.errors.BrokerUnavailable` when the
server does not answer within the broker's timeout, never hangs beyond it, and connects again by itself at the next call.

Words: a *claim* takes messages for an *incarnation* (a random name for one life of one worker process). It stays valid while the
incarnation's *lease* is renewed. ``reap`` returns what belonged to incarnations whose lease ran out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from jumpstarter.jobs import ACK, Completed, Delivery, Envelope, Quarantined, Settlement


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one round of :meth:`Broker.reap` did.

    :ivar returned: messages given back because their claimant's lease ran out.
    :ivar promoted: parked messages that became due and went to their queues.
    :ivar next_due: seconds until the next parked message is due, or None when none is parked.
    """

    returned: int = 0
    promoted: int = 0
    next_due: float | None = None


class Broker(ABC):
    """Durable queues. See the module's text for threads, forks and failures."""

    #: Identity of the server, without credentials: of all that one atomic call can reach (one Redis server with all its databases,
    #: one SQLite file). A results store with the same ``server`` may hand its writes over to :meth:`settle`, so that they happen
    #: together with the ack.
    server: str
    #: The address for people: no password in it.
    url: str
    #: True when only Jumpstarter workers read these queues, so that clients may let the broker park future messages at once.
    exclusive: bool = False
    #: True where nobody but the claimant's own connection can settle its claims (AMQP), so that a node cannot ack for a dead
    #: child: jobs that are acked early are then acked one by one, before each starts.
    acks_at_start: bool = False
    #: True where an ack asks the server and waits: an event loop must not.
    ack_blocks: bool = True
    #: True where monitors of other processes hear what is fanned out.
    tells_monitors: bool = False
    #: True where the server itself finds the queues of a message for an exchange: such a message is published once.
    routes: bool = False

    @abstractmethod
    def publish(self, envelopes: Sequence[Envelope], *, timeout: float | None = None) -> None:
        """Send all of them in one round trip, in order; all or nothing where the server can do that.

        It ends within ``timeout`` seconds (the broker's own when None), come what may. A return means that the server has them.

        :raises BrokerUnavailable: nothing was sent, so that the caller may try again.
        :raises PublishUnconfirmed: whether they arrived is unknown; :class:`PublishTimeout` for want of time. A broker
            whose server can tell a repetition repeats such a call itself; others must not.
        """

    @abstractmethod
    def claim(self, queues: Sequence[str], limit: int, *, incarnation: str, lease: float) -> list[Delivery]:
        """Take at most ``limit`` messages at once, without waiting; also renews the incarnation's lease for ``lease`` seconds.

        Queues are served fairly (the one that comes first changes from call to call); within a queue by priority, then first
        in, first out. Expired leases are not looked at here. Bytes that are no message come back as deliveries with a ``fault``.
        """

    def notify(self, notice: str, *, ttl: float) -> bool:  # noqa: ARG002 - the port's
        """Tell every process that claims here, for ``ttl`` seconds, also those that start meanwhile: whoever claims a message that
        was published after this call has returned finds the notice among its :meth:`notices` by then.

        False where the broker cannot do that, and nothing was said.

        :raises BrokerUnavailable: whether it was said is unknown; it may be said again.
        """
        return False

    def notices(self, *, look: bool = False) -> list[str]:  # noqa: ARG002 - the port's
        """What was notified and this object has not returned yet, the oldest first: as far as the last claim knew of it (which
        costs nothing when there is nothing new), or up to now (``look``).

        :raises BrokerUnavailable: the server does not answer.
        """
        return []

    @abstractmethod
    def wait(self, queues: Sequence[str], timeout: float, *, incarnation: str) -> bool:
        """Wait until a claim may succeed, at most ``timeout`` seconds. True when it may; False after the time, or when woken.

        Costs the server next to nothing while idle. May take one message aside for this incarnation (the next ``claim`` returns
        it first, ``release`` gives it back, a reaper finds it).
        """

    def rest(self, *, incarnation: str) -> None:  # noqa: B027 - there is nothing to do in most brokers
        """Say after a :meth:`wait` that no :meth:`claim` will follow for a while, so that what arrives from now on goes to others.
        For brokers that go on listening between one wait and the next, which most do not. In the thread that waits."""

    @abstractmethod
    def wake(self) -> None:
        """End a :meth:`wait` that is under way in another thread of this process, or the next one if none is."""

    @abstractmethod
    def settle(self, settlements: Sequence[Settlement], *, incarnation: str) -> list[bool | Completed]:
        """Carry out each settlement in one round trip for all: True where the claim still held and all of it was done, False where
        another worker owns the message by now and nothing was done, :class:`Completed` where its part was the last of a join and
        nothing but the counting was done."""

    def ack(self, delivery: Delivery, *, incarnation: str) -> bool:
        """Ack this message alone, for a job that begins now; False where another worker owns it by now."""
        return self.settle([Settlement(delivery, ACK)], incarnation=incarnation)[0] is True

    @abstractmethod
    def hold(self, tags: Sequence[str], lease: float, *, incarnation: str) -> None:
        """Return these claims to their queues after ``lease`` seconds of the incarnation's silence, whatever the length of its
        other claims' lease. They are renewed with the others. Tags that are not claimed any more are passed over.

        Brokers whose server watches the connection itself (AMQP) do nothing here.
        """

    @abstractmethod
    def renew(self, incarnations: Iterable[str], lease: float) -> None:
        """Extend the leases of these incarnations to ``lease`` seconds from now."""

    @abstractmethod
    def held(self, incarnation: str) -> list[Delivery]:
        """What the incarnation holds at present, decoded; changes nothing. For the parent of a child that died."""

    @abstractmethod
    def release(self, incarnation: str, *, keep: Iterable[str] = (), counted: bool = False) -> int:
        """Return the incarnation's claims to the front of their queues, but for the tags in ``keep``; answer how many.

        ``counted``: their ``attempt`` grows by one. With nothing to ``keep`` the incarnation's lease ends as well.
        """

    @abstractmethod
    def reap(self) -> Reaped:
        """Return what belonged to incarnations whose lease ran out (``attempt`` grows), and move parked messages that are due."""

    @abstractmethod
    def depth(self, queue: str) -> int:
        """How many messages wait in the queue, parked and claimed ones not counted."""

    @abstractmethod
    def purge(self, queue: str) -> int:
        """Drop all that waits in the queue (claimed messages stay); answer how many."""

    # Topics: which queues want the messages of a name. Durable, and known to all processes of the broker.

    @abstractmethod
    def bind_topic(self, topic: str, queue: str) -> None:
        """From now on the queue gets every message of the topic, whether anybody claims from it or not. Twice is once."""

    @abstractmethod
    def unbind_topic(self, topic: str, queue: str) -> None:
        """The queue gets no more messages of the topic; what waits in it stays."""

    @abstractmethod
    def publish_topic(self, topic: str, envelope: Envelope, *, timeout: float | None = None) -> None:
        """Send the envelope to every queue that is bound to the topic, in place of its own; where there is none it is gone.

        As for time and errors see :meth:`publish`.
        """

    # Fanout exchanges: what is said there goes to everybody who listens then.

    def fan_out(self, envelope: Envelope, *, kind: str = "fanout", timeout: float | None = None) -> None:  # noqa: ARG002
        """Send to every queue that is open for the envelope's exchange, in place of its own; where there is none it is gone.

        :param kind: the type of the exchange where the server knows such: ``fanout``, or ``topic``.

        As for time and errors see :meth:`publish`.
        """
        self.publish_topic(f"fanout.{envelope.exchange}", envelope, timeout=timeout)

    def open_fanout(self, queue: str, exchange: str, routing_key: str, *, private: bool) -> Callable[[], None]:  # noqa: ARG002
        """From now on the queue gets what is said on the exchange. Returns what ends that.

        :param routing_key: part of the exchange's name in Kombu's layout on Redis, elsewhere of no matter.
        :param private: the queue is this process' own, and goes when it ends.
        """
        topic = f"fanout.{exchange}"
        self.bind_topic(topic, queue)
        return partial(self.delete_queue, queue) if private else partial(self.unbind_topic, topic, queue)

    @abstractmethod
    def delete_queue(self, queue: str) -> None:
        """Remove the queue, what waits in it and its bindings to topics. Does nothing when there is none."""

    @abstractmethod
    def quarantined(self, *, limit: int = 100, after: str = "") -> list[Quarantined]:
        """What rests in quarantine, the oldest first, from behind the one whose id is ``after``."""

    @abstractmethod
    def requeue_quarantined(self, ids: Sequence[str]) -> int:
        """Send these messages to the ends of their queues, as if they had never been delivered; answer how many were found. What is
        no message stays where it is."""

    @abstractmethod
    def drop_quarantined(self, ids: Sequence[str]) -> int:
        """Forget these messages for ever; answer how many were found."""

    def open_reply_queue(self, queue: str, *, expires: float | None) -> None:  # noqa: B027 - a queue is but a name in most brokers
        """Have a queue for replies to one process: from now on it takes messages that are not ``mandatory``.

        :param expires: seconds of nobody's interest after which the server drops it; None: never.
        """

    @abstractmethod
    def ping(self) -> None:
        """Return when the server answers, or raise :class:`BrokerUnavailable`."""

    @abstractmethod
    def close(self) -> None:
        """Close this process's connections. Idempotent; held claims stay as they are."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()
