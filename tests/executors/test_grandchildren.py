"""What tasks start: it works as in any program, and it dies with the child, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from jumpstarter.executors import template
from jumpstarter.executors.process import ForkTemplate
from tests.executors.nursery import Watched, hold_the_interpreter, offspring
from tests.peers import eventually

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    # From 3.12 on: forking beside threads, which multiprocessing does itself here.
    pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning"),
]

#: Ignores what it can and never ends by itself.
STUBBORN = "import signal, time\nfor n in (1, 2, 3, 15): signal.signal(n, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"


def hold_the_lock() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    hold_the_interpreter()


def start_subprocess() -> list[int]:
    return [subprocess.Popen(["sleep", "60"]).pid]


def start_stubborn() -> list[int]:
    program = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert program.stdout is not None
    program.stdout.readline()
    return [program.pid]


def start_shell_pipeline() -> list[int]:
    shell = subprocess.Popen("sleep 60 & echo $!; sleep 60", shell=True, stdout=subprocess.PIPE)
    assert shell.stdout is not None
    return [shell.pid, int(shell.stdout.readline())]


def start_multiprocessing(method: str) -> Callable[[], list[int]]:
    def start() -> list[int]:
        process = multiprocessing.get_context(method).Process(target=time.sleep, args=(60,))
        process.start()
        assert process.pid is not None
        return [process.pid, *offspring(os.getpid())]  # fork servers and resource trackers

    return start


def start_gil_holder() -> list[int]:
    process = multiprocessing.get_context("fork").Process(target=hold_the_lock)
    process.start()
    assert process.pid is not None
    eventually(lambda: signal.SIGTERM in caught(process.pid or 0), within=10, what="the process holds its interpreter")
    return [process.pid]


def caught(pid: int) -> set[int]:
    """The signals that a process has handlers for."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def start_pool() -> list[int]:
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
    futures = [pool.submit(os.getpid) for _ in range(4)]
    pids = {future.result() for future in futures}
    for _ in range(2):
        pool.submit(time.sleep, 60)
    POOLS.append(pool)
    return list(pids)


POOLS: list[ProcessPoolExecutor] = []  # as a task module's global; nothing collects it

STARTS = {
    "subprocess": start_subprocess,
    "stubborn": start_stubborn,
    "shell": start_shell_pipeline,
    "fork": start_multiprocessing("fork"),
    "spawn": start_multiprocessing("spawn"),
    "forkserver": start_multiprocessing("forkserver"),
    "pool": start_pool,
    "gil": start_gil_holder,
}


def parent_of(start: Callable[[], list[int]], *, then: Callable[[], int] | None = None) -> Callable[[int, str, socket.socket], int]:
    """A child that starts something, says who that is, and waits to be told to end."""

    def main(_index: int, _incarnation: str, channel: socket.socket) -> int:
        channel.sendall(" ".join(map(str, start())).encode())
        channel.recv(1)
        return 0 if then is None else then()

    return main


def expecting(link: socket.socket) -> list[int]:
    said = link.recv(1000).decode()
    assert said, "the child could not start what it should"
    return [int(word) for word in said.split()]


def killed(children, pid: int, _link: socket.socket) -> None:
    assert children.place.kill(pid, signal.SIGKILL)


def told(_children, _pid: int, link: socket.socket) -> None:
    link.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("end", [killed, told])
@pytest.mark.parametrize("kind", STARTS)
def test_what_a_child_started_dies_with_it(kind: str, end: Callable[..., None], nursery, watch) -> None:
    children = nursery(parent_of(STARTS[kind]))
    link = children.spawn()
    pid = children.born()
    started: list[Watched] = [watch(each) for each in expecting(link)]
    end(children, pid, link)
    assert children.ended().pid == pid
    link.close()
    assert [each.ends(within=1) for each in started] == [True] * len(started)
    eventually(lambda: offspring(children.place.pid) == [], within=2, what="no zombie")


