"""A connection to an AMQP server, shared by threads without one of its own. Comes from: sessions and publishers. Goes to: RabbitMQ.

py-amqp (through Kombu: URLs, login methods, TLS) opens the connection; from then on frames are read and written here. Sending
never blocks: what the socket does not take is kept and follows. Whoever needs an answer reads: the first to wait becomes the
reader, hands everything that arrives to its owner, and the others wait until theirs has come (leader and followers), so neither a
claim nor a settlement costs a change of threads.

Channel 1 is the owner's. Channel 2 is for declarations: a refusal there closes that channel only.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import kombu
from kombu.transport.base import to_rabbitmq_queue_arguments

from jumpstarter.brokers.kombu import wire
from jumpstarter.errors import BrokerError, BrokerUnavailable, ConfigurationError, Undecodable

log = logging.getLogger(__name__)

WORK: Final = 1
DECLARATIONS: Final = 2
#: Bytes to read at once.
CHUNK: Final = 1 << 18
#: Seconds for the server to hang up first when a connection is closed.
FAREWELL: Final = 1.0
#: Seconds without a word from the server after which it is asked for one.
QUESTION: Final = 2.0

PRECONDITION_FAILED: Final = 406
ACCESS_REFUSED: Final = 403
NOT_FOUND: Final = 404
RESOURCE_LOCKED: Final = 405

OnMessage = Callable[[wire.Message], None]
OnMethod = Callable[[int, bytes], None]


class Refused(BrokerError):
    """The server refuses a declaration.

    :ivar code: AMQP's reply code.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"the server refuses: {code} {text}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is and how it is greeted.

    :ivar urls: the server, or several that take each other's place.
    :ivar url: the first, for people: no password in it.
    :ivar server: identity of host, port and virtual host.
    :ivar options: keyword options of Kombu's connection (``ssl``, ``login_method``, ``transport_options`` …).
    """

    urls: tuple[str, ...]
    url: str
    server: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str, **options: Any) -> Address:
        """:raises ConfigurationError: this is no AMQP URL."""
        urls = tuple(_for_kombu(part.strip()) for part in url.split(";") if part.strip())
        try:
            info = kombu.Connection(urls[0], **options).info()
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"this AMQP URL cannot be used: {error}") from error
        scheme = "amqps" if urls[0].startswith("amqps") or options.get("ssl") else "amqp"
        host = f"{info['hostname'] or 'localhost'}:{info['port'] or (5671 if scheme == 'amqps' else 5672)}"
        virtual_host = str(info["virtual_host"] or "/")
        user = f"{info['userid']}@" if info["userid"] else ""
        return cls(urls, f"{scheme}://{user}{host}/{quote(virtual_host, safe='')}", f"amqp:{host}/{virtual_host}", options)

    def dial(self, timeout: float, heartbeat: float) -> Any:
        """An open py-amqp connection to the first of the servers that takes one.

        :param heartbeat: seconds; 0 for none.
        :raises BrokerUnavailable: none does.
        """
        error: Exception | None = None
        for url in self.urls:
            connection = kombu.Connection(url, connect_timeout=timeout, heartbeat=int(heartbeat), **self.options)
            try:
                return connection.transport.establish_connection()
            except (*connection.connection_errors, *connection.channel_errors, OSError) as failure:
                error = failure
        raise BrokerUnavailable(self.url, _why(error)) from error


def _for_kombu(url: str) -> str:
    scheme, colon, rest = url.partition("://")
    if not colon:
        return url
    return f"{'amqps' if scheme == 'amqps' else 'pyamqp'}://{rest}"


def _why(error: Exception | None) -> str:
    return f"{error}".strip() or type(error).__name__


class Link:
    """An open connection. Thread-safe; useless after a fork (see :meth:`abandon`).

    :param timeout: seconds for each answer. :param within: seconds for the connection, the same when None.
    :param heartbeat: seconds between signs of life that both sides ask for; 0: none. Somebody has to call :meth:`beat` in time.
    :param on_message: gets every message that arrives on channel 1, in the reader's thread, under ``cond``.
    :param on_method: gets the methods on channel 1 that nobody called for, likewise.
    :param on_failure: called once, under ``cond``, when the link is of no use any more.
    :ivar failure: why it is of no use any more, or None.
    :ivar blocked: why the server takes nothing from publishers at present (its words), or empty.
    :ivar declared: what was declared through it; the owner's notes.
    :ivar heard: monotonic seconds at which something came from the server last.
    :ivar refusal: AMQP's reply code, where the server closed channel 1 for what it was sent last; else 0.
    :raises BrokerUnavailable: the server cannot be reached.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        heartbeat: float,
        on_message: OnMessage,
        on_method: OnMethod,
        on_failure: Callable[[], None] | None = None,
        within: float | None = None,
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._on_message = on_message
        self._on_method = on_method
        self._on_failure = on_failure
        self.failure: BrokerError | None = None
        self.blocked = ""
        self.declared: set[object] = set()
        #: What ``cond`` locks; entered in C, which counts where it is entered for every message.
        self.lock = threading.RLock()
        self.cond = threading.Condition(self.lock)
        self._reading = False
        self._sending = threading.Lock()
        self._calling = threading.RLock()
        # By channel: the method that somebody waits for, and what has come of it.
        self._awaited: dict[int, int] = {}
        self._answers: dict[int, list[bytes]] = {}
        self._refusals: dict[int, bytes] = {}
        self._open_channels: set[int] = set()
        self._deadline = math.inf
        self._out: deque[bytes] = deque()
        self._take_over(address.dial(timeout if within is None else within, heartbeat))
        self._poke = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.heard = self._spoke = self._asked = time.monotonic()
        self.refusal = 0

    def _take_over(self, connection: Any) -> None:
        """From here on the socket is ours, and py-amqp's objects are let go without a word to the server."""
        transport = connection.transport
        self._sock: socket.socket | ssl.SSLSocket = transport.sock
        transport.sock = None
        self.frame_max = int(connection.frame_max)
        self.heartbeat = float(connection.heartbeat or 0)
        self.version = str((connection.server_properties or {}).get("version", ""))
        self._sock.setblocking(False)
        # OpenSSL does not let two threads into one connection; plain sockets do.
        self._tls = threading.Lock() if isinstance(self._sock, ssl.SSLSocket) else contextlib.nullcontext()
        self._reader = wire.Reader(self._message, self._method)
        early = bytes(getattr(transport, "_read_buffer", b""))
        if early:
            self._reader.feed(early)

    # Out

    def send(self, *parts: bytes, is_question: bool = True) -> None:
        """Have these bytes sent, without another thread's in between. Never blocks.

        :param is_question: the server has to say something then.
        :raises BrokerUnavailable: the connection is gone.
        """
        if self.failure is not None:
            raise self.failure
        with self._sending:
            self._out.append(parts[0] if len(parts) == 1 else b"".join(parts))
            error = self._flush()
        if error is not None:
            self._lost(error)
        self._spoke = time.monotonic()
        if is_question and self._asked <= self.heard:
            self._asked = self._spoke

    def _lost(self, error: OSError) -> None:
        # Not while sending is locked: whoever holds ``cond``, which this takes, may be about to send.
        self.fail(BrokerUnavailable(self._address.url, _why(error)))

    def _flush(self) -> OSError | None:
        """Send what the socket takes now; what is wrong with it. Called while sending is locked."""
        out = self._out
        while out:
            if len(out) > 1:
                joined = b"".join(out)
                out.clear()
                out.append(joined)
            try:
                with self._tls:
                    sent = self._sock.send(out[0])
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None
            except OSError as error:
                out.clear()
                return error
            if sent < len(out[0]):
                out[0] = out[0][sent:]
            else:
                out.popleft()
        return None

    # In

    def pump(self, until: Callable[[], Any], deadline: float) -> bool:
        """Read until the condition holds: True; or until the deadline (monotonic seconds): False.

        :param until: called under ``cond``, after everything that arrives.
        :raises BrokerUnavailable: the connection is lost before that.
        """
        with self.cond:
            while not until():
                if self.failure is not None:
                    raise self.failure
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                if self._reading:
                    self.cond.wait(left)
                else:
                    self._read(left)
            return True

    def look(self) -> None:
        """Read what is there, if nobody else reads."""
        with self.cond:
            if not self._reading and self.failure is None:
                self._read(0.0)

    def poke(self) -> None:
        """Have every :meth:`pump` look at its condition again."""
        with self.cond:
            self.cond.notify_all()
            if self.failure is None:
                os.eventfd_write(self._poke, 1)

    def _read(self, timeout: float) -> None:
        """Read once, as the only reader. Called under ``cond``, which is free meanwhile."""
        self._reading = True
        self.cond.release()
        try:
            data, error = self._receive(timeout)
        finally:
            self.cond.acquire()
            self._reading = False
        if data:
            self.heard = time.monotonic()
            try:
                self._reader.feed(data)
            except (Undecodable, ArithmeticError, LookupError, TypeError, ValueError) as problem:
                error = f"what it sends cannot be understood: {problem!r}"
        if error:
            self.fail(BrokerUnavailable(self._address.url, error))
        if self.failure is not None:
            # Also where another thread failed it while this one was reading, and left the closing to it.
            self._close_files()
        self.cond.notify_all()

    def _receive(self, timeout: float) -> tuple[bytes, str]:
        """What has arrived within the time (maybe nothing), and what is wrong (or empty)."""
        try:
            if not self._is_ready(timeout):
                return b"", ""
            with self._tls:
                data = self._sock.recv(CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b"", ""
        except (OSError, ValueError) as error:
            return b"", _why(error)
        return data, "" if data else "the server has closed the connection"

    def _is_ready(self, timeout: float) -> bool:
        sock = self._sock
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if self._out else 0))
        poll.register(self._poke, select.POLLIN)
        ready = dict(poll.poll(max(0.0, timeout) * 1000 + 0.5 * (timeout > 0)))
        if self._poke in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._poke)
        events = ready.get(sock.fileno(), 0)
        if events & select.POLLOUT:
            with self._sending:
                error = self._flush()
            if error is not None:
                self._lost(error)
        return bool(events & ~select.POLLOUT)

    def _message(self, channel: int, message: wire.Message) -> None:
        if channel == WORK:
            self._on_message(message)

    def _method(self, channel: int, number: int, arguments: bytes) -> None:
        if self._awaited.get(channel) == number:
            self._answers[channel].append(arguments)
        elif channel == 0:
            self._about_the_connection(number, arguments)
        elif number == wire.CHANNEL_CLOSE:
            self._channel_closed(channel, arguments)
        elif channel == WORK:
            self._on_method(number, arguments)

    def _about_the_connection(self, number: int, arguments: bytes) -> None:
        match number:
            case wire.CONNECTION_BLOCKED:
                self.blocked = wire.read_blocked(arguments) or "blocked"
            case wire.CONNECTION_UNBLOCKED:
                self.blocked = ""
            case wire.CONNECTION_CLOSE:
                code, text = wire.read_close(arguments)
                with contextlib.suppress(BrokerError):
                    self.send(wire.method(0, wire.CONNECTION_CLOSE_OK), is_question=False)
                self.fail(BrokerUnavailable(self._address.url, f"the server has closed the connection: {code} {text}"))
            case wire.CONNECTION_CLOSE_OK:
                self.fail(BrokerUnavailable(self._address.url, "closed"))

    def _channel_closed(self, channel: int, arguments: bytes) -> None:
        code, text = wire.read_close(arguments)
        self._open_channels.discard(channel)
        if channel == WORK:
            self.refusal = code
            self.fail(BrokerUnavailable(self._address.url, f"the server has closed the channel: {code} {text}"))
            return
        with contextlib.suppress(BrokerError):
            self.send(wire.method(channel, wire.CHANNEL_CLOSE_OK), is_question=False)
        self._refusals[channel] = arguments

    # Questions and answers

    def call(self, channel: int, frames: Sequence[bytes], answer: int, *, or_blocked: bool = False) -> list[bytes]:
        """Send methods and return the arguments of their answers.

        :param or_blocked: be content with less of them when the server turns out to block publishers.
        :raises Refused: the server closes the channel instead (it is opened again for the next call).
        :raises BrokerUnavailable: no answer in time: the link is of no use any more.
        """
        with self._calling:
            if channel not in self._open_channels and answer != wire.CHANNEL_OPEN_OK:
                self.call(channel, [wire.method(channel, wire.CHANNEL_OPEN, b"\0")], wire.CHANNEL_OPEN_OK)
                self._open_channels.add(channel)
            answers: list[bytes] = []
            with self.cond:
                self._answers[channel] = answers
                self._awaited[channel] = answer
                self._refusals.pop(channel, None)
            self.send(*frames)
            deadline = min(time.monotonic() + self._timeout, self._deadline)

            def is_over() -> bool:
                return len(answers) == len(frames) or channel in self._refusals or (or_blocked and bool(self.blocked))

            if not self.pump(is_over, deadline):
                # Its answer, come later, would be taken for the next one's.
                raise self.fail(BrokerUnavailable(self._address.url, self.why_late()))
            del self._awaited[channel]
            if channel in self._refusals:
                raise Refused(*wire.read_close(self._refusals.pop(channel)))
            return answers

    @contextlib.contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Meanwhile, calls have to be answered by then (monotonic seconds)."""
        self._deadline = deadline
        try:
            yield
        finally:
            self._deadline = math.inf

    def why_late(self) -> str:
        """Why an answer may not have come, as part of a sentence."""
        return f"the server blocks publishers ({self.blocked})" if self.blocked else "no answer in time"

    def ask(self, frame: bytes, answer: int) -> bytes:
        """:meth:`call` one method on the channel for declarations."""
        return self.call(DECLARATIONS, [frame], answer)[0]

    # Life

    def beat(self) -> None:
        """Send a sign of life if none was sent for a while; notice a server that sends none.

        :raises BrokerUnavailable: the connection is gone.
        """
        now = time.monotonic()
        if self.heartbeat and now - self._spoke > self.heartbeat / 3:
            self.send(wire.HEARTBEAT_FRAME, is_question=False)
        if self.heartbeat and now - self.heard > self.heartbeat * 3:
            self.look()
            if time.monotonic() - self.heard > self.heartbeat * 3:
                raise self.fail(BrokerUnavailable(self._address.url, f"not a sign of life for {self.heartbeat * 3:g} s"))

    def silence(self) -> float:
        """Seconds for which the server has owed a word, and has not said a single one. When it has been quiet for a while without
        owing any, it is asked for one."""
        if self.blocked or self._asked > self.heard:
            return 0.0 if self.blocked else time.monotonic() - self._asked
        if time.monotonic() - self.heard > QUESTION and self._calling.acquire(blocking=False):
            # A channel of its own, so that the answer does not wait for a commit; nobody's call changes that channel meanwhile.
            try:
                if DECLARATIONS in self._open_channels:
                    self.send(wire.qos(DECLARATIONS, 0))
            finally:
                self._calling.release()
        return 0.0

    def fail(self, error: BrokerError) -> BrokerError:
        """The link is of no use any more. The first reason stays; it is returned."""
        with self.cond:
            if self.failure is None:
                self.failure = error
                self._hang_up()
                if self._on_failure is not None:
                    self._on_failure()
            self.cond.notify_all()
            return self.failure

    def _hang_up(self) -> None:
        # Shut down first: a reader in another thread wakes up, where a closed descriptor would leave it waiting on whatever gets
        # the same number next.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if not self._reading:
            self._close_files()

    def _close_files(self) -> None:
        poke, self._poke = self._poke, -1
        if poke >= 0:
            os.close(poke)
            with contextlib.suppress(OSError):
                self._sock.close()

    def close(self) -> None:
        """Say goodbye and hang up. Idempotent."""
        if self.failure is None:
            with contextlib.suppress(BrokerError):
                self.send(wire.method(0, wire.CONNECTION_CLOSE, wire.arguments("BsBB", 200, "", 0, 0)))
                self.pump(lambda: False, time.monotonic() + FAREWELL)
        self.hang_up()

    def hang_up(self) -> None:
        """Without a word: whoever is there would not answer it."""
        self.fail(BrokerUnavailable(self._address.url, "closed"))

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection without touching it."""
        self.failure = BrokerUnavailable(self._address.url, "it belongs to the parent process")
        for descriptor in (self._sock.detach(), self._poke):
            with contextlib.suppress(OSError):
                os.close(descriptor)


