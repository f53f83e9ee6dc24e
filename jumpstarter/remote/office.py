"""The post office: the actor through which the actors of a process reach those of others. Goes to: receivers, post.

::

    async with hosted(PostOffice("redis://localhost")) as office:
        await office.serve(catalog, name="catalog")             # here …
        item = await office.actor("catalog").ask(GetItem(7))       # … or in another process
        await UserRegistered.subscribe(mailer, group="mail")
        await UserRegistered("ada").publish()
"""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import anyio
from anyio.to_thread import run_sync

from jumpstarter.abc.broker import Broker
from jumpstarter.actors import Actor, Command, Document, Event, Message, backoff, one_for_one
from jumpstarter.actors.messages import set_exchange
from jumpstarter.actors.ref import ASK_TIMEOUT, ActorRef
from jumpstarter.errors import AskTimeout, BrokerUnavailable, RemoteError
from jumpstarter.jobs import Delivery
from jumpstarter.remote.codec import answer_of, decode, name_of
from jumpstarter.remote.deliver import through, to_actor, to_task
from jumpstarter.remote.post import ERROR, EXPIRES, ID, REPLY_TO, Post, envelope_of, inbox_of, queue_of_documents, queue_of_group
from jumpstarter.remote.receiver import Deliver, Receipt, Receiver

logger = logging.getLogger(__name__)

R = TypeVar("R")


