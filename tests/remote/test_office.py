"""Actors, events and documents over every broker, within one process."""

import anyio
import pytest

from jumpstarter.actors import Actor, Command, hosted
from jumpstarter.errors import ActorError, AskTimeout, NotHandled, RemoteError
from jumpstarter.remote import Post, PostOffice, results_to
from tests.remote.parts import Break, Catalog, GetItem, Item, Put, Registered, Report

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def until(condition, seconds=20):
    """Until it holds; a broker's threads tell nobody."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - brokers and their threads tell nobody
            await anyio.sleep(0.01)


async def test_an_actor_is_asked_and_told_by_its_name(broker_url):
    async with hosted(PostOffice(broker_url)) as office, hosted(Catalog()) as catalog:
        await office.serve(catalog, name="catalog")
        ref = office.actor("catalog")
        item = await ref.ask(GetItem("tea"), timeout=20)
        assert isinstance(item, Item)
        assert item.name == "tea"
        await ref.tell(Put(7), id="mine")
        await until(lambda: catalog.seen)
        assert catalog.seen == [(7, "mine")]
        with pytest.raises(RemoteError, match="ValueError: broken") as error:
            await ref.ask(Break(), timeout=20)
        assert error.value.kind == "ValueError"


async def test_nobody_answers_for_an_actor_that_is_not_served(broker_url):
    async with hosted(PostOffice(broker_url)) as office:
        with pytest.raises(AskTimeout):
            await office.actor("nobody").ask(GetItem("tea"), timeout=0.5)


async def test_what_is_told_before_anybody_serves_waits(broker_url):
    post = Post(broker_url)
    for number in range(5):
        post.tell("catalog", Put(number))
    async with hosted(PostOffice(broker_url)) as office, hosted(Catalog()) as catalog:
        await office.serve(catalog, name="catalog")
        await until(lambda: len(catalog.seen) == 5)
        assert [number for number, _ in catalog.seen] == [0, 1, 2, 3, 4]
    post.close()


async def test_what_its_handler_fails_on_rests_in_quarantine(broker_url, place):
    async with hosted(PostOffice(broker_url)) as office, hosted(Catalog()) as catalog:
        await office.serve(catalog, name="catalog")
        await office.actor("catalog").tell(Break())
        await office.actor("catalog").tell(_Unknown())
        broker = office.post_box.broker
        with anyio.fail_after(20):
            while len(resting := await anyio.to_thread.run_sync(broker.quarantined)) < 2:  # noqa: ASYNC110 - as above
                await anyio.sleep(0.05)
        assert sorted(one.reason for one in resting) == sorted(
            ["broken", f"nobody here handles '{__name__}._Unknown'; there are {', '.join(sorted(_handled()))}"]
        )
        assert catalog.state.matches("started")


class _Unknown(Command[None]):
    pass


def _handled():
    return [f"tests.remote.parts.{name}" for name in ("GetItem", "Break", "Put", "Registered", "Report")]


async def test_each_group_gets_each_event_once(broker_url):
    async with (
        hosted(PostOffice(broker_url)) as office,
        hosted(Catalog()) as mail,
        hosted(Catalog()) as stats,
        hosted(Catalog()) as more,
    ):
        await Registered("nobody hears").publish()
        await Registered.subscribe(mail, group="mail")
        await Registered.subscribe(stats, group="stats")
        await Registered.subscribe(more.ref, group="stats")
        for number in range(10):
            await Registered("ada", number).publish()
        await until(lambda: len(mail.seen) == 10 and len(stats.seen) + len(more.seen) == 10)
        assert sorted(event.number for event in mail.seen) == list(range(10))
        assert sorted(event.number for event in stats.seen + more.seen) == list(range(10))
        await Registered.unsubscribe(group="mail")
        await office.publish(Registered("ada", 10))
        await until(lambda: len(stats.seen) + len(more.seen) == 11)
        assert len(mail.seen) == 10
    with pytest.raises(ActorError, match="no post office"):
        await Registered("late").publish()


async def test_a_topology_that_was_made_for_one_session_can_be_deleted(broker_url):
    async with hosted(PostOffice(broker_url)) as office:
        async with hosted(Catalog()) as catalog:
            queue = await Registered.subscribe(catalog, group="session-7")
        await office.publish(Registered("waits"))
        await Registered.unsubscribe(group="session-7")
        await office.publish(Registered("is gone"))
        assert await anyio.to_thread.run_sync(office.post_box.broker.depth, queue) == 0


async def test_a_document_goes_to_several_queues_and_becomes_the_next_command(broker_url):
    async with hosted(PostOffice(broker_url)) as office, hosted(Catalog()) as archive, hosted(Catalog()) as next_one:
        await office.serve(next_one, name="next")
        await office.sink("archive", Report, to=archive)
        await office.sink("sums", Report, to="next", transform=lambda report: Put(sum(report.rows)) if report.rows else None)

        @results_to(office.post_box, Report, "archive", "sums")
        def compute(rows):
            return rows

        await anyio.to_thread.run_sync(compute, [])
        assert await anyio.to_thread.run_sync(compute, [1, 2, 3]) == [1, 2, 3]
        await until(lambda: len(archive.seen) == 2 and next_one.seen)
        assert sorted(archive.seen, key=lambda report: len(report.rows)) == [Report([]), Report([1, 2, 3])]
        assert [number for number, _ in next_one.seen] == [6]


async def test_an_event_starts_a_celery_task_once_by_its_id(broker_url):
    class Task:
        calls = ()

        def apply_async(self, *, kwargs, task_id):
            self.calls = (*self.calls, (kwargs, task_id))

    task = Task()
    async with hosted(PostOffice(broker_url)) as office:
        await office.subscribe(Registered, task, group="mail")
        await anyio.to_thread.run_sync(lambda: office.post_box.publish(Registered("ada"), id="1"))
        await anyio.to_thread.run_sync(lambda: office.post_box.publish(Registered("ada"), id="1"))
        await until(lambda: len(task.calls) == 2)
    assert task.calls[0] == task.calls[1]
    assert task.calls[0][0] == {"name": "ada", "number": 0}


async def test_only_what_handles_messages_can_be_served(broker_url):
    async with hosted(PostOffice(broker_url)) as office, hosted(Actor()) as nobody:
        with pytest.raises(NotHandled):
            await office.serve(nobody)


async def test_messages_for_an_actor_that_has_crashed_wait_in_the_broker(broker_url):
    async with hosted(PostOffice(broker_url)) as office, hosted(Actor()) as parent:
        catalog = await parent.spawn(Catalog())
        await office.serve(catalog, name="catalog")
        await catalog.stop()
        for number in range(3):
            await office.actor("catalog").tell(Put(number))
        await anyio.sleep(0.3)
        assert catalog.dead_letters <= 3, "at most what a claim under way brought; nobody claims for it any more"
        again = await parent.spawn(Catalog())
        await office.serve(again, name="catalog")
        await until(lambda: len(again.seen) == 3)
