"""Children forked from a template: real processes, real signals."""

from __future__ import annotations

import errno
import os
import pty
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections import Counter
from pathlib import Path

import pytest

from jumpstarter.abc.processes import Spawned
from jumpstarter.errors import ConfigurationError, WorkerError
from jumpstarter.executors.process import ForkTemplate
from tests.executors.nursery import descriptors, offspring
from tests.peers import ROOT, eventually

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

MiB = 1024 * 1024


def echo(index: int, incarnation: str, channel: socket.socket) -> int:
    """Say who it is, and end when the parent hangs up."""
    channel.sendall(f"{index} {incarnation} {os.getpid()} {os.getppid()}".encode())
    channel.recv(1)
    return 7


def pause(_index: int, _incarnation: str, channel: socket.socket) -> int:
    """Run until killed."""
    channel.sendall(b"here")
    while True:
        signal.pause()


# Birth and death.


def test_a_child_knows_its_number_and_is_forked_from_the_template(nursery) -> None:
    children = nursery(echo)
    link = children.spawn(3, "abc")
    event = children.next(Spawned)
    index, incarnation, pid, parent = link.recv(100).decode().split()
    assert (index, incarnation, int(parent)) == ("3", "abc", children.place.pid)
    assert event == Spawned(3, int(pid))
    link.close()
    exited = children.ended()
    assert (exited.pid, exited.code, exited.signal, exited.stack) == (int(pid), 7, None, "")


def test_the_signal_that_ended_a_child_is_reported(nursery) -> None:
    children = nursery(pause)
    pid, link = children.start()
    with link:
        assert children.place.kill(pid, signal.SIGKILL)
        exited = children.ended()
    assert (exited.pid, exited.code, exited.signal) == (pid, None, signal.SIGKILL)
    assert str(exited) == "signal 9"


def test_an_error_in_a_child_ends_that_child_only(nursery, capfd) -> None:
    def fail(index: int, incarnation: str, channel: socket.socket) -> int:
        if index == 0:
            raise ValueError("no child of mine")
        return echo(index, incarnation, channel)

    children = nursery(fail)
    children.spawn(0).close()
    assert children.ended().code == 1
    assert "no child of mine" in capfd.readouterr().err
    link = children.spawn(1)
    assert link.recv(100).startswith(b"1 abc")
    link.close()


def test_sys_exit_in_a_child_gives_its_code(nursery) -> None:
    children = nursery(lambda *_: sys.exit(3))
    children.spawn().close()
    assert children.ended().code == 3


def test_children_die_with_the_process_that_forked_the_template(watch) -> None:
    """SIGKILL to the node takes template and children along, also a child that ignores everything it can."""
    said, say = os.pipe()

    def stubborn(index: int, incarnation: str, channel: socket.socket) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.write(say, f"{os.getpid()} {os.getppid()}\n".encode())
        while True:
            signal.pause()

    node = os.fork()
    if node == 0:
        place = ForkTemplate(stubborn)
        place.spawn(0, "abc", socket.socketpair()[1])
        signal.pause()
    child, template = (watch(int(word)) for word in os.read(said, 100).split())
    os.kill(node, signal.SIGKILL)
    os.waitpid(node, 0)
    assert child.ends(within=1), "the child outlived its node by a second"
    assert template.ends(within=1), "the template outlived its node by a second"
    for end in (said, say):
        os.close(end)


def test_the_end_of_the_thread_that_forked_the_template_is_not_the_end_of_the_node(nursery) -> None:
    """The kernel tells the template of both in the same way."""
    made = []

    def fork() -> None:
        children = nursery(pause)
        made.append((children, children.start()))  # the template is there, and has asked to be told

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    ((children, (_, first)),) = made
    pid, second = children.start(1)
    for link in (first, second):
        link.close()
    assert children.place.memory(pid) > 0


# The end of the template.


