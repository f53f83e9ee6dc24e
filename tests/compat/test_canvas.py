"""Canvases: how they are built and rewritten, and what they send. The figures and layouts were observed on Celery 5.7.0."""

import copy
import json
import subprocess
import sys
from functools import reduce
from operator import or_

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compat_celery.app.publisher import broker_for
from compat_celery.canvas import Signature, _chain, _chord, chain, chord, chunks, group, maybe_signature, signature, xmap, xstarmap
from tests.compat.inline_worker import make_app, sent


@pytest.fixture(scope="module")
def app():
    app = make_app()

    @app.task(shared=False, name="add")
    def add(*numbers):
        return sum(numbers)

    @app.task(shared=False, name="total")
    def total(numbers):
        return sum(numbers)

    @app.task(shared=False, name="note")
    def note(*anything):
        return anything

    app.finalize()
    return app


@pytest.fixture
def add(app):
    return app.tasks["add"]


@pytest.fixture
def total(app):
    return app.tasks["total"]


@pytest.fixture
def note(app):
    return app.tasks["note"]


def as_data(canvas):
    return json.loads(json.dumps(canvas))


# One signature.


def test_a_signature_is_a_plain_dict_with_celerys_six_keys(add):
    assert as_data(add.s(1, k=2).set(queue="q")) == {
        "task": "add",
        "args": [1],
        "kwargs": {"k": 2},
        "options": {"queue": "q"},
        "subtask_type": None,
        "immutable": False,
    }


def test_a_dict_that_is_a_signature_becomes_one_of_its_class(app, add):
    for canvas in (add.s(1), add.s(1) | add.s(2), group(add.s(1), add.s(2)), chord([add.s(1)], add.s())):
        again = signature(as_data(canvas), app=app)
        assert type(again) is type(canvas)
        assert as_data(again) == as_data(canvas)


def test_further_arguments_come_before_the_ones_it_has(add):
    assert add.s(2).clone((1,)).args == (1, 2)


def test_an_immutable_signature_takes_no_further_arguments(add):
    assert add.si(2).clone((1,), {"k": 1}).args == (2,)
    assert add.si(2).clone((1,), {"k": 1}).kwargs == {}


def test_a_clone_shares_neither_options_nor_keyword_arguments_with_its_original(add):
    original = add.s(k=1).set(headers={"a": 1})
    clone = original.clone()
    clone.options["headers"]["a"] = 2
    clone.kwargs["k"] = 2
    assert (original.options["headers"], original.kwargs) == ({"a": 1}, {"k": 1})


def test_link_deduplicates(add):
    sig = add.s(1)
    sig.link(add.s(2))
    sig.link(add.s(2))
    assert sig.options["link"] == [add.s(2)]


def test_link_error_returns_the_errback_and_on_error_the_signature(add, note):
    sig, errback = add.s(1), note.s()
    assert sig.link_error(errback) is errback
    assert sig.on_error(errback) is sig


def test_stamps_and_group_id_are_immutable_on_merge(add):
    sig = add.s(1).set(group_id="mine", stamped_headers=["stamp"], stamp="mine", queue="mine")
    merged = sig.clone(group_id="other", stamp="other", queue="other").options
    assert (merged["group_id"], merged["stamp"], merged["queue"]) == ("mine", "mine", "other")


def test_flatten_links_finds_callbacks_of_callbacks(add):
    first, second, third = add.s(1), add.s(2), add.s(3)
    second.link(third)
    first.link(second)
    assert first.flatten_links() == [first, second, third]


def test_replace_keeps_what_is_not_given(add):
    sig = add.s(1, k=2).set(queue="q").replace(args=(9,))
    assert (sig.args, sig.kwargs, sig.options) == ((9,), {"k": 2}, {"queue": "q"})


def test_freezing_gives_an_id_once(add):
    sig = add.s(1)
    result = sig.freeze("an-id")
    assert sig.freeze("another").id == result.id == "an-id"


def test_a_deep_copy_does_not_use_up_lazy_arguments(add):
    items = iter([1, 2])
    copy.deepcopy(add.s(items))
    assert list(items) == [1, 2]


def test_calling_a_signature_runs_its_task_here(add):
    assert add.s(2)(1) == 3


def test_its_repr_is_the_call(add):
    assert repr(add.s(1, 2)) == "add(1, 2)"


def test_none_is_no_signature():
    assert maybe_signature(None) is None