@pytest.mark.parametrize("holder", ["a child that waits", "a child that holds the GIL"])
@pytest.mark.parametrize("kind", STARTS)
def test_what_children_started_dies_with_the_node(kind: str, holder: str, watch) -> None:
    """Pain 29: SIGKILL to the node; all of its processes are gone within a second."""
    said, say = os.pipe()

    def main(_index: int, _incarnation: str, _channel: socket.socket) -> int:
        pids = [os.getpid(), os.getppid(), *STARTS[kind]()]
        os.write(say, " ".join(map(str, pids)).encode() + b"\n")
        if holder == "a child that holds the GIL":
            hold_the_interpreter()
        signal.pause()
        return 0

    node = os.fork()
    if node == 0:
        place = ForkTemplate(main)
        place.spawn(0, "abc", socket.socketpair()[1])
        signal.pause()
    everybody = [watch(int(word)) for word in os.read(said, 1000).split()]
    os.kill(node, signal.SIGKILL)
    killed_at = time.monotonic()
    os.waitpid(node, 0)
    gone = [each.ends(within=max(0, killed_at + 1 - time.monotonic())) for each in everybody]
    assert gone == [True] * len(everybody)
    for end in (said, say):
        os.close(end)


def test_what_children_started_dies_when_the_template_is_killed(nursery, watch) -> None:
    children = nursery(parent_of(STARTS["stubborn"]))
    link = children.spawn()
    child = watch(children.born())
    (started,) = (watch(each) for each in expecting(link))
    os.kill(children.place.pid, signal.SIGKILL)
    while not children.is_over():
        pass
    assert child.ends(within=1)
    assert started.ends(within=1)
    link.close()


@pytest.mark.parametrize("end", [killed, told])
def test_what_leaves_the_group_on_purpose_is_left_alone(end: Callable[..., None], nursery, watch) -> None:
    def leave() -> list[int]:
        left = subprocess.Popen(["sleep", "60"], start_new_session=True)
        stays = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
        assert stays.stdout is not None
        stays.stdout.readline()
        return [left.pid, stays.pid]

    children = nursery(parent_of(leave))
    link = children.spawn()
    pid = children.born()
    left, stays = (watch(each) for each in expecting(link))
    end(children, pid, link)
    children.ended()
    link.close()
    assert stays.ends(within=1)  # so the group was swept
    assert not left.ends(within=0)
    left.kill()
    eventually(lambda: offspring(children.place.pid) == [], within=2, what="it is reaped all the same")


def test_what_is_left_may_clean_up_before_it_is_killed(nursery, tmp_path: Path, monkeypatch, watch) -> None:
    """SIGTERM comes first, with time to obey it. (More than usual: this machine may be busy.)"""
    monkeypatch.setattr(template, "GRACE", 20)
    cleaned = tmp_path / "cleaned"

    def start() -> list[int]:
        tidy = f"trap 'touch {cleaned}; exit' TERM; echo up; sleep 60 & wait"
        shell = subprocess.Popen(tidy, shell=True, stdout=subprocess.PIPE)
        assert shell.stdout is not None
        shell.stdout.readline()
        return [shell.pid]

    children = nursery(parent_of(start))
    link = children.spawn()
    pid = children.born()
    (shell,) = (watch(each) for each in expecting(link))
    children.place.kill(pid, signal.SIGKILL)
    children.ended()
    link.close()
    assert shell.ends(within=15)
    assert cleaned.exists()


def test_a_child_is_reported_at_once_whatever_it_left_behind(nursery, monkeypatch, watch) -> None:
    """Its successor must not wait for the grace."""
    monkeypatch.setattr(template, "GRACE", 60)
    children = nursery(parent_of(STARTS["stubborn"]))
    link = children.spawn()
    pid = children.born()
    (started,) = (watch(each) for each in expecting(link))
    children.place.kill(pid, signal.SIGKILL)
    assert children.ended().pid == pid
    link.close()
    started.kill()


def test_other_children_are_left_alone(nursery) -> None:
    children = nursery(parent_of(STARTS["subprocess"]))
    links = [children.spawn(index) for index in range(3)]
    first, *others = (children.born() for _ in links)
    started = [expecting(link) for link in links]
    children.place.kill(first, signal.SIGKILL)
    assert children.ended().pid == first
    eventually(lambda: not Path(f"/proc/{started[0][0]}").exists(), within=1, what="the first child's process is gone")
    for pid, (grandchild,) in zip(others, started[1:], strict=True):
        assert Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
        assert Path(f"/proc/{grandchild}/stat").read_text().split()[2] == "S"
    for link in links:
        link.close()


