"""Backends: what they store, byte by byte, which one belongs to a URL, and classes that third parties make from Celery's."""

import json
import re
import uuid

import pytest
from kombu.exceptions import EncodeError

from compat_celery import states
from compat_celery.app.backends import by_url
from compat_celery.app.task import Context
from compat_celery.backends.base import (
    BaseDictBackend,
    DisabledBackend,
    KeyValueStoreBackend,
    compress_payload,
    decompress_payload,
)
from compat_celery.backends.cache import CacheBackend
from compat_celery.backends.documents import chain_failures, chord_part, failure_part, stores_documents, task_document
from compat_celery.backends.memory import MemoryBackend
from compat_celery.backends.redis import RedisBackend
from compat_celery.backends.sqlite import SQLiteBackend
from compat_celery.canvas import chord, group
from compat_celery.exceptions import ImproperlyConfigured
from tests.compat.inline_worker import make_app, sent


@pytest.fixture
def app():
    return make_app()


@pytest.fixture
def backend(app):
    return app.backend


def stored(backend, task_id):
    return backend.results.get([f"celery-task-meta-{task_id}"])[0]


# Documents.


def test_a_document_is_celerys_field_by_field(backend):
    document = task_document(backend, "the-id", [1, "ä"], states.SUCCESS, None, Context(id="the-id"))
    body = re.sub(rb'"date_done": "[^"]+\+00:00"', b'"date_done": "DATE"', document.body)
    assert body == (
        b'{"status": "SUCCESS", "result": [1, "\\u00e4"], "traceback": null, "children": [], '
        b'"date_done": "DATE", "task_id": "the-id"}'
    )
    assert (document.key, document.ttl, document.final) == ("celery-task-meta-the-id", 86400, True)


def test_a_document_names_group_and_parent_before_the_id(backend):
    request = Context(id="i", group="g", parent_id="p")
    assert list(json.loads(task_document(backend, "i", 1, states.SUCCESS, None, request).body)) == [
        *["status", "result", "traceback", "children", "date_done", "group_id", "parent_id", "task_id"],
    ]


def test_a_document_of_a_task_that_is_not_done_has_no_date(backend):
    assert json.loads(task_document(backend, "i", {"pid": 1}, states.STARTED).body)["date_done"] is None


def test_only_a_success_is_final(backend):
    assert not task_document(backend, "i", ValueError(), states.FAILURE).final


def test_an_extended_document_says_what_the_call_was():
    app = make_app(result_extended=True)
    request = Context(
        id="i",
        task="add",
        args=[1],
        kwargs={"a": 2},
        hostname="w",
        retries=1,
        delivery_info={"routing_key": "q"},
        stamped_headers=["s"],
        stamps={"s": 1},
    )
    body = json.loads(task_document(app.backend, "i", 1, states.SUCCESS, None, request).body)
    assert list(body)[5:] == ["name", "args", "kwargs", "worker", "retries", "queue", "stamped_headers", "s", "task_id"]
    assert (body["name"], body["args"], body["kwargs"], body["worker"], body["queue"], body["s"]) == (
        "add",
        [1],
        {"a": 2},
        "w",
        "q",
        1,
    )


def test_children_are_stored_as_tuples(app, backend):
    request = Context(id="i")
    request.children.append(app.AsyncResult("c", parent=app.AsyncResult("p")))
    assert json.loads(task_document(backend, "i", 1, states.SUCCESS, None, request).body)["children"] == [
        [["c", [["p", None], None]], None]
    ]


def test_a_result_that_is_a_result_is_stored_as_a_tuple(app, backend):
    assert json.loads(task_document(backend, "i", app.AsyncResult("r"), states.SUCCESS).body)["result"] == [["r", None], None]


def test_a_result_that_the_serializer_cannot_take_is_an_encode_error(backend):
    with pytest.raises(EncodeError):
        task_document(backend, "i", {1}, states.SUCCESS)


