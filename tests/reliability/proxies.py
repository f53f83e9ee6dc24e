"""What networks do to connections, between a client and a server: reset, delay, swallow, never answer. TCP, one thread each."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
from typing import Self

#: Close with a reset instead of an orderly end.
_ABORT = struct.pack("ii", 1, 0)


class Silence:
    """A port where connections are never made: its queue of waiting ones is full, so further SYNs are dropped."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port = int(self._listener.getsockname()[1])
        self._waiting: list[socket.socket] = []

    def __enter__(self) -> Self:
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", self.port))
            self._waiting.append(client)
        return self

    def __exit__(self, *error: object) -> None:
        for each in (*self._waiting, self._listener):
            each.close()


class Proxy:
    """Passes bytes on, in a thread of its own.

    :param reset_after: answers how many bytes a new connection carries before it is reset at both ends; None: it lives.
    :ivar resets: connections that were reset.
    :ivar swallow: what clients send is taken and kept; ``let_go`` sends it after all.
    """

    def __init__(self, target: int, *, reset_after: object = None) -> None:
        self._target = target
        self._reset_after = reset_after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.resets = 0
        self.swallow = False
        self.swallowed = threading.Event()
        self._gone = threading.Event()
        self._kept: list[tuple[socket.socket, bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._left: dict[socket.socket, list[int]] = {}
        self._called, self._calling = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def let_go(self) -> None:
        """Hand over what was swallowed, on the connections that it came by; return when the server has carried it out."""
        self.swallow = False
        self._calling.send(b"go")
        if not self._gone.wait(30):
            raise TimeoutError("what was swallowed could not be handed over")

    def _let_go(self) -> None:
        kept, self._kept = self._kept, []
        for server, data in kept:
            with contextlib.suppress(OSError):
                server.sendall(data)
        for server in {server for server, _ in kept} - self._peers.keys():
            # Its client has gone. It has done all when it has answered and closes its end.
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_WR)
                server.settimeout(10)
                while server.recv(1 << 16):
                    pass
            server.close()
        self._gone.set()

    def _run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._called, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._called:
                    if self._called.recv(8) == b"end":
                        return
                    self._let_go()
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._peers:
                    self._pass_on(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._target))
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ, data=one is client)
        if self._reset_after is not None:
            self._left[client] = self._left[server] = [self._reset_after()]

    def _pass_on(self, source: socket.socket) -> None:
        target = self._peers[source]
        from_client = self._selector.get_key(source).data
        try:
            data = source.recv(1 << 16)
            if from_client and self.swallow:
                self._kept.append((target, data))
                self.swallowed.set()
                return
            left = self._left.get(source)
            if left is not None:
                left[0] -= len(data)
                if left[0] < 0:
                    target.sendall(data[: left[0]])
                    self.resets += 1
                    self._drop(source, target, abort=True)
                    return
            target.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(source, target, abort=False)

    def _drop(self, source: socket.socket, target: socket.socket, *, abort: bool) -> None:
        # What was swallowed is still to be sent, also when the client has gone.
        kept = {server for server, _ in self._kept}
        for each in (source, target):
            self._selector.unregister(each)
            self._peers.pop(each, None)
            self._left.pop(each, None)
            if each in kept:
                continue
            if abort:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            each.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._calling.send(b"end")
        self._thread.join(10)
        for each in {*self._peers, *(server for server, _ in self._kept), self._listener, self._called, self._calling}:
            each.close()
        self._selector.close()


def random_lengths(seed: int, longest: int) -> object:
    """A function for ``reset_after``: reproducible lengths from 0 to ``longest`` bytes."""
    chance = random.Random(seed)
    return lambda: chance.randrange(longest)
