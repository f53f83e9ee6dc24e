"""What travels through a worker: envelope → delivery → job → outcome → settlement.

An *envelope* is a message as a publisher hands it over and as a worker gets it back. A *delivery* is an envelope that this
worker has claimed, with the handle that acks it. A *job* is a delivery whose headers were understood: it knows which handler
runs it, when it may start and what its limits are. An *outcome* says what came of it. A *settlement* is what the broker has to
do about it, all of it or nothing.

None of these does any I/O; none of them knows Celery. Two of them are named tuples, which are made in a third of the time: there is
one of each for every job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol


@dataclass(slots=True, kw_only=True)  # not frozen, which would cost each message a microsecond; nobody changes one all the same
class Envelope:
    """A message: its serialised body and what the wire says about it.

    :ivar queue: the queue that it goes to or came from.
    :ivar body: the payload as the codec serialised it. A transport that carries text (Kombu's Redis layout) adds its base64
        itself.
    :ivar headers: application headers; JSON values only.
    :ivar properties: AMQP basic properties (``correlation_id``, ``reply_to``, ``delivery_mode``, ``expiration`` …); JSON values
        only.
    :ivar exchange: recorded in ``delivery_info``; the empty string is the default exchange.
    :ivar routing_key: recorded in ``delivery_info``; the queue's name when empty.
    :ivar priority: 0 … 9. On Redis and in Kombu's layout 0 is served first.
    :ivar due: wall time in seconds before which no worker may start it; None for at once. The broker keeps it until then.
    :ivar mandatory: False: nobody is wronged when it is dropped because its queue is not there (any more), and no queue is made
        for it. Brokers in which a queue is but a name keep it all the same.
    """

    queue: str
    body: bytes
    headers: Mapping[str, Any]
    properties: Mapping[str, Any] = field(default_factory=dict)
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    exchange: str = ""
    routing_key: str = ""
    priority: int = 0
    due: float | None = None
    mandatory: bool = True


@dataclass(slots=True, eq=False)
class Delivery:
    """A claimed message.

    :ivar tag: the ack handle. Every claim of a message has a tag of its own, so a tag is also the fence: once the message is
        returned to its queue, no settlement with an old tag does anything.
    :ivar envelope: the message, or None when its bytes are no message at all; ``fault`` then says why.
    :ivar epoch: the number of the claim; grows with every claim made on the broker.
    :ivar attempt: 1 on the first delivery; counts the deliveries that ended without a settlement.
    :ivar raw: the stored bytes, kept only when ``fault`` is set, as evidence for the quarantine.
    """

    tag: str
    queue: str
    envelope: Envelope | None
    epoch: int = 0
    attempt: int = 1
    fault: Exception | None = None
    raw: bytes = b""


#: Where jobs run: in a slot of the pool (a child's main thread under prefork), in one of the thread slots beside it, or as a
#: coroutine on the child's loop.
Place = Literal["slot", "thread", "loop"]


class Handler(Protocol):
    """Runs the jobs of one name. Never raises for a user's error: that becomes the outcome."""

    name: str
    #: ``loop``: ``arun`` is awaited on the child's loop; else ``run`` is called in a thread.
    runs_in: Place

    def run(self, job: Job) -> Outcome:
        """Run the job to its end in the calling thread."""
        ...

    async def arun(self, job: Job) -> Outcome:
        """Run a coroutine job on the running loop."""
        ...


@dataclass(slots=True, eq=False)
class Job:
    """A delivery whose headers were understood.

    :ivar handler: runs the job.
    :ivar due: wall time in seconds before which it may not start, or None.
    :ivar expires: wall time in seconds after which it may not start, or None.
    :ivar early_ack: the job counts as done once it has started, whatever comes of it.
    :ivar requeue_if_lost: when the process dies under a job that is acked late, run it again (else it is stored as failed).
    :ivar soft_limit: seconds after which the job is asked to end, or None.
    :ivar hard_limit: seconds after which it is ended, or None.
    :ivar lease: seconds of its node's silence after which the message is given to another worker; None: the node's own setting.
    :ivar context: what the application attached when it decoded the message.
    :ivar started: monotonic seconds at which a slot began it, 0.0 before.
    :ivar slot: the number of that slot, -1 before.
    :ivar acked: its message was acked before it began.
    :ivar returned: it was given back, or refused, without a start.
    :ivar abandoned: it never came to an end in its time and was settled without one; what it still does counts for nothing.
    """

    id: str
    name: str
    delivery: Delivery
    handler: Handler
    due: float | None = None
    expires: float | None = None
    early_ack: bool = False
    requeue_if_lost: bool = True
    soft_limit: float | None = None
    hard_limit: float | None = None
    lease: float | None = None
    context: Any = None
    started: float = 0.0
    slot: int = -1
    acked: bool = False
    abandoned: bool = False
    returned: bool = False


# What the broker does with the claimed message itself.


@dataclass(frozen=True, slots=True)
class Ack:
    """The message is done with."""


@dataclass(frozen=True, slots=True)
class Acked:
    """The message was acked before its job began: nothing is claimed any more, and what came of it is carried out all the same."""


@dataclass(frozen=True, slots=True)
class Return:
    """Back to the front of its queue, as if it had never been claimed (it was not started)."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """Back to its queue to be delivered again; ``attempt`` grows by one."""


@dataclass(frozen=True, slots=True)
class Park:
    """Keep it in the broker until ``due`` (wall time, seconds), then back to its queue; ``attempt`` does not grow."""

    due: float


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Rest apart, with the reason, until a person requeues or drops it."""

    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


Action = Ack | Acked | Return | Requeue | Park | Quarantine

ACK = Ack()
ACKED = Acked()
RETURN = Return()
REQUEUE = Requeue()


class Document(NamedTuple):
    """A result to be stored under a key for ``ttl`` seconds (None: for ever) and announced to those who wait for the key.

    ``final`` documents are never overwritten by a later one (Celery: a stored SUCCESS stays).
    """

    key: str
    body: bytes
    ttl: float | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One member's contribution to a join (a chord header's task): counted once per ``member`` and ``index``.

    :ivar join: the key of the join (Celery's group id).
    :ivar member: the id of the task.
    :ivar index: its place in the group, or None.
    :ivar body: what is handed to whoever completes the join.
    :ivar complete: called once, in the worker, when this part was the last: gets all parts in order of their index and returns
        the envelopes to publish and documents to store (the chord's body). May be called again after a crash: what it
        returns is claimed once.
    """

    join: str
    member: str
    index: int | None
    body: bytes
    ttl: float | None
    complete: Any


@dataclass(slots=True, eq=False)
class Outcome:
    """What came of a delivery.

    :ivar job: the job that it became, or None when it could not become one.
    :ivar status: a word for logs, metrics and spans; Celery's state names (``SUCCESS``, ``FAILURE``, ``RETRY``, ``IGNORED`` …).
    :ivar action: what happens to the message.
    :ivar publish: messages that must be sent if and only if the message is settled: callbacks, the next step of a chain, a retry.
    :ivar documents: results to store.
    :ivar part: a contribution to a join.
    :ivar error: the exception behind a failure.
    :ivar runtime: seconds that the handler ran.
    """

    delivery: Delivery
    job: Job | None
    status: str
    action: Action = ACK
    publish: Sequence[Envelope] = ()
    documents: Sequence[Document] = ()
    part: Part | None = None
    error: BaseException | None = None
    runtime: float = 0.0


class Settlement(NamedTuple):
    """What a broker does for one delivery, all or nothing, and only while the claim still holds.

    The last three are commands of a results store on the same server, opaque to the worker.

    :ivar publish: messages to send.
    :ivar writes: documents to store (:meth:`jumpstarter.abc.results.Results.writes`).
    :ivar part: a part to count first (:meth:`~jumpstarter.abc.results.Results.part_write`). When it completes its join, nothing
        else of the settlement is done: the broker answers :class:`Completed`, the claim still holds, and the caller settles
        again, without the part, with what the parts come to and ``closes``.
    :ivar closes: ends the join whose one thing is done by this settlement (:meth:`~jumpstarter.abc.results.Results.close_write`).
        When somebody else has ended it already (the same task was published twice), nothing is done and the broker answers
        :class:`Completed` without bodies: the caller settles as at first, with the part, which completes nothing any more.
    """

    delivery: Delivery
    action: Action
    publish: Sequence[Envelope] = ()
    writes: Sequence[Any] = ()
    part: Any = None
    closes: Any = None


@dataclass(frozen=True, slots=True)
class Completed:
    """The part of a settlement was the last of its join, or the join was complete already and not yet closed.

    :ivar bodies: of all parts, in order of their index; none when a settlement that ``closes`` came too late.
    """

    bodies: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A message that rests apart.

    :ivar id: the handle to requeue or drop it; any text without white space.
    :ivar reason: why, in a sentence.
    :ivar evidence: what else is known; JSON values.
    :ivar at: wall time in seconds since when it rests.
    :ivar attempt: deliveries that it had.
    :ivar envelope: the message, or None when its bytes are no message.
    :ivar raw: the stored bytes when ``envelope`` is None, else empty.
    """

    id: str
    queue: str
    reason: str
    evidence: Mapping[str, Any]
    at: float
    attempt: int
    envelope: Envelope | None
    raw: bytes = b""