def test_shared_memory_that_a_killed_child_used_is_removed_from_the_machine(nursery, tmp_path: Path, monkeypatch) -> None:
    """By multiprocessing's resource tracker, which is given the time for it. (More than usual: this machine may be busy.)"""
    monkeypatch.setattr(template, "GRACE", 20)
    noted = tmp_path / "name"

    def share() -> list[int]:
        memory = SharedMemory(create=True, size=4096)
        noted.write_text(memory.name)
        SHARED.append(memory)
        return offspring(os.getpid())

    children = nursery(parent_of(share))
    link = children.spawn()
    pid = children.born()
    assert expecting(link), "there is a tracker"
    block = Path("/dev/shm") / noted.read_text()
    assert block.exists()
    children.place.kill(pid, signal.SIGKILL)
    children.ended()
    link.close()
    eventually(lambda: not block.exists(), within=15, what="the shared memory is gone")
    eventually(lambda: offspring(children.place.pid) == [], within=4, what="and the tracker")


SHARED: list[SharedMemory] = []


# They work as in any program.


def terminate_multiprocessing() -> int:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(10)
    return 0 if process.exitcode == -signal.SIGTERM else 1


def terminate_in_a_thread() -> int:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(terminate_multiprocessing()))
    thread.start()
    thread.join()
    return codes[0]


def terminate_subprocess() -> int:
    program = subprocess.Popen(["sleep", "60"])
    program.terminate()
    return 0 if program.wait(10) == -signal.SIGTERM else 1


def interrupt_subprocess() -> int:
    program = subprocess.Popen(["sleep", "60"])
    program.send_signal(signal.SIGINT)
    return 0 if program.wait(10) == -signal.SIGINT else 1


def leave_a_pool() -> int:
    """Leaving it terminates its processes and joins them."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return 0 if pool.map(abs, [-1, -2]) == [1, 2] else 1


def use_an_executor() -> int:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        return 0 if list(pool.map(abs, [-1, -2])) == [1, 2] else 1


def use_daemons() -> int:
    process = multiprocessing.get_context("fork").Process(target=abs, args=(1,), daemon=True)
    process.start()
    process.join(10)
    return process.exitcode or 0


@pytest.mark.parametrize(
    "use",
    [
        terminate_multiprocessing,
        terminate_in_a_thread,
        terminate_subprocess,
        interrupt_subprocess,
        leave_a_pool,
        use_an_executor,
        use_daemons,
    ],
)
def test_a_task_may_start_processes_and_end_them(use: Callable[[], int], nursery) -> None:
    children = nursery(lambda *_: use())
    children.spawn().close()
    assert children.ended(within=30).code == 0


def test_a_handler_that_the_application_set_itself_is_inherited(nursery) -> None:
    def main(_index: int, _incarnation: str, _channel: socket.socket) -> int:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(42))
        runs = multiprocessing.get_context("fork").Event()

        def wait() -> None:
            runs.set()
            # One long sleep might begin between the signal and its handler, and would be slept to its end.
            while True:
                time.sleep(0.01)

        process = multiprocessing.get_context("fork").Process(target=wait)
        process.start()
        runs.wait(10)
        process.terminate()
        process.join(10)
        return process.exitcode or 0

    children = nursery(main)
    children.spawn().close()
    assert children.ended().code == 42


def test_a_process_that_outlives_its_child_does_not_keep_the_link(nursery, watch) -> None:
    """The node takes an open link for a living child."""

    def main(_index: int, _incarnation: str, channel: socket.socket) -> int:
        left, leaves = os.pipe()
        daemon = os.fork()
        if daemon == 0:
            os.setsid()
            os.write(leaves, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(left, 1)  # before that it would be ended with the child
        channel.sendall(str(daemon).encode())
        channel.recv(1)
        return 0

    children = nursery(main)
    link = children.spawn()
    pid = children.born()
    daemon = watch(expecting(link)[0])
    children.place.kill(pid, signal.SIGKILL)
    children.ended()
    assert link.recv(1) == b""
    assert not daemon.ends(within=0)
    link.close()
