"""Faults of the broker and of the way to it, in rounds: after each has healed, every node must consume again within ten seconds.

The processes of the run reach the server through a proxy, so that the network can be hurt as well as the server. Something is
published all the time; what a publisher was told to be safe must run.
"""

from __future__ import annotations

import dataclasses
import itertools
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from compat_celery import Celery
from tests.chaos.app.note import boot_time
from tests.chaos.checker import Verdict
from tests.chaos.fleet import Fleet
from tests.chaos.grounds import Grounds, grounds
from tests.chaos.proxy import Network
from tests.peers import DeadlineMissed, Side, eventually

#: Seconds from healing until every node must have begun something that it cannot have claimed before.
LIMIT = 10.0
#: Seconds that a node is given, so that a slow one is told from a deaf one.
_PATIENCE = 60.0
#: Starts in each node after healing: one more than it has slots, so that one of them was claimed anew.
_SLOTS = 2
_NEW = _SLOTS + 1
_LEASE = 5.0
#: Seconds for which what is stopped or silenced stays so, where the name does not say.
_SHORT = 5.0
#: Seconds of RabbitMQ's setting of that name, while it is tried. Our workers are told; see ``broker_transport_options``.
_CONSUMER_TIMEOUT = 4.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """One round: what was hurt, and seconds from healing until all nodes consumed again; None when they did not."""

    fault: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Outages:
    """What came of the rounds."""

    grounds: str
    recoveries: list[Recovery]
    drained: bool
    verdict: Verdict

    @property
    def passed(self) -> bool:
        in_time = all(recovery.seconds is not None and recovery.seconds <= LIMIT for recovery in self.recoveries)
        return in_time and self.drained and self.verdict.passed

    def report(self) -> str:
        """For people."""
        lines = [f"  {self.grounds}: {len(self.recoveries)} rounds; seconds from healing until every node consumes again:"]
        for fault in dict.fromkeys(recovery.fault for recovery in self.recoveries):
            seconds = [recovery.seconds for recovery in self.recoveries if recovery.fault == fault]
            known = [second for second in seconds if second is not None]
            figures = f"median {median(known):.2f}, longest {max(known):.2f}" if known else "-"
            never = f", NEVER in {len(seconds) - len(known)}" if len(known) < len(seconds) else ""
            lines.append(f"    {fault:<20}{len(seconds):>3} rounds  {figures}{never}")
        return "\n".join([*lines, self.verdict.table(), f"  {'passed' if self.passed else 'FAILED'}"])


@dataclass(slots=True)
class _Site:
    """What can be hurt."""

    place: Grounds
    network: Network
    long_stop: float = 30.0
    _cuts: itertools.cycle[int] = field(default_factory=lambda: itertools.cycle((0, 1, 5, 17)))

    # Each fault returns when it has healed.

    def kill_clients(self) -> None:
        """CLIENT KILL TYPE normal, five times in three seconds: the second comes while they connect again."""
        for _ in range(5):
            self.place.server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(0.6)

    def stop_short(self) -> None:
        self._stop(_SHORT)

    def stop_long(self) -> None:
        self._stop(self.long_stop)

    def _stop(self, seconds: float) -> None:
        self.place.server.freeze()
        time.sleep(seconds)
        self.place.server.thaw()

    def silence(self) -> None:
        self.network.silence()
        time.sleep(_SHORT)
        self.network.heal()

    def half_open(self) -> None:
        self.network.half_open()

    def reset(self) -> None:
        self.network.reset()

    def cut_answers(self) -> None:
        """Four answers in a row, each somewhere else."""
        self.network.cut_answers(*(next(self._cuts) for _ in range(4)))
        with suppress(DeadlineMissed):
            eventually(lambda: not self.network.cuts_left, within=_SHORT, what="four answers are cut")

    def restart(self) -> None:
        """SIGKILL, and the server comes back with what it has stored."""
        self.place.server.kill()
        time.sleep(0.5)
        self.place.server.start()

    # RabbitMQ's own.

    def close_connections(self) -> None:
        """What ``rabbitmqctl close_all_connections`` does, five times in three seconds."""
        for _ in range(5):
            self.place.server.close_all_connections()
            time.sleep(0.6)

    def restart_app(self) -> None:
        self.place.server.stop_app()
        time.sleep(_SHORT)
        self.place.server.start_app()

    def consumer_timeout(self) -> None:
        """Jobs outlast the time after which the server closes the channel of a consumer that has not acked (406)."""
        self.place.server.set_consumer_timeout(_CONSUMER_TIMEOUT)
        self.place.server.close_all_connections()  # it counts for channels that begin after that
        time.sleep(2 * _CONSUMER_TIMEOUT)
        self.place.server.set_consumer_timeout(None)

    def memory_alarm(self) -> None:
        self.place.server.set_memory_alarm()
        time.sleep(_SHORT)
        self.place.server.clear_memory_alarm()


