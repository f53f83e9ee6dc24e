"""The stories of the model find every fault that is planted in a broker. Without this a model that sleeps would look like a broker
that works."""

import contextlib
import itertools

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from jumpstarter.brokers.memory import MemoryBroker
from jumpstarter.embedded.space import Lease
from jumpstarter.jobs import Completed, Requeue
from jumpstarter.results.memory import MemoryResults
from jumpstarter.testing.broker_kit import ManualClock
from jumpstarter.testing.broker_model import BrokerMachine

_names = itertools.count()


class AcksWhateverIsClaimed(MemoryBroker):
    """No fence: whoever names a message settles it, whoever holds it by now."""

    def settle(self, settlements, *, incarnation):
        present = {tag.partition(".")[0]: tag for tag in self._space.claims}
        for settlement in settlements:
            tag = settlement.delivery.tag
            settlement.delivery.tag = present.get(tag.partition(".")[0], tag)
        return super().settle(settlements, incarnation=incarnation)

    def _holds(self, tag, incarnation):
        return tag in self._space.claims


class ActsBeforeItChecks(MemoryBroker):
    """What a settlement sends is sent, and only then the claim is looked at."""

    def _settle(self, settlement, messages, incarnation):
        self._send(messages)
        return super()._settle(settlement, [], incarnation)


class ClaimsInTwoSteps(MemoryBroker):
    """Looks first and takes later: what is claimed is still in its queue for the next one who looks."""

    def _take(self, queues, limit):
        taken = super()._take(queues, limit)
        for message in taken[1:]:
            self._space.make_ready(message)
        return taken


class RenewsNothing(MemoryBroker):
    def renew(self, incarnations, lease):
        pass


class RenewsForEver(MemoryBroker):
    def reap(self):
        for incarnation in self._space.leases:
            self._space.leases[incarnation] = Lease(self._clock.monotonic(), 1e9)
        return super().reap()


class HoldsNothing(MemoryBroker):
    def hold(self, tags, lease, *, incarnation):
        pass


class HoldsForEver(MemoryBroker):
    """A hold outlives its claim."""

    def _act(self, action, message):
        holds = dict(self._space.holds)
        super()._act(action, message)
        self._space.holds.update(holds)

    def hold(self, tags, lease, *, incarnation):
        super().hold(tags, 1e9, incarnation=incarnation)


class CountsNoAttempts(MemoryBroker):
    def _give_back(self, tags, *, counted):
        super()._give_back(tags, counted=False)


class CountsTheWholeLife(MemoryBroker):
    """A message that a person requeues has all its attempts behind it."""

    def requeue_quarantined(self, ids):
        before = {id(resting.message): resting.message.attempt for resting in self._space.quarantine.values()}
        done = super().requeue_quarantined(ids)
        for heap in self._space.waiting.values():
            for _, _, message in heap:
                message.attempt = before.get(id(message), message.attempt)
        return done


class RequeuesACopy(MemoryBroker):
    """Sends what rests again and leaves it there."""

    def requeue_quarantined(self, ids):
        resting = dict(self._space.quarantine)
        done = super().requeue_quarantined(ids)
        self._space.quarantine = resting
        return done


class LosesWhatIsParked(MemoryBroker):
    def _promote(self):
        before = sum(map(len, self._space.waiting.values()))
        promoted = super()._promote()
        if promoted > 1 and before:
            self._space.waiting.clear()
        return promoted


class RequeuesTwice(MemoryBroker):
    def _act(self, action, message):
        super()._act(action, message)
        if isinstance(action, Requeue):
            self._space.make_ready(message)


class DoesAllWhenAJoinIsComplete(MemoryBroker):
    """Acks the last member, and only then tells that somebody has to send the body."""

    def _settle(self, settlement, messages, incarnation):
        answer = super()._settle(settlement, messages, incarnation)
        if isinstance(answer, Completed) and answer.bodies:
            self._space.claims.pop(settlement.delivery.tag, None)
        return answer


class CountsPartsOfTheDead(MemoryBroker):
    """Counts a part, and only then looks at the claim."""

    def _settle(self, settlement, messages, incarnation):
        if settlement.part is not None:
            self._space.count(settlement.part.part, settlement.part.at)
        return super()._settle(settlement, messages, incarnation)


class ClosesForTheDead(MemoryBroker):
    def _settle(self, settlement, messages, incarnation):
        if settlement.closes is not None and not self._holds(settlement.delivery.tag, incarnation):
            self._space.close(settlement.closes.join, settlement.closes.at)
        return super()._settle(settlement, messages, incarnation)


class ClosesTwice(MemoryBroker):
    """Does a join's one thing for everybody who wants to."""

    def _settle(self, settlement, messages, incarnation):
        if settlement.closes is not None:
            self._space.gatherings.pop(settlement.closes.join, None)
        return super()._settle(settlement, messages, incarnation)


class CountsInsteadOfNaming(MemoryBroker):
    """A join that counts, and does not know its members: who is counted twice takes another one's place."""

    def _settle(self, settlement, messages, incarnation):
        if settlement.part is not None and self._holds(settlement.delivery.tag, incarnation):
            part, at = settlement.part.part, settlement.part.at
            gathering = self._space.gathering(part.join, part.ttl, at)
            if (part.member, part.index) in gathering.parts:
                gathering.parts[part.member, len(gathering.parts) + 100] = part.body
        return super()._settle(settlement, messages, incarnation)


class FeelsNoAck(MemoryBroker):
    """What was acked before it began is settled by nobody."""

    def settle(self, settlements, *, incarnation):
        return [
            self._holds(one.delivery.tag, incarnation) and super(FeelsNoAck, self).settle([one], incarnation=incarnation)[0]
            for one in settlements
        ]


FAULTS = [
    AcksWhateverIsClaimed,
    ActsBeforeItChecks,
    ClaimsInTwoSteps,
    RenewsNothing,
    RenewsForEver,
    HoldsNothing,
    HoldsForEver,
    CountsNoAttempts,
    CountsTheWholeLife,
    RequeuesACopy,
    LosesWhatIsParked,
    RequeuesTwice,
    DoesAllWhenAJoinIsComplete,
    CountsPartsOfTheDead,
    ClosesForTheDead,
    ClosesTwice,
    CountsInsteadOfNaming,
    FeelsNoAck,
]


def machine_with(broker_class):
    class Machine(BrokerMachine):
        def open_server(self):
            clock, self.url = ManualClock(), f"memory://fault-{next(_names)}"
            return clock, lambda: self.enter(broker_class(self.url, clock=clock))

        def open_results(self):
            return MemoryResults(self.url, clock=self.clock)

    return Machine


# Told in the same order every time, and not shrunk: found or not is all that counts here.
STORIES = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, capsys):
    with pytest.raises((AssertionError, LookupError, ValueError)):
        run_state_machine_as_test(machine_with(fault), settings=STORIES)


def test_without_a_fault_nothing_is_found():
    with contextlib.redirect_stdout(None):
        run_state_machine_as_test(machine_with(MemoryBroker), settings=settings(STORIES, max_examples=60))