class PostOffice(Actor):
    """Sends and receives for the actors of this process. One per process and broker is enough. While it runs,
    ``Event.publish`` and ``Event.subscribe`` go through it.

    :param broker: a broker, or its URL.
    :param lease: seconds of a process's silence after which what it holds goes to others.
    """

    strategy = one_for_one(restarts=1_000_000, within=60, retry=backoff(0.1, 5))

    def __init__(self, broker: Broker | str, *, lease: float = 30.0, name: str | None = None) -> None:
        super().__init__(name=name)
        self.post_box = Post(broker)
        self._owns_broker = isinstance(broker, str)
        self._lease = lease
        self._replies = f"actor.replies.{uuid.uuid4()}"
        self._asked: dict[str, tuple[anyio.Event, list[Delivery]]] = {}
        self._listener: Receiver | None = None
        self._listening = anyio.Lock()
        self._numbers = itertools.count(1)

    async def on_start(self) -> None:
        set_exchange(self)

    async def on_stopped(self) -> None:
        set_exchange(None, only=self)
        self._listener = None
        try:
            await run_sync(self.post_box.broker.delete_queue, self._replies)
        except BrokerUnavailable as error:
            logger.warning("%s: the queue %s stays: %s", self.name, self._replies, error)
        if self._owns_broker:
            await run_sync(self.post_box.close)

    # -- actors --

    async def serve(self, actor: Actor | ActorRef, *, name: str | None = None) -> None:
        """Give the actor, which lives in the same event loop, an inbox queue under this name (default: its own), until this office
        stops. Several processes may serve the same name: they share its messages."""
        own = name or actor.name
        await self._receive(inbox_of(own), to_actor(actor), actor)

    def actor(self, name: str) -> RemoteRef:
        """The actor of that name, wherever it is served."""
        return RemoteRef(self, name)

    # -- events --

    async def subscribe(self, event: type[Event], subscriber: Any, *, group: str) -> str:
        """Have every event of this class handled once by each group. The members of a group share its events, which wait for them
        while none is there.

        :param subscriber: an actor with a handler for it, or a Celery task, which gets the fields by name.
        :param group: the same word in all processes that are to share the work.
        :returns: the name of the group's queue.
        """
        topic = name_of(event)
        queue = queue_of_group(topic, group)
        await run_sync(self.post_box.broker.bind_topic, topic, queue)
        if isinstance(subscriber, Actor | ActorRef):
            await self._receive(queue, to_actor(subscriber), subscriber)
        else:
            await self._receive(queue, to_task(subscriber, [event], group), None)
        return queue

    async def unsubscribe(self, event: type[Event], *, group: str) -> None:
        """End the group: its queue, what waits in it and its binding are deleted, for all processes."""
        queue = queue_of_group(name_of(event), group)
        for child in self.family:
            if isinstance(child, Receiver) and child.queue == queue:
                await child.stop()
        await run_sync(self.post_box.broker.delete_queue, queue)

    async def publish(self, event: Event) -> None:
        """Let every group know that has subscribed to it. Errors are those of :meth:`Post.tell`."""
        await run_sync(self.post_box.publish, event)

    # -- documents --

    async def send(self, document: Document, *to: str) -> None:
        """Put the document into each of these queues of documents."""
        await run_sync(lambda: self.post_box.send(document, *to))

    async def sink(
        self, name: str, *kinds: type[Document], to: Any, transform: Callable[[Any], Message | None] | None = None
    ) -> None:
        """Take documents of these classes from the queue of that name.

        :param to: who gets them: an actor, the name of a served one, or a Celery task.
        :param transform: makes the next command of a document, or None for nothing to do. Without it the document itself is told.
        """
        queue = queue_of_documents(name)
        if transform is None and isinstance(to, Actor | ActorRef):
            await self._receive(queue, to_actor(to), to)
        elif transform is None and hasattr(to, "apply_async"):
            await self._receive(queue, to_task(to, kinds, name), None)
        else:
            await self._receive(queue, through(transform or _same, kinds, self._teller(to)), None)

    def _teller(self, to: Any) -> Callable[[Message, str], Any]:
        async def to_name(message: Message, number: str) -> None:
            await run_sync(lambda: self.post_box.tell(to, message, id=number))

        async def to_celery(message: Message, number: str) -> None:
            task_id = str(uuid.uuid5(uuid.NAMESPACE_OID, number))
            await run_sync(lambda: to.apply_async(kwargs=vars(message), task_id=task_id))

        async def to_local(message: Message, _: str) -> None:
            await to.tell(message)

        return to_name if isinstance(to, str) else to_celery if hasattr(to, "apply_async") else to_local

    # -- topologies --

    async def delete(self, queues: Iterable[str]) -> None:
        """Delete these queues with what waits in them, for example those that :meth:`subscribe` made for one user or session."""
        for queue in queues:
            await run_sync(self.post_box.broker.delete_queue, queue)

    # -- inside --

    async def _receive(self, queue: str, deliver: Deliver, actor: Actor | ActorRef | None) -> None:
        def room() -> int:
            assert actor is not None
            desk = actor._host.desk
            return desk.room if desk is not None else 0

        receiver = Receiver(
            self.post_box.broker,
            queue,
            deliver,
            name=f"{self.name}/{queue} → {actor.name if actor is not None else next(self._numbers)}",
            lease=self._lease,
            room=room if actor is not None else None,
        )
        await self.spawn(receiver, restart="crash")

    async def ask_remote(self, name: str, message: Command[R], seconds: float) -> R:
        """See :meth:`RemoteRef.ask`."""
        async with self._listening:
            if self._listener is None:
                listener = Receiver(
                    self.post_box.broker, self._replies, self._take_answer, name=f"{self.name}/replies", lease=self._lease
                )
                self._listener = await self.spawn(listener, restart="crash")
        number = str(uuid.uuid4())
        arrived: list[Delivery] = []
        event = anyio.Event()
        self._asked[number] = (event, arrived)
        envelope = envelope_of(
            inbox_of(name), message, id=number, headers={REPLY_TO: self._replies, EXPIRES: time.time() + seconds}
        )
        try:
            with anyio.move_on_after(seconds):
                await run_sync(self.post_box.broker.publish, [envelope])
                await event.wait()
        finally:
            del self._asked[number]
        if not arrived:
            raise AskTimeout(name, message, seconds)
        answer = arrived[0].envelope
        assert answer is not None
        if ERROR in answer.headers:
            raise RemoteError(name, str(answer.headers[ERROR]), decode(str, answer.body))
        value: R = decode(answer_of(type(message)), answer.body)
        return value

    async def _take_answer(self, delivery: Delivery, receipt: Receipt) -> None:
        assert delivery.envelope is not None
        waiting = self._asked.get(str(delivery.envelope.headers.get(ID)))
        if waiting is not None:
            waiting[1].append(delivery)
            waiting[0].set()
        receipt.done()


class RemoteRef:
    """An actor that is served under a name, perhaps in another process or on another machine. Made by :meth:`PostOffice.actor`."""

    def __init__(self, office: PostOffice, name: str) -> None:
        self._office = office
        self.name = name

    async def tell(self, message: Message, *, id: str | None = None) -> None:  # noqa: A002 - a message's id
        """Put the message into its inbox; at least once. A return means that the broker has it. Errors are those of
        :meth:`Post.tell`.

        :param id: see :meth:`Post.tell`.
        """
        await run_sync(lambda: self._office.post_box.tell(self.name, message, id=id))

    async def ask(self, message: Command[R], *, timeout: float = ASK_TIMEOUT) -> R:  # noqa: ASYNC109 - a deadline is part of asking
        """Put the command into its inbox and wait for the answer.

        :raises AskTimeout: none came in time; whether it was handled is unknown.
        :raises RemoteError: the handler raised.
        """
        return await self._office.ask_remote(self.name, message, timeout)

    def __repr__(self) -> str:
        return f"<remote ref to {self.name!r}>"


def _same(document: Any) -> Any:
    return document
