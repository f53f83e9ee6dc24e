"""``jumpstarter celery -A … worker``: pools, names, queues and signals, on the embedded broker with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers import Program, RedisServer, eventually, our_side, wait_ready

APP = Path(__file__).parent / "app"
SOON = 20.0

StartWorker = Callable[..., Program]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return our_side().environment(APP, DESK_URL=f"sqlite:///{tmp_path}/desk.db")


@pytest.fixture
def start_worker(tmp_path: Path, env: dict[str, str]) -> Iterator[StartWorker]:
    """``start_worker("-P", "solo")`` gives a worker that is ready; it is killed after the test if it still runs."""
    workers: list[Program] = []

    def start(*options: str) -> Program:
        log = tmp_path / f"worker-{len(workers)}.log"
        workers.append(our_side().worker("desk", *options, folder=tmp_path, env=env, log=log))
        return wait_ready(workers[-1])

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture
def client(tmp_path: Path, env: dict[str, str]) -> Callable[[str], str]:
    """Runs lines of Python with everything of the application imported, and answers what they print."""

    def run(code: str) -> str:
        script = tmp_path / "script.py"
        script.write_text(f"from desk import *\n{code}\n")
        command = [*our_side().python, script]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.mark.parametrize("pool", ["prefork", "threads", "async", "solo", "gevent"])
def test_every_pool_runs_functions_coroutines_and_canvases(
    pool: str, start_worker: StartWorker, client: Callable[[str], str]
) -> None:
    worker = start_worker("-P", pool, "-c", "2")
    assert client("print(add.delay(2, 3).get(timeout=10))") == "5"
    assert client("print(chain(add.s(1, 2), add.s(3))().get(timeout=10))") == "6"
    assert client("print(chord([add.s(n, n) for n in range(5)], total.s())().get(timeout=10))") == "20"
    if pool != "solo":  # there a task that waits for another one waits for itself
        assert client("print(aadd.delay(2, 3).get(timeout=10))") == "5"
    worker.send(signal.SIGTERM)
    assert worker.wait(within=SOON) == 0, worker.text()


def test_prefork_runs_in_main_threads_under_the_given_name(start_worker: StartWorker, client: Callable[[str], str]) -> None:
    start_worker("-n", "desk1@%h", "-c", "1")
    host = os.uname().nodename
    assert client("print(whereabouts.delay().get(timeout=10))") == str(
        {"hostname": f"desk1@{host}", "queue": "celery", "main_thread": True}
    )


def test_only_the_named_queues_are_served(start_worker: StartWorker, client: Callable[[str], str]) -> None:
    start_worker("-Q", "red,blue", "-P", "threads", "-c", "1")
    assert client("print(add.apply_async((1, 2), queue='red').get(timeout=10))") == "3"
    assert client("print(add.apply_async((1, 3), queue='blue').get(timeout=10))") == "4"
    waits = "r = add.apply_async((1, 4), queue='green'); add.apply_async((0, 0), queue='red').get(timeout=10); print(r.state)"
    assert client(waits) == "PENDING"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_running_task_finish(
    number: signal.Signals, start_worker: StartWorker, client: Callable[[str], str], tmp_path: Path
) -> None:
    worker = start_worker("-c", "2")
    task_id = client(f"print(hold.delay({str(tmp_path)!r}, 1.5).id)")
    eventually((tmp_path / "began").exists, within=SOON, what="the task begins")
    worker.send(number)
    assert worker.wait(within=SOON) == 0, worker.text()
    assert f"worker_shutting_down warm {int(number)}" in worker.text()
    assert client(f"print(app.AsyncResult({task_id!r}).get(timeout=1))") == "held"


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,)])
def test_the_second_signal_or_a_quit_ends_it_at_once_and_the_task_runs_elsewhere(
    numbers: tuple[signal.Signals, ...], start_worker: StartWorker, client: Callable[[str], str], tmp_path: Path
) -> None:
    worker = start_worker("-c", "2")
    task_id = client(f"print(hold.delay({str(tmp_path)!r}, 3).id)")
    began = tmp_path / "began"
    eventually(began.exists, within=SOON, what="the task begins")
    for number in numbers:
        worker.send(number)
        if number != signal.SIGQUIT:
            worker.wait_for(f"{number.name}", within=SOON)
            time.sleep(0.4)  # what comes within 0.3 s counts as the same signal; see the test below
    worker.wait(within=2.5)
    start_worker("-c", "1")
    assert client(f"print(app.AsyncResult({task_id!r}).get(timeout=10))") == "held"
    assert began.read_text() == "xx"


def test_a_signal_that_arrives_twice_at_once_counts_once(
    start_worker: StartWorker, client: Callable[[str], str], tmp_path: Path
) -> None:
    """As ``timeout`` sends it: to the process, and to the process's group. Two different ones here: the kernel merges
    equal ones that it has not delivered yet, and the test would not see a second."""
    worker = start_worker("-c", "1")
    task_id = client(f"print(hold.delay({str(tmp_path)!r}, 1).id)")
    eventually((tmp_path / "began").exists, within=SOON, what="the task begins")
    worker.send(signal.SIGTERM)
    worker.send(signal.SIGINT)
    assert worker.wait(within=SOON) == 0
    assert client(f"print(app.AsyncResult({task_id!r}).get(timeout=1))") == "held"


def test_a_worker_whose_broker_is_away_can_be_stopped(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        env = our_side().environment(APP, DESK_URL=redis.url)
        with our_side().worker("desk", "-c", "2", folder=tmp_path, env=env, log=tmp_path / "worker.log") as worker:
            wait_ready(worker)
            redis.kill()
            worker.wait_for("/1: started.health.healthy → started.health.degraded", within=SOON)
            worker.send(signal.SIGTERM)
            # At once: it holds nothing, so there is nothing to wait for (a node with a dead child tries for 10 s).
            assert worker.wait(within=5) == 0, worker.text()


def test_signals_reach_the_users_receivers_in_each_child(start_worker: StartWorker) -> None:
    worker = start_worker("-c", "3")
    lines = [line for line in worker.text().splitlines() if line.startswith("worker_process_init")]
    assert len(set(lines)) == 3
    assert str(worker.pid) not in " ".join(lines)
