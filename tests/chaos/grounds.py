"""The servers of a run: where its messages wait and where its results are stored. A broker is a parameter of every run.

``redis`` keeps the results beside the messages, ``redis-db`` in another database of that server, ``redis-apart`` on another server,
and ``redis-aof`` survives a restart;
``sqlite`` in the broker's file, ``sqlite-apart`` in another; ``amqp`` always has them elsewhere, in a Redis.
"""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jumpstarter.brokers import open_broker
from tests.peers import RedisServer


@dataclass(frozen=True, slots=True)
class Grounds:
    """Running servers.

    :ivar name: which of :data:`GROUNDS`.
    :ivar broker: URL of the broker. :ivar results: URL of the results.
    :ivar atomic: one step of the broker sends follow-up messages and acks.
    :ivar server: what runs the broker, for runs that hurt it; None where there is no server.
    """

    name: str
    broker: str
    results: str
    atomic: bool = True
    server: Any = None

    @property
    def kind(self) -> str:
        """The broker alone: redis, sqlite or amqp."""
        return self.name.partition("-")[0]

    def quarantined(self) -> list[str]:
        """The ids of the jobs that rest in quarantine."""
        with open_broker(self.broker) as broker:
            ids, after = [], ""
            while page := broker.quarantined(after=after):
                ids += [rest.envelope.headers["id"] for rest in page if rest.envelope is not None]
                after = page[-1].id
            return ids


@contextmanager
def _redis(folder: Path) -> Iterator[Grounds]:
    with RedisServer(folder / "broker") as server:
        yield Grounds("redis", server.url, server.url, server=server)


@contextmanager
def _redis_aof(folder: Path) -> Iterator[Grounds]:
    with RedisServer(folder / "broker", durable=True) as server:
        yield Grounds("redis-aof", server.url, server.url, server=server)


@contextmanager
def _redis_db(folder: Path) -> Iterator[Grounds]:
    with RedisServer(folder / "broker") as server:
        yield Grounds("redis-db", server.url, server.url.removesuffix("/0") + "/1", server=server)


@contextmanager
def _redis_apart(folder: Path) -> Iterator[Grounds]:
    with RedisServer(folder / "broker") as server, RedisServer(folder / "results") as results:
        yield Grounds("redis-apart", server.url, results.url, server=server)


@contextmanager
def _sqlite(folder: Path) -> Iterator[Grounds]:
    url = f"sqlite:///{folder / 'broker.db'}"
    yield Grounds("sqlite", url, url)


@contextmanager
def _sqlite_apart(folder: Path) -> Iterator[Grounds]:
    yield Grounds("sqlite-apart", f"sqlite:///{folder / 'broker.db'}", f"sqlite:///{folder / 'results.db'}")


@contextmanager
def _amqp(folder: Path) -> Iterator[Grounds]:
    from tests.rabbitmq_server import RabbitServer  # noqa: PLC0415 - looks for the server's programs

    with ExitStack() as stack:
        results = stack.enter_context(RedisServer(folder / "results"))
        server = _shared[-1] if _shared else stack.enter_context(RabbitServer())
        yield Grounds("amqp", _virtual_host(server), results.url, atomic=False, server=server)


_shared: list[Any] = []
_asking = threading.Lock()
_numbers = itertools.count(1)


@contextmanager
def shared_rabbitmq() -> Iterator[None]:
    """One server (it takes ten seconds to start) for all runs in the block: a virtual host for each. Not for runs that hurt it."""
    from tests.rabbitmq_server import RabbitServer  # noqa: PLC0415 - as above

    with RabbitServer() as server:
        _shared.append(server)
        try:
            yield
        finally:
            _shared.pop()


def _virtual_host(server: Any) -> str:
    """The URL of a new one."""
    name = f"chaos{next(_numbers)}"
    everything = ', <<".*">>' * 3
    with _asking:
        server.ask(f'rabbit_vhost:add(<<"{name}">>, <<"chaos">>)')
        server.ask(f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>{everything}, <<"chaos">>)')
    return f"amqp://guest:guest@127.0.0.1:{server.port}/{name}"


GROUNDS: dict[str, Callable[[Path], Any]] = {
    "redis": _redis,
    "redis-aof": _redis_aof,
    "redis-db": _redis_db,
    "redis-apart": _redis_apart,
    "sqlite": _sqlite,
    "sqlite-apart": _sqlite_apart,
    "amqp": _amqp,
}


def is_installed(name: str) -> bool:
    """Whether this machine has the servers for it."""
    if name.startswith("amqp"):
        from tests.rabbitmq_server import server_script  # noqa: PLC0415 - as above

        return server_script() is not None
    return name.startswith("sqlite") or shutil.which("redis-server") is not None


@contextmanager
def grounds(name: str, folder: Path) -> Iterator[Grounds]:
    """Start them, with nothing in them and nothing in the folder; they end with the block."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with GROUNDS[name](folder) as place:
        yield place
