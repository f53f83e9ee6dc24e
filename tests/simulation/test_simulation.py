"""Seeded stories of workers that crash, are stopped and lose their servers, under virtual time; and the same stories told with
parts that have a fault, which must be found.

A seed that fails is named. ``pytest tests/simulation --simulation-seed SEED`` tells that story alone and prints it;
``--simulation-seeds 5000`` looks further than usual.
"""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest

from jumpstarter.abc.results import Results
from jumpstarter.errors import BrokerUnavailable
from jumpstarter.jobs import ACK, Completed, Settlement
from jumpstarter.worker.bury import bury
from jumpstarter.worker.lease import LeaseKeeper
from jumpstarter.worker.settle import Settler
from tests.simulation.application import headers_of
from tests.simulation.world import Kind, Line, Parts, ResultsLine, World

CALM = Kind(calm=True)
TOGETHER = Kind()
APART = Kind(apart=True)
KINDS = {"calm": (CALM, 60), "together": (TOGETHER, 150), "apart": (APART, 150)}

#: A planted fault has to be found within so many stories.
ENOUGH = 300


def tell(seed, kind, parts=None):
    """Tell a story; answer it, and what must not have happened."""
    world = World(seed, kind, parts)
    return world, world.tell()


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_lost_and_nothing_is_done_twice_without_cause(name, request):
    kind, usual = KINDS[name]
    seed = request.config.getoption("--simulation-seed")
    count = request.config.getoption("--simulation-seeds") or usual
    for each in range(count) if seed is None else [seed]:
        world, violations = tell(each, kind)
        if seed is not None:
            print("\n".join([f"seed {each}, {name}", *world.story]))
        found = "\n  ".join(violations)
        assert not violations, (
            f"seed {each}, {name}:\n  {found}\nTell it again: pytest {__file__} -k {name} --simulation-seed {each}"
        )


def test_a_seed_tells_the_same_story_every_time():
    stories = [tell(7, TOGETHER)[0].story for _ in range(2)]
    assert stories[0] == stories[1]
    assert len(stories[0]) > 20


def test_the_stories_bring_what_they_are_told_for():
    told = [tell(seed, kind)[0] for seed in range(20) for kind in (TOGETHER, APART)]
    kinds = {fault.kind for world in told for fault in world.ledger.faults}
    assert kinds == {"kill", "node killed", "stop", "outage"}
    lines = "\n".join(line for world in told for line in world.story)
    for said in ("after settle", "before settle", "after claim", "before renew", "after reap", "is told to stop", "kills node"):
        assert said in lines
    repeats = sum(len(runs) - 1 for world in told for runs in world.ledger.runs.values() if runs)
    assert repeats > 50
    assert any(world.ledger.joins for world in told)


# Parts with a fault


class RenewsNothing(LeaseKeeper):
    def turn(self):
        self._renew_at = float("inf")
        return super().turn()


class ReapsNothing(Line):
    def reap(self):
        self._space.leases.clear()
        return super().reap()


class SettlesForWhomever(Line):
    """No fence: who names a message settles it, whoever holds it by now."""

    def settle(self, settlements, *, incarnation):
        present = {tag.partition(".")[0]: tag for tag in self._space.claims}
        for one in settlements:
            one.delivery.tag = present.get(one.delivery.tag.partition(".")[0], one.delivery.tag)
        return super().settle(settlements, incarnation=incarnation)

    def _holds(self, tag, incarnation):
        return tag in self._space.claims


class ActsBeforeItChecks(Line):
    """What a settlement sends is sent, and only then the claim is looked at."""

    def _settle(self, settlement, messages, incarnation):
        if settlement.part is None:
            self._send(messages)
            messages = []
        return super()._settle(settlement, messages, incarnation)


class ClaimsInTwoSteps(Line):
    """Takes messages from their queue, and notes who has them in another call."""

    def claim(self, queues, limit, *, incarnation, lease):
        with self._space.changed:
            taken = self._take(queues, limit)
        self.world.boundary(self.process, "between the steps of a claim")
        with self._space.changed:
            for message in taken:
                self._space.make_ready(message)
        return super().claim(queues, limit, incarnation=incarnation, lease=lease)


