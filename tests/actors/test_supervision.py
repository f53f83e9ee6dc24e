"""Children: declared and spawned, their start and stop, what follows when they crash, significant ones, monitors and links."""

import anyio
import pytest

from jumpstarter.actors import (
    Actor,
    Down,
    Event,
    backoff,
    child,
    handles,
    hosted,
    one_for_all,
    one_for_one,
    resource,
    rest_for_one,
    run,
)
from jumpstarter.errors import ActorCrashed, ActorError, ChildFailed, LinkBroken, NotHandled
from tests.actors.parts import Diary, transitions

pytestmark = pytest.mark.anyio

STEADY = backoff(1, 1, jitter=0)
QUICK = {"restarts": 3, "within": 60, "retry": STEADY}


class Note(Event):
    what: str


class Leaf(Actor):
    """Holds a resource and notes what it is told."""

    def __init__(self, **options):
        super().__init__(**options)
        self.diary = Diary()
        self.notes = []

    @resource
    def thing(self):
        return self.diary.around(self.name.rpartition("/")[2])

    @handles(Note)
    async def note(self, message):
        if message.what == "boom":
            raise ValueError("boom")
        self.notes.append(message.what)


class Tree(Actor):
    """Three children that write into one diary."""

    strategy = one_for_one(**QUICK)

    def __init__(self, **options):
        super().__init__(**options)
        self.diary = Diary()

    def leaf(self):
        leaf = Leaf()
        leaf.diary = self.diary
        return leaf

    @resource
    def root(self):
        return self.diary.around("root")

    one = child(leaf)
    two = child(leaf)
    three = child(leaf)

    async def on_start(self):
        self.diary.append("on_start")


async def test_children_start_in_order_and_stop_in_reverse_order():
    tree = Tree()
    with pytest.raises(ActorError, match="is made when Tree"):
        tree.one  # noqa: B018 - looking it up is the error
    async with hosted(tree):
        assert tree.diary == ["+root", "+one", "+two", "+three", "on_start"]
        assert [one.name for one in tree.family] == [f"{tree.name}/{name}" for name in ("one", "two", "three")]
        assert tree.two.state.matches("started")
        await tree.two.tell(Note("hello"))
        tree.diary.clear()
    assert tree.diary == ["-three", "-two", "-one", "-root"]
    assert tree.family == ()


async def test_a_crashed_child_backs_off_and_starts_again_alone():
    async with hosted(Tree()) as tree, transitions("") as seen:
        tree.diary.clear()
        two = tree.two
        await two.tell(Note("boom"))
        await two.tell(Note("kept"))
        await two.wait("crashed")
        await two.wait("started")
        assert anyio.current_time() == pytest.approx(1)
        await anyio.sleep(1)
        assert tree.two is two
        assert tree.diary == ["-two", "+two"]
        assert two.notes == ["kept"], "its mailbox outlives the crash"
        assert "crashed → backing_off" in seen
        assert "backing_off → starting" in seen


async def test_one_for_all_restarts_all_in_order():
    class All(Tree):
        strategy = one_for_all(**QUICK)

    async with hosted(All()) as tree:
        tree.diary.clear()
        await tree.three.tell(Note("kept"))
        await tree.two.tell(Note("boom"))
        await anyio.sleep(5)
        assert tree.diary == ["-two", "-three", "-one", "+one", "+two", "+three"]
        assert tree.three.notes == ["kept"]


async def test_rest_for_one_restarts_it_and_those_after_it():
    class Rest(Tree):
        strategy = rest_for_one(**QUICK)

    async with hosted(Rest()) as tree:
        tree.diary.clear()
        await tree.two.tell(Note("boom"))
        await anyio.sleep(5)
        assert tree.diary == ["-two", "-three", "+two", "+three"]


async def test_two_that_crash_at_once_are_restarted_together():
    class All(Tree):
        strategy = one_for_all(**QUICK)

    async with hosted(All()) as tree:
        tree.diary.clear()
        tree.one.fail(ValueError("one"))
        tree.two.fail(ValueError("two"))
        await anyio.sleep(5)
        assert sorted(tree.diary[:3]) == ["-one", "-three", "-two"]
        assert tree.diary[3:] == ["+one", "+two", "+three"]