def test_results_and_failures_have_times_of_their_own():
    app = make_app(result_expires=10, result_failure_expires=99)
    assert task_document(app.backend, "i", 1, states.SUCCESS).ttl == 10
    assert task_document(app.backend, "i", ValueError(), states.FAILURE).ttl == 99
    assert task_document(make_app(result_expires=0).backend, "i", 1, states.SUCCESS).ttl is None


def test_a_compressed_document_begins_with_its_mark_and_is_read_by_all():
    name = f"memory://{uuid.uuid4().hex}"
    writer, reader = make_app(results=name, result_compression="gzip"), make_app(results=name)
    writer.backend.store_result("i", "x" * 1000, states.SUCCESS)
    raw = stored(writer.backend, "i")
    assert raw.startswith(b"\x00celery-compressed\x00application/x-gzip\x00")
    assert len(raw) < 300
    assert reader.backend.get_result("i") == "x" * 1000


def test_what_is_not_marked_is_not_decompressed():
    assert decompress_payload(b'{"a": 1}') == b'{"a": 1}'
    assert decompress_payload(memoryview(compress_payload("text", "gzip"))) == b"text"


def test_an_unknown_compression_is_refused_with_the_known_ones():
    with pytest.raises(ImproperlyConfigured, match=r"'zzz'.*gzip"):
        make_app(result_compression="zzz").backend  # noqa: B018 - making it is what fails


def test_a_key_prefix_ends_in_a_separator():
    for prefix, begins in (("mine", "mine_"), ("mine:", "mine:"), ("mine.", "mine.")):
        app = make_app(result_backend_transport_options={"global_keyprefix": prefix})
        assert task_document(app.backend, "i", 1, states.SUCCESS).key == f"{begins}celery-task-meta-i"
        assert app.backend.get_key_for_group("g") == f"{begins}celery-taskset-meta-g"


def test_pickled_results_come_back_as_they_were():
    app = make_app(result_serializer="pickle", accept_content=["pickle", "json"])
    error = OSError(2, "not there", "a file")
    app.backend.store_result("i", {1, 2}, states.SUCCESS)
    app.backend.store_result("e", error, states.FAILURE)
    assert app.backend.get_result("i") == {1, 2}
    assert app.backend.get_result("e").filename == "a file"


def test_an_empty_id_has_no_key(backend):
    with pytest.raises(ValueError, match="task_id must not be empty"):
        backend.get_key_for_task("")


# Parts of chords and chains, for workers.


def test_a_part_is_what_celerys_redis_backend_keeps(backend):
    part = chord_part(backend, Context(id="t", group="g", group_index=2, chord={"task": "b"}), states.SUCCESS, 5)
    assert (part.join, part.member, part.index, part.body) == ("celery-taskset-meta-g", "t", 2, b'[1, "t", "SUCCESS", 5]')
    assert part.ttl == 86400


def test_a_task_in_no_group_is_no_part(backend):
    assert chord_part(backend, Context(id="t", chord={"task": "b"}), states.SUCCESS, 5) is None


def step(task_id, **more):
    options = {"task_id": task_id, **more.pop("options", {})}
    return {"task": "add", "args": [], "kwargs": {}, "options": options, "subtask_type": None, "immutable": False, **more}


def test_a_failing_step_fails_every_later_one_and_the_body_of_a_chord_among_them(backend):
    body = step("body")
    chain = [step("last"), step("chord", subtask_type="chord", kwargs={"header": [], "body": body}), step("next")]
    documents = chain_failures(backend, Context(id="first", chain=chain), ValueError("x"), "tb")
    assert {document.key.removeprefix("celery-task-meta-") for document in documents} == {"last", "chord", "next", "body"}
    assert all(json.loads(document.body)["result"]["exc_type"] == "ValueError" for document in documents)


def test_a_failing_step_speaks_for_the_chains_last_one_in_its_chord(backend):
    chain = [step("last", options={"group_id": "g", "group_index": 1, "chord": step("body")}), step("next")]
    part = failure_part(backend, Context(id="first", chain=chain), states.FAILURE, ValueError("x"))
    assert (part.member, part.index, part.join) == ("last", 1, "celery-taskset-meta-g")
    assert failure_part(backend, Context(id="first", chain=[step("last")]), states.FAILURE, ValueError("x")) is None


