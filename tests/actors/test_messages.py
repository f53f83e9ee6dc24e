"""Messages: telling, asking, which method handles what in which state, full mailboxes, errors, dead letters."""

import dataclasses

import anyio
import pytest
from anyio.lowlevel import checkpoint

from jumpstarter.actors import (
    Actor,
    Command,
    Event,
    Mailbox,
    dead_letters,
    degraded,
    handles,
    healthy,
    hosted,
    run,
)
from jumpstarter.errors import (
    ActorCrashed,
    ActorError,
    ActorStopped,
    AskTimeout,
    HandlingCancelled,
    MailboxFull,
    NotHandled,
    Rejected,
)

pytestmark = pytest.mark.anyio


class Add(Command[int]):
    amount: int


class Spend(Command[str]):
    seconds: float
    name: str = ""


class Happened(Event):
    what: str = ""


class HappenedAgain(Happened):
    pass


class Unknown(Command[None]):
    pass


class Get(Command[None]):
    pass


class NoMoney(Exception):
    pass


class Till(Actor):
    """Adds up what it is told, and notes what it handled."""

    def __init__(self, **options):
        super().__init__(**options)
        self.sum = 0
        self.notes = []

    @handles(Add, raises=NoMoney)
    async def add(self, message):
        if message.amount < 0:
            raise NoMoney(f"{message.amount}")
        self.sum += message.amount
        return self.sum

    @handles(Spend)
    async def spend(self, message):
        self.notes.append(f"+{message.name}")
        await anyio.sleep(message.seconds)
        self.notes.append(f"-{message.name}")
        return message.name

    @handles(Happened)
    async def note(self, message):
        self.notes.append(message.what)
        if message.what == "bad":
            raise ValueError("bad")


@pytest.fixture
def dead():
    """The reasons and messages that die meanwhile."""
    seen = []
    stop = dead_letters.subscribe(lambda letter: seen.append((letter.reason, letter.message)))
    yield seen
    stop()


def test_messages_are_frozen_values():
    assert Add(3) == Add(amount=3)
    assert hash(Spend(1.0)) == hash(Spend(1.0, ""))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Add(3).amount = 4


async def test_ask_returns_the_answer_and_tell_returns_at_once():
    async with hosted(Till()) as till:
        assert await till.ask(Add(2)) == 2
        await till.tell(Add(3))
        assert till.sum == 2
        assert await till.ref.ask(Add(0)) == 5
        assert till.ref == till.ref


async def test_messages_are_handled_one_at_a_time_in_order():
    async with hosted(Till()) as till:
        await till.tell(Spend(2, "a"))
        await till.tell(Spend(1, "b"))
        await till.tell(HappenedAgain("c"))
        assert till.mailbox_depth == 3
        await anyio.sleep(4)
        assert till.notes == ["+a", "-a", "+b", "-b", "c"], "and a subclass is handled as what it is"
        assert till.mailbox_depth == 0


async def test_the_error_of_what_was_asked_goes_to_who_asked_and_the_actor_lives():
    async with hosted(Till()) as till:
        with pytest.raises(NoMoney, match="-1"):
            await till.ask(Add(-1))
        assert await till.ask(Add(1)) == 1


async def test_the_error_of_what_was_told_is_a_dead_letter_and_crashes_the_actor(dead):
    till = Till()
    await till.tell(Happened("bad"))
    await till.tell(Happened("never"))
    with pytest.raises(ActorCrashed) as crash:
        await run(till)
    assert isinstance(crash.value.__cause__, ValueError)
    assert dead == [("error", Happened("bad")), ("stopped", Happened("never"))]
    assert till.notes == ["bad"]
    assert till.dead_letters == 2


async def test_declared_errors_of_what_was_told_are_dead_letters_and_no_more(dead):
    async with hosted(Till()) as till:
        await till.tell(Add(-1))
        assert await till.ask(Add(1)) == 1
    assert dead == [("error", Add(-1))]


async def test_on_error_may_let_the_actor_live(dead):
    class Patient(Till):
        async def on_error(self, message, error):
            self.notes.append((message.what, str(error)))

    async with hosted(Patient()) as till:
        await till.tell(Happened("bad"))
        assert await till.ask(Add(1)) == 1
        assert till.notes == ["bad", ("bad", "bad")]
    assert dead == [("error", Happened("bad"))]


async def test_an_answer_that_is_late_is_a_timeout(dead):
    async with hosted(Till()) as till:
        await till.tell(Spend(10))
        with pytest.raises(AskTimeout, match=r"Add\(amount=1\) within 3 s") as late:
            await till.ask(Add(1), timeout=3)
        assert isinstance(late.value, TimeoutError)
        assert anyio.current_time() == pytest.approx(3)
        await anyio.sleep(8)
        assert till.sum == 0, "nobody waited for it any more"
    assert dead == [("expired", Add(1))]