async def test_too_many_restarts_fail_the_parent():
    class Falling(Tree):
        async def on_ready(self):
            for _ in range(4):
                await self.two.wait("started")
                self.two.fail(ValueError("again"))
                await self.two.wait("crashed")

    tree = Falling()
    with pytest.raises(ActorCrashed) as crash:
        await run(tree)
    failure = crash.value.__cause__
    assert isinstance(failure, ChildFailed)
    assert str(failure.__cause__) == "again"
    assert "Falling" in str(failure)
    assert tree.diary[-4:] == ["-two", "-three", "-one", "-root"]


async def test_restarts_that_are_far_apart_are_no_trouble():
    async with hosted(Tree()) as tree:
        for _ in range(10):
            tree.two.fail(ValueError("now and then"))
            await anyio.sleep(25)
        assert tree.two.state.matches("started")


async def test_a_crash_rises_as_far_as_intensities_let_it():
    class Root(Actor):
        strategy = one_for_one(restarts=1, within=1000, retry=STEADY)
        tree = child(Tree)

    async with hosted(Root()) as root:
        tree = root.tree
        for _ in range(4):
            await tree.wait("started")
            await tree.one.wait("started")
            tree.one.fail(ValueError("again"))
            await anyio.sleep(0.5)
        assert str(tree.state) == "restarting.backing_off"
        await tree.wait("started")
        assert root.tree is tree
        assert tree.one.state.matches("started")


async def test_a_child_that_fails_to_start_is_retried_while_its_parent_starts():
    class Fragile(Leaf):
        tries = 0

        async def on_start(self):
            self.tries += 1
            if self.tries < 3:
                raise ValueError("not yet")

    class Parent(Actor):
        strategy = one_for_one(**QUICK)
        fragile = child(Fragile)

    async with hosted(Parent()) as parent:
        assert parent.fragile.tries == 3
        assert anyio.current_time() == pytest.approx(2)


async def test_a_child_that_never_starts_fails_the_start_of_its_parent():
    class Hopeless(Actor):
        async def on_start(self):
            raise ValueError("never")

    class Parent(Actor):
        strategy = one_for_one(restarts=2, within=60, retry=STEADY)
        hopeless = child(Hopeless)

    with pytest.raises(ActorCrashed) as crash:
        async with hosted(Parent()):
            pytest.fail("it must not start")
    assert isinstance(crash.value.__cause__, ChildFailed)


# -- which are restarted --


async def test_a_child_that_stops_by_itself_is_over_unless_it_is_always_restarted():
    class Parent(Actor):
        strategy = one_for_one(**QUICK)
        once = child(Leaf)
        always = child(Leaf, restart="always")

    async with hosted(Parent()) as parent:
        once, always = parent.once, parent.always
        await once.stop()
        await always.stop()
        await anyio.sleep(5)
        assert str(once.state) == "stopped"
        assert always.state.matches("started")
        assert parent.family == (always,)


async def test_a_child_that_is_never_restarted_crashes_alone():
    class Parent(Actor):
        frail = child(Leaf, restart="never")

    async with hosted(Parent()) as parent:
        frail = parent.frail
        frail.fail(ValueError("gone"))
        await anyio.sleep(5)
        assert str(frail.state) == "crashed"
        assert parent.state.matches("started")
        assert parent.family == ()


async def test_a_significant_child_that_stops_ends_its_parent():
    class Parent(Actor):
        main = child(Leaf, significant=True)

        async def on_ready(self):
            await self.main.stop()

    parent = Parent()
    await run(parent)
    assert str(parent.state) == "stopped"


async def test_a_significant_child_that_crashes_fails_its_parent():
    class Parent(Actor):
        main = child(Leaf, restart="never", significant=True)

        async def on_ready(self):
            self.main.fail(ValueError("gone"))

    with pytest.raises(ActorCrashed) as crash:
        await run(Parent())
    assert isinstance(crash.value.__cause__, ChildFailed)
    assert "significant" in str(crash.value.__cause__)


# -- spawned --


class Hall(Actor):
    strategy = one_for_one(**QUICK)


async def test_children_may_come_and_go():
    async with hosted(Hall()) as hall:
        first = await hall.spawn(Leaf(name="first"))
        second = await hall.spawn(Leaf(name="second"), restart="crash")
        assert hall.family == (first, second)
        await first.stop()
        second.fail(ValueError("x"))
        await anyio.sleep(3)
        assert hall.family == (second,)
        assert second.state.matches("started")
    assert str(first.state) == str(second.state) == "stopped"
    assert second.diary == ["+second", "-second"] * 2