def test_inside_collect_nothing_is_stored(backend):
    with backend.collect() as collected:
        backend.mark_as_failure("i", ValueError("x"), request=Context(id="i", group="g", chord=step("body"), chain=[step("later")]))
    assert stored(backend, "i") is None
    assert [document.key[-5:] for document in collected.documents] == ["eta-i", "later"]
    assert [part.member for part in collected.parts] == ["i"]


def test_who_overrides_how_results_are_stored_is_asked_for_each(app):
    class Mine(MemoryBackend):
        def store_result(self, *args, **kwargs):
            return super().store_result(*args, **kwargs)

    assert stores_documents(app.backend)
    assert not stores_documents(Mine(app, url="memory://mine"))
    assert not stores_documents(DisabledBackend(app))


# Which backend.


@pytest.mark.parametrize(
    ("url", "cls", "address"),
    [
        ("redis://h:1/2", RedisBackend, "redis://h:1/2"),
        ("rediss://h", RedisBackend, "rediss://h"),
        ("redis+socket:///a.sock", RedisBackend, "redis+socket:///a.sock"),
        ("sqlite:///a.db", SQLiteBackend, "sqlite:///a.db"),
        ("memory://", MemoryBackend, "memory://"),
        ("cache+memory://", CacheBackend, "memory://"),
        ("disabled", DisabledBackend, None),
        (None, DisabledBackend, None),
        ("compat_celery.backends.memory:MemoryBackend", MemoryBackend, None),
    ],
)
def test_a_url_names_its_backend(app, url, cls, address):
    assert by_url(url, app.loader) == (cls, address)


def test_a_backend_that_does_not_exist_here_is_refused_with_those_that_do(app):
    for url in ("mongodb://h", "s3://bucket", "nonsense://"):
        with pytest.raises(ImproperlyConfigured, match=r"redis://.*sqlite:///"):
            by_url(url, app.loader)


def test_a_module_is_no_backend(app):
    with pytest.raises(ImproperlyConfigured, match="module"):
        by_url("compat_celery.backends.redis", app.loader)


def test_another_cache_than_memory_is_refused(app):
    with pytest.raises(ImproperlyConfigured, match="memcached"):
        CacheBackend(app, url="memcached://h")


def test_two_apps_on_one_memory_share_results():
    name = f"memory://{uuid.uuid4().hex}"
    make_app(results=name).backend.store_result("i", 1, states.SUCCESS)
    assert make_app(results=name).backend.get_result("i") == 1


def test_an_address_is_shown_without_its_password(app):
    assert RedisBackend(app, url="redis://:secret@h:1/2").as_uri() == "redis://:**@h:1/2"


def test_without_a_backend_asking_is_an_error_and_storing_is_not(app):
    backend = DisabledBackend(app)
    backend.store_result("i", 1, states.SUCCESS)
    for ask in (backend.get_state, backend.get_result, backend.wait_for, backend.get_task_meta):
        with pytest.raises(NotImplementedError, match="result_backend"):
            ask("i")
    with pytest.raises(NotImplementedError, match="requires a result backend"):
        backend.ensure_chords_allowed()


# Backends of third parties.


class Shelf(BaseDictBackend):
    """As django-celery-results does it: the hooks with names of its own, called by position."""

    def __init__(self, app, **kwargs):
        super().__init__(app, **kwargs)
        self.shelf, self.groups = {}, {}

    def _store_result(self, task, value, status, tb=None, request=None):
        meta = self._get_result_meta(value, status, tb, request, format_date=False)
        self.shelf[task] = {**meta, "task_id": task}

    def _get_task_meta_for(self, task):
        meta = self.shelf.get(task, {"status": states.PENDING, "result": None})
        return self.meta_from_decoded(dict(meta))

    def _forget(self, task):
        self.shelf.pop(task, None)

    def _save_group(self, group_id, result):
        self.groups[group_id] = {"result": result}

    def _restore_group(self, group_id):
        return self.groups.get(group_id)


