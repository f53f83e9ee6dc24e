"""Processes that run one pipeline, of which some are killed and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Crew:
    """Worker processes of one module in a folder. Those that are killed are started again."""

    def __init__(self, folder, module, **env):
        (folder / "crew.py").write_text(textwrap.dedent(module))
        self._folder = folder
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
        self._running = []
        self.kills = 0

    def start(self, name, *more):
        program = Path(sys.executable).parent / "jumpstarter"
        log = (self._folder / "log").open("ab")
        with log:
            process = subprocess.Popen(
                [program, "pipeline", "run", f"crew:{name}", "--quiet", *more],
                cwd=self._folder,
                env=self._env,
                stdout=log,
                stderr=log,
            )
        self._running.append((name, process))
        return process

    def kill_one(self):
        number = random.randrange(len(self._running))
        name, process = self._running.pop(number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.kills += 1
        self.start(name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for _, process in self._running:
            process.kill()
            process.wait()
        if any(error):
            print((self._folder / "log").read_text()[-4000:])