async def test_each_question_has_its_own_deadline():
    async with hosted(Till()) as till, anyio.create_task_group() as group:
        late = []

        async def ask(after, seconds):
            await anyio.sleep(after)
            with pytest.raises(AskTimeout):
                await till.ask(Add(1), timeout=seconds)
            late.append(round(anyio.current_time(), 3))

        await till.tell(Spend(100))
        for after, seconds in ((0, 10), (5, 10), (2, 3), (0, 40)):
            group.start_soon(ask, after, seconds)
        await anyio.sleep(50)
        assert late == [5, 10, 15, 40]
        await till.stop(grace=0)


async def test_who_is_cancelled_while_asking_leaves_nothing_behind(dead):
    async with hosted(Till()) as till:
        await till.tell(Spend(10))
        with anyio.move_on_after(1):
            await till.ask(Add(1))
        await anyio.sleep(10)
        assert till.sum == 0
    assert dead == [("expired", Add(1))]


async def test_nobody_answers_for_an_actor_that_has_stopped(dead):
    async with hosted(Till()) as till:
        pass
    with pytest.raises(ActorStopped, match=r"Till.* is stopped"):
        await till.ask(Add(1))
    await till.tell(Happened("late"))
    assert dead[-1] == ("stopped", Happened("late"))


async def test_what_comes_before_the_start_is_handled_after_it():
    till = Till()
    await till.tell(Add(3))
    async with hosted(till):
        assert await till.ask(Add(0)) == 3


async def test_what_has_no_handler_is_refused_by_name():
    async with hosted(Till()) as till:
        with pytest.raises(NotHandled, match="does not handle Unknown; it handles Add, Spend, Happened"):
            await till.tell(Unknown())
        with pytest.raises(NotHandled):
            await till.ask(Unknown())

    class Silent(Actor):
        pass

    async with hosted(Silent()) as silent:
        with pytest.raises(NotHandled, match="no messages: decorate a method with @handles"):
            await silent.tell(Add(1))
        assert silent.mailbox_depth == silent.dead_letters == 0


async def test_a_message_in_hand_is_finished_within_the_grace_and_the_rest_dies(dead):
    till = Till()
    async with hosted(till):
        await till.tell(Spend(2, "a"))
        await till.tell(Spend(2, "b"))
        await anyio.sleep(1)
        await till.stop()
        assert anyio.current_time() == pytest.approx(2)
    assert till.notes == ["+a", "-a"]
    assert dead == [("stopped", Spend(2, "b"))]


async def test_a_message_in_hand_is_cancelled_when_the_grace_is_over(dead):
    async with hosted(Till()) as till:
        answers = []

        async def ask():
            try:
                await till.ask(Spend(100, "a"))
            except HandlingCancelled:
                answers.append("cancelled")

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.sleep(1)
            await till.stop(grace=2)
        assert answers == ["cancelled"]
        assert anyio.current_time() == pytest.approx(3)
    assert dead == [("cancelled", Spend(100, "a"))]


async def test_a_restart_keeps_the_mailbox():
    async with hosted(Till()) as till:
        await till.tell(Spend(1, "a"))
        await till.tell(Add(5))
        await till.restart()
        assert await till.ask(Add(0)) == 5


async def test_a_paused_actor_handles_nothing():
    async with hosted(Till()) as till:
        await till.tell(Spend(2, "a"))
        await anyio.sleep(1)
        await till.pause()
        assert anyio.current_time() == pytest.approx(2), "what was in hand is finished first"
        assert till.state.matches("mailbox.suspended")
        await till.tell(Add(1))
        await anyio.sleep(10)
        assert till.sum == 0
        await till.resume()
        assert await till.ask(Add(0)) == 1


# -- the states of a handler --


class Moody(Actor):
    """Reads fast while healthy, slowly while degraded, and not at all while unhealthy."""

    def __init__(self):
        super().__init__()
        self.notes = []

    @handles(Add, during=healthy)
    async def read(self, message):
        return self._note("fast", message)

    @read.during(degraded)
    async def read_slowly(self, message):
        return self._note("slow", message)

    @handles(Spend, during=healthy, otherwise="reject", on_leave="cancel")
    async def spend(self, message):
        await anyio.sleep(message.seconds)
        return message.name

    @handles(Happened, during="healthy", otherwise="dead_letter")
    async def note(self, message):
        self._note("event", message)

    def _note(self, how, message):
        self.notes.append((how, message))
        return how