class Declarer:
    """What Kombu's queues and exchanges need in order to declare themselves, on a link. What exists already under other terms is
    used as it is: a fleet may have been told so on purpose, and a worker that refuses to start helps nobody."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def prepare_queue_arguments(self, arguments: Mapping[str, Any] | None, **options: Any) -> dict[str, Any]:
        """Kombu's options of a queue as RabbitMQ calls them."""
        return dict(to_rabbitmq_queue_arguments(arguments or {}, **options))

    def exchange_declare(
        self,
        exchange: str,
        type: str = "direct",  # noqa: A002 - Kombu's name
        durable: bool = True,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,  # noqa: ARG002 - Kombu's signature
        passive: bool = False,
    ) -> None:
        """Declare an exchange."""
        bits = passive | durable << 1 | auto_delete << 2
        form = wire.arguments("BssbF", 0, exchange, type, bits, dict(arguments or {}))
        self._declare(f"exchange {exchange!r}", wire.EXCHANGE_DECLARE, form, passive=passive)

    def queue_declare(
        self,
        queue: str,
        passive: bool = False,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,  # noqa: ARG002 - Kombu's signature
    ) -> tuple[str, int, int]:
        """Declare a queue; its name, and twice 0 for the numbers of messages and consumers, which nobody asks for here."""
        bits = passive | durable << 1 | exclusive << 2 | auto_delete << 3
        form = wire.arguments("BsbF", 0, queue, bits, dict(arguments or {}))
        self._declare(f"queue {queue!r}", wire.QUEUE_DECLARE, form, passive=passive)
        return queue, 0, 0

    def counts(self, queues: Sequence[str]) -> list[int]:
        """How many messages wait in each of these queues, which all exist.

        :raises Refused: one does not.
        """
        frames = [wire.method(DECLARATIONS, wire.QUEUE_DECLARE, wire.arguments("BsbF", 0, queue, 1, {})) for queue in queues]
        answers = self._link.call(DECLARATIONS, frames, wire.QUEUE_DECLARE_OK)
        return [wire.read_declared(answer)[1] for answer in answers]

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,  # noqa: ARG002 - Kombu's signature
    ) -> None:
        """Bind a queue to an exchange."""
        form = wire.arguments("BsssbF", 0, queue, exchange, routing_key or "", 0, dict(arguments or {}))
        self._declare(f"the binding of queue {queue!r} to exchange {exchange!r}", wire.QUEUE_BIND, form)

    def exchange_bind(
        self,
        destination: str,
        source: str = "",
        routing_key: str = "",
        nowait: bool = False,  # noqa: ARG002 - Kombu's signature
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind an exchange to another."""
        form = wire.arguments("BsssbF", 0, destination, source, routing_key or "", 0, dict(arguments or {}))
        self._declare(f"the binding of exchange {destination!r} to exchange {source!r}", wire.EXCHANGE_BIND, form)

    def _declare(self, what: str, number: int, form: bytes, *, passive: bool = False) -> None:
        try:
            # The number of an answer is the question's plus one, for all of these.
            self._link.ask(wire.method(DECLARATIONS, number, form), number + 1)
        except Refused as error:
            if passive or error.code not in {PRECONDITION_FAILED, ACCESS_REFUSED}:
                raise
            if what not in _told:
                _told.add(what)
                log.warning("%s is used as it is: %s", what, error)


#: What the log has been told once.
_told: set[str] = set()