def test_the_end_of_the_template_is_an_end_of_file(nursery) -> None:
    place = nursery(echo).place
    os.kill(place.pid, signal.SIGKILL)
    select.select([place.channel], [], [], 10)
    with pytest.raises(EOFError):
        place.events()


def test_the_end_of_a_template_with_questions_unread_is_an_end_of_file_too(nursery) -> None:
    children = nursery(echo)
    os.kill(children.place.pid, signal.SIGSTOP)
    children.spawn().close()
    os.kill(children.place.pid, signal.SIGKILL)
    select.select([children.place.channel], [], [], 10)
    with pytest.raises(EOFError):
        children.place.events()


@pytest.mark.parametrize("end", ["killed", "closed"])
def test_no_child_can_be_started_when_the_template_has_ended(end: str, nursery) -> None:
    children = nursery(echo)
    if end == "killed":
        os.kill(children.place.pid, signal.SIGKILL)
        select.select([children.place.channel], [], [], 10)
    else:
        children.place.close()
    before = descriptors(os.getpid())
    with pytest.raises(WorkerError, match="the template process has ended"):
        children.spawn()
    assert descriptors(os.getpid()) == before


@pytest.mark.slow
@pytest.mark.heavy
def test_more_children_than_the_socket_holds_requests_are_all_born(nursery) -> None:
    children = nursery(lambda *_: 0)
    os.kill(children.place.pid, signal.SIGSTOP)  # so that requests pile up
    for index in range(400):
        children.spawn(index).close()
    os.kill(children.place.pid, signal.SIGCONT)
    assert [children.next(Spawned, within=30).index for _ in range(400)] == list(range(400))
    assert {children.ended(within=30).code for _ in range(400)} == {0}


def test_a_fork_that_the_system_refuses_is_tried_again(nursery, monkeypatch, capfd) -> None:
    """The template inherits a fork that fails twice and then works."""
    fork, refused = os.fork, []

    def scarce() -> int:
        if os.getpid() != node and len(refused) < 2:
            refused.append(1)
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    node = os.getpid()
    monkeypatch.setattr(os, "fork", scarce)
    children = nursery(echo)
    first, second = children.spawn(1), children.spawn(2)
    assert [children.next(Spawned).index, children.next(Spawned).index] == [1, 2]
    assert "child 1 cannot be forked yet" in capfd.readouterr().err
    for link in (first, second):
        link.recv(100)
        link.close()


def test_closing_waits_for_the_last_child_also_when_a_forked_process_keeps_a_copy_of_the_channel(nursery) -> None:
    """A program that forks while an embedded node runs would otherwise keep the template waiting for ever."""
    children = nursery(echo)
    _pid, link = children.start()
    keeper = os.fork()
    if keeper == 0:
        signal.pause()
    link.shutdown(socket.SHUT_RDWR)  # of which it has a copy as well
    link.close()
    children.place.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(children.place.pid, 0)
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)


# Signals.


def test_only_children_that_run_are_killed(nursery) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    children = nursery(echo)
    pid, link = children.start()
    link.close()
    children.ended()
    assert not children.place.kill(stranger.pid, signal.SIGKILL)
    assert not children.place.kill(pid, signal.SIGKILL)
    children.place.ask_stack(pid)
    children.place.ask_stack(stranger.pid)
    assert children.place.memory(stranger.pid) == children.place.memory(pid) == 0
    assert children.place.stack(pid) == ""
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


