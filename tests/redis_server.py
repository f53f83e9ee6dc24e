"""A private redis-server for a test: a free port and a unix socket, a directory of its own, ended by its process id.

``redis_server`` is a fixture for modules that import it; ``RedisServer`` can be restarted, stopped (SIGSTOP) and killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import redis


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A redis-server process.

    :ivar port: on the loopback interface. :ivar path: its unix socket.
    """

    def __init__(self, *options: str, aof: bool = False) -> None:
        # A short path of our own: unix sockets allow about 100 bytes, and pytest's directories can be longer.
        self.folder = Path(tempfile.mkdtemp(prefix="jumpstarter-redis-"))
        self.port = free_port()
        self.path = self.folder / "redis.sock"
        self._options = [*options, "--appendonly", "yes" if aof else "no"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        binary = shutil.which("redis-server")
        assert binary, "these tests need redis-server on PATH"
        arguments = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.path)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*arguments, "--dir", str(self.folder), "--save", "", *self._options], stdout=log, stderr=log
            )
        self._wait_until_ready()
        return self

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                # Any answer (also NOAUTH) but LOADING says that it serves.
                if not probe.recv(64).startswith(b"-LOADING"):
                    return
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.005)
        raise AssertionError("redis-server did not start within 10 s")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()


@pytest.fixture(scope="module")
def shared_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A running server with nothing in it. One process for the whole module: tests that kill it start their own."""
    with socket.create_connection(("127.0.0.1", shared_redis.port), timeout=5) as control:
        control.sendall(b"FLUSHALL\r\n")
        assert control.recv(64) == b"+OK\r\n"
    return shared_redis


class FaultyProxy:
    """Stands between a client and a server, and does to the connections what networks do.

    Tell it what happens to the next answer: ``cut_after`` so many bytes both sides lose their connection; ``hold`` keeps what
    clients send until ``let_go``, so that it arrives late.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cut_after: int | None = None
        self.cuts = 0
        self.hold = False
        self.held = threading.Event()
        self._go = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def let_go(self) -> None:
        """Hand over what was held back."""
        self.hold = False
        self._go.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._pairs.append((client, server))
                for work in (lambda c=client, s=server: self._send(c, s), lambda c=client, s=server: self._answer(s, c)):
                    self._threads.append(threading.Thread(target=work, daemon=True))
                    self._threads[-1].start()

    def _send(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                if self.hold:
                    self.held.set()
                    self._go.wait()
                server.sendall(data)
        # The client has gone; what it sent before is still carried out.
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if self.cut_after is not None:
                    client.sendall(data[: self.cut_after])
                    self.cut_after = None
                    self.cuts += 1
                    break
                client.sendall(data)
        for end in (server, client):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self.let_go()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for pair in self._pairs:
            for end in pair:
                end.close()


class ServerClock:
    """Lets time pass on a server, whose own clock cannot be set: by making everything that is stored there older.

    ``now`` and ``monotonic`` run ahead of the machine's clocks by as much; ``on_server`` turns their times into the server's.
    """

    _AGE = """
    for n = 1, #KEYS do
        local members = redis.call('ZRANGE', KEYS[n], 0, -1, 'WITHSCORES')
        for m = 1, #members, 2 do
            redis.call('ZADD', KEYS[n], string.format('%.6f', tonumber(members[m + 1]) - tonumber(ARGV[1])), members[m])
        end
    end
    for _, key in ipairs(redis.call('KEYS', '*')) do
        local left = redis.call('PTTL', key)
        if left >= 0 then redis.call('PEXPIRE', key, string.format('%d', left - 1000 * tonumber(ARGV[1]))) end
    end
    """
    _DATED = ("jumpstarter.leases", "jumpstarter.parked", "jumpstarter.waits", "unacked_index")

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._ahead = 0.0

    def now(self) -> float:
        return time.time() + self._ahead

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def on_server(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds
        with redis.Redis(port=self._server.port) as client:
            client.eval(self._AGE, len(self._DATED), *self._DATED, seconds)