def test_a_dict_backend_of_a_third_party_works(app):
    backend = Shelf(app)
    result = app.AsyncResult("i", backend=backend)
    assert result.state == "PENDING"
    backend.mark_as_failure("i", KeyError("k"), "tb")
    assert (result.state, backend.get_traceback("i")) == ("FAILURE", "tb")
    with pytest.raises(KeyError):
        app.AsyncResult("i", backend=backend).get(timeout=1)
    backend.forget("i")
    assert app.AsyncResult("i", backend=backend).state == "PENDING"
    saved = app.GroupResult("g", [result])
    saved.save(backend)
    assert app.GroupResult.restore("g", backend=backend) == saved


class Counting(KeyValueStoreBackend):
    """A store with counters, and so with chords."""

    implements_incr = True

    def __init__(self, app, **kwargs):
        super().__init__(app, **kwargs)
        self.data = {}

    def get(self, key):
        return self.data.get(key)

    def mget(self, keys):
        return [self.data.get(key) for key in keys]

    def set(self, key, value):
        self.data[key] = value

    def delete(self, key):
        self.data.pop(key, None)

    def incr(self, key):
        self.data[key] = self.data.get(key, 0) + 1
        return self.data[key]


@pytest.fixture
def counting(app):
    @app.task(shared=False, name="add")
    def add(*numbers):
        return sum(numbers)

    @app.task(shared=False, name="total")
    def total(numbers):
        return sum(numbers)

    backend = Counting(app)
    app._local.backend = backend
    app._backend_cache = backend
    app.finalize()
    return backend


def header_of(app):
    with sent() as messages:
        result = chord([app.tasks["add"].s(1), app.tasks["add"].s(2)], app.tasks["total"].s()).apply_async()
    requests = [
        Context({**message.headers, "chord": message.embed["chord"], "called_directly": False, "delivery_info": {}})
        for message in messages
    ]
    return result, requests


def test_a_store_with_counters_runs_chords(app, counting):
    _, requests = header_of(app)
    with sent() as messages:
        counting.mark_as_done(requests[0].id, 1, requests[0])
    assert messages == []
    with sent() as messages:
        counting.mark_as_done(requests[1].id, 2, requests[1])
    assert [(message.task, message.args) for message in messages] == [("total", [[1, 2]])]


def test_a_store_with_counters_fails_chords(app, counting):
    result, requests = header_of(app)
    counting.mark_as_done(requests[0].id, 1, requests[0])
    with sent() as messages:
        counting.mark_as_failure(requests[1].id, ValueError("b"), request=requests[1])
    assert messages == []
    assert str(counting.get_result(result.id)) == f"Dependency {requests[1].id} raised ValueError('b')"


def test_a_backend_without_counters_watches_chords_by_a_task(app):
    @app.task(shared=False, name="add")
    def add(*numbers):
        return sum(numbers)

    app.finalize()
    body = add.s()
    header = group(add.s(1), add.s(2)).freeze()
    with sent() as messages:
        Shelf(app).apply_chord((header.id, header.results), body)
    assert [message.task for message in messages] == ["celery.chord_unlock"]
    assert messages[0].args[0] == header.id
    assert len(messages[0].kwargs["result"]) == 2


def test_operations_are_tried_again_when_that_is_wanted():
    class Shaky(Shelf):
        calls = 0

        def exception_safe_to_retry(self, exc):
            return isinstance(exc, OSError)

        def _forget(self, task):
            self.calls += 1
            if self.calls < 3:
                raise OSError("away")

    app = make_app(result_backend_always_retry=True, result_backend_base_sleep_between_retries_ms=1)
    backend = Shaky(app)
    backend.forget("i")
    assert backend.calls == 3
    calm = Shaky(make_app())
    with pytest.raises(OSError, match="away"):
        calm.forget("i")
