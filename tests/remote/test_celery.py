"""Between Celery tasks and actors: an event starts a task; a task's result becomes, through a transformer, the next one's job."""

import anyio
import pytest

from compat_celery import Celery
from compat_celery.contrib.embedded import embedded_worker
from jumpstarter.actors import hosted
from jumpstarter.remote import Post, PostOffice, results_to
from tests.remote.parts import Put, Registered, Report

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_a_documents_way_from_one_task_into_another(tmp_path):
    url = f"sqlite:///{tmp_path}/broker.db"
    done = tmp_path / "done"
    app = Celery("documents", broker=url)
    post = Post(url)

    @app.task(name="compute")
    @results_to(post, Report, "sums")
    def compute(upto):
        return list(range(upto))

    @app.task(name="store")
    def store(number):
        with done.open("a") as file:
            file.write(f"{number}\n")

    async with hosted(PostOffice(url)) as office:
        await office.sink("sums", Report, to=store, transform=lambda report: Put(sum(report.rows)))
        await office.subscribe(Registered, app.task(lambda name, number: store.delay(number), name="greet"), group="mail")
        with embedded_worker(app):
            await anyio.to_thread.run_sync(compute.delay, 5)
            await office.publish(Registered("ada", 7))
            with anyio.fail_after(30):
                while not done.exists() or len(done.read_text().split()) < 2:  # noqa: ASYNC110 - a file tells nobody
                    await anyio.sleep(0.05)
    assert sorted(done.read_text().split()) == ["10", "7"]
    post.close()
