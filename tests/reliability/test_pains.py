"""What users of Celery suffer from, one test each, with real workers and a real server. The numbers are those of the table in
docs/explanation/how-reliability-is-tested.md; RELIABILITY=full takes its figures in full where that takes minutes."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import statistics
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from jumpstarter.brokers import open_broker
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import ACK, Envelope, Settlement
from tests.peers import Program, eventually, our_side
from tests.redis_server import FaultyProxy
from tests.reliability.conftest import FULL, Desk, children_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500 if FULL else 180)]


def normal(few: int, many: int) -> int:
    """So many in the normal run, and in the full one."""
    return many if FULL else few


@pytest.mark.heavy
@pytest.mark.parametrize("frozen", [0.0, 30.0 if FULL else 4.0], ids=["killed connections", "frozen server"])
def test_2_a_worker_is_not_deaf_after_its_connections_broke(desk: Desk, frozen: float) -> None:
    desk.worker("-c", "2")
    for round_ in range(1 if frozen else normal(5, 50)):
        if frozen:
            desk.redis.freeze()
            time.sleep(frozen)
            desk.redis.thaw()
        for _ in range(0 if frozen else 5):
            desk.redis.client.client_kill_filter(_type="normal", skipme=True)
            time.sleep(0.5)
        began = time.monotonic()
        desk.run("for _ in range(100): pains.hold.delay(0)")
        desk.ledger.wait(100 * (round_ + 1), within=25, event="finish")
        assert time.monotonic() - began < 10 + 5, "with the client's own start"


def test_3_a_node_killed_in_the_midst_of_its_work_loses_nothing(desk: Desk) -> None:
    count = normal(60, 200)
    nodes = [desk.worker("-c", "10") for _ in range(2)]
    ids = set(desk.run(f"answer = [pains.hold.delay(1).id for _ in range({count})]"))
    desk.ledger.wait(15, within=30, event="start")
    nodes[0].kill()
    eventually(lambda: {entry["id"] for entry in desk.finishes()} == ids, within=90, what="all tasks are done")
    repeated = [number for number in Counter(entry["id"] for entry in desk.starts()).values() if number > 1]
    assert len(repeated) <= 10, "only what ran in the killed node's ten slots may run again"


def test_4_a_task_that_kills_its_process_ends_in_quarantine_and_hurts_no_other(desk: Desk) -> None:
    desk.worker("-c", "2")
    (poison,) = desk.run("answer = [pains.kill_yourself.delay().id]")
    ids = desk.run("answer = [pains.hold.delay(0.05).id for _ in range(40)]")
    eventually(lambda: len(desk.finishes()) == 40, within=30, what="the others are done")
    state = desk.run(f"answer = repr(pains.app.AsyncResult({poison!r}).get(timeout=20, propagate=False))")
    assert "WorkerLostError" in state
    assert len(desk.starts(id=poison)) == 3
    assert Counter(entry["id"] for entry in desk.finishes()) == Counter(ids)
    command = [*our_side().celery[:-1], "quarantine", "--broker", desk.broker_url, "list"]
    shown = subprocess.run(command, capture_output=True, text=True, env=desk.environment(), check=False, timeout=30)
    assert "pains.kill_yourself" in shown.stdout, shown
    assert "signal 9" in shown.stdout


@pytest.mark.heavy
def test_5_children_for_one_task_each_with_large_arguments_under_a_storm_of_kills_never_stall(desk: Desk) -> None:
    # Thirty megabytes a task to the disk and back would be most of what is measured.
    desk.redis.client.config_set("appendonly", "no")
    node = desk.worker("-c", "4", "--max-tasks-per-child", "1")
    size, ids, stalls = 24, set(), []
    for _ in range(normal(1, 21)):  # all at once would be more than the machine's memory
        code = f"big = 'x' * (8 << 20)\nanswer = [pains.hold.delay(0.1, big).id for _ in range({size})]"
        new = set(desk.run(code, task_publish_timeout=60))
        ids |= new
        published = time.clock_gettime(time.CLOCK_BOOTTIME)
        kill_now_and_then(desk, node, new)
        times = [published, *(entry["time"] for entry in desk.ledger.entries() if entry["time"] > published)]
        stalls.append(max(later - earlier for earlier, later in itertools.pairwise(sorted(times))))
    assert {entry["id"] for entry in desk.finishes()} == ids
    assert {entry["size"] for entry in desk.starts()} == {8 << 20}
    assert max(stalls) < 2, stalls


def kill_now_and_then(desk: Desk, node: Program, ids: set[str]) -> None:
    """Kill a child for every fourth task that is done. After more than a hundred in a minute a node gives up, and rightly so."""
    killed = 0
    while (done := len(ids & {entry["id"] for entry in desk.finishes()})) < len(ids):
        victims = children_of(node)
        if victims and killed <= done // 4:
            os.kill(victims[killed % len(victims)], signal.SIGKILL)
            killed += 1
        time.sleep(0.3)


def test_6_a_claim_whose_answer_is_cut_off_loses_nothing(desk: Desk) -> None:
    """A thousand times, somewhere in the answer. In Celery each time costs a message."""
    count, cuts, dice = 3_000, 1_000, random.Random(6)
    body = {"body": b"[[], {}, {}]", "headers": {"task": "pains.hold"}}
    with FaultyProxy(int(desk.broker_url.rpartition(":")[2].partition("/")[0])) as proxy, open_broker(proxy.url) as broker:
        broker.publish([Envelope(queue="cut", properties={"correlation_id": str(number)}, **body) for number in range(count)])
        seen: Counter[str] = Counter()
        end = time.monotonic() + 90
        while sum(seen.values()) < count:
            assert time.monotonic() < end, f"{count - sum(seen.values())} are lost"
            proxy.cut_after = dice.randrange(600) if proxy.cuts < cuts else None
            try:
                deliveries = broker.claim(["cut"], 3, incarnation="one", lease=30)
            except BrokerUnavailable:
                continue
            proxy.cut_after = None
            assert all(broker.settle([Settlement(one, ACK) for one in deliveries], incarnation="one"))
            seen.update(one.envelope.properties["correlation_id"] for one in deliveries if one.envelope is not None)
        assert proxy.cuts == cuts
        assert len(seen) == count
        assert set(seen.values()) == {1}


@pytest.mark.heavy
def test_7_a_flood_of_etas_stays_in_the_broker_and_is_on_time(desk: Desk) -> None:
    flood, soon = normal(20_000, 200_000), normal(500, 5_000)
    node = desk.worker("-c", "2")
    before = resident(node.pid)
    publish = "with pains.app.bulk_publish():\n    for _ in range({}): pains.due.apply_async((0,), countdown=3600)"
    # The client's deadline is not what is tried here: 10,000 messages at a time go to the disk.
    desk.run(publish.format(flood), task_publish_timeout=60)
    eventually(lambda: desk.redis.client.zcard("jumpstarter.parked") == flood, within=90, what="the worker has parked all")
    code = (
        "import time\nat = time.time() + 6\nwith pains.app.bulk_publish():\n"
        f"    for i in range({soon}): pains.due.apply_async((at + i * 4 / {soon},), countdown=at + i * 4 / {soon} - time.time())"
    )
    desk.run(code, task_publish_timeout=60)
    late = [entry["late"] for entry in desk.ledger.wait(soon, within=60, event="start")]
    assert min(late) > -0.01
    assert statistics.quantiles(late, n=100)[98] < 1
    assert resident(node.pid) - before < 20 << 20


def test_7_a_flood_of_etas_is_parked_in_batches_and_what_follows_is_not_hoarded(desk: Desk) -> None:
    """By one at a time it takes minutes, and whatever was published after it waits as long."""
    for _ in range(2):
        desk.worker("-c", "1")
    publish = "with pains.app.bulk_publish():\n    for _ in range(2000): pains.due.apply_async((0,), countdown=3600)\n"
    desk.run(publish + "    pains.hold.delay(60)\n    for _ in range(40): pains.hold.delay(0.01)", task_publish_timeout=60)
    desk.ledger.wait(40, within=30, event="finish")
    assert len(desk.starts()) == 41, "the long one still runs"
    assert len(desk.finishes()) == 40
    assert desk.redis.client.zcard("jumpstarter.parked") == 2000
    assert desk.redis.client.info("commandstats")["cmdstat_evalsha"]["calls"] < 1000


def resident(pid: int) -> int:
    """Of the process and all below it, in bytes."""
    top = psutil.Process(pid)
    return sum(process.memory_info().rss for process in [top, *top.children(recursive=True)])


def test_10_a_chord_whose_header_loses_every_process_once_has_its_body_run_once(desk: Desk, tmp_path: Path) -> None:
    desk.worker("-c", "3")
    desk.run(
        "from celery import chord\n"
        f"chord([pains.die_once_and_tell.s({str(tmp_path)!r} + f'/mark{{i}}') for i in range(10)])(pains.gather.s())"
    )
    (body,) = desk.ledger.wait(1, within=60, event="start", task="pains.gather")
    assert len(set(body["got"])) == 10
    eventually(desk.redis.at_rest, within=20, what="everything is settled")
    assert len(desk.starts(task="pains.gather")) == 1


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_20_time_limits_hold_in_every_pool(desk: Desk, pool: str) -> None:
    desk.worker("-c", "1", "-P", pool, "--time-limit", "60")
    code = (
        "slow = pains.forever.apply_async(time_limit=1)\nnext_ = pains.hold.delay(0)\n"
        "import time\nbegan = time.time()\nnext_.get(timeout=20)\n"
        "answer = [time.time() - began, slow.status, repr(slow.result)]"
    )
    seconds, status, error = desk.run(code)
    assert status == "FAILURE"
    assert "TimeLimitExceeded" in error
    assert seconds < 1 + 2
    if pool == "prefork":  # in a thread it would come after the sleep only
        assert desk.run("answer = pains.tidy.delay().get(timeout=20)") == "tidied up"


def test_21_short_tasks_do_not_wait_behind_a_long_one(desk: Desk) -> None:
    for _ in range(2):
        desk.worker("-c", "1")
    desk.run(f"pains.hold.delay({normal(15, 60)})\nfor _ in range(99): pains.hold.delay(0.01)")
    desk.ledger.wait(1, within=20, event="start")
    began = time.monotonic()
    desk.ledger.wait(99, within=20, event="finish")
    assert time.monotonic() - began < 5


@pytest.mark.heavy
def test_23_stopping_under_load_loses_nothing_and_repeats_nothing_that_was_done(desk: Desk) -> None:
    rounds = normal(6, 200)
    ids = set(desk.run(f"answer = [pains.hold.delay(0.02).id for _ in range({rounds * 60})]"))
    for _ in range(rounds):
        node = desk.worker("-c", "2")
        done = len(desk.finishes())
        eventually(lambda done=done: len(desk.finishes()) > done + 5, within=20, what="it works")
        node.send(signal.SIGTERM)
        assert node.wait(within=20) == 0
    desk.worker("-c", "4")
    eventually(lambda: {entry["id"] for entry in desk.finishes()} == ids, within=normal(60, 300), every=0.2, what="all is done")
    assert len(desk.starts()) == len(ids)


def test_23_a_soft_shutdown_waits_and_then_hands_back(desk: Desk) -> None:
    node = desk.worker("-c", "2", worker_soft_shutdown_timeout=2)
    long, early = desk.run("answer = [pains.hold.delay(30).id, pains.hold_early.delay(30).id]")
    desk.ledger.wait(2, within=20, event="start")
    began = time.monotonic()
    node.send(signal.SIGQUIT)
    node.wait(within=15)
    assert 2 <= time.monotonic() - began < 6
    assert "WorkerLostError" in desk.run(f"answer = repr(pains.app.AsyncResult({early!r}).get(timeout=5, propagate=False))")
    desk.worker("-c", "2")
    eventually(lambda: len(desk.starts(id=long)) == 2, within=20, what="the task that is acked late was handed back")
    assert len(desk.starts(id=early)) == 1


def test_24_a_restarted_broker_repeats_nothing_that_still_runs(desk: Desk) -> None:
    desk.worker("-c", "2", worker_lease=20)
    desk.run("for _ in range(2): pains.hold.delay(6)")
    desk.ledger.wait(2, within=20, event="start")
    desk.redis.kill()
    time.sleep(2.5)  # the node looks every second, and notices
    desk.redis.start()
    desk.ledger.wait(2, within=30, event="finish")
    eventually(desk.redis.at_rest, within=20, what="both are settled")
    assert len(desk.starts()) == 2


@pytest.mark.heavy
def test_26_a_worker_does_not_grow(desk: Desk) -> None:
    node = desk.worker("-c", "2", task_ignore_result=True)
    warm, more = normal(4_000, 20_000), normal(12_000, 100_000)
    send = "with pains.app.bulk_publish():\n    for _ in range({}): pains.hold_early.delay(0)"
    desk.run(send.format(warm), task_ignore_result=True)
    desk.ledger.wait(warm, within=90, event="finish")
    before, files = resident(node.pid), descriptors(node.pid)
    desk.run(send.format(more), task_ignore_result=True)
    desk.ledger.wait(warm + more, within=120, event="finish")
    assert resident(node.pid) - before < 4 << 20, "some 300 bytes a task would show"
    assert descriptors(node.pid) <= files + 4
    assert desk.redis.client.pubsub_channels() == []
    assert len(desk.redis.client.keys("*")) < 20


def descriptors(pid: int) -> int:
    top = psutil.Process(pid)
    return sum(process.num_fds() for process in [top, *top.children(recursive=True)])


def test_29_a_killed_node_takes_its_children_and_theirs_along(desk: Desk) -> None:
    node = desk.worker("-c", "2")
    desk.run("pains.family.delay('process')")
    (entry,) = desk.ledger.wait(1, within=20, event="start", task="pains.family")
    family = [*children_of(node), entry["grandchild"]]
    assert all(psutil.pid_exists(pid) for pid in family)
    os.kill(node.pid, signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: not any(alive(pid) for pid in family), within=5, what="they are gone")
    assert time.monotonic() - began < 1


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.heavy
def test_31_an_idle_worker_is_quiet(desk: Desk) -> None:
    """Commands that clients send; a script counts as one."""
    desk.worker("-c", "2", worker_lease=30)
    seconds = 15
    port = int(desk.broker_url.rpartition(":")[2].partition("/")[0])
    heard = b""
    time.sleep(3)  # for what it does once when it starts
    with socket.create_connection(("127.0.0.1", port)) as monitor:
        monitor.sendall(b"MONITOR\r\n")
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            monitor.settimeout(left)
            with contextlib.suppress(TimeoutError):
                heard += monitor.recv(1 << 16)
    commands = [line for line in heard.decode().splitlines()[1:] if " lua]" not in line]
    assert 5 < len(commands) <= 2 * seconds, "\n".join(commands)


def test_32_probes_tell_a_worker_whose_broker_is_away_from_one_that_hangs(desk: Desk) -> None:
    statefile = desk.folder / "state"
    node = desk.worker("-c", "2", "--statefile", str(statefile))

    def probe(question: str) -> int:
        command = [*our_side().celery[:-1], "probe", question, "--statefile", str(statefile), "--max-age", "3"]
        return subprocess.run(command, capture_output=True, env=desk.environment(), check=False, timeout=20).returncode

    eventually(lambda: probe("ready") == 0, within=10, what="it is ready")
    desk.redis.freeze()
    eventually(lambda: probe("ready") == 1, within=30, what="it says that it is not ready")
    assert probe("live") == 0
    desk.redis.thaw()
    eventually(lambda: probe("ready") == 0, within=30, what="it is ready again")
    os.kill(node.pid, signal.SIGSTOP)
    eventually(lambda: probe("live") == 1, within=15, what="a node that hangs is not live")
    os.kill(node.pid, signal.SIGCONT)


# Lease bugs that others have shipped; more of them in tests/brokers/test_redis_ownership.py.


def test_a_node_of_the_same_name_does_not_revive_the_leases_of_a_dead_one(desk: Desk) -> None:
    """procrastinate#1518."""
    # Longer than a start takes: the dead one's lease is alive when its namesake begins to renew.
    node = desk.worker("-c", "1", "-n", "same@desk", worker_lease=6)
    (task,) = desk.run("answer = [pains.hold.delay(2).id]")
    desk.ledger.wait(1, within=20, event="start")
    node.kill()
    desk.worker("-c", "1", "-n", "same@desk", worker_lease=6)
    desk.ledger.wait(2, within=30, event="start", id=task)
    desk.ledger.wait(1, within=30, event="finish", id=task)


