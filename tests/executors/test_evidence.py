"""What is left of a child as evidence: real crashes, real signals."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jumpstarter.executors.evidence import STACK_LIMIT, STACK_SIGNAL, StackFile
from tests.executors.nursery import descriptors, hold_the_interpreter
from tests.peers import eventually

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

MiB = 1024 * 1024


def hold_the_lock(_index: int, _incarnation: str, channel: socket.socket) -> int:
    channel.sendall(b"here")
    hold_the_interpreter()
    return 0


def rest(_index: int, _incarnation: str, channel: socket.socket) -> int:
    channel.sendall(b"here")
    channel.recv(1)
    return 0


def test_the_most_memory_that_a_child_had_is_told_in_bytes(nursery) -> None:
    def take(_index: int, _incarnation: str, channel: socket.socket) -> int:
        channel.sendall(b"before")
        channel.recv(1)
        taken = bytearray(b"x") * (96 * MiB)
        del taken
        channel.sendall(b"after")
        channel.recv(1)
        return 0

    children = nursery(take)
    pid, link = children.start()
    before = children.place.memory(pid)
    link.sendall(b"x")
    link.recv(10)
    after = children.place.memory(pid)
    link.close()
    peak = children.ended().peak_memory
    assert peak is not None
    assert 95 * MiB < peak - before < 110 * MiB
    assert after - before < 20 * MiB, "what is given back counts for the peak alone"


def fault() -> None:
    ctypes.string_at(0)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL])
def test_a_child_that_crashes_leaves_its_stack(number: signal.Signals, nursery) -> None:
    def crash(_index: int, _incarnation: str, _channel: socket.socket) -> int:
        if number == signal.SIGSEGV:
            fault()
        os.kill(os.getpid(), number)
        return 0

    children = nursery(crash)
    children.spawn().close()
    exited = children.ended()
    assert (exited.code, exited.signal) == (None, number)
    assert "Fatal Python error" in exited.stack
    assert "in crash" in exited.stack
    assert ("in fault" in exited.stack) == (number == signal.SIGSEGV)


def test_every_thread_is_in_the_stack(nursery) -> None:
    def crash(_index: int, _incarnation: str, _channel: socket.socket) -> int:
        waits = threading.Event()

        def bystander() -> None:
            waits.set()
            threading.Event().wait()

        threading.Thread(target=bystander, daemon=True).start()
        waits.wait()
        fault()
        return 0

    children = nursery(crash)
    children.spawn().close()
    stack = children.ended().stack
    assert "in bystander" in stack
    assert "in fault" in stack


def test_the_node_gets_the_stack_of_a_child_that_holds_its_interpreter_and_then_kills_it(nursery) -> None:
    children = nursery(hold_the_lock)
    pid, link = children.start()
    assert children.place.stack(pid) == ""
    children.place.ask_stack(pid)
    eventually(lambda: "in hold_the_lock" in children.place.stack(pid), within=5, what="the stack of a child in C code")
    assert children.place.kill(pid, signal.SIGKILL)
    exited = children.ended()
    link.close()
    assert exited.signal == signal.SIGKILL
    assert "in hold_the_lock" in exited.stack


def test_a_child_that_was_asked_goes_on(nursery) -> None:
    children = nursery(rest)
    pid, link = children.start()
    children.place.ask_stack(pid)
    eventually(lambda: "in rest" in children.place.stack(pid), within=5, what="the stack")
    link.close()
    assert children.ended().code == 0


def test_a_child_that_is_asked_again_forgets_what_it_wrote_before(nursery) -> None:
    def first(channel: socket.socket) -> None:
        channel.sendall(b"first")
        channel.recv(1)

    def second(channel: socket.socket) -> None:
        channel.sendall(b"second")
        channel.recv(1)

    def both(_index: int, _incarnation: str, channel: socket.socket) -> int:
        first(channel)
        second(channel)
        return 0

    children = nursery(both)
    pid, link = children.start()
    children.place.ask_stack(pid)
    eventually(lambda: "in both" in children.place.stack(pid), within=5, what="the first stack")
    link.sendall(b"x")
    assert link.recv(10) == b"second"
    children.place.ask_stack(pid)
    eventually(lambda: "in both" in children.place.stack(pid), within=5, what="the second stack")
    link.close()
    stack = children.ended().stack
    assert "in second" in stack
    assert "in first" not in stack


def test_a_child_is_not_killed_by_being_asked_before_it_is_ready(nursery) -> None:
    children = nursery(rest)
    for _ in range(30):
        link = children.spawn()
        pid = children.born()
        children.place.ask_stack(pid)
        link.recv(10)
        link.close()
        assert children.ended().code == 0


def test_a_stack_has_an_end(nursery) -> None:
    def many(_index: int, _incarnation: str, channel: socket.socket) -> int:
        def wait(depth: int) -> None:
            if depth:
                wait(depth - 1)
            else:
                threading.Event().wait()

        for _ in range(60):
            threading.Thread(target=wait, args=(60,), daemon=True).start()
        channel.sendall(b"here")
        channel.recv(1)
        fault()
        return 0

    children = nursery(many)
    _pid, link = children.start()
    link.close()
    stack = children.ended().stack
    assert STACK_LIMIT * 0.9 < len(stack) <= STACK_LIMIT


def test_the_users_own_faulthandler_still_writes_where_it_should(nursery, tmp_path: Path) -> None:
    """Their signal, their file; ours beside it."""
    theirs = tmp_path / "theirs"

    def dump(_index: int, _incarnation: str, channel: socket.socket) -> int:
        with theirs.open("w") as file:
            faulthandler.register(signal.SIGUSR1, file)
            channel.sendall(b"here")
            channel.recv(1)
            os.kill(os.getpid(), signal.SIGUSR1)
            channel.sendall(b"done")
            channel.recv(1)
        return 0

    children = nursery(dump)
    pid, link = children.start()
    children.place.ask_stack(pid)
    eventually(lambda: "in dump" in children.place.stack(pid), within=5, what="our stack")
    assert theirs.read_text() == ""
    link.sendall(b"x")
    assert link.recv(10) == b"done"
    assert "in dump" in theirs.read_text()
    link.close()
    assert children.ended().code == 0


def test_nobody_else_is_known_to_use_the_signal() -> None:
    taken = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGPROF, signal.SIGVTALRM, signal.SIGRTMAX, signal.SIGALRM}
    assert STACK_SIGNAL not in taken
    assert signal.SIGRTMIN + 5 < STACK_SIGNAL


def test_the_crash_of_a_process_that_a_child_forked_is_no_evidence_against_the_child(nursery, capfd) -> None:
    def parent(_index: int, _incarnation: str, channel: socket.socket) -> int:
        grandchild = os.fork()
        if grandchild == 0:
            fault()
        os.waitpid(grandchild, 0)
        return rest(_index, _incarnation, channel)

    children = nursery(parent)
    pid, link = children.start()
    assert children.place.kill(pid, signal.SIGKILL)
    assert children.ended().stack == ""
    link.close()
    assert "in fault" in capfd.readouterr().err


def test_without_files_in_memory_a_temporary_file_does(nursery, monkeypatch) -> None:
    """As in a sandbox that forbids them."""

    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", refuse)

    def crash(_index: int, _incarnation: str, _channel: socket.socket) -> int:
        fault()
        return 0

    children = nursery(crash)
    children.spawn().close()
    assert "in fault" in children.ended().stack


@pytest.fixture(params=["memory", "temporary"])
def stack_file(request, monkeypatch) -> Callable[[], StackFile]:
    if request.param == "temporary":
        monkeypatch.delattr(os, "memfd_create")
        monkeypatch.setattr("sys.platform", "darwin")
    return StackFile


def test_a_stack_file_is_read_as_far_as_it_was_written_and_gives_its_descriptor_back(stack_file) -> None:
    before = descriptors(os.getpid())
    file = stack_file()
    assert file.read() == ""
    os.write(file.descriptor, b"a long first stack")
    file.rewind()
    assert file.read() == ""
    os.write(file.descriptor, b"short")
    assert file.read() == "short"
    file.close()
    assert descriptors(os.getpid()) == before
