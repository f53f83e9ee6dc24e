"""Helpers that canvases, workers and programs rely on: lazy lists, sets that forget, node names, pid files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat_celery.platforms import LockFailed, Pidfile, create_pidlock, signal_name, signals
from compat_celery.utils.collections import BufferMap, DictAttribute, LimitedSet, Messagebuffer
from compat_celery.utils.functional import head_from_fun, regen, seq_concat_seq
from compat_celery.utils.nodenames import default_nodename, host_format, nodesplit
from compat_celery.utils.serialization import UnpickleableExceptionWrapper, get_pickleable_exception, jsonify
from compat_celery.utils.text import remove_repeating_from_task


def counting(limit: int, read: list[int]) -> Iterator[int]:
    for number in range(limit):
        read.append(number)
        yield number


def test_a_generator_can_be_read_again_and_is_read_no_further_than_needed() -> None:
    read: list[int] = []
    numbers = regen(counting(5, read))
    assert bool(numbers)
    assert read == [0]
    assert numbers[0] == 0
    assert read == [0, 1]
    assert list(numbers) == list(numbers) == [0, 1, 2, 3, 4]
    assert (len(numbers), numbers[-1], numbers[1:3], 4 in numbers) == (5, 4, [1, 2], True)
    assert numbers == [0, 1, 2, 3, 4]


def test_an_iterable_is_not_begun_before_somebody_reads() -> None:
    class Query:
        asked = 0

        def __iter__(self) -> Iterator[int]:
            self.asked += 1
            return iter([1, 2])

    query = Query()
    rows = regen(query)
    assert query.asked == 0
    assert list(rows) == list(rows) == [1, 2]
    assert query.asked == 1


def test_lists_need_no_regeneration() -> None:
    numbers = [1, 2]
    assert regen(numbers) is numbers


@given(values=st.lists(st.integers(), max_size=8), rounds=st.integers(1, 3))
def test_a_regenerated_list_is_the_list(values: list[int], rounds: int) -> None:
    again = regen(iter(values))
    for _ in range(rounds):
        assert [(a, b) for a in again for b in again] == [(a, b) for a in values for b in values]
    assert isinstance(again, list)
    assert again + [0] == [*values, 0]  # noqa: RUF005 - the operator is the test


def test_a_functions_head_refuses_what_the_function_would_refuse() -> None:
    def fun(a: int, b: int = 2, *rest: int, c: int, d: int = 4, **more: int) -> None:
        pass

    head = head_from_fun(fun)
    head(1, c=3)
    head(1, 2, 3, 4, c=3, x=9)
    with pytest.raises(TypeError, match=r"fun\(\) missing 1 required keyword-only argument: 'c'"):
        head(1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        head(c=1)


def test_the_longer_sequence_decides_the_type() -> None:
    assert seq_concat_seq((1,), [2, 3]) == [1, 2, 3]
    assert seq_concat_seq((1, 2), [3]) == (1, 2, 3)
    assert seq_concat_seq([1], (2,)) == [1, 2]


def test_a_limited_set_forgets_the_oldest() -> None:
    known = LimitedSet(maxlen=3)
    for number in range(5):
        known.add(number, now=1.0)
    assert list(known) == [2, 3, 4]
    known.add(2, now=2.0)
    known.add(5, now=3.0)
    assert list(known) == [4, 2, 5]
    known.discard(9)
    assert known.pop() == 4


def test_a_limited_set_forgets_what_is_too_old_but_keeps_a_few() -> None:
    known = LimitedSet(maxlen=10, expires=5, minlen=2)
    for number in range(6):
        known.add(number, now=float(number))
    known.purge(now=100.0)
    assert list(known) == [4, 5]


@given(items=st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100)), max_size=40), limit=st.integers(1, 8))
def test_a_limited_set_never_holds_more_than_it_may(items: list[tuple[int, float]], limit: int) -> None:
    known = LimitedSet(maxlen=limit)
    for item, when in items:
        known.add(item, now=when)
        assert len(known) <= limit
    copy = LimitedSet(limit, data=known)
    assert list(copy) == list(known)
    assert copy == known


def test_buffers_throw_out_the_oldest() -> None:
    buffer = Messagebuffer(3)
    buffer.extend(range(10))
    assert (len(buffer), buffer.take(), 8 in buffer) == (3, 7, True)
    several = BufferMap(4, {"a": [1, 2, 3]})
    several.extend("b", [4, 5, 6])
    assert several.total == 4
    # One of each was thrown out: the oldest of the buffer that was used least lately.
    assert [several.take("a"), several.take("a"), several.take("b"), several.take("b")] == [2, 3, 5, 6]
    with pytest.raises(several.Empty):
        several.take("a")


def test_an_objects_attributes_are_a_mapping() -> None:
    class Settings:
        one = 1

    mapping = DictAttribute(Settings)
    assert (mapping["one"], mapping.get("two", 2), "one" in mapping) == (1, 2, True)
    with pytest.raises(KeyError):
        mapping["two"]


def test_node_names_are_put_together_and_taken_apart() -> None:
    assert nodesplit("w1@host") == ("w1", "host")
    assert nodesplit("host") == (None, "host")
    assert default_nodename("w1@host") == "w1@host"
    assert default_nodename("host") == "celery@host"
    assert host_format("%n@%h of %d, 100%%", "box.example.com", "w1") == "w1@box.example.com of example.com, 100%"
    with pytest.raises(ValueError, match="Unknown format %x"):
        host_format("%x", "host")


def test_an_error_that_cannot_travel_travels_as_its_text() -> None:
    class Local(Exception):
        pass

    wrapped = get_pickleable_exception(Local("gone"))
    assert isinstance(wrapped, UnpickleableExceptionWrapper)
    assert (wrapped.exc_cls_name, wrapped.exc_args, str(wrapped)) == ("Local", ("gone",), "Local('gone')")
    assert type(wrapped.restore()).__name__ == "Local"
    error = KeyError("x")
    assert get_pickleable_exception(error) is error


def test_things_become_json() -> None:
    assert jsonify({"a": (1, [None, "x"]), "b": 2.5}) == {"a": [1, [None, "x"]], "b": 2.5}
    with pytest.raises(ValueError, match="Unsupported type"):
        jsonify(object())


def test_a_tasks_module_is_named_once_in_a_text() -> None:
    text = "tasks.add(2, 2), tasks.mul(3), tasks.div(4), subtasks.x"
    assert remove_repeating_from_task("tasks.add", text) == "tasks.add(2, 2), mul(3), div(4), subtasks.x"


# Processes.


def test_a_pid_file_keeps_others_out(tmp_path: Path) -> None:
    path = tmp_path / "worker.pid"
    with Pidfile(str(path)) as lock:
        assert lock.read_pid() == os.getpid()
        with pytest.raises(LockFailed):
            Pidfile(str(path)).acquire()
    assert not path.exists()


def test_a_pid_file_of_a_process_that_is_gone_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "worker.pid"
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    path.write_text(f"{pid}\n")
    lock = create_pidlock(str(path))
    assert lock.read_pid() == os.getpid()
    assert "Stale pidfile" in capsys.readouterr().err
    lock.release()


def test_a_pid_file_that_is_half_written_holds_no_number(tmp_path: Path) -> None:
    path = tmp_path / "worker.pid"
    path.write_text("18")
    with pytest.raises(ValueError, match="invalid"):
        Pidfile(str(path)).read_pid()
    path.write_text("1816\n")
    assert Pidfile(str(path)).read_pid() == 1816


def test_a_pid_file_of_a_process_that_runs_ends_the_program(tmp_path: Path) -> None:
    path = tmp_path / "worker.pid"
    path.write_text(f"{os.getppid()}\n")
    with pytest.raises(SystemExit) as ended:
        create_pidlock(str(path))
    assert ended.value.code == os.EX_CANTCREAT


def test_signals_have_names() -> None:
    assert (signals.signum("TERM"), signals.signum("SIGKILL"), signal_name(9)) == (15, 9, "KILL")
    assert signals.supported("NONSENSE") is False
    before = signals["USR2"]
    try:
        signals["USR2"] = signals.ignored
        assert signals["SIGUSR2"] == signals.ignored
    finally:
        signals["USR2"] = before