async def test_a_spawned_child_that_does_not_start_is_an_error_of_who_spawned_it():
    class Hopeless(Actor):
        async def on_start(self):
            raise ValueError("never")

    async with hosted(Hall()) as hall:
        with pytest.raises(ActorCrashed) as crash:
            await hall.spawn(Hopeless())
        assert str(crash.value.__cause__) == "never"
        assert hall.family == ()


async def test_an_actor_lives_in_one_place_only():
    async with hosted(Hall()) as hall, hosted(Leaf()) as leaf:
        with pytest.raises(ActorError, match="hosted already"):
            await hall.spawn(leaf)
        await hall.spawn(Leaf(name="x"))
        with pytest.raises(ActorError, match="has a child 'x' already"):
            await hall.spawn(Leaf(name="x"))
    with pytest.raises(ActorError, match="stopped: children are for actors that"):
        await hall.spawn(Leaf())


async def test_cancelling_the_root_stops_the_whole_tree_in_order():
    tree = Tree()
    with anyio.move_on_after(3):
        async with hosted(tree):
            tree.diary.clear()
            await anyio.sleep_forever()
    assert tree.diary == ["-three", "-two", "-one", "-root"]


async def test_what_is_no_exception_in_a_grandchild_releases_the_whole_tree_in_order():
    class Interrupt(BaseException):  # as KeyboardInterrupt, with which asyncio would end the tests as well
        pass

    class Interrupted(Leaf):
        async def on_ready(self):
            await anyio.sleep(1)
            raise Interrupt

    class Deep(Tree):
        @child
        def four(self):
            leaf = Interrupted()
            leaf.diary = self.diary
            return leaf

    deep = []

    class Root(Actor):
        deep = child(Deep)

        async def on_start(self):
            deep.append(self.deep)

    root = Root()
    with pytest.raises(BaseExceptionGroup) as interrupt:
        await run(root)
    assert interrupt.value.split(Interrupt)[1] is None
    assert deep[0].diary[-5:] == ["-four", "-three", "-two", "-one", "-root"]
    assert str(root.state) == str(deep[0].state) == "crashed"


async def test_a_stop_ends_a_restart_that_is_under_way():
    class All(Tree):
        strategy = one_for_all(restarts=3, within=60, retry=backoff(100, 100))

    async with hosted(All()) as tree:
        tree.one.fail(ValueError("x"))
        await anyio.sleep(5)
    assert anyio.current_time() == pytest.approx(5)
    assert tree.diary.count("+one") == tree.diary.count("-one") == 1


async def test_restarting_the_parent_makes_its_children_anew():
    async with hosted(Tree()) as tree:
        one = tree.one
        await tree.restart()
        assert tree.one is not one
        assert str(one.state) == "stopped"
        assert tree.one.state.matches("started")


# -- monitors and links --


class Watcher(Actor):
    def __init__(self):
        super().__init__()
        self.seen = []

    @handles(Down)
    async def down(self, message):
        self.seen.append((message.name, str(message.failure)))


async def test_a_monitor_is_told_of_the_end():
    async with hosted(Watcher()) as watcher, hosted(Hall()) as hall:
        first, second, third = [await hall.spawn(Leaf(name=name)) for name in ("first", "second", "third")]
        watcher.monitor(first)
        watcher.monitor(second.ref)
        forget = watcher.monitor(third)
        forget()
        await first.stop()
        second.fail(ValueError("x"))
        await third.stop()
        await anyio.sleep(1)
        assert sorted(watcher.seen) == [("first", "None"), ("second", "x")]
        watcher.monitor(first)
        await anyio.sleep(1)
        assert watcher.seen[2:] == [("first", "None")], "it had ended already"
        with pytest.raises(NotHandled, match="Down"):
            hall.monitor(first)


async def test_linked_actors_crash_together_but_stop_alone():
    async with hosted(Hall()) as hall:
        first, second, third = [await hall.spawn(Leaf(name=name)) for name in ("first", "second", "third")]
        first.link(second)
        unlink = third.link(first)
        unlink()
        second.fail(ValueError("x"))
        await first.wait("crashed")
        assert isinstance(first.failure, LinkBroken)
        assert str(first.failure.__cause__) == "x"
        fourth = await hall.spawn(Leaf(name="fourth"))
        third.link(fourth)
        await fourth.stop()
        await anyio.sleep(1)
        assert third.state.matches("started")