def test_a_task_that_holds_the_interpreter_keeps_its_lease(desk: Desk) -> None:
    """dramatiq#692."""
    for _ in range(2):
        desk.worker("-c", "1")
    desk.run("pains.hold_interpreter.delay(5)")
    desk.ledger.wait(1, within=30, event="finish")
    assert len(desk.starts()) == 1


# What is ours alone.


def test_a_node_does_without_redis_py(desk: Desk) -> None:
    """It costs 13 MB, for TLS alone."""
    desk.worker("-c", "2")
    ask = "answer = list(pains.app.control.broadcast('loaded', {{'name': {!r}}}, reply=True, timeout=20, limit=1)[0].values())"
    assert desk.run(ask.format("redis")) == [False]
    assert desk.run(ask.format("compat_celery")) == [True]


@pytest.mark.heavy
def test_strict_early_ack_never_repeats_a_task_that_had_begun(desk: Desk) -> None:
    rounds = normal(4, 50)
    for round_ in range(rounds):
        node = desk.worker("-c", "2", worker_strict_early_ack=True)
        desk.run("for _ in range(200): pains.hold_early.delay(0.005)")
        desk.ledger.wait(200 * round_ + 40, within=30, event="start")
        node.kill()
    desk.worker("-c", "2", worker_strict_early_ack=True)
    eventually(desk.redis.at_rest, within=60, what="all is done")
    starts = Counter(entry["id"] for entry in desk.starts())
    assert len(starts) >= 200 * rounds - 2 * rounds, "what was acked and had not begun is at most one task for each slot"
    assert set(starts.values()) == {1}


