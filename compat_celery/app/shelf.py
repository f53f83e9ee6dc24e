"""The shelf: where large canvases lie, once, while messages carry tickets for them. Between: canvas, app.trace and the worker
(above), app.tickets and a results store on the broker's server (below).

In Celery each message of a chain carries all of its later steps, and each task of a chord's header the whole body, so that what
is sent grows with the square of the length. Here that form is kept for canvases that are small, and wherever genuine workers may
pick a message up, which know no tickets. See docs/reference/canvas.md.

Nothing is lost when a process dies: content is stored before the message that needs it is sent, and let go by the message *after*
the last one that needs it, whose existence proves that the one before is settled. What nobody lets go expires.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Mapping, MutableSequence
from datetime import datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from kombu.exceptions import EncodeError
from kombu.serialization import prepare_accept_content

from compat_celery import protocol
from compat_celery.app import publisher, tickets
from compat_celery.app.tickets import Block, Ticket, body_ticket, is_body_ticket
from compat_celery.exceptions import CanvasExpired, ImproperlyConfigured
from jumpstarter.abc.results import Results
from jumpstarter.jobs import Document
from jumpstarter.results import open_results

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("Rest", "Shelf")

logger = logging.getLogger("celery.app.shelf")

#: Bytes that a canvas may repeat before it is laid on the shelf; the setting ``task_canvas_inline_limit``.
INLINE_LIMIT = 4096
#: Seconds for which what nobody touches is kept; the setting ``task_canvas_expires``.
EXPIRES = 30 * 86400.0
#: Seconds for which a block is kept that nobody should need any more: brokers that are not Redis may deliver a message once more.
AFTERWARDS = 86400.0
#: Chains of so few later steps are never worth a look at their size.
FEW = 2
#: Blocks that a process keeps decompressed.
REMEMBERED = 64


class Shelf:
    """The shelf of an app."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        # Content never changes under its key. The cache is one of C's: it takes no lock that a fork could leave locked.
        self._block = lru_cache(REMEMBERED)(self._load)

    # Where, and whether.

    def is_open(self, options: Mapping[str, Any]) -> bool:
        """Whether a canvas that is sent with these options may be laid here."""
        setting = self._app.conf.get("task_canvas_shelf") or "auto"
        # Whoever still speaks protocol 1 has receivers or programs that look into its messages.
        if setting == "never" or options.get("connection") is not None or self._app.conf.task_protocol == 1 or self._store is None:
            return False
        return setting == "always" or self._is_private

    @cached_property
    def _urls(self) -> set[str]:
        return {*publisher.broker_urls(self._app), *publisher.broker_urls(self._app, write=True)}

    @cached_property
    def _is_private(self) -> bool:
        """Whether only Jumpstarter workers read the broker's queues. With alternates nobody knows where a message will be read."""
        setting = self._app.conf.get("task_canvas_shelf") or "auto"
        if setting not in {"auto", "always"}:
            raise ImproperlyConfigured(f"task_canvas_shelf must be 'auto', 'always' or 'never', not {setting!r}")
        return len(self._urls) == 1 and publisher.broker_for(self._app, write=True).exclusive

    @cached_property
    def _store(self) -> Results | None:
        """On the broker's own server; where that stores nothing (AMQP), with the results."""
        if len(self._urls) > 1 or any(url.partition("://")[0] in publisher.AMQP_SCHEMES for url in self._urls):
            store: Results | None = getattr(self._app.backend, "results", None)
            return store
        (url,) = self._urls
        scheme = url.partition("://")[0]
        if scheme not in publisher.EMBEDDED_SCHEMES | publisher.REDIS_SCHEMES:
            return None
        options = {}
        if scheme in publisher.REDIS_SCHEMES:
            given = publisher._options_for(self._app, url)
            options = {name: given[name] for name in ("key_prefix", "timeout", "ssl") if name in given}
        return open_results(url, **options)

    @property
    def _inline_limit(self) -> float:
        limit = self._app.conf.get("task_canvas_inline_limit")
        return INLINE_LIMIT if limit is None else limit

    @property
    def _expires(self) -> float:
        return float(self._app.conf.get("task_canvas_expires") or EXPIRES)

    # Laying things down.

    def steps(self, steps: list[Any], options: Mapping[str, Any]) -> list[Any]:
        """Later steps of a chain, reversed, as a message shall carry them: themselves, or a ticket."""
        if len(steps) <= FEW or not self.is_open(options):
            return steps
        payloads = self._encoded(steps)
        if payloads is None or sum(len(payload.body) for payload in payloads) * len(steps) / 2 <= self._inline_limit:
            return steps
        return [str(self._lay(payloads))]

    def body(self, body: Any, copies: int | None, options: Mapping[str, Any]) -> Any:
        """The body of a chord as the messages of its header shall carry it: itself, or a ticket.

        :param copies: how many messages; None: nobody knows.
        """
        if body is None or (copies is not None and copies <= FEW) or not self.is_open(options):
            return body
        payloads = self._encoded([body])
        if payloads is None or (copies is not None and len(payloads[0].body) * copies <= self._inline_limit):
            return body
        return tickets.shelved_body(self._lay(payloads), body.options.get("task_id"))

    def _encoded(self, steps: list[Any]) -> list[protocol.Payload] | None:
        try:
            return tickets.encode_all(steps, self._app.conf.task_serializer)
        except EncodeError:
            return None  # the message's own serializer may know better, and if not, its error is the one to see

    def _lay(self, payloads: list[protocol.Payload]) -> Ticket:
        by, blocks = tickets.pack(payloads)
        ticket = Ticket(secrets.token_urlsafe(9), len(payloads), by, int(time.time() + self._expires))
        documents = [Document(ticket.key(number), block, self._expires) for number, block in enumerate(blocks)]
        assert self._store is not None, "asked before"
        publisher.store_first(self._app, self._store, documents)
        return ticket

    # Taking them.

    def chain(self, chain: Any) -> Any:
        """The ``chain`` of a message as ``task.request`` shows it: a :class:`Rest` when there are tickets in it."""
        if not isinstance(chain, list | tuple):
            return chain
        items = [Ticket.read(item) for item in chain]
        return Rest(self, items) if any(isinstance(item, Ticket) for item in items) else chain

    def later(self, chain: Any) -> Iterator[Any]:
        """The steps in such a chain, as far as they are still there: for those who tell them that they will never run."""
        try:
            yield from self.chain(chain) or ()
        except CanvasExpired as error:
            logger.error("The later steps of a chain that failed cannot be told: %s", error)

    def step(self, ticket: Ticket, index: int) -> Any:
        """A step, as a plain mapping.

        :raises CanvasExpired: it is not there any more.
        :raises ResultsUnavailable: the store does not answer.
        """
        block = self._block(ticket.key(index // ticket.by))
        data = block.steps[index % ticket.by]
        return protocol.decode(data, block.content_type, block.content_encoding, accept=self._accept)

    def signature(self, shelved: dict[str, Any]) -> Any:
        """The body of a chord. What it sends lets its block go."""
        ticket = body_ticket(shelved)
        body = self._app.signature(self.step(ticket, 0))
        if body.subtask_type != "group":  # a group has no chain that could say so; its block expires
            body.options["chain"] = [str(ticket.taken()), *(body.options.get("chain") or ())]
        return body

    def opened(self, body: Any) -> Any:
        """A body, or what stands for it, as the body; what is not there any more stays as it is."""
        if not is_body_ticket(body):
            return body
        try:
            return self.signature(body)
        except CanvasExpired:
            return body

    @cached_property
    def _accept(self) -> frozenset[str]:
        return frozenset(prepare_accept_content(self._app.conf.accept_content))

    def _load(self, key: str) -> Block:
        (packed,) = self._get([key])
        if packed is None:
            raise CanvasExpired(
                f"the canvas that this task belongs to is not stored any more ({key}): it was kept for {self._expires:.0f} s since "
                "somebody last had a use for it (the setting task_canvas_expires)"
            )
        return tickets.unpack(packed)

    def _get(self, keys: list[str]) -> list[bytes | None]:
        if self._store is None:
            raise CanvasExpired(
                "this app has no store for canvases, but got a message that refers to one: task_canvas_shelf differs"
            )
        return self._store.get(keys)

    # Keeping them, and letting them go.

    def kept(self, ticket: Ticket, at: float = 0.0) -> Ticket:
        """The ticket, whose content is there until ``at`` (Unix time; now at least) and for half of its time beyond that."""
        at = max(at, time.time())
        if ticket.until - at >= self._expires / 2 or not ticket.steps:
            return ticket
        until = at + self._expires
        for block in ticket.blocks:  # one by one: they may be large, and it happens twice in a month
            self._keep_block(ticket.key(block), until - time.time())
        return ticket._replace(until=int(until))

    def kept_body(self, shelved: dict[str, Any], at: float = 0.0) -> dict[str, Any]:
        """The same for what stands for a body."""
        return {**shelved, "ticket": str(self.kept(body_ticket(shelved), at))}

    def let_go(self, ticket: Ticket) -> Ticket:
        """The ticket without its note of a spent block, which is now kept for a short time only."""
        if ticket.spent >= 0:
            self._keep_block(ticket.key(ticket.spent), min(AFTERWARDS, self._expires))
        return ticket._replace(spent=-1)

    def _keep_block(self, key: str, seconds: float) -> None:
        (packed,) = self._get([key])
        if packed is not None and self._store is not None:
            self._store.put([Document(key, packed, seconds)])

    def carried(self, chain: Any, body: Any, eta: str | None) -> tuple[Any, Any]:
        """Chain and body for a message that may not run before ``eta`` (ISO 8601): as they travel, and kept until then."""
        if isinstance(chain, Rest):
            chain = chain.wire()
        if eta is not None:
            at = datetime.fromisoformat(eta).timestamp()
            items = map(Ticket.read, chain or ())
            chain = [str(self.kept(item, at)) if isinstance(item, Ticket) else item for item in items] or chain
            body = self.kept_body(body, at) if is_body_ticket(body) else body
        return chain, body


class Rest(MutableSequence[Any]):
    """The later steps of a chain, the next one last: a list of mappings, some of which are fetched from the shelf when one asks
    for them."""

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __init__(self, shelf: Shelf, items: list[Any]) -> None:
        self._shelf = shelf
        #: Steps and tickets.
        self._items = list(items)

    def prepare(self) -> None:
        """Before the task runs: keep what is needed, let go what is not, and make sure that the next step is there.

        :raises CanvasExpired: it is not.
        :raises ResultsUnavailable: the store does not answer.
        """
        items = []
        for item in self._items:
            if not isinstance(item, Ticket):
                items.append(item)
            elif (ticket := self._shelf.let_go(item)).steps:
                items.append(self._shelf.kept(ticket))
        self._items = items
        last = items[-1] if items else None
        if isinstance(last, Ticket):
            self._shelf.step(last, last.steps - 1)

    def wire(self) -> list[Any]:
        """What the next message carries."""
        return [str(item) if isinstance(item, Ticket) else item for item in self._items]

    __json__ = wire

    def _sizes(self) -> Iterator[int]:
        return (item.steps if isinstance(item, Ticket) else 1 for item in self._items)

    def __len__(self) -> int:
        return sum(self._sizes())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self)[index]
        at = range(len(self))[index]
        for item, size in zip(self._items, self._sizes(), strict=True):
            if at < size:
                return self._shelf.step(item, at) if isinstance(item, Ticket) else item
            at -= size
        raise IndexError(index)

    def __iter__(self) -> Iterator[Any]:
        for item in list(self._items):
            if isinstance(item, Ticket):
                yield from (self._shelf.step(item, at) for at in range(item.steps))
            else:
                yield item

    def pop(self, index: int = -1) -> Any:
        """Take a step out; from the end, nothing else is fetched."""
        if range(len(self))[index] != len(self) - 1:
            return super().pop(index)
        for place in reversed(range(len(self._items))):
            item = self._items[place]
            if not isinstance(item, Ticket):
                return self._items.pop(place)
            if item.steps:
                step = self._shelf.step(item, item.steps - 1)
                self._items[place] = item.taken()
                return step
        raise IndexError("pop from an empty chain")

    # Whoever changes it in another way gets all of it, as a list has it.

    def __setitem__(self, index: Any, value: Any) -> None:
        self._unfold()[index] = value

    def __delitem__(self, index: Any) -> None:
        del self._unfold()[index]

    def insert(self, index: int, value: Any) -> None:
        if index >= len(self):
            self._items.append(value)
        else:
            self._unfold().insert(index, value)

    def _unfold(self) -> list[Any]:
        self._items = list(self)
        return self._items

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, list | tuple | Rest) else NotImplemented

    def __copy__(self) -> Rest:
        return Rest(self._shelf, self._items)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rest:
        return Rest(self._shelf, self._items)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self.wire(),)

    def __repr__(self) -> str:
        return f"<{len(self)} later steps, some of them on the shelf>"
