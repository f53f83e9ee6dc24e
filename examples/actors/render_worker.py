"""A worker of one's own: polls a folder for scenes, renders each on a thread that owns the device, stops polling while it degrades.

python -m examples.actors.render_worker
"""

import sys
import tempfile
from pathlib import Path

import anyio

from jumpstarter.actors import Actor, Command, backoff, class_diagram, handles, health_check, hosted, loop, resource


class Progress(Command[int]):
    """How many scenes were rendered?"""


class Device:
    """Stands for a CUDA context: to be made, used and closed in one thread."""

    def __enter__(self):
        self.temperature = 40
        return self

    def __exit__(self, *error):
        self.temperature = 0

    def render(self, scene):
        """Something that blocks."""
        return scene.upper()


class RenderWorker(Actor):
    """Takes scenes from a folder, one at a time."""

    # Work that has begun is finished, whatever happens; new work is taken only while all is well.
    work = loop("polling", "rendering", "storing", during="healthy", on_leave="finish", idle=backoff(0.01, 1))

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)
        self.rendered = 0

    @resource(thread="own", timeout=30)
    def device(self):
        return Device()

    @health_check(every=0.05, degrade_after=1, fail_after=20)
    async def temperature(self):
        return self.device.temperature < 90

    @work.polling
    async def poll(self):
        """None means that there is nothing to do: the loop waits, ever longer."""
        return next(iter(sorted(self.folder.glob("*.scene"))), None)

    @work.rendering
    async def render(self, path):
        picture = await self.threads["device"].run(self.device.render, path.read_text())
        return path, picture

    @work.storing
    async def store(self, rendered):
        path, picture = rendered
        path.with_suffix(".png").write_text(picture)
        path.unlink()
        self.rendered += 1

    @handles(Progress, during="started")
    async def progress(self, _):
        return self.rendered


async def main():
    with tempfile.TemporaryDirectory() as folder:
        for number in range(3):
            Path(folder, f"{number}.scene").write_text(f"scene {number}")
        async with hosted(RenderWorker(folder)) as worker:
            while await worker.ask(Progress()) < 3:
                await anyio.sleep(0.01)
            worker.device.temperature = 100
            await worker.wait("degraded")
            await worker.wait("work.suspended")
            print("too hot:", worker.concerns["temperature"])
            Path(folder, "late.scene").write_text("waits until it is cooler")
            worker.device.temperature = 50
            await worker.wait("healthy")
            while await worker.ask(Progress()) < 4:
                await anyio.sleep(0.01)
        print(sorted(path.name for path in Path(folder).iterdir()))


if __name__ == "__main__":
    print(class_diagram(RenderWorker)) if "--diagram" in sys.argv else anyio.run(main)