async def test_each_state_may_have_its_method():
    async with hosted(Moody()) as moody:
        assert await moody.ask(Add(1)) == "fast"
        moody.report_warning("disk")
        assert await moody.ask(Add(2)) == "fast", "the actor had not stepped yet"
        await moody.wait(degraded)
        assert await moody.ask(Add(2)) == "slow"
        moody.recover("disk")
        await moody.wait(healthy)
        assert await moody.ask(Add(3)) == "fast"


async def test_what_is_stashed_comes_first_when_the_state_changes():
    async with hosted(Moody()) as moody:
        moody.report_problem("disk")
        await moody.wait("unhealthy")
        for amount in range(3):
            await moody.tell(Add(amount))
        await anyio.sleep(1)
        assert moody.notes == []
        assert moody.mailbox_depth == 3
        moody.report_warning("disk")
        await moody.tell(Add(3))
        await anyio.sleep(1)
        assert moody.notes == [("slow", Add(amount)) for amount in range(4)]


async def test_what_was_put_aside_is_handled_before_what_came_later():
    class Busy(Moody):
        @handles(Get, during="started")
        async def get(self, message):
            self._note("get", message)
            await anyio.sleep(2)

    async with hosted(Busy()) as busy:
        busy.report_problem("disk")
        await busy.wait("unhealthy")
        await busy.tell(Add(0))
        await busy.tell(Get())
        await anyio.sleep(1)
        await busy.tell(Add(1))
        busy.report_warning("disk")
        await anyio.sleep(5)
        assert busy.notes == [("get", Get()), ("slow", Add(0)), ("slow", Add(1))]


async def test_what_is_rejected_is_an_error_for_who_asked_and_a_dead_letter(dead):
    async with hosted(Moody()) as moody:
        moody.report_warning("disk")
        await moody.wait("degraded")
        with pytest.raises(Rejected, match=r"does not take Spend.*degraded"):
            await moody.ask(Spend(1))
        await moody.tell(Spend(2))
        await moody.tell(Happened("x"))
        await anyio.sleep(1)
        assert moody.notes == []
    assert dead == [("rejected", Spend(1)), ("rejected", Spend(2)), ("rejected", Happened("x"))]


async def test_a_dead_letter_that_was_asked_is_waited_for_in_vain(dead):
    class Deaf(Actor):
        @handles(Add, during="degraded", otherwise="dead_letter")
        async def add(self, message): ...

    async with hosted(Deaf()) as deaf:
        with pytest.raises(AskTimeout):
            await deaf.ask(Add(1), timeout=2)
    assert dead == [("rejected", Add(1))]


async def test_leaving_the_state_cancels_a_handler_that_says_so(dead):
    async with hosted(Moody()) as moody:
        async with anyio.create_task_group() as group:
            errors = []

            async def ask():
                with pytest.raises(HandlingCancelled):
                    await moody.ask(Spend(100))
                errors.append(anyio.current_time())

            group.start_soon(ask)
            await anyio.sleep(1)
            moody.report_warning("disk")
        assert errors == [pytest.approx(1)]
        assert await moody.ask(Add(1)) == "slow", "and it goes on with the next message"
    assert dead == [("cancelled", Spend(100))]


async def test_a_handler_may_postpone_a_message_until_a_state_changes():
    class Choosy(Actor):
        seen = ()

        @handles(Add, during=("healthy", "degraded"))
        async def add(self, message):
            if self.state.matches("healthy"):
                self.postpone()
                return
            self.seen = (*self.seen, message.amount)

    async with hosted(Choosy()) as choosy:
        await choosy.tell(Add(1))
        await choosy.tell(Add(2))
        await anyio.sleep(1)
        assert choosy.seen == ()
        assert choosy.mailbox_depth == 2
        choosy.report_warning("disk")
        await anyio.sleep(1)
        assert choosy.seen == (1, 2)
        with pytest.raises(ActorError, match="for handlers"):
            choosy.postpone()


async def test_a_handler_has_a_time_limit(dead):
    class Limited(Actor):
        @handles(Spend, timeout=2, raises=TimeoutError)
        async def spend(self, message):
            await anyio.sleep(message.seconds)
            return "done"

    async with hosted(Limited()) as limited:
        assert await limited.ask(Spend(1)) == "done"
        with pytest.raises(TimeoutError, match="longer than 2 s"):
            await limited.ask(Spend(3))
        await limited.tell(Spend(3))
        assert await limited.ask(Spend(1)) == "done"
    assert dead == [("error", Spend(3))]


