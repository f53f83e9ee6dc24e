"""Calls become messages: in the broker, field by field as genuine Celery publishes them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import anyio
import pytest
from kombu import Exchange, Queue
from kombu.exceptions import EncodeError, OperationalError

from compat_celery import Celery, protocol, signals
from compat_celery.app.publisher import broker_for, capture, embedded_url
from compat_celery.exceptions import AlwaysEagerIgnored, ImproperlyConfigured, QueueNotFound
from jumpstarter.errors import BrokerUnavailable, ConfigurationError, PublishTimeout

Sent = Callable[..., list[Any]]


def body_of(envelope: Any) -> protocol.Call:
    return protocol.read_body(envelope, protocol.read_headers(envelope))


@pytest.fixture
def add(app: Celery) -> Any:
    @app.task(name="rec.add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


def test_a_call_arrives_in_the_default_queue(add: Any, sent: Sent) -> None:
    result = add.delay(1, 2)
    (envelope,) = sent()
    assert (envelope.queue, envelope.exchange, envelope.routing_key) == ("celery", "", "celery")
    assert envelope.body == b'[[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
    assert envelope.headers["id"] == envelope.properties["correlation_id"] == result.id
    assert envelope.properties["delivery_mode"] == 2
    assert (envelope.content_type, envelope.content_encoding) == ("application/json", "utf-8")


def test_every_option_is_where_genuine_celery_puts_it(add: Any, app: Celery, sent: Sent) -> None:
    add.apply_async(
        args=[1],
        kwargs={"y": 2},
        task_id="id-2",
        queue="q2",
        priority=5,
        headers={"h": 1},
        shadow="s",
        time_limit=10,
        soft_time_limit=5,
        reply_to="me",
        root_id="r",
        parent_id="p",
        group_id="g",
        group_index=3,
        link=add.s(5),
        link_error=add.si(1, 1),
        ignore_result=True,
        compression="gzip",
        custom="prop",
        retries=2,
    )
    (envelope,) = sent("q2")
    # Recorded from genuine Celery 5.7.0, given the same call.
    assert envelope.headers | {"origin": None} == {
        "argsrepr": "[1]",
        "eta": None,
        "expires": None,
        "group": "g",
        "group_index": 3,
        "h": 1,
        "id": "id-2",
        "ignore_result": True,
        "kwargsrepr": "{'y': 2}",
        "lang": "py",
        "origin": None,
        "parent_id": "p",
        "replaced_task_nesting": 0,
        "retries": 2,
        "root_id": "r",
        "shadow": "s",
        "stamped_headers": None,
        "stamps": {},
        "task": "rec.add",
        "timelimit": [10, 5],
        "compression": "application/x-gzip",
    }
    assert envelope.properties == {
        "correlation_id": "id-2",
        "reply_to": "me",
        "delivery_mode": 2,
        "priority": 5,
        "custom": "prop",
    }
    assert envelope.priority == 5
    call = body_of(envelope)
    signature = {"task": "rec.add", "args": [5], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
    assert call.callbacks == [signature]
    assert call.errbacks == [signature | {"args": [1, 1], "immutable": True}]
    assert (call.args, call.kwargs, call.chain, call.chord) == ([1], {"y": 2}, None, None)


def test_origin_names_this_process(add: Any, sent: Sent) -> None:
    add.delay(1, 2)
    assert sent()[0].headers["origin"].startswith(f"gen{os.getpid()}@")


def test_user_headers_are_flat_and_may_override_celerys(add: Any, sent: Sent) -> None:
    add.apply_async((1, 2), headers={"id": "mine"})
    assert sent()[0].headers["id"] == "mine"


def test_a_naive_eta_is_sent_without_an_offset(add: Any) -> None:
    with capture() as envelopes:
        add.apply_async((1, 2), eta=datetime(2030, 1, 2, 3, 4, 5), expires=datetime(2090, 1, 1))  # noqa: DTZ001 - naive on purpose
    headers = envelopes[0].headers
    assert (headers["eta"], headers["expires"]) == ("2030-01-02T03:04:05", "2090-01-01T00:00:00")


def test_a_countdown_becomes_an_eta_and_none_for_zero(add: Any) -> None:
    with capture() as envelopes:
        add.apply_async((1, 2), countdown=60)
        add.apply_async((1, 2), countdown=0)
    later, now = (envelope.headers["eta"] for envelope in envelopes)
    assert 55 < (datetime.fromisoformat(later) - datetime.now(UTC)).total_seconds() <= 60
    assert now is None


@pytest.mark.parametrize("exclusive", [True, False])
def test_only_a_broker_that_is_ours_alone_is_told_when_a_message_is_due(app: Celery, add: Any, exclusive: bool) -> None:
    """Of others, genuine workers may be the only readers: they find the time in the header alone."""
    app.producer_pool.acquire().broker.exclusive = exclusive
    with capture() as envelopes:
        add.apply_async((1, 2), eta=datetime(2030, 1, 2, tzinfo=UTC))
    assert envelopes[0].due == (datetime(2030, 1, 2, tzinfo=UTC).timestamp() if exclusive else None)


def test_expires_sets_the_header_and_the_time_to_live(add: Any, sent: Sent) -> None:
    add.apply_async((1, 2), expires=30)
    (envelope,) = sent()
    assert envelope.properties["expiration"] == "30000"
    assert 25 < (datetime.fromisoformat(envelope.headers["expires"]) - datetime.now(UTC)).total_seconds() <= 30


def test_an_expiry_in_the_past_is_warned_about(add: Any, sent: Sent, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "celery"):
        add.apply_async((1, 2), expires=datetime.now(UTC) - timedelta(seconds=9))
    assert "in the past" in caplog.text
    assert sent()[0].properties["expiration"] == "0"


def test_an_expiry_that_is_no_time_is_a_type_error(add: Any) -> None:
    with pytest.raises(TypeError):
        add.apply_async((1, 2), expires=timedelta(seconds=3))


def test_stamps_are_in_the_headers_and_not_among_the_properties(add: Any, sent: Sent) -> None:
    add.apply_async((1, 2), stamped_headers=["s1"], s1="v")
    (envelope,) = sent()
    assert (envelope.headers["stamped_headers"], envelope.headers["stamps"]) == (["s1"], {"s1": "v"})
    assert "s1" not in envelope.properties


def test_protocol_1_is_sent_where_the_settings_say_so(app: Celery, add: Any, sent: Sent) -> None:
    app.conf.task_protocol = 1
    add.apply_async((1, 2), task_id="id-5")
    (envelope,) = sent()
    assert envelope.headers == {}
    assert body_of(envelope).id == "id-5"


def test_a_task_that_nobody_here_has_can_be_sent_by_its_name(app: Celery, sent: Sent) -> None:
    result = app.send_task("other.program.task", (1,), {"k": 2}, queue="theirs")
    (envelope,) = sent("theirs")
    assert (envelope.headers["task"], envelope.headers["id"]) == ("other.program.task", result.id)
    assert app.finalized is False


def test_send_task_ignores_eager_mode_with_a_warning(app: Celery, sent: Sent) -> None:
    app.conf.task_always_eager = True
    with pytest.warns(AlwaysEagerIgnored):
        app.send_task("some.task")
    assert len(sent()) == 1


def test_send_task_takes_the_options_of_a_task_that_is_here(app: Celery, sent: Sent) -> None:
    @app.task(name="limited", time_limit=9, expires=40)
    def limited() -> None:
        pass

    limited.name  # noqa: B018 - a lazy task is made by its first use
    app.send_task("limited")
    app.send_task("limited", time_limit=None, expires=None)
    first, second = sent()
    assert (first.headers["timelimit"], first.properties["expiration"]) == ([9, None], "40000")
    assert (second.headers["timelimit"], second.headers["expires"]) == ([None, None], None)


# Routes.


def test_routes_choose_the_queue_by_name_and_by_pattern(app: Celery, sent: Sent) -> None:
    app.conf.task_routes = {"video.encode": "video", "mail.*": {"queue": "mail", "priority": 7}}
    app.send_task("video.encode")
    app.send_task("mail.send")
    app.send_task("other")
    assert [envelope.headers["task"] for envelope in sent("video")] == ["video.encode"]
    assert [envelope.priority for envelope in sent("mail")] == [7]
    assert [envelope.headers["task"] for envelope in sent()] == ["other"]


def test_what_the_caller_says_comes_before_the_routes(app: Celery, sent: Sent) -> None:
    app.conf.task_routes = {"video.*": {"queue": "video"}}
    app.send_task("video.encode", queue="mine")
    assert len(sent("mine")) == 1


def test_a_router_may_be_a_function(app: Celery, sent: Sent) -> None:
    def by_argument(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
        return {"queue": f"user-{args[0]}"} if name == "notify" else None

    app.conf.task_routes = (by_argument,)
    app.send_task("notify", (7,))
    assert len(sent("user-7")) == 1


def test_new_routes_take_effect_when_the_settings_are_updated(app: Celery, sent: Sent) -> None:
    app.send_task("a")
    app.conf.update(task_routes={"a": "elsewhere"})
    app.send_task("a")
    assert (len(sent()), len(sent("elsewhere"))) == (1, 1)


def test_a_queue_that_is_not_declared_is_refused_where_none_may_be_created(app: Celery) -> None:
    app.conf.task_queues = [Queue("known")]
    app.conf.task_create_missing_queues = False
    with pytest.raises(QueueNotFound, match="unknown"):
        app.send_task("a", queue="unknown")


def test_a_topic_exchange_reaches_the_queues_whose_pattern_matches(app: Celery, sent: Sent) -> None:
    feeds = Exchange("feeds", "topic")
    app.conf.task_queues = [
        Queue("news", feeds, "news.#"),
        Queue("sport", feeds, "*.sport"),
        Queue("weather", feeds, "weather.*"),
    ]
    app.send_task("import", exchange="feeds", routing_key="news.sport", exchange_type="topic")
    assert [len(sent(name)) for name in ("news", "sport", "weather")] == [1, 1, 0]


def test_a_message_that_no_queue_would_get_is_an_error(app: Celery) -> None:
    app.conf.task_queues = [Queue("news", Exchange("feeds", "topic"), "news.#")]
    with pytest.raises(QueueNotFound, match="would be lost"):
        app.send_task("import", exchange="feeds", routing_key="nobody", exchange_type="topic")


# Errors.


def test_arguments_that_json_cannot_carry_are_an_encode_error_at_the_call(add: Any, sent: Sent) -> None:
    with pytest.raises(EncodeError):
        add.delay(1, timedelta(1))
    assert sent() == []


def test_wrong_arguments_are_a_type_error_at_the_call(add: Any, sent: Sent) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        add.delay(1)
    assert sent() == []


def test_typing_can_be_switched_off(app: Celery, sent: Sent) -> None:
    @app.task(typing=False)
    def loose(x: int) -> None:
        pass

    loose.delay()
    assert len(sent()) == 1


def test_arguments_that_are_no_sequence_and_mapping_are_a_type_error(app: Celery) -> None:
    with pytest.raises(TypeError, match="task args must be a list or tuple"):
        app.send_task("a", "abc")
    with pytest.raises(TypeError, match="keyword arguments must be a mapping"):
        app.send_task("a", (), [1])


def test_a_broker_that_cannot_be_reached_is_an_operational_error(tmp_path: Path) -> None:
    app = Celery("proj", broker="redis://127.0.0.1:1/0", backend="disabled")
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0}
    with pytest.raises(OperationalError, match=r"127\.0\.0\.1"):
        app.send_task("a")


def test_a_broker_that_nobody_has_is_improperly_configured() -> None:
    app = Celery("proj", broker="carrier-pigeon://secret:word@roof/", backend="disabled")
    with pytest.raises(ImproperlyConfigured, match="no broker has the scheme 'carrier-pigeon'") as caught:
        app.send_task("a")
    assert "word" not in str(caught.value)


class Unreliable:
    """Stands before a broker and fails as often as it is told."""

    def __init__(self, broker: Any, *failures: Exception) -> None:
        self.broker = broker
        self.failures = list(failures)
        self.attempts = 0

    def publish(self, envelopes: Any, *, timeout: float | None = None) -> None:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)
        self.broker.publish(envelopes, timeout=timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.broker, name)


def put_before(app: Celery, *failures: Exception) -> Unreliable:
    producer = app.producer_pool.acquire()
    producer._broker = Unreliable(producer.broker, *failures)
    return producer._broker


def test_publishing_is_tried_again_as_the_policy_says(app: Celery, add: Any, sent: Sent) -> None:
    unreliable = put_before(app, *[BrokerUnavailable("memory://", "gone")] * 2)
    add.apply_async((1, 2), retry_policy={"max_retries": 2, "interval_start": 0, "interval_step": 0})
    assert unreliable.attempts == 3
    assert len(sent()) == 1


def test_publishing_is_not_tried_again_without_retry(app: Celery, add: Any) -> None:
    unreliable = put_before(app, BrokerUnavailable("memory://", "gone"))
    with pytest.raises(OperationalError):
        add.apply_async((1, 2), retry=False)
    assert unreliable.attempts == 1


def test_a_publish_that_timed_out_is_not_tried_again_since_it_may_have_arrived(app: Celery, add: Any) -> None:
    unreliable = put_before(app, PublishTimeout("memory://", "slow"))
    with pytest.raises(OperationalError):
        add.delay(1, 2)
    assert unreliable.attempts == 1


def test_the_next_of_several_brokers_is_tried_when_one_cannot_be_reached() -> None:
    app = Celery("proj", broker="redis://127.0.0.1:1/0;memory://alternate", backend="disabled")
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0}
    app.send_task("a")
    assert broker_for(app, "memory://alternate").depth("celery") == 1
    app.send_task("b", retry=False)
    assert broker_for(app, "memory://alternate").depth("celery") == 2


def test_a_message_for_everybody_is_gone_when_nobody_listens(app: Celery, sent: Sent) -> None:
    app.conf.task_queues = [Queue("all-1", Exchange("all", "fanout")), Queue("celery")]
    app.send_task("a", queue="all-1")
    assert sent("all-1", "celery") == []


# Signals.


def test_what_receivers_change_before_publishing_reaches_the_wire(add: Any, sent: Sent) -> None:
    def change(body: Any, headers: Any, properties: Any, **_: Any) -> None:
        body[1]["z"] = 3
        headers["tenant"] = "acme"
        properties["priority"] = 9

    signals.before_task_publish.connect(change)
    add.apply_async((1,), {"y": 2})
    (envelope,) = sent()
    assert body_of(envelope).kwargs == {"y": 2, "z": 3}
    assert (envelope.headers["tenant"], envelope.priority) == ("acme", 9)


def test_receivers_learn_what_was_published(add: Any, sent: Sent) -> None:
    told = []

    def published(sender: Any, headers: Any, body: Any, exchange: Any, routing_key: Any, **_: Any) -> None:
        told.append((sender, headers["id"], body[0], exchange, routing_key))

    signals.after_task_publish.connect(published)
    result = add.delay(1, 2)
    assert told == [("rec.add", result.id, (1, 2), "", "celery")]


def test_a_receiver_for_one_task_is_not_told_of_others(app: Celery, add: Any, sent: Sent) -> None:
    told = []

    def published(sender: Any, **_: Any) -> None:
        told.append(sender)

    signals.after_task_publish.connect(published, sender="rec.add")
    add.delay(1, 2)
    app.send_task("other")
    assert told == ["rec.add"]


# Collecting.


def test_captured_messages_are_not_sent(add: Any, sent: Sent) -> None:
    with capture() as envelopes:
        add.delay(1, 2)
        assert len(envelopes) == 1
    assert sent() == []


def test_a_bulk_goes_in_one_round_trip(app: Celery, add: Any, sent: Sent) -> None:
    counting = put_before(app)
    with app.bulk_publish():
        for number in range(50):
            add.delay(number, 0)
        assert counting.attempts == 0
    assert counting.attempts == 1
    assert [body_of(envelope).args[0] for envelope in sent()] == list(range(50))


def test_of_a_bulk_that_fails_nothing_is_sent(app: Celery, add: Any, sent: Sent) -> None:
    def half() -> None:
        with app.bulk_publish():
            add.delay(1, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert sent() == []


def test_receivers_learn_of_a_bulk_when_it_is_sent(app: Celery, add: Any, sent: Sent) -> None:
    told = []

    def published(headers: Any, **_: Any) -> None:
        told.append(headers["id"])

    signals.after_task_publish.connect(published)
    with app.bulk_publish():
        add.delay(1, 2)
        assert told == []
    assert len(told) == 1


def test_a_bulk_inside_a_capture_is_captured(app: Celery, add: Any, sent: Sent) -> None:
    with capture() as envelopes, app.bulk_publish():
        add.delay(1, 2)
    assert len(envelopes) == 1
    assert sent() == []


def test_another_apps_messages_are_no_part_of_a_bulk(app: Celery, sent: Sent) -> None:
    other = Celery("other", broker="memory://other-app", backend="disabled", set_as_current=False)
    with app.bulk_publish():
        other.send_task("theirs")
        assert broker_for(other).depth("celery") == 1


def test_a_capture_in_one_thread_is_not_seen_in_another(add: Any, sent: Sent) -> None:
    with capture() as envelopes:
        thread = threading.Thread(target=add.delay, args=(1, 2))
        thread.start()
        thread.join()
    assert envelopes == []
    assert len(sent()) == 1


# Many calls of one task.


def without_ids(envelopes: list[Any]) -> list[Any]:
    """The messages, their ids replaced by words: the ids of each must agree with one another."""
    shown = []
    for envelope in envelopes:
        task_id = envelope.properties["correlation_id"]
        headers = {name: "ID" if value == task_id else value for name, value in envelope.headers.items()}
        due = None if envelope.due is None else 0.0  # a moment some microseconds later
        shown.append(replace(envelope, headers=headers, properties={**envelope.properties, "correlation_id": "ID"}, due=due))
    return shown


MANY_CALLS = [((1, 2), {}), ([3], {"y": "ä"}), ((), {"x": [1, {"deep": (None, 1.5)}], "y": "long" * 500})]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queue": "other", "priority": 5, "ignore_result": True, "time_limit": 9, "soft_time_limit": 5},
        {"countdown": 60},
        {"headers": {"tenant": "acme"}},
        {"serializer": "pickle"},
        {"compression": "gzip"},
        {"expires": 600},
        {"custom": "property"},
        {"shadow": "shown"},
        {"stamped_headers": ["s"], "s": "v"},
    ],
    ids=lambda options: next(iter(options), "none"),
)
def test_many_calls_are_what_the_same_calls_are_one_by_one(add: Any, options: dict[str, Any]) -> None:
    with capture() as one_by_one:
        expected = [add.apply_async(args, kwargs, **options) for args, kwargs in MANY_CALLS]
    with capture() as many:
        results = add.apply_async_many([args for args, _ in MANY_CALLS], [kwargs for _, kwargs in MANY_CALLS], **options)
    assert [result.id for result in results] == [envelope.headers["id"] for envelope in many]
    assert len({result.id for result in results}) == 3
    assert [result.ignored for result in results] == [result.ignored for result in expected]
    if {"countdown", "expires"} & options.keys():
        for envelope in [*many, *one_by_one]:  # moments that lie some microseconds apart
            envelope.headers.update(eta="" if envelope.headers["eta"] else None, expires="")
    assert without_ids(many) == without_ids(one_by_one)


def test_many_calls_may_have_positional_or_keyword_arguments_only(add: Any, sent: Sent) -> None:
    add.apply_async_many((number, 0) for number in range(3))
    add.apply_async_many(kwargs_list=({"x": number, "y": 0} for number in range(3)))
    calls = [body_of(envelope) for envelope in sent()]
    assert [call.args for call in calls] == [[0, 0], [1, 0], [2, 0], [], [], []]
    assert [call.kwargs.get("x") for call in calls] == [None, None, None, 0, 1, 2]


def test_many_calls_may_have_ids_of_ones_own(add: Any, sent: Sent) -> None:
    results = add.apply_async_many([(1, 2), (3, 4)], task_ids=["a", "b"])
    assert [result.id for result in results] == [envelope.headers["root_id"] for envelope in sent()] == ["a", "b"]
    with pytest.raises(TypeError, match="task_ids"):
        add.apply_async_many([(1, 2)], task_id="one for all")


def test_of_many_calls_none_is_sent_when_one_is_wrong(add: Any, sent: Sent) -> None:
    with pytest.raises(TypeError, match="missing 1 required"):
        add.apply_async_many([(1, 2), (3, 4), (5,)])
    with pytest.raises(EncodeError):
        add.apply_async_many([(1, 2), (3, 4), (5, object())])
    with pytest.raises(ValueError, match="shorter"):
        add.apply_async_many([(1, 2), (3, 4)], [{}])
    assert sent() == []


def test_no_calls_are_no_messages(add: Any, sent: Sent) -> None:
    assert add.apply_async_many([]) == add.apply_async_many() == []
    assert sent() == []


def test_of_many_calls_in_eager_mode_each_runs_at_once(app: Celery, add: Any, sent: Sent) -> None:
    app.conf.task_always_eager = True
    assert [result.get() for result in add.apply_async_many([(1, 2), (3, 4)])] == [3, 7]
    assert sent() == []


def test_whoever_overrides_what_a_call_goes_through_is_asked_for_each_of_many(app: Celery, sent: Sent) -> None:
    class Tenants(app.Task):  # type: ignore[name-defined] # the app's class
        def apply_async(self, *args: Any, **options: Any) -> Any:
            return super().apply_async(*args, headers={"tenant": "acme"}, **options)

    @app.task(base=Tenants)
    def mine(number: int) -> None: ...

    mine.apply_async_many([(1,), (2,), (3,)])
    assert [envelope.headers["tenant"] for envelope in sent()] == ["acme"] * 3


def test_agents_that_patch_the_calls_are_asked_for_each_of_many(
    app: Celery, add: Any, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = Celery.send_task

    @wraps(original)
    def traced(self: Celery, name: str, *args: Any, **options: Any) -> Any:
        seen.append(name)
        return original(self, name, *args, **options)

    monkeypatch.setattr(Celery, "send_task", traced)
    add.apply_async_many([(1, 2)] * 3)
    assert seen == ["rec.add"] * 3


def test_receivers_and_routers_are_asked_for_each_of_many(app: Celery, add: Any, sent: Sent) -> None:
    app.conf.task_routes = (lambda name, args, kwargs, options, task=None, **_: {"queue": f"user-{args[0]}"},)

    def change(headers: Any, **_: Any) -> None:
        headers["seen"] = True

    signals.before_task_publish.connect(change)
    add.apply_async_many([(1, 0), (2, 0), (3, 0)])
    assert [len(sent(f"user-{number}")) for number in (1, 2, 3)] == [1, 1, 1]
    signals.before_task_publish.disconnect(change)
    add.apply_async_many([(4, 0), (5, 0)])
    assert [envelope.headers.get("seen") for envelope in sent("user-4", "user-5")] == [None, None]


@pytest.mark.anyio
async def test_publishing_can_be_awaited(add: Any, sent: Sent) -> None:
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(add.adelay, number, 0)
    result = await add.aapply_async((9, 9), task_id="mine")
    assert result.id == "mine"
    await add.aapply_async_many([(1, 2), (3, 4)])
    assert len(sent()) == 6


# Producers and connections that the caller brings.


class FakeKombuProducer:
    """A producer that is not ours: what it is given is what Kombu's would be given."""

    serializer = None

    def __init__(self) -> None:
        self.published: list[tuple[Any, dict[str, Any]]] = []
        self.connection = self

    def _reraise_as_library_errors(self) -> Any:
        return nullcontext()

    def publish(self, body: Any, **options: Any) -> None:
        self.published.append((body, options))