NUMBERED_AGAIN = """
import os, signal, time
from pathlib import Path
from tests.executors.nursery import Nursery
from tests.executors.test_process import pause
from tests.peers import ROOT, eventually

children = Nursery(pause)
pid, link = children.start()
link.close()
assert children.place.kill(pid, signal.SIGKILL)
eventually(lambda: not Path(f"/proc/{pid}").exists(), within=10, what="the template reaps the child")
Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
stranger = os.fork()
if stranger == 0:
    time.sleep(60)
assert stranger == pid
# The node has not heard of the child's end yet.
children.place.ask_stack(pid)
assert not children.place.kill(pid, signal.SIGKILL)
assert os.waitpid(stranger, os.WNOHANG) == (0, 0), "the stranger was hit"
assert children.ended().pid == pid
os.kill(stranger, signal.SIGKILL)
children.close()
"""
#: The next number can be chosen where nobody else starts processes, and without harm to anybody else.
NUMBERS_OF_OUR_OWN = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def can_have_numbers() -> bool:
    try:
        return (
            subprocess.run(
                [*NUMBERS_OF_OUR_OWN, "test", "-w", "/proc/sys/kernel/ns_last_pid"], capture_output=True, check=False
            ).returncode
            == 0
        )
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_have_numbers(), reason="needs the right to a pid namespace of its own")
def test_a_stranger_who_got_a_dead_childs_number_is_not_hit() -> None:
    """The node is process 1 there, as it is in a container."""
    done = subprocess.run(
        [*NUMBERS_OF_OUR_OWN, sys.executable, "-c", NUMBERED_AGAIN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_what_a_service_manager_sends_to_every_process_ends_neither_template_nor_children(number: signal.Signals, nursery) -> None:
    children = nursery(echo)
    pid, link = children.start()
    for each in (pid, children.place.pid):
        os.kill(each, number)
    link.close()
    assert children.ended().code == 7
    children.start()[1].close()
    assert children.ended().code == 7


def test_signals_that_are_the_applications_are_as_they_were(nursery) -> None:
    """The template ignores them; children do not inherit that."""

    def tell(_index: int, _incarnation: str, channel: socket.socket) -> int:
        handlers = [signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)]
        channel.sendall("|".join(str(handler) for handler in handlers).encode())
        channel.recv(1)
        return 0

    def usr1(_number: int, _frame: object) -> None: ...

    before = signal.signal(signal.SIGUSR1, usr1)
    try:
        children = nursery(tell)
    finally:
        signal.signal(signal.SIGUSR1, before)
    children.start()[1].close()  # the template is there
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(children.place.pid, number)
    with children.spawn() as link:
        hangup, first, second, child = link.recv(1000).decode().split("|")
    assert "usr1" in first
    assert hangup == second == child == str(signal.SIG_DFL)


# The terminal.


def test_a_child_may_write_to_a_terminal_that_stops_background_writers_and_finds_its_input_empty() -> None:
    """As in a shell with ``stty tostop``: the node is the foreground job of its terminal, the children are not."""

    def talk(_index: int, _incarnation: str, channel: socket.socket) -> int:
        os.write(1, b"input: %r\n" % os.read(0, 10))
        channel.sendall(b"written")
        channel.recv(1)
        return 0

    node, terminal = pty.fork()
    if node == 0:
        settings = termios.tcgetattr(1)
        settings[3] |= termios.TOSTOP
        termios.tcsetattr(1, termios.TCSANOW, settings)
        place = ForkTemplate(talk)
        ours, theirs = socket.socketpair()
        place.spawn(0, "abc", theirs)
        ours.settimeout(10)
        done = ours.recv(10) == b"written"
        ours.close()
        theirs.close()
        place.close()
        os._exit(0 if done else 1)
    _, status = os.waitpid(node, 0)
    shown = os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"input: b''" in shown


# Limits and memory.


def test_a_child_that_takes_more_memory_than_its_limit_gets_a_memory_error_and_others_none(nursery) -> None:
    def take(index: int, _incarnation: str, channel: socket.socket) -> int:
        try:
            taken = bytearray((2048 if index else 16) * MiB)
        except MemoryError:
            channel.sendall(b"MemoryError")
        else:
            channel.sendall(b"%d MiB" % (len(taken) // MiB))
        channel.recv(1)
        return 0

    limit = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE") + 300 * MiB
    children = nursery(take, {resource.RLIMIT_AS: limit, resource.RLIMIT_CORE: 0})
    links = [children.spawn(index) for index in range(3)]
    assert [link.recv(100) for link in links] == [b"16 MiB", b"MemoryError", b"MemoryError"]
    for link in links:
        link.close()
    assert [children.ended().code for _ in links] == [0, 0, 0]
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != limit, "the node itself has no limit"


def test_a_limit_that_is_tighter_already_stays(nursery) -> None:
    def tell(_index: int, _incarnation: str, channel: socket.socket) -> int:
        channel.sendall(repr((*resource.getrlimit(resource.RLIMIT_NOFILE), *resource.getrlimit(resource.RLIMIT_CORE))).encode())
        channel.recv(1)
        return 0

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    children = nursery(tell, {resource.RLIMIT_NOFILE: resource.RLIM_INFINITY, resource.RLIMIT_CORE: 4096})
    link = children.spawn()
    assert link.recv(100).decode() == repr((hard, hard, 4096, 4096))
    link.close()


@pytest.mark.parametrize("rlimits", [{999: 1}, {resource.RLIMIT_AS: -7}])
def test_a_limit_that_there_is_not_is_refused_before_anything_is_forked(rlimits: dict[int, int]) -> None:
    with pytest.raises(ConfigurationError, match="rlimits"):
        ForkTemplate(echo, rlimits=rlimits)


def test_the_memory_of_a_child_is_what_it_has_now(nursery) -> None:
    def take(_index: int, _incarnation: str, channel: socket.socket) -> int:
        channel.sendall(b"small")
        channel.recv(1)
        taken = bytearray(b"x") * (64 * MiB)
        channel.sendall(b"large")
        channel.recv(1)
        return len(taken) % 2

    children = nursery(take)
    pid, link = children.start()
    small = children.place.memory(pid)
    link.sendall(b"x")
    assert link.recv(10) == b"large"
    large = children.place.memory(pid)
    status = Path(f"/proc/{pid}/status").read_text()
    told = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024
    assert abs(large - told) < 2 * MiB
    assert 63 * MiB < large - small < 70 * MiB
    link.close()


# All at once.


@pytest.mark.slow
def test_a_storm_of_kills_leaves_no_zombie_and_no_descriptor_and_one_end_for_every_beginning(nursery) -> None:
    """500 children, 20 at a time: a third end by themselves at once, the others are killed at random moments of their lives."""
    dice = random.Random(1907)

    def live(index: int, _incarnation: str, channel: socket.socket) -> int:
        if index % 3 == 0:
            return 0
        channel.recv(1)
        return 0

    children = nursery(live)
    children.spawn(0).close()
    children.born()
    children.ended()
    before = {pid: descriptors(pid) for pid in (os.getpid(), children.place.pid)}
    links: dict[int, socket.socket] = {}
    waiting: list[socket.socket] = []
    born: Counter[int] = Counter()
    died: Counter[int] = Counter()
    indexes = iter(range(500))
    killed = 0
    while sum(died.values()) < 500:
        while len(waiting) + len(links) < 20 and (index := next(indexes, None)) is not None:
            waiting.append(children.spawn(index))
        for event in children.events():
            if isinstance(event, Spawned):
                born[event.pid] += 1
                links[event.pid] = waiting.pop(0)
            else:
                died[event.pid] += 1
                links.pop(event.pid).close()
        for pid in dice.sample(sorted(links), k=len(links) // 3 or len(links)):
            killed += children.place.kill(pid, signal.SIGKILL)
    assert sum(born.values()) == 500
    assert born == died
    assert killed > 100
    assert offspring(children.place.pid) == []
    eventually(
        # Fewer is fine: what earlier tests left to the collector may go meanwhile.
        lambda: all(len(descriptors(pid)) <= len(was) for pid, was in before.items()),
        within=2,
        what=f"as few descriptors as before: {before}, now {[descriptors(pid) for pid in before]}",
    )
