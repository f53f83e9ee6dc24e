"""A tree of a thousand actors in which ten thousand things go wrong, from a seed: crashes, losses, pauses and stops, of leaves
and of branches. Short by default; ``SOAK=full`` (in ``make chaos``) does all of it, ``SOAK_SEED`` another one.

Whatever happens: each resource that is acquired is released once, the last first; no task outlives its state; nothing hangs.
"""

import os
import random

import anyio
import pytest

from jumpstarter.actors import Actor, Event, backoff, handles, hosted, one_for_all, one_for_one, resource, rest_for_one, task

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(7200)]

IS_FULL = os.environ.get("RELIABILITY") == "full"
SEED = int(os.environ.get("SOAK_SEED", "20240229"))
BRANCHES, LEAVES = 9, 110  # and the root: a thousand
BLOWS = 10_000 if IS_FULL else 100

STRATEGIES = (one_for_one, rest_for_one, one_for_all)


class Blow(Event):
    pass


class Leaf(Actor):
    """Holds two resources and does something with both."""

    restart_backoff = backoff(0.01, 0.1)

    def __init__(self, name, ledger):
        super().__init__(name=name)
        self.ledger = ledger
        self.held = []
        self.is_working = False

    def keep(self, name):
        self.held.append(name)
        self.ledger["acquired"] += 1

    def give_back(self, name):
        assert self.held.pop() == name, "the last one first"
        # An optional one that is lost is given back while tasks go on without it.
        assert not self.is_working or self.state.matches("started"), "no task outlives its state"
        self.ledger["released"] += 1

    @resource(retry=backoff(0.01, 0.1, tries=3))
    async def first(self):
        self.keep("first")
        try:
            await anyio.sleep(0.001)
            yield "first"
        finally:
            self.give_back("first")

    @resource(retry=backoff(0.01, 0.1, tries=3), optional=True)
    async def second(self):
        self.keep("second")
        yield "second"
        # What is lost while a later one is held is given back out of order; this one is the last.
        self.give_back("second")

    @task
    async def work(self):
        assert not self.is_working, "one at a time"
        self.is_working = True
        try:
            await anyio.sleep_forever()
        finally:
            self.is_working = False

    @handles(Blow)
    async def blow(self, message):
        raise ValueError("blown")

    def check(self):
        """At any moment between two steps."""
        if self.state.matches("started"):
            return
        if str(self.state) in ("stopped", "crashed"):
            assert self.held == []
            assert not self.is_working


class Branch(Actor):
    """Spawns its leaves, and again when it is restarted."""

    restart_backoff = backoff(0.01, 0.1)

    def __init__(self, number, ledger):
        super().__init__(name=f"branch-{number}")
        self.strategy = STRATEGIES[number % 3](restarts=50, within=1, retry=backoff(0.01, 0.1))
        self.ledger = ledger

    async def on_start(self):
        for number in range(LEAVES):
            await self.spawn(Leaf(f"{self.name}/{number}", self.ledger), restart="always")


class Root(Actor):
    """Survives whatever happens below."""

    strategy = one_for_one(restarts=10**9, within=1, retry=backoff(0.01, 0.1))

    def __init__(self, ledger):
        super().__init__(name="root")
        self.ledger = ledger

    async def on_start(self):
        for number in range(BRANCHES):
            await self.spawn(Branch(number, self.ledger), restart="always")


def strike(dice, leaf):
    """One thing that goes wrong with a leaf."""
    match dice.choice(["fail", "lose", "lose", "pause", "resume", "stop", "restart", "blow", "warn", "problem", "recover"]):
        case "fail":
            leaf.fail(ValueError("struck"))
        case "lose":
            leaf.report_lost("second", ConnectionError("struck"))
        case "pause" | "resume" | "stop" | "restart" as event:
            leaf.post(event)
        case "blow":
            leaf.tell_nowait(Blow())
        case "warn":
            leaf.report_warning("dice")
        case "problem":
            leaf.report_problem("dice")
        case "recover":
            leaf.recover("dice")


async def soak(dice, root):
    for number in range(BLOWS):
        branch = dice.choice(root.family)
        if not branch.family:
            await anyio.sleep(1)
            continue
        leaf = dice.choice(branch.family)
        if number % 200 == 199:
            branch.fail(ValueError("struck")) if dice.random() < 0.5 else branch.post("restart")
        else:
            strike(dice, leaf)
        if dice.random() < 0.5:
            await anyio.sleep(dice.random() / 10)
        leaf.check()
    await anyio.sleep(600)  # whoever is to come back has come back


async def test_a_thousand_actors_survive_ten_thousand_blows():
    dice = random.Random(SEED)
    ledger = {"acquired": 0, "released": 0}
    root = Root(ledger)
    try:
        with anyio.fail_after(100_000):  # virtual seconds: a deadlock ends here
            async with hosted(root):
                await soak(dice, root)
                branches = root.family
                leaves = [leaf for branch in branches for leaf in branch.family]
                assert len(branches) == BRANCHES
                assert len(leaves) == BRANCHES * LEAVES
                for actor in (*branches, *leaves):
                    assert actor.state.matches("started"), actor
                assert ledger["acquired"] - ledger["released"] == 2 * len(leaves)
        assert ledger["acquired"] == ledger["released"] > 2 * len(leaves)
        assert not any(leaf.held or leaf.is_working for leaf in leaves)
    except BaseException:
        print(f"\nSOAK_SEED={SEED}")
        raise