def test_a_producer_of_kombus_publishes_itself(add: Any, sent: Sent) -> None:
    producer = FakeKombuProducer()
    add.apply_async((1, 2), producer=producer)
    ((body, options),) = producer.published
    assert body[0] == (1, 2)
    assert options["routing_key"] == "celery"
    assert options["retry_policy"] == {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2}
    assert sent() == []


def test_a_producer_from_the_pool_is_ours(app: Celery, add: Any, sent: Sent) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        add.apply_async((1, 2), producer=producer)
    with app.producer_or_acquire() as producer:
        add.apply_async((1, 2), producer=producer)
    assert len(sent()) == 2


def test_a_connection_to_another_broker_gets_the_message(app: Celery, add: Any, sent: Sent) -> None:
    with app.connection_for_write("memory://elsewhere") as connection:
        connection.ensure_connection(max_retries=1)
        add.apply_async((1, 2), connection=connection)
    assert sent() == []
    assert broker_for(app, "memory://elsewhere").depth("celery") == 1


def test_a_connection_to_a_broker_that_does_not_answer_is_an_operational_error() -> None:
    app = Celery("proj", broker="memory://")
    connection = app.connection()
    broker_for(app).ping = lambda: (_ for _ in ()).throw(BrokerUnavailable("memory://", "gone"))
    waits: list[float] = []
    with pytest.raises(OperationalError, match="gone"):
        connection.ensure_connection(lambda error, wait: waits.append(wait), max_retries=2, interval_start=0, interval_step=0)
    assert waits == [0, 0]
    assert connection.connected is False


