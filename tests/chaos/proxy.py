"""A bad network between clients and a server, for as often as wanted: silence, half-open connections, answers that are cut, resets.

tests/redis_server.py has a proxy for single faults of single answers; this one heals and can be hurt again.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_CHUNK = 1 << 16


@dataclass(slots=True, eq=False)
class _Pair:
    """A client's connection and ours to the server in its name."""

    client: socket.socket
    server: socket.socket
    half_open: bool = False
    passable: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.passable.set()

    def end(self) -> None:
        for side in (self.client, self.server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


class Network:
    """Forwards to a port of this machine. A context manager.

    :ivar port: where clients connect to.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._passable = threading.Event()
        self._passable.set()
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._cuts: list[int] = []
        self._closing = False

    # Faults

    def silence(self) -> None:
        """Nothing gets through in either direction, and nobody is told: connections stay open, new ones are accepted."""
        self._passable.clear()

    def stall(self) -> None:
        """The same for the connections that there are; new ones work."""
        for pair in self._current():
            pair.passable.clear()

    def heal(self) -> None:
        """What was held back arrives, late."""
        self._passable.set()
        for pair in self._current():
            pair.passable.set()

    def half_open(self) -> None:
        """Forget every connection on the server's side; the clients' ends stay open and are never answered. New ones work."""
        for pair in self._current():
            pair.half_open = True
            with contextlib.suppress(OSError):
                pair.server.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """End every connection with RST, as a firewall does."""
        for pair in self._current():
            for side in (pair.client, pair.server):
                with contextlib.suppress(OSError):
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            pair.end()

    def cut_answers(self, *lengths: int) -> None:
        """The next answers of the server end after so many bytes, and their connections with them."""
        with self._lock:
            self._cuts += lengths

    @property
    def cuts_left(self) -> int:
        """Answers that are still to be cut."""
        return len(self._cuts)

    # Forwarding

    def _current(self) -> list[_Pair]:
        with self._lock:
            return list(self._pairs)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._passable.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()  # the server is down: refused, as it would be without us
            return
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(client, server)
        with self._lock:
            self._pairs.append(pair)
        if self._closing:
            pair.end()
        answers = threading.Thread(target=self._answer, args=(pair,), daemon=True)
        answers.start()
        self._ask(pair)
        answers.join()
        with self._lock:
            self._pairs.remove(pair)
        client.close()
        server.close()

    def _ask(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while data := pair.client.recv(_CHUNK):
                self._wait(pair)
                if not pair.half_open:
                    pair.server.sendall(data)
        # The client has gone; what it sent before is still carried out.
        with contextlib.suppress(OSError):
            pair.server.shutdown(socket.SHUT_WR)

    def _wait(self, pair: _Pair) -> None:
        self._passable.wait()
        pair.passable.wait()

    def _answer(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while data := pair.server.recv(_CHUNK):
                self._wait(pair)
                with self._lock:
                    cut = self._cuts.pop() if self._cuts and not pair.half_open else None
                if cut is not None:
                    pair.client.sendall(data[:cut])
                    break
                pair.client.sendall(data)
        if not pair.half_open:
            pair.end()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self._closing = True
        self.heal()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._current():
            pair.end()
