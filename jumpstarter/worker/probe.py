"""Tell probes how this node is. Comes from: nodes, which runs it beside the node's actor. Goes to: a small file, and so to
``jumpstarter probe`` (:mod:`jumpstarter.statefile` is the reading half).

It runs on the actor's loop: a loop that is wedged tells nothing, and that is what a probe wants to know. And it runs from before
the actor starts until after it has stopped: a node that takes an hour to finish what it runs is live all the time.

The file is not synced, since it means nothing after the machine's end. And it is written, not mapped: a mapped file that somebody
truncates would kill the node by SIGBUS. A beat costs about 20 µs, twice a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import anyio

from jumpstarter.actors import Actor
from jumpstarter.statefile import State, process_start, read, record

__all__ = ["BEAT", "StateFile", "facts", "read", "tell_probes"]

logger = logging.getLogger(__name__)

#: Seconds between two heartbeats.
BEAT: Final = 0.5
#: Bytes that are reserved on the disk, so that a full one is no trouble later. Facts of hundreds of children fit.
_SIZE: Final = 16 * 1024


class StateFile:
    """The writing end, for the node's process. A context manager; leaving it removes the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take the path, also from another: a file that is there belongs, most likely, to a node that was killed.

        :raises OSError: it cannot be written there, or the disk is full.
        """
        self.path = Path(path)
        self._pid = os.getpid()
        self._started = process_start(self._pid) or 0
        self._facts: Mapping[str, Any] = {}
        self._descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        temporary = Path(name)
        try:
            os.fchmod(self._descriptor, 0o644)  # a probe may run as another user
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor, 0, _SIZE)
            self.beat()
            # Under its name only when there is something to read. A link that somebody put there is replaced, not followed.
            temporary.replace(self.path)
        except BaseException:
            os.close(self._descriptor)
            temporary.unlink(missing_ok=True)
            raise

    def write(self, facts: Mapping[str, Any]) -> None:
        """Say how the node is (see :class:`~jumpstarter.statefile.State`), and beat.

        :raises OSError: the disk is broken.
        """
        self._facts = facts
        self.beat()

    def beat(self) -> None:
        """Say that the loop runs.

        :raises OSError: the disk is broken.
        """
        os.pwrite(self._descriptor, record(State(self._pid, self._started, time.monotonic(), self._facts)), 0)

    def close(self) -> None:
        """Remove the file, unless the path is another node's by now. May be called again; does nothing in a forked process."""
        if self._descriptor < 0 or os.getpid() != self._pid:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._descriptor), self.path.lstat()):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def tell_probes(path: str | os.PathLike[str], look: Callable[[], Mapping[str, Any]], *, every: float = BEAT) -> None:
    """Keep a state file up to date until cancelled; then remove it.

    :param look: gives the facts, see :func:`facts`.
    :param every: seconds.
    :raises OSError: the file cannot be made.
    """
    with StateFile(path) as file:
        was_written = True
        while True:
            try:
                file.write(look())
                was_written = True
            except OSError as error:
                # A disk that fails is no reason to stop working. The probe will say that it hears nothing.
                if was_written:
                    logger.warning("the state file cannot be written: %s", error)
                was_written = False
            await anyio.sleep(every)


def facts(actor: Actor, children: Mapping[str, str]) -> dict[str, Any]:
    """What probes want to know of a node, or of the worker of a pool without child processes.

    :param children: each child's state by its name; ``running`` is good.
    """
    # The first of its active states is the phase of its life; health is a region of ``started``.
    lifecycle, *others = actor.state.active
    health = next((state.rpartition(".")[2] for state in others if state.startswith("started.health.")), "unknown")
    return {
        "node": actor.name,
        "lifecycle": lifecycle,
        "health": health,
        "concerns": "; ".join(f"{source}: {concern}" for source, concern in actor.concerns.items()),
        "children": dict(children),
    }
