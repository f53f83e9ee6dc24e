"""Messages come back from JSON as what they were, and what is none of them is refused."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jumpstarter.actors import Command, Event
from jumpstarter.errors import MessageError, Undecodable
from jumpstarter.remote.codec import answer_of, decode, encode, name_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item:
    name: str
    price: Decimal = Decimal("1.50")
    tags: set[str] = field(default_factory=set)


class Everything(Event):
    number: int
    text: str
    colour: Colour
    item: Item | None
    items: list[Item]
    by_number: dict[int, str]
    pair: tuple[int, str]
    many: tuple[int, ...]
    at: datetime
    on: date
    took: timedelta
    raw: bytes
    id: UUID
    kind: Literal["a", "b"]
    what: Any = None
    either: int | str = 0


class Find(Command[list[Item]]):
    wire_name = "shop.find"
    name: str


class FindMore(Find):
    pass


EVERYTHING = Everything(
    number=1,
    text="ž",
    colour=Colour.BLUE,
    item=Item("x", Decimal("0.10"), {"a", "b"}),
    items=[Item("y")],
    by_number={1: "one"},
    pair=(1, "a"),
    many=(1, 2, 3),
    at=datetime(2030, 1, 1, 12, 0, tzinfo=UTC),
    on=date(2030, 1, 1),
    took=timedelta(seconds=1.5),
    raw=b"\0\xff",
    id=UUID(int=7),
    kind="b",
    what={"deep": [1, 2.5, None, True]},
    either="text",
)


def test_everything_comes_back():
    assert decode(Everything, encode(EVERYTHING)) == EVERYTHING


@settings(max_examples=50, deadline=None)
@given(st.builds(Item, st.text(), st.decimals(allow_nan=False, allow_infinity=False), st.sets(st.text())))
def test_values_come_back(item):
    assert decode(list[Item], encode([item])) == [item]


def test_answers_have_the_type_that_their_command_promises():
    assert answer_of(Find) == answer_of(FindMore) == list[Item]
    assert decode(answer_of(Find), encode([Item("x")])) == [Item("x")]


def test_names():
    assert name_of(Find) == "shop.find"
    assert name_of(Everything) == f"{__name__}.Everything"


def test_what_a_newer_version_added_is_passed_over():
    assert decode(Find, b'{"name": "x", "limit": 5}') == Find("x")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"name": 7}', b'{"name": ', b"7"])
def test_what_is_no_such_message_is_undecodable(body):
    with pytest.raises(Undecodable, match="Find"):
        decode(Find, body)


def test_what_has_no_form_cannot_be_sent():
    class Bad(Event):
        what: object

    with pytest.raises(MessageError, match="cannot be sent"):
        encode(Bad(object()))
