"""Looking at actors: the live tree, the stream of what happens, and diagrams."""

import anyio
import pytest

from jumpstarter.actors import (
    Actor,
    Event,
    child,
    class_diagram,
    degraded,
    handles,
    hosted,
    look,
    lost,
    resource,
    tree,
    tree_diagram,
    watch,
)
from jumpstarter.actors.inspection import Depth, Spawned, Stopped
from jumpstarter.telemetry.bus import StateTransition, bus

pytestmark = pytest.mark.anyio


class Note(Event):
    pass


class Leaf(Actor):
    @resource(optional=True)
    async def cache(self):
        yield "cache"

    without_cache = degraded(when=lost(cache))

    @handles(Note)
    async def note(self, message):
        await anyio.sleep(10)


class Tree(Actor):
    left = child(Leaf)
    right = child(Leaf)


async def test_the_tree_shows_states_concerns_and_mailboxes():
    assert tree() == ()
    async with hosted(Tree(name="tree")) as root, hosted(Actor(name="alone")):
        root.left.report_problem("disk", "full")
        for _ in range(3):
            await root.right.tell(Note())
        await anyio.sleep(1)
        views = tree()
        assert [view.name for view in views] == ["tree", "alone"]
        left, right = views[0].children
        assert (left.name, left.kind, left.health, left.concerns) == ("tree/left", "Leaf", "unhealthy", {"disk": "problem: full"})
        assert (right.health, right.mailbox) == ("healthy", 2)
        assert "started.flow.running" in right.states
        assert list(look(root).lines())[:3] == [
            "tree (Tree): health.healthy | flow.running",
            "  left (Leaf): health.unhealthy | flow.running | mailbox.running",
            "    ! disk: problem: full",
        ]
        await root.right.stop(grace=0)
        assert [view.name for view in look(root).walk()] == ["tree", "tree/left"]
    assert tree() == ()


async def test_the_stream_tells_of_spawned_and_stopped_actors_transitions_and_depths():
    seen = []
    async with watch(every=1) as notes:
        async with hosted(Tree(name="tree")) as root:
            for _ in range(3):
                await root.right.tell(Note())
            await anyio.sleep(2)
            root.left.report_problem("disk")
            await root.left.wait("unhealthy")
        while notes.statistics().current_buffer_used:
            seen.append(notes.receive_nowait())
    assert [note for note in seen if isinstance(note, Spawned)] == [
        Spawned("tree", "Tree", None),
        Spawned("tree/left", "Leaf", "tree"),
        Spawned("tree/right", "Leaf", "tree"),
    ]
    assert [note.name for note in seen if isinstance(note, Stopped)] == ["tree/right", "tree/left", "tree"]
    assert Depth("tree/right", 2) in seen
    assert any(isinstance(note, StateTransition) and note.target.startswith("started.health.unhealthy") for note in seen)
    assert not bus.active, "nobody looks any more"


async def test_who_reads_slowly_loses_notes_and_holds_nobody_up():
    async with watch(room=3) as notes, hosted(Tree()):
        assert notes.statistics().current_buffer_used == 3


async def test_diagrams_of_a_class_and_of_the_running_configuration():
    assert "without_cache" in class_diagram(Leaf)
    async with hosted(Tree(name="tree")) as root:
        root.left.report_warning("disk")
        await root.left.wait("degraded")
        drawn = tree_diagram([look(root)])
    assert drawn.startswith("flowchart TD\n")
    assert "<b>left</b> Leaf<br/>health.degraded.other" in drawn
    assert "a0 --> a1" in drawn
    assert ":::degraded" in drawn


def test_a_class_whose_regions_depend_on_the_instance_has_no_diagram_yet():
    class Dynamic(Actor):
        def regions(self):
            return {"door": {"initial": "closed", "states": ["closed"]}}

    with pytest.raises(TypeError, match="depend on the instance"):
        class_diagram(Dynamic)
