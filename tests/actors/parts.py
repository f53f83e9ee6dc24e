"""Parts that several tests of actors use."""

from contextlib import asynccontextmanager

import anyio
import pytest

from jumpstarter.telemetry.bus import bus


@pytest.fixture(params=["asyncio", "trio"])
def real_time(request):
    """An ``anyio_backend`` in real time, for tests with threads: ``anyio_backend = real_time``."""
    return request.param


class Diary(list):
    """Notes in the order in which things happened."""

    @asynccontextmanager
    async def around(self, name, value=None, *, enter=0.0, leave=0.0):
        """A resource that notes its entry and exit, each of which may take seconds."""
        await anyio.sleep(enter)
        self.append(f"+{name}")
        try:
            yield value
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(leave)
            self.append(f"-{name}")


@asynccontextmanager
async def transitions(region=None):
    """The transitions that are published meanwhile, as ``source → target`` of the last names; of one region or of all. Without the
    states that are entered with a state around them."""
    seen = []

    def note(event):
        if event.source and region in (None, event.region):
            seen.append(f"{event.source.rpartition('.')[2]} → {event.target.rpartition('.')[2]}")

    unsubscribe = bus.subscribe(note)
    try:
        yield seen
    finally:
        unsubscribe()
