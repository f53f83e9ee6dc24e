"""A window through which ``jumpstarter actors`` looks into this process: a socket in a folder of the user's own.

Comes from: users, who host a ``Window``. It answers each connection with the live tree as JSON and closes it. Nothing can be
changed through it.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import anyio
from anyio.abc import SocketListener, SocketStream

from jumpstarter.actors.actor import Actor
from jumpstarter.actors.backoff import backoff
from jumpstarter.actors.declare import resource, task
from jumpstarter.actors.inspection import tree
from jumpstarter.errors import ConfigurationError


def folder() -> Path:
    """Where the windows of this user's processes are: ``$JUMPSTARTER_WINDOWS``, or a folder in the runtime or temporary one."""
    given = os.environ.get("JUMPSTARTER_WINDOWS")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"jumpstarter-{os.getuid()}"


def own_folder() -> Path:
    """As :func:`folder`, made if need be.

    :raises ConfigurationError: it belongs to somebody else, or others may write there.
    """
    place = folder()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = place.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
        raise ConfigurationError(f"{place} must be a folder of your own that nobody else may write to; or set JUMPSTARTER_WINDOWS")
    return place


class Window(Actor):
    """Lets ``jumpstarter actors`` show the actors of this process, as long as it runs."""

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.path = folder() / f"{os.getpid()}.sock"

    @resource(retry=backoff(0.1, 1, tries=3))
    async def listener(self) -> AsyncIterator[SocketListener]:
        """The socket; a process of this number that is gone left an old one."""
        own_folder()
        self.path.unlink(missing_ok=True)
        async with await anyio.create_unix_listener(self.path, mode=stat.S_IRUSR | stat.S_IWUSR) as listener:
            yield listener
        self.path.unlink(missing_ok=True)

    @task(during="started")
    async def answer(self) -> None:
        """Everybody who knocks."""
        await self.listener.serve(self._show)

    async def _show(self, stream: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError):
            async with stream:
                await stream.send(json.dumps({"pid": os.getpid(), "actors": [asdict(view) for view in tree()]}).encode())


def look_in(path: Path, timeout: float = 2.0) -> dict[str, object] | None:
    """What a window shows; None when its process is gone, whose socket is removed then. Blocks for at most ``timeout`` seconds a
    read.

    :raises OSError: it does not answer.
    """
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(timeout)
        try:
            knock.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return None
        parts = []
        while part := knock.recv(65_536):
            parts.append(part)
    shown: dict[str, object] = json.loads(b"".join(parts))
    return shown