class CountsInsteadOfNaming(Line):
    """A join that counts, and does not know its members."""

    def _settle(self, settlement, messages, incarnation):
        if settlement.part is not None and self._holds(settlement.delivery.tag, incarnation):
            count_again(self._space, settlement.part.part, settlement.part.at)
        return super()._settle(settlement, messages, incarnation)


class CountsInsteadOfNamingElsewhere(ResultsLine):
    def add_parts(self, parts, *, by=()):
        for part in parts:
            count_again(self._space, part, self._clock.now())
        return super().add_parts(parts, by=by)


def count_again(space, part, now):
    """A part that was counted is counted again, in the place of another."""
    gathering = space.gathering(part.join, part.ttl, now)
    if (part.member, part.index) in gathering.parts:
        gathering.parts[part.member, len(gathering.parts) + 100] = part.body


class ForgetsWhatItCouldNotSettle(Settler):
    def settle(self, outcomes):
        with suppress(BrokerUnavailable):
            super().settle(outcomes)


class AcksBeforeResults(Settler):
    """Acks first and stores results then."""

    def _apart(self, outcomes):
        self._broker.settle([Settlement(one.delivery, ACK) for one in outcomes], incarnation=self._incarnation)
        return super()._apart(outcomes)


class FencesNothing(Settler):
    def fence(self, jobs):
        pass


class ClosesJoinsThatItMayNot(Settler):
    """Closes a join also where its settlement was refused."""

    def _count(self, results: Results, outcomes):
        found = super()._count(results, outcomes)
        self._to_close += self._completing.values()
        self._completing.clear()
        return found


class TakesTooLateForDone(Settler):
    """Believes that a settlement which came too late to close its join has been carried out."""

    def _complete(self, completed):
        settle = self._broker.settle
        self._broker.settle = lambda *arguments, **options: [
            answer if answer != Completed(()) else True for answer in settle(*arguments, **options)
        ]
        try:
            super()._complete(completed)
        finally:
            del self._broker.settle


def acks_what_had_started(held, started, application, death, *, max_attempts):
    """A job that is acked late is acked although its process died under it."""
    return [
        application.lose(one.job, death.evidence, quarantine=False) if one.status == "LOST" and one.job else one
        for one in bury(held, started, application, death, max_attempts=max_attempts)
    ]


def repeats_what_was_acked_early(held, started, application, death, *, max_attempts):
    """Forgets that jobs had started which are acked early."""
    early = {one.tag for one in held if headers_of(one).get("early_ack")}
    return bury(held, set(started) - early, application, death, max_attempts=max_attempts)


FAULTS = {
    "ack before the run": (Parts(acks_first=True), TOGETHER),
    "no renewal": (Parts(keeper=RenewsNothing), CALM),
    "leases that never run out": (Parts(line=ReapsNothing), TOGETHER),
    "no fence": (Parts(line=SettlesForWhomever), TOGETHER),
    "act before the check": (Parts(line=ActsBeforeItChecks), TOGETHER),
    "a claim in two steps": (Parts(line=ClaimsInTwoSteps), TOGETHER),
    "a join that counts": (Parts(line=CountsInsteadOfNaming), TOGETHER),
    "a join elsewhere that counts": (Parts(results=CountsInsteadOfNamingElsewhere), APART),
    "a batch that is forgotten": (Parts(settler=ForgetsWhatItCouldNotSettle), TOGETHER),
    "ack before the result": (Parts(settler=AcksBeforeResults), APART),
    "no fence elsewhere": (Parts(settler=FencesNothing), APART),
    "joins closed by the dead": (Parts(settler=ClosesJoinsThatItMayNot), APART),
    "too late taken for done": (Parts(settler=TakesTooLateForDone), TOGETHER),
    "late ack of what had started": (Parts(bury=acks_what_had_started), TOGETHER),
    "early ack forgotten": (Parts(bury=repeats_what_was_acked_early), TOGETHER),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_part_with_a_fault_is_found(fault, capsys):
    parts, kind = FAULTS[fault]
    for seed in itertools.count():
        assert seed < ENOUGH, "no story has found it"
        _, violations = tell(seed, kind, parts)
        if violations:
            with capsys.disabled():
                print(f"\n{fault}: seed {seed}: {violations[0][:150]}")
            return