async def test_a_subclass_overrides_a_handler_and_keeps_its_options():
    class Double(Till):
        async def add(self, message):
            return 2 * message.amount

    async with hosted(Double()) as double:
        assert await double.ask(Add(2)) == 4
        assert await double.add(Add(4)) == 8, "it is a method like others"

    class Without(Till):
        note = None

    async with hosted(Without()) as without:
        with pytest.raises(NotHandled):
            await without.tell(Happened())


# -- full mailboxes --


def full(policy):
    class Small(Till):
        mailbox = Mailbox(2, when_full=policy)

    return Small()


async def test_a_full_mailbox_makes_who_tells_wait():
    async with hosted(full("wait")) as till:
        for name in "abcd":
            await till.tell(Spend(1, name))
            await checkpoint()
        assert anyio.current_time() == pytest.approx(1), "one in hand and two that wait: the fourth waited for room"
        with pytest.raises(MailboxFull, match="2 messages wait already"):
            till.tell_nowait(Spend(1, "e"))
        await anyio.sleep(10)
        assert [note for note in till.notes if note.startswith("-")] == ["-a", "-b", "-c", "-d"]


async def test_who_waits_for_room_and_is_cancelled_takes_nobodys_place():
    async with hosted(full("wait")) as till:
        for name in "abc":
            await till.tell(Spend(1, name))
            await checkpoint()
        with anyio.move_on_after(0.5):
            await till.tell(Spend(1, "cancelled"))
        await till.tell(Spend(1, "d"))
        await anyio.sleep(10)
        assert [note for note in till.notes if note.startswith("+")] == ["+a", "+b", "+c", "+d"]


async def test_who_waits_for_room_of_an_actor_that_stops_is_let_go(dead):
    async with hosted(full("wait")) as till:
        for name in "abc":
            await till.tell(Spend(1, name))
            await checkpoint()
        async with anyio.create_task_group() as group:
            group.start_soon(till.tell, Spend(1, "d"))
            await anyio.sleep(0.5)
            group.start_soon(till.stop)
        assert anyio.current_time() == pytest.approx(1)
    assert dead == [("stopped", Spend(1, name)) for name in "bcd"]


async def test_a_full_mailbox_may_reject():
    async with hosted(full("reject")) as till:
        await till.tell(Spend(1, "a"))
        await till.tell(Spend(1, "b"))
        with pytest.raises(MailboxFull):
            await till.tell(Spend(1, "c"))
        with pytest.raises(MailboxFull):
            await till.ask(Spend(1, "c"))


@pytest.mark.parametrize(("policy", "kept"), [("drop_oldest", ["c", "d"]), ("drop_newest", ["a", "b"])])
async def test_a_full_mailbox_may_drop(policy, kept, dead):
    async with hosted(full(policy)) as till:
        for name in "abcd":
            await till.tell(Happened(name))
        await anyio.sleep(1)
        assert till.notes == kept
    assert [(reason, message.what) for reason, message in dead] == [("full", name) for name in "abcd" if name not in kept]


async def test_what_is_dropped_and_was_asked_is_an_error_for_who_asked():
    async with hosted(full("drop_oldest")) as till, anyio.create_task_group() as group:
        await till.tell(Spend(1, "a"))
        await checkpoint()

        async def ask():
            with pytest.raises(MailboxFull):
                await till.ask(Add(1))

        group.start_soon(ask)
        await anyio.sleep(0.5)
        await till.tell(Happened())
        await till.tell(Happened())


async def test_what_is_put_aside_counts():
    class Choosy(Actor):
        mailbox = Mailbox(2, when_full="reject")

        @handles(Add, during="degraded")
        async def add(self, message): ...

    async with hosted(Choosy()) as choosy:
        await choosy.tell(Add(1))
        await anyio.sleep(1)
        await choosy.tell(Add(2))
        await anyio.sleep(1)
        with pytest.raises(MailboxFull):
            await choosy.tell(Add(3))


async def test_an_actor_does_not_wait_for_room_in_its_own_mailbox():
    class Selfish(Actor):
        mailbox = Mailbox(1)

        @handles(Add)
        async def add(self, message):
            await self.tell(Add(1))
            await self.tell(Add(2))

    selfish = Selfish()
    await selfish.tell(Add(0))
    with pytest.raises(ActorCrashed) as crash:
        await run(selfish)
    assert isinstance(crash.value.__cause__, MailboxFull)
    assert "its own handler" in str(crash.value.__cause__)


async def test_run_ends_when_a_handler_stops_the_actor():
    class Mortal(Actor):
        @handles(Happened)
        async def end(self, message):
            self.post("stop")

    mortal = Mortal()
    await mortal.tell(Happened())
    await run(mortal)
    assert str(mortal.state) == "stopped"
