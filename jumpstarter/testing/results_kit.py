"""What every results store has to do, as tests: the executable specification of :class:`jumpstarter.abc.results.Results`.

Subclass :class:`ResultsKit` in a test module and say how your store is opened::

    class TestMyResults(ResultsKit):
        @pytest.fixture
        def results_factory(self, clock, tmp_path):
            with contextlib.ExitStack() as stores:
                yield lambda **options: stores.enter_context(MyResults(f"my://{tmp_path}", clock=clock, **options))

What the kit asks for, each a fixture or method that you may override:

===================  ========================================================================================================
``results_factory``  fixture, required: a callable that opens one more store on the same server, empty at the start of each test.
                     Takes ``timeout=`` (seconds) where ``stalled`` is offered; has to work in forked children where ``durable``.
``clock``            fixture: a :class:`~jumpstarter.testing.broker_kit.ManualClock` by default; see there.
``durable``          attribute: several processes share the server. True by default.
``stalled``          context manager: while it is open the server answers nobody. Without it, that test is skipped.
``wake_within``      attribute: seconds, the slowest median from a put in one process to the end of a wait in another.
===================  ========================================================================================================

A final document's body begins with ``{"status": "SUCCESS"`` as Celery's do: a store may tell by that. Needs pytest.
"""

from __future__ import annotations

import concurrent.futures
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pytest

from jumpstarter.abc.results import Fence, Results
from jumpstarter.errors import ResultsUnavailable
from jumpstarter.jobs import Document, Part
from jumpstarter.testing.broker_kit import PATIENCE, Forked, KitClock, ManualClock, background, part

FINAL = b'{"status": "SUCCESS", "result": 1}'
FAILED = b'{"status": "FAILURE", "result": null}'


def add(results: Results, one: Part) -> Sequence[bytes] | None:
    """Add one part."""
    (answer,) = results.add_parts([one])
    return answer


class Factory(Protocol):
    """What the kit's ``results_factory`` fixture offers."""

    def __call__(self, **options: Any) -> Results:
        """One more store on the same server."""
        ...


