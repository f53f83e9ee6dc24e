"""The four pipelines of examples/pipelines: in injected time against an API in this process, and once against an HTTP server."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from examples.pipelines import daily, keywords, llm, revenue
from examples.pipelines.server import Server, options
from jumpstarter.actors import hosted, run
from jumpstarter.pipelines import Budget, Source, backoff, day, minute, open_store, second, side, step
from jumpstarter.pipelines.events import BatchSettled
from jumpstarter.testing.pipelines import FakeApi, rehearsal

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

#: `make chaos`: a whole day of one request a minute, and all 1.5 million keywords.
FULL = os.environ.get("RELIABILITY") == "full"


def answer(row):
    return {"row": row, "answer": str(row)[::-1]}


def api_of(**limits):
    api = FakeApi.limited(latency=2, **limits)
    api.answer = answer
    return api


@pytest.fixture(params=["sqlite", "redis"])
def where(request, tmp_path):
    """The stores that examples run on."""
    return open_store(
        f"sqlite:///{tmp_path}/store.db" if request.param == "sqlite" else request.getfixturevalue("redis_server").url
    )


async def with_restarts(make, every, times):
    """Run a pipeline; stop it and make another one of the same rows every so many seconds."""
    for _ in range(times):
        async with hosted(make()):
            await anyio.sleep(every)


async def test_a_day_of_one_request_a_minute_uses_every_minute_whatever_restarts(where, tmp_path, virtual_clock):
    api = api_of(requests=1 / minute)
    upload = rehearsal(llm.Upload, store=where, folder=tmp_path / "texts")
    ask = rehearsal(llm.Answer, [{"id": number} for number in range(2000)], store=where, api=api)
    ask >> upload
    hours = 24 if FULL else 2
    async with hosted(upload()) as uploads:
        # 10 restarts; each may cost the rest of a minute, of which the budget knows.
        await with_restarts(ask, hours * 360.0, 10)
        await uploads.drain()
    assert api.refused == []
    assert hours * 60 - 10 <= len(api.calls) <= hours * 60 + 1
    assert len(list((tmp_path / "texts").iterdir())) == len(api.calls)


async def test_a_week_of_ten_requests_and_a_thousand_rows_a_day_to_the_last_row(where, virtual_clock):
    api = api_of(requests=10 / day, rows=1000 / day, tz="Europe/Zagreb")
    api.failing = lambda rows, number: OSError("lost") if number == 17 else None
    geocode = rehearsal(daily.Geocode, [{"id": number} for number in range(9000)], store=where, api=api)
    await with_restarts(geocode, 7 * 86_400 / 9, 9)
    per_day = list(api.per_day().values())
    assert api.refused == []
    # The clock starts at one o'clock in Zagreb, and stops there.
    assert per_day[:7] == [(10, 1000)] * 7
    assert per_day[7] == (10, 1000)
    assert len(per_day) == 8


async def test_keywords_go_through_two_apis_in_a_row(where, tmp_path, virtual_clock):
    count = 1_500_000 if FULL else 12_345
    path = str(tmp_path / "keywords.db")
    with sqlite3.connect(path) as connection:
        connection.execute("create table keywords (id integer primary key, text text)")
        connection.executemany("insert into keywords (text) values (?)", [(f"k{number}",) for number in range(count)])
    connection.close()
    api = api_of()
    rank = rehearsal(keywords.Rank, store=where, api=api, database=path)
    source = keywords.SqlQuery("keywords", path, keywords.PAGE, cursor="id", store=where, batch=1000)
    volume = rehearsal(keywords.Volume, store=where, api=api)
    volume.rows = source
    volume >> rank
    async with hosted(rank()) as ranks:
        await run(volume(until="settled"))
        await ranks.drain("settled")
    with sqlite3.connect(path) as connection:
        assert connection.execute("select count(*), min(rank) is not null from ranks").fetchone() == (count, 1)
    connection.close()
    assert len(api.calls) == -(-count // 1000) + -(-count // 500)


def audited(where, api, *, crash=False, stall=False):
    """The revenue example with an audit that works, crashes, or stalls; and its commands to the store, by name."""
    commands = []

    class Counting:
        def __getattr__(self, name):
            found = getattr(where, name)
            if not callable(found):
                return found
            commands.append(name)
            return found

    class Audited(revenue.Revenue):
        rows = Source(f"bids-{crash}-{stall}", store=Counting(), batch=10, key="job_id")
        budget = Budget(f"revenue-{crash}-{stall}", requests=10 / second)

        @side(on_full="drop_oldest", capacity=3)
        async def keep_rows(self, event: BatchSettled):
            if crash:
                raise OSError("disk full")
            if stall:
                await anyio.sleep_forever()

        keep_failures = None

    Audited.api = api
    return type("Revenue", (Audited,), {"api": api}), commands


async def test_the_loop_does_the_same_whether_the_audit_works_crashes_or_stalls(where, virtual_clock):
    seen = []
    for how in ({}, {"crash": True}, {"stall": True}):
        kind, commands = audited(where, FakeApi(), **how)
        kind.rows.put_nowait([{"job_id": number} for number in range(200)])
        commands.clear()
        depths = []
        pipeline = kind(until="settled")
        async with hosted(pipeline):
            with anyio.fail_after(3600):  # of injected time: else a pipeline that stalls would be waited for in no time, for ever
                while pipeline.report.done < 200:
                    depths.append(pipeline.mailbox_depth)
                    await anyio.sleep(0.5)
            await anyio.sleep(1)
        assert set(depths) == {0}
        # Up to the end of the last batch: then come idle looks into the empty queue, at moments that are jittered.
        commands.reverse()
        seen.append((Counter(commands[commands.index("settle") :]), pipeline.report.done, pipeline.report.requests))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][1:] == (200, 20)


async def test_failed_requests_are_kept_for_audit_though_the_audit_fails_at_first(where, tmp_path, virtual_clock):
    api = api_of()
    api.failing = lambda rows, number: OSError("lost") if number == 2 else None
    audit = tmp_path / "audit"
    kind = rehearsal(revenue.Revenue, [{"job_id": number} for number in range(300)], store=where, api=api, audit=audit)
    audit.touch()  # a file where a folder should be: the audit fails until somebody removes it
    async with hosted(kind(run_id="r1")) as pipeline:
        await anyio.sleep(20)
        audit.unlink()
        await anyio.sleep(600)
        assert pipeline.report.done == 300
    (failure,) = [json.loads(line) for line in (audit / "r1-failed.jsonl").read_text().splitlines()]
    assert (failure["step"], failure["error"], failure["number"]) == ("send", "OSError: lost", 1)
    assert len(failure["keys"]) == 100


@contextmanager
def serving(*arguments):
    """The fake API over HTTP, in a thread."""
    server = Server(options(["--port", "0", *arguments]))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_once_in_real_time_with_windows_scaled_to_seconds_over_http(where):
    # Half a second is forgiven: what arrives late because a machine is busy is no violation of ours.
    with serving("--requests", "10", "--rows", "60", "--tolerance", "0.5", "--latency", "0.01") as server:
        url = f"http://127.0.0.1:{server.server_port}"

        class Scaled(daily.Geocode):
            rows = Source("addresses", store=where, batch=1000, key="id")
            budget = Budget("geocoder", requests=10 / second, rows=60 / second, margin=0.03)

            @step(cost=dict(requests=1, rows=len), retry=backoff(0.1, tries=3), timeout=30)
            async def geocode(self, rows):
                return await self.api(rows)

            api = keywords.HttpApi(url)

        Scaled.rows.put_nowait([{"id": number} for number in range(100)])
        scaled = Scaled(until="settled")
        await run(scaled)
        told = server.ledger.told()
    assert scaled.report.done == 100
    assert (told["rows"], told["violations"]) == (100, 0)


def test_an_example_runs_as_a_command_and_is_gone_on_with_after_a_kill(tmp_path):
    """What a reader does: start the server, put rows, run, kill, run again."""
    with serving("--latency", "0.05") as server:
        env = {
            **os.environ,
            "PIPELINES_STORE": f"sqlite:///{tmp_path}/store.db",
            "PIPELINES_API": f"http://127.0.0.1:{server.server_port}",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }
        code = "from examples.pipelines.revenue import Revenue as R; print(R.rows.put_nowait([{'job_id': n} for n in range(2000)]))"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, timeout=60)
        command = [
            Path(sys.executable).parent / "jumpstarter",
            "pipeline",
            "run",
            "examples.pipelines.revenue:Revenue",
            "--run-id",
            "r",
        ]
        with subprocess.Popen(command, cwd=tmp_path, env=env) as first:
            settled = tmp_path / "audit" / "r-settled.jsonl"
            while not settled.exists():
                assert first.poll() is None
                threading.Event().wait(0.02)
            first.send_signal(signal.SIGKILL)
        # What was in flight belongs to the dead process for ten minutes more; the rest is done at once.
        done = subprocess.run(
            [*command, "--until", "empty"], cwd=tmp_path, env=env, check=True, timeout=90, capture_output=True, text=True
        )
        assert "rows done" in done.stdout
        counts = open_store(env["PIPELINES_STORE"]).counts("bids")
        assert counts.waiting == 0
        assert counts.leased in (0, 100)
        lines = settled.read_text().splitlines()
        keys = [key for line in lines for key in json.loads(line)["keys"]]
        assert len(keys) == len(set(keys))
        assert 1800 <= len(keys) + counts.leased <= 2000