def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "no-database"
    broken.write_bytes(b"this is no database" * 100)
    app = Celery("proj", broker=f"sqlite:///{broken}")
    with pytest.raises(ConfigurationError, match="no SQLite database"):
        app.connection().ensure_connection(max_retries=0)


# Where to.


def test_without_any_setting_there_is_an_embedded_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUMPSTARTER_HOME", str(tmp_path / "home"))
    app = Celery("proj")
    assert app.backend.as_uri().startswith("sqlite")
    assert not (tmp_path / "home").exists()
    app.send_task("a")
    assert (tmp_path / "home" / "jumpstarter.db").exists()
    assert broker_for(app).depth("celery") == 1
    app.close()


def test_without_a_home_the_embedded_broker_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUMPSTARTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert embedded_url(create=False) == f"sqlite:///{tmp_path / '.jumpstarter' / 'jumpstarter.db'}"


def test_a_home_that_cannot_be_made_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JUMPSTARTER_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ImproperlyConfigured, match="broker_url"):
        embedded_url()


def test_the_environment_comes_before_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("proj", broker="memory://from-settings")
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://from-environment")
    assert app.broker_url() == "memory://from-environment"
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "memory://for-writing")
    assert (app.broker_url(write=True), app.broker_url()) == ("memory://for-writing", "memory://from-environment")


def test_an_address_in_parts_is_put_together() -> None:
    app = Celery("proj")
    app.conf.update(
        broker_transport="redis", broker_host="db1", broker_port=7000, broker_vhost="3", broker_user="u", broker_password="p"
    )
    assert app.broker_url() == "redis://u:p@db1:7000/3"


def test_a_child_process_publishes_through_connections_of_its_own(tmp_path: Path) -> None:
    app = Celery("proj", broker=f"sqlite:///{tmp_path / 'q.db'}", backend="disabled")
    app.send_task("from-parent")
    pid = os.fork()
    if pid == 0:
        try:
            app.send_task("from-child")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert broker_for(app).depth("celery") == 2
    app.close()


def test_forked_children_are_told_and_start_with_a_pool_of_their_own(app: Celery) -> None:
    told = []
    app.on_after_fork.connect(lambda sender, **_: told.append(sender), weak=False)
    app.producer_pool.acquire()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"yes" if told and app.amqp._producer_pool is None else b"no!")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 3) == b"yes"
    assert told == []
    os.close(reading)
    os.close(writing)