class ResultsKit:
    """The specification. See the module's text for what to override."""

    durable = True
    wake_within = 0.05

    # What a store's own tests give

    @pytest.fixture
    def results_factory(self) -> Factory:
        """Opens one more store on the same server."""
        raise NotImplementedError("give the kit a results_factory fixture; see jumpstarter.testing.results_kit")

    @pytest.fixture
    def clock(self) -> KitClock:
        """Time under the test's control."""
        return ManualClock()

    def stalled(self, results: Results) -> AbstractContextManager[None]:  # noqa: ARG002  for those who override it
        """Meanwhile the server answers nobody."""
        pytest.skip("this store's tests do not say how to stall its server")

    @pytest.fixture
    def results(self, results_factory: Factory) -> Results:
        """One store; others come from the factory."""
        return results_factory()

    @pytest.fixture
    def several_processes(self) -> None:
        """The test needs a store that several processes share."""
        if not self.durable:
            pytest.skip("this store lives in one process")

    # Documents

    def test_documents_are_there_for_everybody_who_asks(self, results: Results, results_factory: Factory) -> None:
        results.put([Document("a", b"1"), Document("b", bytes(range(256)))])
        assert results_factory().get(["b", "missing", "a", "b"]) == [bytes(range(256)), None, b"1", bytes(range(256))]

    def test_asking_for_nothing_and_putting_nothing_do_nothing(self, results: Results) -> None:
        assert results.put([]) == []
        assert results.add_parts([]) == []
        results.fence([], 60.0)
        assert results.get([]) == []
        assert results.delete([]) == 0
        assert list(results.writes([])) == []

    def test_a_later_document_replaces_an_earlier_one(self, results: Results) -> None:
        assert results.put([Document("a", b"1")]) == [True]
        assert results.put([Document("a", b"2"), Document("a", b"3")]) == [True, True]
        assert results.get(["a"]) == [b"3"]

    def test_a_final_document_is_never_overwritten(self, results: Results) -> None:
        results.put([Document("a", b"started")])
        results.put([Document("a", FINAL, ttl=60.0, final=True)])
        # It stays as agreed; nobody was refused.
        assert results.put([Document("a", FAILED), Document("b", FAILED)]) == [True, True]
        results.put([Document("a", FINAL + b" ", final=True)])
        assert results.get(["a", "b"]) == [FINAL, FAILED]

    def test_there_is_one_write_for_each_document(self, results: Results) -> None:
        # A worker asks for the writes of many settlements at once, and shares them out.
        for count in (1, 0, 250, 1, 2):
            assert len(results.writes([Document(f"{number}", b"1", ttl=60.0) for number in range(count)])) == count

    def test_a_deleted_final_document_makes_room(self, results: Results) -> None:
        results.put([Document("a", FINAL, final=True)])
        assert results.delete(["a"]) == 1
        results.put([Document("a", FAILED)])
        assert results.get(["a"]) == [FAILED]

    def test_a_document_of_8_mib_arrives_whole(self, results: Results) -> None:
        body = os.urandom(8 * 1024 * 1024)
        results.put([Document("a", body)])
        assert results.get(["a"]) == [body]

    def test_keys_may_be_odd(self, results: Results) -> None:
        keys = ["ü ñ", "a:b", "'; DROP TABLE x; --", "x" * 300, '"quoted"', "back\\slash"]
        results.put([Document(key, key.encode()) for key in keys])
        assert results.get(keys) == [key.encode() for key in keys]

    def test_thousands_of_documents_in_one_call(self, results: Results) -> None:
        keys = [f"key-{number}" for number in range(10_000)]
        results.put([Document(key, key.encode()) for key in keys])
        assert results.get(keys) == [key.encode() for key in keys]
        assert results.delete(keys) == 10_000

    def test_a_document_is_gone_after_its_time(self, results: Results, clock: KitClock) -> None:
        results.put([Document("short", b"1", ttl=10.0), Document("long", b"2", ttl=1000.0), Document("for ever", b"3")])
        clock.advance(9)
        assert results.get(["short", "long", "for ever"]) == [b"1", b"2", b"3"]
        clock.advance(2)
        assert results.get(["short", "long", "for ever"]) == [None, b"2", b"3"]
        assert results.delete(["short"]) == 0

    def test_a_final_document_whose_time_is_up_may_be_replaced(self, results: Results, clock: KitClock) -> None:
        results.put([Document("a", FINAL, ttl=10.0, final=True)])
        clock.advance(11)
        results.put([Document("a", FAILED)])
        assert results.get(["a"]) == [FAILED]

    def test_a_new_write_sets_a_new_time(self, results: Results, clock: KitClock) -> None:
        results.put([Document("a", b"1", ttl=10.0)])
        clock.advance(6)
        results.put([Document("a", b"2", ttl=10.0)])
        clock.advance(6)
        assert results.get(["a"]) == [b"2"]

    def test_delete_counts_what_there_was(self, results: Results) -> None:
        results.put([Document("a", b"1"), Document("b", b"2"), Document("c", b"3")])
        assert results.delete(["a", "b", "missing"]) == 2
        assert results.get(["a", "b", "c"]) == [None, None, b"3"]

    # Waiting

    def test_a_wait_returns_at_once_what_is_there(self, results: Results) -> None:
        results.put([Document("a", b"1"), Document("b", b"2")])
        assert results.wait(["a", "b", "missing"], PATIENCE) == {"a": b"1", "b": b"2"}

    def test_a_wait_ends_after_its_time(self, results: Results) -> None:
        began = time.monotonic()
        assert results.wait(["a"], 0.2) == {}
        assert 0.15 <= time.monotonic() - began < PATIENCE / 2

    @pytest.mark.parametrize("timeout", [PATIENCE, None])
    def test_a_put_ends_a_wait(self, results: Results, results_factory: Factory, timeout: float | None) -> None:
        other = results_factory()
        with background(lambda: results.wait(["a", "b"], timeout)) as waiting:
            other.put([Document("unrelated", b"0")])
            other.put([Document("b", b"2")])
            assert waiting.result(PATIENCE / 2) == {"b": b"2"}

    def test_many_threads_may_wait_for_different_keys(self, results: Results, results_factory: Factory) -> None:
        keys = [f"key-{number}" for number in range(20)]
        other = results_factory()
        with concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
            waiting = {key: pool.submit(results.wait, [key], PATIENCE) for key in keys}
            for key in reversed(keys):
                other.put([Document(key, key.encode())])
            for key in keys:
                assert waiting[key].result(PATIENCE / 2) == {key: key.encode()}

    def test_no_result_is_lost_between_looking_and_waiting(self, results: Results, results_factory: Factory) -> None:
        # Whoever subscribes after looking loses what comes in between, and waits for its whole time.
        other = results_factory()
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            for number in range(200):
                key = f"key-{number}"
                waiting = pool.submit(results.wait, [key], PATIENCE)
                other.put([Document(key, b"1")])
                assert waiting.result(PATIENCE / 2) == {key: b"1"}
        assert time.monotonic() - began < PATIENCE

    def test_waiting_costs_next_to_nothing(self, results: Results) -> None:
        results.wait(["a"], 0.01)
        began = time.thread_time()
        assert results.wait(["a"], 1.0) == {}
        assert time.thread_time() - began < 0.1

    @pytest.mark.usefixtures("several_processes")
    def test_a_wait_in_another_process_ends_promptly(self, results: Results, capsys: pytest.CaptureFixture[str]) -> None:
        rounds = 100
        asking, telling = os.pipe()

        def listen() -> list[float]:
            ends = []
            for number in range(rounds):
                os.write(telling, b"!")
                assert results.wait([f"key-{number}"], PATIENCE)
                ends.append(time.monotonic())
            return ends

        child = Forked(listen)
        starts = []
        for number in range(rounds):
            os.read(asking, 1)
            time.sleep(0.002)  # lets the wait fall asleep: it is the wake-up that is measured
            starts.append(time.monotonic())
            results.put([Document(f"key-{number}", b"1")])
        delays = [end - start for start, end in zip(starts, child.result(), strict=True)]
        os.close(asking)
        os.close(telling)
        median = statistics.median(delays)
        with capsys.disabled():
            print(f"\n{type(results).__name__}: put to wake-up p50 {median * 1e3:.2f} ms, max {max(delays) * 1e3:.2f} ms")
        assert median <= self.wake_within

    # Joins

    def test_the_last_part_completes_a_join_in_order_of_index(self, results: Results, results_factory: Factory) -> None:
        results.open_join("j", 3, 3600.0)
        assert add(results, part("c", 2)) is None
        assert add(results_factory(), part("a", 0)) is None
        done = add(results, part("b", 1))
        assert done is not None
        assert list(done) == [part(member).body for member in "abc"]

    def test_ten_and_more_parts_are_ordered_by_number(self, results: Results) -> None:
        results.open_join("j", 12, 3600.0)
        done = None
        for index in reversed(range(12)):
            done = add(results, part(f"m{index}", index))
        assert done is not None
        assert list(done) == [part(f"m{index}").body for index in range(12)]

    def test_equal_bodies_are_counted_each(self, results: Results) -> None:
        results.open_join("j", 2, 3600.0)
        assert add(results, part("a", 0, body=b"[1]")) is None
        assert add(results, part("b", 1, body=b"[1]")) == [b"[1]", b"[1]"]

    @pytest.mark.parametrize("index", [0, None])
    def test_a_part_counts_once_however_often_it_is_added(self, results: Results, index: int | None) -> None:
        results.open_join("j", 2, 3600.0)
        for _ in range(3):
            assert add(results, part("a", index)) is None
        done = add(results, part("b", 1))
        assert done is not None
        assert len(done) == 2

    def test_one_member_may_stand_at_two_places(self, results: Results) -> None:
        results.open_join("j", 2, 3600.0)
        assert add(results, part("a", 0)) is None
        assert add(results, part("a", 1)) is not None

    def test_a_join_may_be_opened_after_its_first_parts(self, results: Results) -> None:
        assert add(results, part("a", 0)) is None
        assert add(results, part("b", 1)) is None
        results.open_join("j", 3, 3600.0)
        done = add(results, part("c", 2))
        assert done is not None
        assert len(done) == 3

    def test_a_complete_join_that_nobody_closed_can_be_completed_again(self, results: Results) -> None:
        # The worker that completed it may have died before the body was sent.
        results.open_join("j", 2, 3600.0)
        add(results, part("a", 0))
        first = add(results, part("b", 1))
        again = add(results, part("b", 1))
        assert first is not None
        assert again is not None
        assert list(first) == list(again)

    def test_a_repeated_part_leaves_the_completion_to_the_one_that_has_it(self, results: Results) -> None:
        # Both members are delivered again, to two workers: if both were told, both would send the join's body.
        results.open_join("j", 2, 3600.0)
        results.add_parts([part("a", 0)])
        assert add(results, part("b", 1)) is not None
        assert add(results, part("a", 0)) is None
        assert add(results, part("b", 1)) is not None

    def test_a_closed_join_is_completed_by_nothing(self, results: Results) -> None:
        results.open_join("j", 2, 3600.0)
        add(results, part("a", 0))
        assert add(results, part("b", 1)) is not None
        results.close_join("j")
        assert add(results, part("b", 1)) is None
        assert add(results, part("c", 2)) is None
        results.close_join("j")

    def test_joins_do_not_mix(self, results: Results) -> None:
        results.open_join("j", 2, 3600.0)
        results.open_join("k", 1, 3600.0)
        assert add(results, part("a", 0)) is None
        assert add(results, part("a", 0, join="k")) is not None
        results.close_join("k")
        assert add(results, part("b", 1)) is not None

    def test_a_join_whose_time_is_up_begins_anew(self, results: Results, clock: KitClock) -> None:
        results.open_join("j", 2, 60.0)
        add(results, part("a", 0, ttl=60.0))
        clock.advance(61)
        results.open_join("j", 2, 60.0)
        assert add(results, part("b", 1, ttl=60.0)) is None

    def test_threads_that_add_the_last_parts_at_once_complete_a_join_once(self, results: Results) -> None:
        size = 16
        for number in range(10):
            join = f"j{number}"
            results.open_join(join, size, 3600.0)
            start = threading.Barrier(4)

            def work(first: int, join: str = join, start: threading.Barrier = start) -> int:
                start.wait(PATIENCE)
                places = range(first, size, 4)
                return sum(add(results, part(f"m{place}", place, join=join)) is not None for place in places)

            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                assert sum(pool.map(work, range(4))) == 1

    def test_many_parts_are_added_in_one_call(self, results: Results) -> None:
        results.open_join("j", 2000, 3600.0)
        results.open_join("k", 2, 3600.0)
        answers = results.add_parts(
            [part("x", 0, join="k"), *(part(f"m{index}", index) for index in range(2000)), part("y", 1, join="k")]
        )
        done = [place for place, answer in enumerate(answers) if answer is not None]
        assert done == [2000, 2001]
        assert [len(answers[place] or ()) for place in done] == [2000, 2]

    def test_a_part_that_is_added_twice_in_one_call_counts_once(self, results: Results) -> None:
        results.open_join("j", 2, 3600.0)
        assert results.add_parts([part("a", 0), part("a", 0)]) == [None, None]

    # Fences: what an earlier attempt of a job still writes

    def test_what_an_earlier_attempt_writes_is_refused(self, results: Results, results_factory: Factory) -> None:
        results.put([Document("a", b"before")], by=[Fence("job", 1)])
        results_factory().fence([Fence("job", 2)], 60.0)
        assert results.put([Document("a", b"stale")], by=[Fence("job", 1)]) == [False]
        assert results.get(["a"]) == [b"before"]
        assert results.put([Document("a", b"fresh")], by=[Fence("job", 2)]) == [True]
        assert results.put([Document("a", b"fresher")], by=[Fence("job", 3)]) == [True]
        assert results.get(["a"]) == [b"fresher"]

    def test_a_refused_document_ends_no_wait(self, results: Results, results_factory: Factory) -> None:
        results.fence([Fence("job", 2)], 60.0)
        other = results_factory()
        with background(lambda: results.wait(["a"], PATIENCE)) as waiting:
            assert other.put([Document("a", b"stale", final=True)], by=[Fence("job", 1)]) == [False]
            assert other.put([Document("a", b"fresh")], by=[Fence("job", 2)]) == [True]
            assert waiting.result(PATIENCE / 2) == {"a": b"fresh"}

    def test_a_fence_concerns_its_own_job_only(self, results: Results) -> None:
        results.fence([Fence("job", 3), Fence("other", 2)], 60.0)
        documents = [Document(key, b"1") for key in "abcd"]
        writers = [Fence("job", 2), None, Fence("other", 2), Fence("never fenced", 1)]
        assert results.put(documents, by=writers) == [False, True, True, True]
        assert results.put(documents) == [True] * 4
        assert results.get(["a", "b", "c", "d"]) == [b"1"] * 4

    def test_a_fence_is_never_lowered(self, results: Results) -> None:
        results.fence([Fence("job", 10), Fence("job", 9)], 60.0)
        results.fence([Fence("job", 9)], 60.0)
        assert results.put([Document("a", b"1")], by=[Fence("job", 9)]) == [False]
        assert results.put([Document("a", b"1")], by=[Fence("job", 10)]) == [True]

    def test_a_fence_is_gone_after_its_time(self, results: Results, clock: KitClock) -> None:
        results.fence([Fence("job", 2)], 60.0)
        clock.advance(58)
        assert results.put([Document("a", b"1")], by=[Fence("job", 1)]) == [False]
        clock.advance(4)
        assert results.put([Document("a", b"1")], by=[Fence("job", 1)]) == [True]

    def test_a_part_that_an_earlier_attempt_adds_is_refused(self, results: Results) -> None:
        results.open_join("j", 2, 3600.0)
        results.fence([Fence("job", 2)], 60.0)
        assert results.add_parts([part("a", 0)], by=[Fence("job", 1)]) == [None]
        assert add(results, part("b", 1)) is None, "the refused part was counted"
        assert results.add_parts([part("a", 0, body=b"[2]")], by=[Fence("job", 2)]) == [[b"[2]", part("b").body]]
        # Complete and not closed: told to the later attempt, still not to the earlier one.
        assert results.add_parts([part("a", 0)], by=[Fence("job", 1)]) == [None]
        assert results.add_parts([part("a", 0)], by=[Fence("job", 3)]) == [[b"[2]", part("b").body]]

    def test_one_refused_part_leaves_the_others_alone(self, results: Results) -> None:
        results.open_join("j", 2, 3600.0)
        results.fence([Fence("job", 2)], 60.0)
        parts = [part("a", 0), part("stale", 5), part("b", 1)]
        assert results.add_parts(parts, by=[None, Fence("job", 1), Fence("other", 1)]) == [
            None,
            None,
            [part("a").body, part("b").body],
        ]

    def test_jobs_may_have_odd_names(self, results: Results) -> None:
        names = ["ü ñ", "a:b", "'; DROP TABLE x; --", "x" * 300, '"quoted"', "percent%s"]
        results.fence([Fence(name, 2) for name in names], 60.0)
        documents = [Document(name, b"1") for name in names]
        assert results.put(documents, by=[Fence(name, 1) for name in names]) == [False] * len(names)
        assert results.put(documents, by=[Fence(name, 2) for name in names]) == [True] * len(names)

    def test_a_thousand_fences_and_writers_in_one_call(self, results: Results) -> None:
        results.fence([Fence(f"job{number}", 2) for number in range(3000)], 60.0)
        documents = [Document(f"key{number}", b"1") for number in range(3000)]
        writers = [Fence(f"job{number}", 1 + number % 2) for number in range(3000)]
        assert results.put(documents, by=writers) == [False, True] * 1500

    # Failures

    def test_ping_returns(self, results: Results) -> None:
        results.ping()

    def test_closing_twice_is_fine_and_documents_stay(self, results: Results, results_factory: Factory) -> None:
        results.put([Document("a", b"1")])
        results.close()
        results.close()
        assert results_factory().get(["a"]) == [b"1"]

    def test_the_address_names_the_server_without_secrets(self, results: Results, results_factory: Factory) -> None:
        assert results.server == results_factory().server
        assert "://" in results.url
        assert "secret" not in results.url

    def test_a_server_that_does_not_answer_makes_every_call_raise(self, results: Results, results_factory: Factory) -> None:
        results.put([Document("a", b"1")])
        impatient = results_factory(timeout=0.3)
        impatient.ping()
        calls: list[Callable[[], object]] = [
            lambda: impatient.put([Document("b", b"2")]),
            lambda: impatient.delete(["a"]),
            lambda: add(impatient, part("a")),
            lambda: impatient.put([Document("b", b"2")], by=[Fence("job", 1)]),
            lambda: impatient.fence([Fence("job", 2)], 60.0),
            lambda: impatient.open_join("j", 1, 60.0),
            impatient.ping,
        ]
        with self.stalled(results):
            for call in calls:
                began = time.monotonic()
                with pytest.raises(ResultsUnavailable):
                    call()
                assert time.monotonic() - began < PATIENCE / 2
        impatient.put([Document("c", b"3")])
        assert impatient.get(["c"]) == [b"3"]

    @pytest.mark.usefixtures("several_processes")
    def test_a_store_survives_fork(self, results: Results) -> None:
        results.put([Document("a", b"1")])

        def work() -> list[bytes | None]:
            results.put([Document("b", b"2")])
            return results.get(["a"])

        child = Forked(work)
        results.put([Document("c", b"3")])
        assert child.result() == [b"1"]
        assert results.get(["a", "b", "c"]) == [b"1", b"2", b"3"]