REDIS = ("kill_clients", "stop_short", "silence", "half_open", "reset", "cut_answers", "restart", "stop_long")
RABBITMQ = (
    "consumer_timeout",
    "close_connections",
    "stop_short",
    "restart_app",
    "silence",
    "memory_alarm",
    "half_open",
    "reset",
    "restart",
    "stop_long",
)
#: Faults by the kind of broker; a round takes the next one.
FAULTS: dict[str, Sequence[str]] = {"redis": REDIS, "amqp": RABBITMQ}


class _Rounds:
    def __init__(self, fleet: Fleet, direct: Grounds, site: _Site) -> None:
        self._fleet = fleet
        self._site = site
        self._direct = Celery("chaos", broker=direct.broker, backend=direct.results)
        self._number = 0

    def run(self, fault: str) -> Recovery:
        self._burst(8, 0.4)
        if fault == "consumer_timeout":
            self._burst(1, 3 * _CONSUMER_TIMEOUT)
        began = boot_time()
        getattr(self._site, fault)()
        healed = boot_time()
        self._burst(24, 0.1)
        try:
            eventually(lambda: self._all_consume_since(healed), within=_PATIENCE, what="every node consumes", every=0.02)
        except DeadlineMissed:
            seconds = None
        else:
            seconds = max(self._third_start(node.name, healed) for node in self._fleet.nodes) - healed
        # Until they are all back, the fault goes on for them.
        self._fleet.note("cut", what=fault, began=began)
        return Recovery(fault, seconds)

    def _burst(self, count: int, seconds: float) -> None:
        """Publish straight to the server, as soon as it takes it: an answer that is lost leaves a job that may run."""
        for _ in range(count):
            self._number += 1
            name = f"burst-{self._number}"
            self._fleet.note("invoke", id=name)
            try:
                self._direct.send_task("chaos_app.work", (seconds,), task_id=name)
            except Exception as error:  # noqa: BLE001 - whatever it is, the ledger has it
                self._fleet.note("unknown", id=name, error=repr(error)[:200])
            else:
                self._fleet.note("ok", id=name)

    def _all_consume_since(self, healed: float) -> bool:
        return all(len(self._starts(node.name, healed)) >= _NEW for node in self._fleet.nodes)

    def _third_start(self, node: str, healed: float) -> float:
        return self._starts(node, healed)[_NEW - 1]

    def _starts(self, node: str, healed: float) -> list[float]:
        return [entry["time"] for entry in self._fleet.ledger.entries(event="start", node=node) if entry["time"] >= healed]


def outages(
    side: Side,
    place: str,
    folder: Path,
    *,
    faults: Sequence[str],
    long_stop: float = 30.0,
    say: Callable[[str], None] = lambda _: None,
) -> Outages:
    """One round for each of these faults, on these grounds.

    :param long_stop: seconds of ``stop_long``.
    """
    with grounds(place, folder) as direct, Network(direct.server.port) as network:
        behind = dataclasses.replace(
            direct,
            broker=direct.broker.replace(f":{direct.server.port}", f":{network.port}"),
            results=direct.results.replace(f":{direct.server.port}", f":{network.port}"),
        )
        transport = {"consumer_timeout": _CONSUMER_TIMEOUT} if direct.kind == "amqp" else {}
        with Fleet(side, behind, folder, lease=_LEASE, transport=transport) as fleet:
            fleet.wait_ready([fleet.node(f"node{number}", slots=_SLOTS) for number in range(2)])
            publisher = fleet.publisher({"kind": "storm", "seed": 1, "outstanding": 4, "longest": 0.4, "chords": 10})
            trial = _Rounds(fleet, direct, _Site(direct, network, long_stop))
            recoveries = []
            for fault in faults:
                recoveries.append(trial.run(fault))
                seconds = recoveries[-1].seconds
                say(f"  {place}: {fault}: {'NEVER' if seconds is None else f'{seconds:.2f} s'}")
            publisher.send(signal.SIGTERM)
            publisher.wait(within=60)
            drained = fleet.settle_down(within=60)
            return Outages(place, recoveries, drained, fleet.verdict())
