"""Children forked from a template: real processes, real signals."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jumpstarter.abc.processes import Exited, Spawned
from jumpstarter.executors.process import ForkTemplate

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def template() -> Iterator[Callable[[Callable[[int, str, socket.socket], int]], ForkTemplate]]:
    made: list[ForkTemplate] = []

    def make(main: Callable[[int, str, socket.socket], int]) -> ForkTemplate:
        made.append(ForkTemplate(main))
        return made[-1]

    yield make
    for each in made:
        each.close()


def spawn(template: ForkTemplate, index: int = 0, incarnation: str = "abc") -> socket.socket:
    ours, theirs = socket.socketpair()
    template.spawn(index, incarnation, theirs)
    theirs.close()
    ours.settimeout(10)
    return ours


def next_event(template: ForkTemplate, kind: type) -> Spawned | Exited:
    """The next event of that kind, waiting for it."""
    while True:
        readable, _, _ = select.select([template.channel], [], [], 10)
        assert readable, "no event within 10 s"
        for event in template.events():
            if isinstance(event, kind):
                return event


def echo(index: int, incarnation: str, channel: socket.socket) -> int:
    channel.sendall(f"{index} {incarnation} {os.getpid()} {os.getppid()}".encode())
    channel.recv(1)  # until the parent hangs up
    return 7


def test_a_child_knows_its_number_and_is_forked_from_the_template(template) -> None:
    place = template(echo)
    link = spawn(place, 3, "abc")
    event = next_event(place, Spawned)
    index, incarnation, pid, parent = link.recv(100).decode().split()
    assert (index, incarnation, int(parent)) == ("3", "abc", place.pid)
    assert event == Spawned(3, int(pid))
    link.close()
    assert next_event(place, Exited) == Exited(int(pid), 7, None)


def test_the_signal_that_ended_a_child_is_reported(template) -> None:
    place = template(echo)
    with spawn(place) as link:  # hanging up would end the child by itself
        link.recv(100)
        pid = next_event(place, Spawned).pid
        os.kill(pid, signal.SIGKILL)
        exited = next_event(place, Exited)
    assert exited == Exited(pid, None, signal.SIGKILL)
    assert str(exited) == "signal 9"


def test_an_error_in_a_child_ends_that_child_only(template, capfd) -> None:
    def fail(index: int, incarnation: str, channel: socket.socket) -> int:
        if index == 0:
            raise ValueError("no child of mine")
        return echo(index, incarnation, channel)

    place = template(fail)
    spawn(place, 0).close()
    assert next_event(place, Exited).code == 1
    assert "no child of mine" in capfd.readouterr().err
    link = spawn(place, 1)
    assert link.recv(100).startswith(b"1 abc")
    link.close()


def test_sys_exit_in_a_child_gives_its_code(template) -> None:
    place = template(lambda *_: sys.exit(3))
    spawn(place).close()
    assert next_event(place, Exited).code == 3


def test_children_die_with_the_process_that_forked_the_template(tmp_path: Path) -> None:
    """SIGKILL to the node takes template and children along, also a child that ignores everything it can."""
    said, say = os.pipe()

    def stubborn(index: int, incarnation: str, channel: socket.socket) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.write(say, f"{os.getpid()}\n".encode())
        while True:
            signal.pause()

    node = os.fork()
    if node == 0:
        place = ForkTemplate(stubborn)
        spawn(place)
        signal.pause()
    child = int(os.read(said, 100))
    descriptor = os.pidfd_open(child)
    os.kill(node, signal.SIGKILL)
    os.waitpid(node, 0)
    readable, _, _ = select.select([descriptor], [], [], 2)
    assert readable, "the child outlived its node by two seconds"
    for end in (said, say, descriptor):
        os.close(end)


def test_the_end_of_the_template_is_an_end_of_file(template) -> None:
    place = template(echo)
    os.kill(place.pid, signal.SIGKILL)
    select.select([place.channel], [], [], 10)
    with pytest.raises(EOFError):
        place.events()
