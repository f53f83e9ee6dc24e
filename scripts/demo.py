"""``make demo``: a worker for ``examples/shop``, a busy morning in the shop, and what the worker's machines do meanwhile.

The broker and the results are one SQLite file in a temporary folder; nothing else is started. What the worker tells of its changes
of state and its troubles is shown between the shop's lines; all it said is shown when something goes wrong. Exits with 0 when all
went well.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent

START_SECONDS = 20.0
STOP_SECONDS = 20.0
SHOP_SECONDS = 90.0

APP = "examples.shop.tasks"
WORKER = [str(Path(sys.executable).with_name("jumpstarter")), "celery", "-A", APP, "worker", "-l", "debug", "-c", "2"]
SHOP = [sys.executable, "-m", "compat_celery", "-m", "examples.shop.place_orders"]

WORK_LINES = 16

_LOG_LINE = re.compile(r"\[\S+ (?P<time>[\d:]+),(?P<ms>\d+): \w+/\S+\] (?P<text>.*)")

IS_TERMINAL = sys.stdout.isatty()


def say(text: str = "") -> None:
    """Print a line, over a progress bar that may stand there."""
    print(f"\r\x1b[K{text}" if IS_TERMINAL else text, flush=True)


def told(line: str) -> str:
    """A line of the worker's log without its date and process: ``02:50:58.975 celery@host: started → stopping (stop)``."""
    found = _LOG_LINE.match(line)
    return f"{found['time']}.{found['ms']} {found['text']}" if found else line.rstrip()


class Screen:
    """Chooses what is shown: each change of a machine's life and every trouble; of its work the first changes and their number."""

    def __init__(self) -> None:
        self._work = 0

    def show(self, line: str) -> None:
        """One line of the worker."""
        if "DEBUG" not in line:
            if "→" in line or is_ready(line) or "WARNING" in line or "ERROR" in line:
                say(f"worker │ {told(line)}")
        elif "→ started." in line and "· →" not in line:
            self._work += 1
            if self._work <= WORK_LINES:
                say(f"worker │ {told(line)}")

    def end(self) -> None:
        """Say how much was not shown."""
        if self._work > WORK_LINES:
            say(f"worker │ … and {self._work - WORK_LINES} more changes between waiting, polling, processing and idle")


def is_ready(line: str) -> bool:
    """Whether it is the line with which a worker says that it works: ``celery@host ready.``."""
    return line.rstrip().endswith(" ready.")


class Worker:
    """The worker's process, its lines on the screen and in a file."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self._settled = threading.Event()
        self._is_ready = False
        self._process = subprocess.Popen(  # noqa: S603 - a command of this file
            WORKER,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._show, args=(self._process.stdout, log), daemon=True)
        self._reader.start()

    def _show(self, lines: TextIO, log: Path) -> None:
        screen = Screen()
        with log.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(line)
                file.flush()
                if is_ready(line):
                    self._is_ready = True
                    self._settled.set()
                screen.show(line)
        screen.end()
        self._settled.set()  # it has ended: nobody need wait any longer

    def wait_ready(self) -> bool:
        """True once it says so; False when it ended instead, or does not say so in time."""
        self._settled.wait(START_SECONDS)
        return self._is_ready

    def stop(self) -> int | None:
        """A warm shutdown by SIGTERM; its exit status, or None when it had to be killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None
        finally:
            self._reader.join(5)
        return status


def run(folder: Path) -> str:
    """The whole show; an empty string, or what went wrong."""
    environment = {**os.environ, "JUMPSTARTER_HOME": str(folder), "PYTHONUNBUFFERED": "1"}
    # The demo is to be the same wherever it runs: no broker of the caller's.
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        environment.pop(name, None)
    log = folder / "worker.log"
    say("starting a worker with two child processes; broker and results: one SQLite file")
    worker = Worker(log, environment)
    problem = ""
    try:
        if not worker.wait_ready():
            return f"the worker did not get ready:\n{log.read_text(encoding='utf-8')}"
        say("\nplacing orders: chains, a group, a chord; one card needs a second attempt, one invoice fails")
        shop = subprocess.run(SHOP, cwd=ROOT, env=environment, timeout=SHOP_SECONDS, check=False)  # noqa: S603 - a command of this file
        status = shop.returncode
        if status != 0:
            problem = f"the shop ended with status {status}; the worker said:\n{log.read_text(encoding='utf-8')}"
    except subprocess.TimeoutExpired:
        problem = f"the shop did not end within {SHOP_SECONDS:.0f} s; the worker said:\n{log.read_text(encoding='utf-8')}"
    finally:
        say("\nasking the worker to stop (SIGTERM): it finishes what it holds")
        status_of_worker = worker.stop()
    if status_of_worker != 0 and not problem:
        said = "had to be killed" if status_of_worker is None else f"ended with status {status_of_worker}"
        problem = f"the worker {said}:\n{log.read_text(encoding='utf-8')}"
    return problem


NEXT = """
What to try next
  your own project         jumpstarter celery -A your.app worker -l info -c 2
  on Redis                 CELERY_BROKER_URL=redis://localhost CELERY_RESULT_BACKEND=redis://localhost jumpstarter celery …
  every step as a trace    OTEL_TRACES_EXPORTER=console OTEL_LOGS_EXPORTER=console jumpstarter celery …
  read                     examples/shop/tasks.py, docs/tutorial/first-worker.md, docs/how-to/move-from-celery.md
"""


def main() -> int:
    """Run the demo; the exit status."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jumpstarter-demo-") as folder:
        problem = run(Path(folder))
    if problem:
        print(f"\nThe demo failed: {problem}", file=sys.stderr)
        return 1
    say(f"done in {time.monotonic() - began:.1f} s")
    say(NEXT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
