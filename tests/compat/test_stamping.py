"""Stamps: extra headers that a visitor puts on the parts of a canvas."""

import json

import pytest

from compat_celery.canvas import StampingVisitor, _merge_dictionaries, chain, chord, group
from tests.compat.inline_worker import make_app, sent


@pytest.fixture(scope="module")
def app():
    app = make_app()

    @app.task(shared=False, name="add")
    def add(*numbers):
        return sum(numbers)

    app.finalize()
    return app


@pytest.fixture
def add(app):
    return app.tasks["add"]


class Order(StampingVisitor):
    """Stamps every call with one name and remembers where it was asked."""

    def __init__(self):
        self.seen = []

    def on_signature(self, sig, **headers):
        self.seen.append(("signature", sig.task))
        return {"order": 42}

    def on_group_start(self, group, **headers):
        self.seen.append(("group", len(group.tasks)))
        return {}

    def on_chain_start(self, chain, **headers):
        self.seen.append(("chain", len(chain.tasks)))
        return {}

    def on_chord_body(self, sig, **header):
        self.seen.append(("body", sig.body.task))
        return {"in_body": True}

    def on_callback(self, callback, **header):
        return {"callback": True}

    def on_errback(self, errback, **header):
        return {"errback": True}


def test_a_stamp_is_an_option_and_is_listed(add):
    sig = add.s(1)
    sig.stamp(customer="c1")
    assert sig.options["customer"] == "c1"
    assert sig.options["stamped_headers"] == ["customer"]


def test_stamps_travel_in_the_headers(add):
    sig = add.s(1)
    sig.stamp(customer="c1")
    with sent() as messages:
        sig.apply_async()
    assert messages[0].headers["stamped_headers"] == ["customer"]
    assert messages[0].headers["stamps"] == {"customer": "c1"}


def test_a_visitor_sees_every_part_of_a_canvas(add):
    visitor = Order()
    (chain(add.s(1), add.s(2)) | group(add.s(3), add.s(4)) | add.s()).stamp(visitor)
    assert visitor.seen[0] == ("chain", 3)
    assert visitor.seen.count(("signature", "add")) == 5
    assert ("body", "add") in visitor.seen


def test_the_body_of_a_chord_gets_its_own_stamp(add):
    canvas = chord([add.s(1), add.s(2)], add.s())
    canvas.stamp(Order())
    assert canvas.body.options["in_body"] is True
    assert all("in_body" not in task.options for task in canvas.tasks.tasks)


def test_callbacks_and_errbacks_are_stamped_too(add):
    sig = add.s(1)
    sig.link(add.s(2))
    sig.link_error(add.s(3))
    sig.stamp(Order())
    assert sig.options["link"][0].options["callback"] is True
    assert sig.options["link_error"][0].options["errback"] is True
    assert "callback" not in sig.options


def test_a_visitor_may_list_which_of_its_headers_are_stamps(add):
    class Two(StampingVisitor):
        def on_signature(self, sig, **headers):
            return {"stamp": 1, "priority": 5, "stamped_headers": ["stamp"]}

    sig = add.s(1)
    sig.stamp(Two())
    assert sig.options["stamped_headers"] == ["stamp"]
    assert sig.options["priority"] == 5


def test_a_stamp_replaces_nothing_unless_it_is_appended(add):
    sig = add.s(1)
    sig.stamp(stamp="first")
    sig.stamp(stamp="second")
    assert sig.options["stamp"] == "second"
    appended = add.s(1)
    appended.stamp(stamp="first")
    appended.stamp(append_stamps=True, stamp="second")
    assert sorted(appended.options["stamp"]) == ["first", "second"]


def test_a_generator_is_stamped_when_it_is_asked_for(add):
    made = []

    def members():
        for i in range(3):
            made.append(i)
            yield add.s(i)

    class Calls(StampingVisitor):
        def on_signature(self, sig, **headers):
            return {"order": 42}

    canvas = group(members())
    canvas.stamp(Calls())
    assert made == []
    assert [task.options["order"] for task in canvas.tasks] == [42, 42, 42]


def test_stamping_twice_changes_nothing(add):
    canvas = chain(add.s(1), group(add.s(2), add.s(3)))
    canvas.stamp(stamp="one")
    once = json.dumps(canvas, sort_keys=True)
    canvas.stamp(stamp="one")
    assert json.loads(json.dumps(canvas, sort_keys=True)) == json.loads(once)


@pytest.mark.parametrize(
    ("ours", "theirs", "aggregate", "merged"),
    [
        ({"a": 1}, {"a": 2}, True, {"a": [1, 2]}),
        ({"a": 1}, {"a": 2}, False, {"a": 1}),
        ({"a": [1]}, {"a": [2]}, False, {"a": [1, 2]}),
        ({"a": None}, {"a": 2}, True, {"a": [2]}),
        ({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}}, True, {"a": {"b": [1, 2], "c": 3}}),
        ({"a": 1}, None, True, {"a": 1}),
        ({}, {"a": 1}, True, {"a": 1}),
    ],
)
def test_merging_stamps(ours, theirs, aggregate, merged):
    _merge_dictionaries(ours, theirs, aggregate)
    assert ours == merged