def test_signatures_are_pickled_by_celerys_name():
    program = """
import pickle, pickletools
from compat_celery import install_as_celery
install_as_celery()
from celery import signature, group
data = pickle.dumps(signature("add", (1,)) | group([signature("b")]))
assert b"celery.canvas" in data and b"compat_celery" not in data, pickletools.dis(data)
assert type(pickle.loads(data)).__name__ == "_chain"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# How | rewrites.


def test_task_or_task_is_a_chain(add):
    canvas = add.s(1) | add.s(2)
    assert (type(canvas), len(canvas.tasks)) == (_chain, 2)


def test_chain_of_two_has_type__chain(add):
    assert type(chain(add.s(1), add.s(2))) is _chain


def test_chain_or_chain_is_one_chain(add):
    assert len(((add.s(1) | add.s(2)) | (add.s(3) | add.s(4))).tasks) == 4


def test_group_or_task_is_a_chord(add, total):
    canvas = group(add.s(1), add.s(2)) | total.s()
    assert isinstance(canvas, chord)
    assert canvas.body == total.s()


def test_chain_of_two_groups_is_a_chord(add):
    canvas = chain(group(add.s(1), add.s(2)), group(add.s(3), add.s(4)))
    assert isinstance(canvas, chord)
    assert isinstance(canvas.body, group)


def test_a_one_member_group_unrolls(add, total):
    canvas = add.s(1) | group(total.s()) | total.s()
    assert [task.task for task in canvas.tasks] == ["add", "total", "total"]


def test_an_empty_group_is_left_out(add):
    assert list((add.s(1) | add.s(2) | group([])).tasks) == [add.s(1), add.s(2)]


def test_chord_or_task_goes_on_in_the_body(add, total):
    canvas = chord([add.s(1), add.s(2)], total.s()) | add.s(10) | add.s(20)
    assert isinstance(canvas, chord)
    assert canvas.body.tasks == [total.s(), add.s(10), add.s(20)]


def test_task_group_task_is_a_chain_that_ends_in_a_chord(add, total):
    canvas = add.s(1) | group(add.s(2), add.s(3)) | total.s()
    assert isinstance(canvas, _chain)
    assert isinstance(canvas.tasks[-1], chord)


def test_two_chords_in_a_row_become_one_with_the_other_in_its_body(add, total):
    canvas = add.s(0) | group(add.s(1), add.s(2)) | total.s() | group(add.s(3), add.s(4)) | total.s()
    assert len(canvas.tasks) == 2
    assert isinstance(canvas.tasks[1].body, _chain)


def test_or_with_something_else_is_a_type_error(add):
    for canvas in (add.s(1), add.s(1) | add.s(2), chord([add.s(1)], add.s())):
        with pytest.raises(TypeError):
            canvas | 1


def test_chain_of_nothing_is_an_empty_chain():
    assert chain().tasks == ()
    assert chain()() is None


def test_a_chain_accepts_a_generator(add):
    assert len(chain(add.s(i) for i in range(3)).tasks) == 3


def test_or_leaves_its_operands_alone(add, total):
    left, right = group(add.s(1), add.s(2)) | total.s(), add.s(3)
    before = as_data(left), as_data(right)
    left | right
    assert (as_data(left), as_data(right)) == before


@st.composite
def canvases(draw, depth=3):
    kind = draw(st.sampled_from(["task", "chain", "group", "chord"] if depth else ["task"]))
    inner = canvases(depth - 1)
    match kind:
        case "task":
            return Signature("add", (draw(st.integers(0, 9)),), immutable=draw(st.booleans()))
        case "chain":
            return _chain(draw(st.lists(inner, min_size=1, max_size=3)))
        case "group":
            return group(draw(st.lists(inner, max_size=3)))
    return chord(draw(st.lists(inner, min_size=1, max_size=3)), draw(inner))


@settings(deadline=None, max_examples=200)
@given(st.lists(canvases(), min_size=2, max_size=4))
def test_chain_of_many_is_the_same_as_or_between_them(tasks):
    data = json.dumps(tasks)

    def again():
        return [signature(task) for task in json.loads(data)]

    assert as_data(chain(*again())) == as_data(reduce(or_, again(), _chain()))


@settings(deadline=None, max_examples=200)
@given(canvases())
def test_a_canvas_survives_json(canvas):
    assert as_data(signature(as_data(canvas))) == as_data(canvas)


@settings(deadline=None, max_examples=100)
@given(canvases())
def test_a_clone_equals_its_original(canvas):
    assert as_data(canvas.clone()) == as_data(canvas)


# What is sent.


def test_a_chain_is_sent_as_its_first_step_with_the_others_reversed(app, add):
    with sent() as messages:
        result = chain(add.s(1), add.s(2), add.s(3)).apply_async()
    (message,) = messages
    assert (message.task, message.args) == ("add", [1])
    assert [step["args"] for step in message.chain] == [[3], [2]]
    assert message.chain[0]["options"]["task_id"] == result.id
    assert message.id == result.parent.parent.id
    assert result.parent.parent.parent is None


def test_a_chain_gives_its_arguments_to_its_first_step(add):
    with sent() as messages:
        chain(group([]), add.s(1), add.s(2)).apply_async((100,))
    assert messages[0].args == [100, 1]


def test_a_chain_under_an_id_gives_it_to_its_last_step(add):
    with sent():
        assert chain(add.s(1), add.s(2)).apply_async(task_id="mine").id == "mine"


def test_a_link_of_a_chain_goes_to_its_last_step_and_a_link_error_to_each(add, note):
    canvas = add.s(1) | add.s(2)
    with sent() as messages:
        canvas.apply_async(link=note.s(), link_error=note.s("oops"))
    (message,) = messages
    assert message.embed["callbacks"] is None
    assert len(message.chain[0]["options"]["link"]) == 1
    assert [sig["args"] for sig in message.embed["errbacks"]] == [["oops"]]
    assert len(message.chain[0]["options"]["link_error"]) == 1


def test_a_group_sends_all_of_its_messages_in_one_round_trip(app, add):
    calls = []
    broker = broker_for(app)
    publish = broker.publish
    try:
        broker.publish = lambda envelopes, **options: (calls.append(len(envelopes)), publish(envelopes, **options))[1]
        group(add.s(i) for i in range(50)).apply_async()
    finally:
        broker.publish = publish
        broker.purge("celery")
    assert calls == [50]


def test_members_of_a_group_know_their_group_and_their_place_in_it(add):
    with sent() as messages:
        result = group(add.s(1), add.s(2)).apply_async()
    assert [message.headers["group"] for message in messages] == [result.id] * 2
    assert [message.headers["group_index"] for message in messages] == [0, 1]
    assert [message.id for message in messages] == [member.id for member in result]


def test_a_group_of_groups_keeps_order(add):
    with sent() as messages:
        group(add.s(1), group(add.s(2), add.s(3)), add.s(4)).apply_async()
    assert [message.args for message in messages] == [[1], [2], [3], [4]]


def test_a_nested_group_in_a_chord_header_is_flattened_in_reverse(add, total):
    with sent() as messages:
        chord([add.s(2), group(add.s(3), add.s(7))], total.s()).apply_async()
    assert sorted((message.headers["group_index"], message.args[0]) for message in messages) == [(0, 2), (1, 7), (2, 3)]


def test_a_group_takes_its_arguments_before_those_of_its_members(add):
    with sent() as messages:
        group(add.s(1), add.si(2)).apply_async((100,))
    assert [message.args for message in messages] == [[100, 1], [2]]


def test_group_apply_async_with_link_raises_type_error(add, note):
    for option in ("link", "link_error"):
        with pytest.raises(TypeError, match="Cannot add link to group"):
            group(add.s(1), add.s(2)).apply_async(**{option: note.s()})


def test_group_link_hits_only_the_first_task_immutably(add, note):
    canvas = group(add.s(1), add.s(2))
    canvas.link(note.s(5))
    assert [task.options.get("link") for task in canvas.tasks] == [[note.s(5).set(immutable=True)], None]


def test_group_link_error_hits_every_task(add, note):
    canvas = group(add.s(1), add.s(2))
    assert len(canvas.link_error(note.s())) == 2


def test_a_generator_is_not_used_up_before_the_group_is_sent(add):
    made = []

    def members():
        for i in range(4):
            made.append(i)
            yield add.s(i)

    canvas = group(members())
    assert made == []
    with sent() as messages:
        canvas.apply_async()
    assert len(messages) == 4


def test_an_empty_group_sends_nothing(app):
    with sent() as messages:
        result = group([], app=app).apply_async()
    assert (messages, len(result)) == ([], 0)


def test_skew_spreads_countdowns(add):
    canvas = group(add.s(i) for i in range(4)).skew(start=1, stop=2, step=0.5)
    assert [task.options["countdown"] for task in canvas.tasks] == [1, 1.5, 2, 2]


def test_every_task_of_a_chord_header_carries_the_body_and_the_size_is_known_first(app, add, total):
    opened = []
    results = app.backend.results
    open_join = results.open_join
    try:
        results.open_join = lambda join, size, ttl: (opened.append((join, size)), open_join(join, size, ttl))[1]
        with sent() as messages:
            result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    finally:
        results.open_join = open_join
    group_id = messages[0].headers["group"]
    assert opened == [(f"celery-taskset-meta-{group_id}", 2)]
    assert {message.embed["chord"]["options"]["task_id"] for message in messages} == {result.id}
    assert result.parent.id == group_id


def test_a_countdown_of_a_chord_delays_its_header_not_its_body(add, total):
    with sent() as messages:
        chord([add.s(1), add.s(2)], total.s()).apply_async(countdown=100)
    assert all(message.headers["eta"] for message in messages)
    assert "countdown" not in messages[0].embed["chord"]["options"]


def test_an_empty_chord_header_sends_the_body_with_an_empty_list(total):
    with sent() as messages:
        chord([], total.s()).apply_async()
    assert [(message.task, message.args) for message in messages] == [("total", [[]])]


def test_a_link_of_a_chord_goes_to_its_body(add, total, note):
    with sent() as messages:
        chord([add.s(1), add.s(2)], total.s()).apply_async(link=note.s(), link_error=note.s("oops"))
    body = messages[0].embed["chord"]["options"]
    assert (body["link"][0]["task"], body["link_error"][0]["args"]) == ("note", ["oops"])
    assert messages[0].embed["callbacks"] is None


def test_a_chain_behind_a_chord_travels_once_in_each_header_task_not_once_more_per_chord(app, add, total):
    """The bytes of one message grow with the canvas, not with its square."""

    def size(chords):
        canvas = add.s(1)
        for _ in range(chords):
            canvas = canvas | group(add.s(1), add.s(2)) | total.s()
        with sent() as messages:
            canvas.apply_async()
        return messages[0].size

    assert size(8) < 2.5 * size(4)


def test_chunks_are_a_group_of_starmaps(app, add):
    with sent() as messages:
        add.chunks(zip(range(5), range(5), strict=True), 2).apply_async()
    assert [message.task for message in messages] == ["celery.starmap"] * 3
    assert [len(message.kwargs["it"]) for message in messages] == [2, 2, 1]


def test_a_map_is_one_message_with_its_items(app, add):
    for canvas, name in ((xmap(add.s(), [1, 2], app=app), "celery.map"), (xstarmap(add.s(), [(1, 2)], app=app), "celery.starmap")):
        with sent() as messages:
            canvas.apply_async()
        assert [message.task for message in messages] == [name]


def test_a_task_that_only_workers_have_can_be_sent(app):
    with sent() as messages:
        signature("far.away", (1,), app=app).apply_async()
    assert messages[0].task == "far.away"


def test_steps_of_a_chain_know_the_root_they_are_given(add):
    with sent() as messages:
        chain(add.s(1), add.s(2)).apply_async(root_id="root")
    assert messages[0].headers["root_id"] == "root"
    assert messages[0].chain[0]["options"]["root_id"] == "root"


def test_a_frozen_chain_sends_the_ids_that_it_was_frozen_with(add):
    canvas = chain(add.s(1), add.s(2))
    frozen = canvas.freeze()
    with sent() as messages:
        result = canvas.apply_async()
    assert (result.id, messages[0].id) == (frozen.id, frozen.parent.id)


def test_freezing_a_chord_puts_its_header_above_its_body(add, total):
    canvas = chord([add.s(1), add.s(2)], total.s() | add.s(3))
    frozen = canvas.freeze()
    assert frozen.id == canvas.body.tasks[-1].id
    assert frozen.parent.parent.id == canvas.tasks.id
    assert [member.id for member in frozen.parent.parent] == [task.id for task in canvas.tasks.tasks]


def test_a_chord_that_runs_later_travels_without_its_body_on_each_header_task(add, total):
    inner = chord([add.s(1), add.s(2)], total.s())
    with sent() as messages:
        chord([add.s(3), add.s(4)], inner).apply_async()
    header = messages[0].embed["chord"]["kwargs"]["header"]
    tasks = header["kwargs"]["tasks"] if isinstance(header, dict) else header
    assert [task["args"] for task in tasks] == [[1], [2]]
    assert all("chord" not in task["options"] for task in tasks)


def test_a_user_defined_signature_type_is_found_by_its_name():
    @Signature.register_type("special")
    class Special(Signature):
        @classmethod
        def from_dict(cls, d, app=None):
            return cls(d, app=app)

    try:
        assert type(signature({"task": "a", "args": (), "kwargs": {}, "options": {}, "subtask_type": "special"})) is Special
    finally:
        del Signature.TYPES["special"]


@pytest.mark.parametrize("make", [lambda s: chunks(s, [1], 1), group, lambda s: _chord([s], s)])
def test_canvases_can_be_copied(make, add):
    canvas = make(add.s(1))
    assert as_data(copy.copy(canvas)) == as_data(canvas)
