"""A desk with a private Redis, a ledger and workers as real processes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.peers import Ledger, Program, RedisServer, our_side, wait_ready

APP = Path(__file__).parent / "app"
#: The figures of the table in full: minutes instead of seconds.
FULL = os.environ.get("RELIABILITY") == "full"


class Desk:
    """Starts workers and publishes to them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.redis = stack.enter_context(RedisServer(folder / "redis", durable=True))
        self.ledger = Ledger(folder / "ledger")
        self.broker_url = self.redis.url
        self.side = our_side()
        self._stack = stack
        self._number = 0

    def environment(self, **settings: Any) -> dict[str, str]:
        new = {"PAINS_NEW": "1"} if settings.pop("new_version", False) else {}
        new |= {"PAINS_LEASES": "1"} if settings.pop("leases", False) else {}
        return self.side.environment(
            APP,
            PAINS_BROKER=self.broker_url,
            PAINS_RESULTS=self.redis.url,
            PAINS_LEDGER=str(self.ledger.path),
            PAINS_SETTINGS=json.dumps({"worker_lease": 2, **settings}),
            **new,
        )

    def start(self, *options: str, **settings: Any) -> Program:
        """Start a worker with these command line options and settings, without waiting."""
        self._number += 1
        name = f"n{self._number}"
        env = self.environment(**settings)
        worker = self.side.worker(
            "pains", "-n", f"{name}@desk", *options, folder=self.folder, env=env, log=self.folder / f"{name}.log"
        )
        return self._stack.enter_context(worker)

    def worker(self, *options: str, **settings: Any) -> Program:
        """The same, once it is ready."""
        return wait_ready(self.start(*options, **settings))

    def run(self, code: str, *, within: float = 90, **settings: Any) -> Any:
        """Run a client's code, which has the app's module as ``pains``; what it assigns to ``answer`` comes back."""
        self._number += 1
        program = self.folder / f"client{self._number}.py"
        program.write_text(f"import json\nimport pains\n\nanswer = None\n{code}\nprint('ANSWER' + json.dumps(answer))\n")
        log = program.with_suffix(".log")
        command = [*self.side.python, program]
        with Program(command, folder=self.folder, env=self.environment(**settings), log=log) as client:
            exit_code = client.wait(within=within)
            assert exit_code == 0, client.text()
            return json.loads(client.text().rpartition("ANSWER")[2].splitlines()[0])

    def starts(self, **wanted: Any) -> list[dict[str, Any]]:
        return self.ledger.entries(event="start", **wanted)

    def finishes(self, **wanted: Any) -> list[dict[str, Any]]:
        return self.ledger.entries(event="finish", **wanted)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(tmp_path, stack)


def children_of(worker: Program) -> list[int]:
    """The processes that run jobs: the template's children."""
    (template,) = psutil.Process(worker.pid).children()
    return [child.pid for child in template.children()]
