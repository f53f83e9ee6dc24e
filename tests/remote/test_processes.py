"""Actors and events between processes, some of which are killed. Short by default; ``RELIABILITY=full`` (in ``make chaos``) does
what is promised: 10,000 tells under kills, 1,000 events with a group that is away."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest

from jumpstarter.actors import hosted
from jumpstarter.remote import Post, PostOffice
from tests.remote.parts import GetItem, Put, Registered, noted

pytestmark = pytest.mark.timeout(600)

IS_FULL = os.environ.get("RELIABILITY") == "full"
ROOT = Path(__file__).parents[2]


@contextmanager
def program(*arguments):
    """A process that serves what these say, once it is ready; killed at the end."""
    command = [sys.executable, "-m", "tests.remote", json.dumps([str(one) for one in arguments])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def eventually(condition, within, what):
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def test_an_actor_in_another_process_is_asked_in_the_same_words(server_url):
    async def ask():
        async with hosted(PostOffice(server_url)) as office:
            return await office.actor("catalog").ask(GetItem("tea"), timeout=60)

    with program(server_url, "catalog", "") as process:
        item = anyio.run(ask)
        assert item.process == process.pid != os.getpid()


def test_no_tell_is_lost_and_each_is_noted_once_though_the_process_is_killed_again_and_again(server_url, tmp_path):
    tells, every = (10_000, 2.0) if IS_FULL else (300, 1.0)
    path = tmp_path / "ledger.db"
    with Post(server_url).broker as broker:
        post = Post(broker)
        kills = sent = 0
        deadline = time.monotonic() + 500
        while not path.exists() or len(noted(path)) < tells or kills < 2:
            assert time.monotonic() < deadline, f"{len(noted(path))} of {sent} after {kills} kills"
            with program(server_url, "ledger", path):
                until = time.monotonic() + every
                while time.monotonic() < until:
                    for number in range(sent, min(sent + 20, tells)):
                        post.tell("ledger", Put(number), id=f"tell-{number}")
                        sent += 1
                    time.sleep(0.002)
            kills += 1
        assert noted(path) == list(range(tells))


def test_each_group_gets_each_event_once_though_one_is_away_for_a_while(server_url, tmp_path):
    events, away = (1_000, 5.0) if IS_FULL else (60, 0.5)
    paths = {group: tmp_path / f"{group}.db" for group in ("mail", "stats", "audit")}
    with ExitStack() as stack, Post(server_url).broker as broker:
        post = Post(broker)
        for group in ("mail", "stats"):
            stack.enter_context(program(server_url, group, paths[group]))
        with program(server_url, "audit", paths["audit"]):
            for number in range(events // 2):
                post.publish(Registered("ada", number), id=f"event-{number}")
        # The third group is gone now, in the middle of its work.
        for number in range(events // 2, events):
            post.publish(Registered("ada", number), id=f"event-{number}")
        time.sleep(away)
        stack.enter_context(program(server_url, "audit", paths["audit"]))

        def state():
            return {group: len(noted(path)) for group, path in paths.items()}

        eventually(lambda: set(state().values()) == {events}, 120, state)
    for path in paths.values():
        assert noted(path) == list(range(events))