def test_leases_of_tasks_are_their_own(desk: Desk) -> None:
    node = desk.worker("-c", "3", worker_lease=5, leases=True)
    desk.run("pains.hold_patient.delay(60)\npains.hold_eager.delay(60)\npains.hold.delay(60)", leases=True)
    desk.ledger.wait(3, within=20, event="start")
    time.sleep(2)  # a renewal has been seen
    node.kill()
    killed = time.clock_gettime(time.CLOCK_BOOTTIME)
    desk.worker("-c", "3", worker_lease=5, leases=True)
    desk.ledger.wait(6, within=40, event="start")
    again = {entry["task"]: entry["time"] - killed for entry in desk.starts()[3:]}
    assert again["pains.hold_eager"] < again["pains.hold"] < again["pains.hold_patient"]
    assert again["pains.hold_patient"] > 8 - 5 / 3 - 0.5


@pytest.mark.heavy
def test_unknown_tasks_may_wait_for_a_worker_that_knows_them(desk: Desk) -> None:
    desk.worker("-c", "1", worker_unknown_tasks="park")
    code = "answer = [pains.app.send_task('pains.only_in_the_new_version').id for _ in range(50)]"
    ids = desk.run(code)
    eventually(lambda: desk.redis.client.zcard("jumpstarter.parked") == 50, within=20, what="they are parked")
    desk.worker("-c", "1", worker_unknown_tasks="park", new_version=True)
    desk.ledger.wait(50, within=60, event="start", task="pains.only_in_the_new_version")
    assert {entry["id"] for entry in desk.starts()} == set(ids)


@pytest.mark.parametrize("kind", ["pool", "futures"])
def test_tasks_may_have_processes_of_their_own(desk: Desk, kind: str) -> None:
    desk.worker("-c", "1")
    assert desk.run(f"answer = pains.family.delay({kind!r}).get(timeout=30)") == [1, 2, 3]
