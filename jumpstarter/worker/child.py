"""A child process: one worker actor on a loop and, where the pool has it so, the main thread as the slot of plain functions.

::

    main thread   runs jobs (prefork), or the loop (threads, async)
    loop          the worker actor; in a thread of its own under prefork
    claims        waits for the broker
    settle        acks

Signals from the terminal are ignored here: the node decides, and says so through the link.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

import anyio
import anyio.to_thread

from jumpstarter.errors import ActorCrashed
from jumpstarter.worker.beside import once_started, reasons, run_beside
from jumpstarter.worker.execute import INTERRUPT
from jumpstarter.worker.link import ASK, CANCEL, NOTE, READY, RETIRE, STOP, Link
from jumpstarter.worker.worker import Worker

logger = logging.getLogger(__name__)

#: Seconds between two chances for another thread to run. The slot's thread computes all the time while there are jobs; with
#: Python's default (5 ms) each hop of the loop and the broker's threads would wait so long for the interpreter's lock.
_SWITCH_INTERVAL: Final = 0.0005


def run_child(
    worker: Worker, link: Link, *, serve: Callable[[], None] | None, close_executor: Callable[[], None], backend: str
) -> int:
    """Live as a child until told to stop; answer the exit code.

    :param serve: runs jobs in the calling thread until ``close_executor`` is called; None when the pool has threads of its own.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    if serve is None:
        return _run_loop(worker, link, close_executor, backend)
    exit_codes: list[int] = []
    signal.signal(INTERRUPT, worker.runner.interrupted)

    def run_loop() -> None:
        exit_codes.append(_run_loop(worker, link, close_executor, backend))
        if worker.executor.stuck:
            worker.leave()  # the main thread will not

    thread = threading.Thread(target=run_loop, name="loop", daemon=True)
    thread.start()
    try:
        serve()
    except SystemExit:
        # A job ended the process: that job is lost with it, those before it are not.
        worker.settlement.close()
        raise
    thread.join()
    return exit_codes[0] if exit_codes else 1


def _run_loop(worker: Worker, link: Link, close_executor: Callable[[], None], backend: str) -> int:
    try:
        anyio.run(live, worker, link, backend=backend, backend_options=loop_options(backend))
    except ActorCrashed as error:
        logger.error("%s", reasons(error), exc_info=error.__cause__)
        return 1
    except BaseException:
        logger.exception("%s ended with an error", worker.name)
        return 1
    finally:
        close_executor()
    return 0


async def live(worker: Worker, link: Link) -> None:
    """Host the worker; stop it when the node says so or is gone."""
    await run_beside(worker, partial(_obey, worker, link), partial(once_started, worker, partial(link.say, READY)))


async def _obey(worker: Worker, link: Link) -> None:
    async for words in link.words():
        match words:
            case [word] if word == STOP:
                break
            case [word] if word == RETIRE:
                worker.retire()
            case [word, job_id, *attempt] if word == CANCEL:
                worker.cancel(job_id, int(attempt[0]) if attempt else None)
            case [word, text] if word == NOTE:
                await anyio.to_thread.run_sync(worker.note, text)
            case [word, number, question] if word == ASK:
                await link.answer(number, worker.answer(question))
    worker.post("stop")


def loop_options(backend: str) -> dict[str, object]:
    """Anyio's options for the fastest loop that is installed."""
    if backend != "asyncio":
        return {}
    try:
        import uvloop  # noqa: F401, PLC0415 - does not exist on every platform
    except ImportError:
        return {}
    return {"use_uvloop": True}
