"""Tickets: what a message carries in place of a large canvas. Pure. Used by: app.shelf.

The later steps of a long chain are laid on the *shelf* once, in blocks, and each message carries a ticket for those that are left,
in the place of the steps themselves::

    "chain": ["shelf:4kHq0w1xWm2T:998:64:1790000000"]

998 steps are left (the next one is the last of them, as in Celery's reversed chains), 64 to a block, and they are there until then
at least (seconds of Unix time). The last message that needed a block notes that in the next one's ticket, as a further number:
whoever gets that message knows that the one before it is settled, and lets the block go.

A chord's body is a shelf of one step; in its place stands a mapping with the ticket and the body's id.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

from compat_celery import protocol
from compat_celery.protocol import Payload

__all__ = ("SHELVED", "Block", "Ticket", "body_ticket", "encode_all", "is_body_ticket", "pack", "shelved_body", "unpack")

#: The ``subtask_type`` of what stands for a body.
SHELVED = "shelved"
_MARK = "shelf"
#: Bytes of a block before compression, and steps in it at most. A worker reads a block for all of its steps that it runs.
BLOCK_BYTES = 64 << 10
BLOCK_STEPS = 64


class Ticket(NamedTuple):
    """What is left of what was laid on the shelf.

    :ivar by: steps to a block.
    :ivar until: Unix time in seconds until which it is kept at least.
    :ivar spent: the number of a block that no message after the one with this ticket needs; -1: none.
    """

    shelf: str
    steps: int
    by: int
    until: int
    spent: int = -1

    @classmethod
    def read(cls, item: Any) -> Any:
        """An item of a chain: the ticket that it is, else the item itself."""
        if not isinstance(item, str) or not item.startswith(f"{_MARK}:"):
            return item
        _, shelf, *numbers = item.split(":")
        return cls(shelf, *map(int, numbers))

    def __str__(self) -> str:
        parts = self if self.spent >= 0 else self[:-1]
        return ":".join(map(str, (_MARK, *parts)))

    def key(self, block: int) -> str:
        """The key of a block in the store."""
        return f"jumpstarter.canvas.{self.shelf}.{block}"

    @property
    def blocks(self) -> range:
        """The blocks that its steps are in."""
        return range(-(-self.steps // self.by))

    def taken(self) -> Self:
        """The ticket when its next step was taken."""
        left = self.steps - 1
        return self._replace(steps=left, spent=self.spent if left % self.by else left // self.by)


def shelved_body(ticket: Ticket, task_id: str | None) -> dict[str, Any]:
    """What stands for a body."""
    return {"subtask_type": SHELVED, "ticket": str(ticket), "options": {"task_id": task_id}}


def is_body_ticket(thing: Any) -> bool:
    """Whether this stands for a body."""
    return isinstance(thing, dict) and thing.get("subtask_type") == SHELVED


def body_ticket(thing: dict[str, Any]) -> Ticket:
    """The ticket in what stands for a body."""
    ticket: Ticket = Ticket.read(thing["ticket"])
    return ticket


class Block(NamedTuple):
    """Some steps, encoded each, and how."""

    content_type: str
    content_encoding: str
    steps: list[bytes]


def encode_all(steps: Iterable[Any], serializer: str) -> list[Payload]:
    """Each step by itself, so that taking one does not decode the others.

    :raises EncodeError: one of them cannot be serialised.
    """
    return [protocol.encode(step, serializer) for step in steps]


def pack(payloads: Sequence[Payload]) -> tuple[int, list[bytes]]:
    """Blocks of encoded steps; the first number says how many steps are in each (but the last). Before a step stands its length."""
    size = sum(len(payload.body) for payload in payloads) // len(payloads) or 1
    by = max(1, min(BLOCK_STEPS, BLOCK_BYTES // size))
    kind = f"{payloads[0].content_type}\n{payloads[0].content_encoding}\n".encode()
    blocks = []
    for first in range(0, len(payloads), by):
        bodies = (payload.body for payload in payloads[first : first + by])
        blocks.append(kind + zlib.compress(b"".join(len(body).to_bytes(4, "big") + body for body in bodies), 6))
    return by, blocks


def unpack(packed: bytes) -> Block:
    """The opposite of :func:`pack`, for one block."""
    kind, encoding, compressed = packed.split(b"\n", 2)
    joined = zlib.decompress(compressed)
    steps, at = [], 0
    while at < len(joined):
        end = at + 4 + int.from_bytes(joined[at : at + 4], "big")
        steps.append(joined[at + 4 : end])
        at = end
    return Block(kind.decode(), encoding.decode(), steps)
