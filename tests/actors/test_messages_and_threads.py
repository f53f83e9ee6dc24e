"""Messages from other threads and loops, and handlers that run on a thread; in real time."""

import threading

import anyio
import pytest

from jumpstarter.actors import Actor, Command, handles, hosted, resource
from tests.actors.parts import real_time

pytestmark = pytest.mark.anyio
anyio_backend = real_time


class Add(Command[int]):
    amount: int


class Till(Actor):
    sum = 0

    @handles(Add)
    async def add(self, message):
        self.sum += message.amount
        return self.sum


async def test_it_is_told_from_any_thread_and_asked_from_any_loop():
    async with hosted(Till()) as till:
        answers = []

        def elsewhere():
            till.tell_nowait(Add(40))
            answers.append(anyio.run(ask))

        async def ask():
            return await till.ask(Add(2))

        await anyio.to_thread.run_sync(elsewhere)
        assert answers == [42]


async def test_a_plain_handler_runs_on_the_thread_of_its_resource():
    class Old(Actor):
        @resource(thread="own")
        def device(self):
            yield threading.get_ident()

        @handles(Add, thread="device")
        def add(self, message):
            return self.device == threading.get_ident()

    async with hosted(Old()) as old:
        assert await old.ask(Add(1)) is True
