"""The broker on Redis: publish, claim, settle, renew, reap. Comes from: clients and workers. Goes to: Redis, in Kombu's layout.

Everything that must happen at once is one Lua call (``lua/``); everything that needs a message's content is decided here, between
two such calls, and carried out only if the claim still holds. See ``docs/reference/brokers.md`` for every key.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any, Final

from jumpstarter._redis import Argument, Command, LinkDown, Links, on_fork, parse_address, results_script
from jumpstarter.abc.broker import Broker, Reaped
from jumpstarter.brokers.redis import layout
from jumpstarter.brokers.redis.exchanges import Subscription, fanout_channel
from jumpstarter.brokers.redis.layout import Keys
from jumpstarter.brokers.redis.publisher import Publisher
from jumpstarter.brokers.redis.quarantine import Quarantine as Resting
from jumpstarter.brokers.redis.relay import Relay
from jumpstarter.brokers.redis.waiter import Waiters, load
from jumpstarter.errors import BrokerError, BrokerUnavailable, ConfigurationError, QueueNotFound
from jumpstarter.jobs import (
    Ack,
    Acked,
    Completed,
    Delivery,
    Envelope,
    Park,
    Quarantine,
    Quarantined,
    Requeue,
    Return,
    Settlement,
)

log = logging.getLogger(__name__)

CLAIM: Final = load("claim")
SETTLE: Final = results_script(lambda: load("settle").source)
HOLD: Final = load("hold")
RENEW: Final = load("renew")
OVERDUE: Final = load("overdue")
RELEASE: Final = load("release")
MOVE: Final = load("move")
REAP: Final = load("reap")
RESTORE: Final = load("restore")
UNLOCK: Final = load("unlock")

#: The scripts use RPOP with a count, LMOVE, ZMSCORE and ZADD GT.
OLDEST_SERVER: Final = (6, 2)
#: One call settles at most so many claims or so many bytes: a script must not keep the server busy for long.
SETTLE_AT_ONCE: Final = 250
BYTES_AT_ONCE: Final = 4 << 20
#: Names per call of a renewal, tags per round of a return.
MANY: Final = 500
SOME: Final = 64
#: At most so many notices are kept, or a few more.
MOST_NOTICES: Final = 10_000
#: Seconds after which Kombu's lock frees itself when its owner died (Kombu's own number).
MUTEX_SECONDS: Final = 300
#: Seconds for which the private queue of a node is kept that has died.
_ORPHANS: Final = 86_400


@dataclass(slots=True)
class _Claimant:
    """What this broker knows of an incarnation that claims through it.

    :ivar number: of the last call; a call that reaches the server after a later one does nothing.
    :ivar epoch: the newest that an answer told. After a lost answer, what is newer on the server is given back.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    number: int = 0
    epoch: int = 0
    doubtful: bool = False
    turn: int = 0

    def next_number(self) -> int:
        # Microseconds of this boot: they also grow when the same incarnation gets a new broker object. Lua counts exactly to 2**53.
        self.number = max(self.number + 1, int(time.monotonic() * 1e6))
        return self.number


class RedisBroker(Broker):
    """Queues in Redis 6.2 or later, shared with genuine Celery workers and clients.

    :param url: ``redis://``, ``rediss://``, ``redis+socket://`` or ``unix://`` as Kombu writes them.
    :param key_prefix: stands before every key (Kombu's ``global_keyprefix``).
    :param visibility_timeout: seconds after which the unacked messages of *genuine* workers are restored, as they do it themselves.
    Ours
        are returned when their lease runs out, whatever this says. Renew leases more often than this, or genuine workers restore
        ours.
    :param priority_steps: Kombu's; each step is a list of its own, so ``(0,)`` saves connections where no priorities are used.
    :param sep: stands between a queue's name and its step.
    :param timeout: seconds after which a server that does not answer counts as unavailable.
    :param ssl: Celery's ``broker_use_ssl``: True, or a mapping of ``ssl_…`` options.
    :param exclusive: see :attr:`jumpstarter.abc.broker.Broker.exclusive`.
    :param fanout_prefix: Kombu's: what stands before the channel of a fanout exchange; True for ``/{db}.``.
    :raises ConfigurationError: one of these cannot be used.
    """

    tells_monitors = True

    def __init__(
        self,
        url: str,
        *,
        key_prefix: str = "",
        visibility_timeout: float = 3600.0,
        priority_steps: Sequence[int] = (0, 3, 6, 9),
        sep: str = "\x06\x16",
        timeout: float = 5.0,
        ssl: bool | Mapping[str, Any] | None = None,
        exclusive: bool = False,
        fanout_prefix: bool | str = True,
    ) -> None:
        for name, value in (("visibility_timeout", visibility_timeout), ("timeout", timeout)):
            if not value > 0:
                raise ConfigurationError(f"{name} is a number of seconds above 0, not {value!r}")
        address = parse_address(url, ssl)
        self.server = address.server
        self.url = address.url
        self._database = address.database
        self.exclusive = exclusive
        self._fanout_prefix = fanout_prefix
        self._timeout = timeout
        self._visibility_timeout = visibility_timeout
        self._keys = Keys(key_prefix, priority_steps, sep)
        self._links = Links(address, timeout, unavailable=self._unavailable, refused=self._refused)
        self._waiters = Waiters(self._links, self._keys)
        self._quarantine = Resting(self._links, self._keys)
        self._publisher = Publisher(self._links, self._keys)
        self._start_afresh()
        on_fork(self._after_fork)

    def _start_afresh(self) -> None:
        self._claimants: dict[str, _Claimant] = {}
        self._settling = threading.Lock()
        self._reading_notices = threading.Lock()
        self._doubts: dict[str, tuple[str, list[str]]] = {}
        self._done: set[str] = set()
        self._bound: set[tuple[str, str, str, str]] = set()
        self._complained: set[str] = set()
        # Ids in the stream of notices: the newest that a claim told of, and the last that was read.
        self._newest_notice = self._read_notice = (0, 0)

    def _after_fork(self) -> None:
        self._waiters.forget()
        self._publisher.forget()
        self._start_afresh()

    def _unavailable(self, why: object) -> BrokerUnavailable:
        return BrokerUnavailable(self.url, why)

    def _refused(self, message: str) -> BrokerError:
        return BrokerError(f"the broker at {self.url} refuses: {message}")

    # Publishing

    def publish(self, envelopes: Sequence[Envelope], *, timeout: float | None = None) -> None:
        if envelopes:
            items = [(envelope.queue, *self._to_send(envelope)) for envelope in envelopes]
            self._publisher.publish(items, self._timeout if timeout is None else timeout)

    def _to_send(self, envelope: Envelope) -> tuple[str, str, bytes]:
        """The list, the time when it is due (or empty) and the bytes."""
        target = self._keys.list_of(envelope.queue, envelope.priority)
        raw = layout.encode(envelope)
        if envelope.due is None:
            return target, "", raw
        return target, _score(envelope.due), layout.parked_member(target, raw, layout.new_name())

    def bind(self, queue: str, *, exchange: str, routing_key: str = "", pattern: str = "") -> None:
        """Record in Kombu's tables that an exchange leads to a queue, so that Kombu clients that publish to the exchange find it.

        Once per process. Only whoever knows the exchange's type can say this: topics need Kombu's regular expression as the
        ``pattern``, and without one they would match everything. The default exchange (``""``) needs no binding. ``publish`` and
        ``settle`` send to the envelope's queue, whatever its exchange.
        """
        binding = (exchange, routing_key, pattern, queue)
        if not exchange or binding in self._bound:
            return
        self._keys.queue(queue)
        member = self._keys.sep.join((routing_key, pattern, queue))
        tables = (self._keys.binding(exchange), self._keys.permanent_binding(exchange))
        self._links.ask([["SADD", table, member] for table in tables])
        self._bound.add(binding)

    # Kombu's exchanges, for remote control

    def listen(self, exchange: str) -> Subscription:
        """What is said on a fanout exchange from now on."""
        return Subscription(self._links, self._channel(exchange))

    def _channel(self, exchange: str) -> str:
        prefix, key_prefix = self._fanout_prefix, self._keys.prefix
        return fanout_channel(exchange, database=self._database, prefix=prefix, key_prefix=key_prefix)

    def fan_out(self, envelope: Envelope, *, kind: str = "fanout", timeout: float | None = None) -> None:  # noqa: ARG002
        channel = self._channel(_with_key(envelope.exchange, envelope.routing_key))
        self._links.ask([["PUBLISH", channel, layout.encode(envelope)]])

    def open_fanout(self, queue: str, exchange: str, routing_key: str, *, private: bool) -> Callable[[], None]:
        target = self._keys.queue(queue).lists[0]

        def keep(envelope: Envelope) -> None:
            # Should this process die, nobody will ever look into its own queue.
            commands: list[Command] = [["LPUSH", target, layout.encode(envelope)]]
            self._links.ask([*commands, ["EXPIRE", target, _ORPHANS]] if private else commands)

        relay = Relay(partial(self.listen, _with_key(exchange, routing_key)), keep, f"fanout {exchange}")

        def close() -> None:
            relay.close()
            if private:
                self.delete_queue(queue)

        return close

    def answer(self, envelope: Envelope, *, ttl: float) -> int:
        """Send to all queues that are bound to the envelope's exchange for its routing key, which may be none; answers how many.

        :param ttl: seconds after which a queue is dropped in which nobody has looked since: those of clients that died would be
            kept for ever.
        """
        queues = self._routes(envelope.exchange, envelope.routing_key, {})
        lists = [(self._keys.list_of(queue, envelope.priority), layout.encode(envelope)) for queue in queues]
        commands: list[Command] = []
        for target, raw in lists:
            commands += [["LPUSH", target, raw], ["PEXPIRE", target, int(ttl * 1000)]]
        if commands:
            self._links.ask(commands)
        return len(queues)

    # Claiming

    def claim(self, queues: Sequence[str], limit: int, *, incarnation: str, lease: float) -> list[Delivery]:
        if limit <= 0 or not queues:
            self.renew([incarnation], lease)
            return []
        claimant = self._claimant(incarnation)
        with claimant.lock:
            claimant.turn += 1
            turn = claimant.turn % len(queues)
            order = [self._keys.queue(name) for name in dict.fromkeys([*queues[turn:], *queues[:turn]])]
            try:
                reply = self._claim(claimant, order, limit, incarnation, lease)
            except LinkDown as error:
                raise self._links.down(error) from error
            epoch, refused, notice, *batches = self._links.check(reply)
            if notice:
                self._newest_notice = _stream_id(notice)
            sources = [(keys.queue, source) for keys in order for source in keys.lists]
            deliveries = self._deliveries(f"{incarnation}.{epoch}.", epoch, batches, sources)
            claimant.doubtful = False
            claimant.epoch = epoch or claimant.epoch
        for number in refused:
            self._complain(*sources[number - 1])
        return deliveries

    def _claim(self, claimant: _Claimant, order: Sequence[layout.QueueKeys], limit: int, incarnation: str, lease: float) -> Any:
        keys = self._keys
        waiter = self._waiters.get(incarnation)
        sources = list(chain.from_iterable(queue.lists for queue in order))
        place = {source: number for number, source in enumerate(sources, 1)}
        aside = _among(place, waiter.suspects()) if waiter else []
        # Until the answer is understood: a lost connection may end this call, or an exception that a signal raises in this thread.
        known, claimant.doubtful = claimant.epoch if claimant.doubtful else "", True
        *_, reply = self._links.run_script(
            CLAIM,
            [
                *(keys.parked, keys.epoch, keys.leases, keys.claims(incarnation), keys.calls(incarnation)),
                *(keys.unacked, keys.unacked_index, keys.notices),
                *sources,
                *(keys.wait_list(incarnation, source) for source in aside),
            ],
            [
                *(incarnation, limit, lease, claimant.next_number(), known),
                *(len(order), len(keys.steps)),
                *chain.from_iterable(queue.endings for queue in order),
                *map(place.__getitem__, aside),
            ],
            before=waiter.commands() if waiter else (),
        )
        if waiter:
            waiter.claimed()
        return reply

    def _claimant(self, incarnation: str) -> _Claimant:
        known = self._claimants.get(incarnation)
        if known is None:
            known = self._claimants.setdefault(layout.check_incarnation(incarnation), _Claimant())
        return known

    def _deliveries(self, head: str, epoch: int, batches: Sequence[Any], sources: Sequence[tuple[str, str]]) -> list[Delivery]:
        number = 0
        deliveries = []
        for place, raws in zip(batches[::2], batches[1::2], strict=True):
            queue = sources[place - 1][0]
            for raw in raws:
                number += 1
                deliveries.append(layout.decode(raw, tag=f"{head}{number}", queue=queue, epoch=epoch))
        return deliveries

    def _complain(self, queue: str, source: str) -> None:
        if source not in self._complained:
            self._complained.add(source)
            log.error(
                "Queue %r is not served: the key %r in Redis holds something that is no list. Delete or rename it.", queue, source
            )

    def wait(self, queues: Sequence[str], timeout: float, *, incarnation: str) -> bool:
        layout.check_incarnation(incarnation)
        sources = [source for name in dict.fromkeys(queues) for source in self._keys.queue(name).lists]
        if timeout <= 0:
            return any(isinstance(length, int) and length for length in self._run([["LLEN", source] for source in sources]))
        try:
            return self._waiters.wait(incarnation, sources, timeout)
        except LinkDown as error:
            raise self._links.down(error) from error

    def rest(self, *, incarnation: str) -> None:
        self._waiters.rest(incarnation)

    def wake(self) -> None:
        self._waiters.wake()

    def _run(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return self._links.run(commands)
        except LinkDown as error:
            raise self._links.down(error) from error

    # Notices

    def notify(self, notice: str, *, ttl: float) -> bool:
        keys = self._keys
        # The stream goes as a whole when nothing was said for so long; until then it holds the newest so many.
        self._links.ask(
            [["XADD", keys.notices, "MAXLEN", "~", MOST_NOTICES, "*", "text", notice], ["EXPIRE", keys.notices, int(ttl) + 1]]
        )
        return True

    def notices(self, *, look: bool = False) -> list[str]:
        if not look and self._read_notice >= self._newest_notice:
            return []
        with self._reading_notices:
            (entries,) = self._run([["XRANGE", self._keys.notices, "({}-{}".format(*self._read_notice), "+"]])
            if entries:
                self._read_notice = _stream_id(entries[-1][0])
        return [fields[1].decode() for _, fields in entries]

    # Settling

    def settle(self, settlements: Sequence[Settlement], *, incarnation: str) -> list[bool | Completed]:
        layout.check_incarnation(incarnation)
        results: dict[int, bool | Completed] = {}
        errors: list[str] = []
        with self._settling:
            if incarnation in self._doubts:
                self._recall(incarnation)
            try:
                for chunk in self._chunks(self._to_do(settlements, incarnation, results)):
                    letters, faults, completed = self._settle(chunk, incarnation)
                    errors += faults
                    for (place, _, _), letter in zip(chunk, letters, strict=True):
                        results[place] = letter == "1" if letter != "C" else Completed(_bodies(next(completed)))
            except BaseException:
                self._remember(settlements, results)
                raise
            if errors:
                self._remember(settlements, results)
                raise self._settle_error(errors)
        return [results[place] for place in range(len(settlements))]

    def _to_do(
        self, settlements: Sequence[Settlement], incarnation: str, results: dict[int, bool | Completed]
    ) -> list[tuple[int, Settlement]]:
        """What the server has to be asked about, with its place; the ``results`` of the others are known."""
        todo = []
        for place, settlement in enumerate(settlements):
            tag = settlement.delivery.tag
            if tag in self._done:
                self._done.discard(tag)
                results[place] = True
            elif tag.rsplit(".", 2)[0] == incarnation or type(settlement.action) is Acked:
                todo.append((place, settlement))
            else:
                results[place] = False
        return todo

    def _remember(self, settlements: Sequence[Settlement], results: Mapping[int, bool | Completed]) -> None:
        """The caller gets an error and will ask again: what was done must not look as if another worker had taken it."""
        self._done |= {settlements[place].delivery.tag for place, done in results.items() if done is True}

    def _settle_error(self, errors: Sequence[str]) -> Exception:
        key, _, message = errors[0].partition(" ")
        if key == "SELECT":
            return self._stay(message)
        if message.startswith("WRONGTYPE"):
            return QueueNotFound(key, "its key in Redis holds something of another type: delete or rename it")
        return self._links.error(message)

    def _stay(self, message: str) -> Exception:
        """The broker's user may not write to the other database where the results are: from now on they are somewhere else."""
        server = f"{self._links.address.server}/{self._database}"
        if self.server == server:
            return self._links.error(f"SELECT {message}")
        self.server = server
        log.warning(
            "The broker's user at %s may not SELECT database %s, where results are (%s). From now on they are stored apart from "
            "the ack, not together with it. Allow the command, or keep both in one database.",
            self.url,
            *message.split(" ", 1),
        )
        # Nothing was done, and the next attempt will find the servers to be different.
        return self._unavailable(f"its user may not SELECT database {message}")

    def _chunks(self, todo: Sequence[tuple[int, Settlement]]) -> Iterator[list[tuple[int, str, list[Argument]]]]:
        """What a call carries: (place, tag, arguments) of each settlement."""
        raws = self._raws_to_rewrite([settlement for _, settlement in todo])
        chunk: list[tuple[int, str, list[Argument]]] = []
        size = 0
        for place, settlement in todo:
            arguments = self._arguments(settlement, raws)
            chunk.append((place, settlement.delivery.tag, arguments))
            for argument in arguments:  # a loop, as this is on the way of every message: a comprehension is a call
                if type(argument) is bytes:
                    size += len(argument)
            if len(chunk) >= SETTLE_AT_ONCE or size >= BYTES_AT_ONCE:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _raws_to_rewrite(self, settlements: Sequence[Settlement]) -> dict[str, bytes]:
        """The stored bytes of what is requeued or quarantined: only these are looked into again."""
        tags = [one.delivery.tag for one in settlements if isinstance(one.action, Requeue | Quarantine)]
        return dict(self._entries(tags)) if tags else {}

    def _entries(self, tags: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """The raw messages of claims of ours that still hold."""
        for some in _by(SOME, tags):
            for tag, entry in zip(some, self._links.call("HMGET", self._keys.unacked, *some), strict=True):
                if entry is not None:
                    yield tag, _raw_of(entry)

    def _arguments(self, settlement: Settlement, raws: Mapping[str, bytes]) -> list[Argument]:
        # Nearly all are acked, and then there is nothing to find out.
        arguments: list[Argument] = ["A"] if type(settlement.action) is Ack else self._action(settlement, raws)
        arguments.append(len(settlement.publish))
        for envelope in settlement.publish:
            arguments += self._to_send(envelope)
        arguments.append(len(settlement.writes))
        for document in settlement.writes:
            arguments += document
        if settlement.closes is not None:
            arguments[:0] = ["C", *settlement.closes]
        if settlement.part is not None:
            arguments[:0] = ["J", *settlement.part]
        return arguments

    def _action(self, settlement: Settlement, raws: Mapping[str, bytes]) -> list[Argument]:
        delivery = settlement.delivery
        raw = raws.get(delivery.tag, b"")  # empty: the claim is gone, and the script will say so
        match settlement.action:
            case Ack():
                return ["A"]
            case Acked():
                return ["D"]
            case Return():
                return ["R"]
            case Requeue():
                return ["Q", layout.recount(raw)]
            case Park(due):
                return ["P", _score(due), layout.new_name()]
            case Quarantine(reason, evidence):
                record = layout.quarantine_record(
                    raw, queue=delivery.queue, reason=reason, evidence=evidence, attempt=delivery.attempt
                )
                return ["X", record]

    def _settle(
        self, chunk: Sequence[tuple[int, str, list[Argument]]], incarnation: str
    ) -> tuple[str, list[str], Iterator[list[bytes]]]:
        """One call, sent again once if its answer is lost: the server remembers the answer under the call's name.

        Answers the letters, the errors of those with an E, and the bodies of those with a C.
        """
        keys = self._keys
        named = [
            *(keys.unacked, keys.unacked_index, keys.claims(incarnation), keys.calls(incarnation), keys.parked),
            *(keys.quarantine, keys.quarantine_order, keys.leases, keys.holds(incarnation)),
        ]
        name = layout.new_name()
        tags = [tag for _, tag, _ in chunk]
        body: list[Argument] = [self._database, incarnation, len(chunk), *tags]
        for _, _, arguments in chunk:
            body += arguments
        deadline = time.monotonic() + self._timeout
        self._doubts[incarnation] = (name, tags)
        try:
            reply = self._links.run_script(SETTLE, named, [name, "", *body], deadline=deadline)[-1]
        except LinkDown:
            try:
                reply = self._links.run_script(SETTLE, named, [name, "1", *body], deadline=deadline)[-1]
            except LinkDown as error:
                raise self._links.down(error) from error
        del self._doubts[incarnation]
        letters, faults, *completed = self._links.check(reply)
        told = [fault.decode("utf-8", "replace") for fault in faults] if faults else []
        return letters.decode(), told, iter(completed)

    def _recall(self, incarnation: str) -> None:
        """Learn what became of a settle whose answer was lost."""
        name, tags = self._doubts[incarnation]
        answer = self._links.call("HGET", self._keys.calls(incarnation), "settle")
        told, _, letters = (answer or b"").decode().partition(" ")
        if told == name:
            self._done |= {tag for tag, letter in zip(tags, letters, strict=True) if letter == "1"}
        del self._doubts[incarnation]

    # Leases

    def renew(self, incarnations: Iterable[str], lease: float) -> None:
        names = [layout.check_incarnation(name) for name in incarnations]
        for some in _by(MANY, names):
            keys = [self._keys.leases, self._keys.unacked_index]
            for name in some:
                keys += [self._keys.claims(name), self._keys.calls(name), self._keys.holds(name)]
            self._links.script(RENEW, keys, [lease, *some])

    def hold(self, tags: Sequence[str], lease: float, *, incarnation: str) -> None:
        layout.check_incarnation(incarnation)
        for some in _by(MANY, tags):
            self._links.script(HOLD, self._lease_keys(incarnation), [incarnation, lease, *some])

    def _lease_keys(self, incarnation: str) -> list[str]:
        keys = self._keys
        return [keys.leases, keys.claims(incarnation), keys.calls(incarnation), keys.holds(incarnation)]

    def held(self, incarnation: str) -> list[Delivery]:
        claims = self._claims_of(incarnation)
        deliveries = []
        for tag, raw in self._entries(sorted(claims, key=layout.split_tag)):
            source = claims[tag].partition(":")[2]
            deliveries.append(layout.decode(raw, tag=tag, queue=self._queue_of(source), epoch=layout.split_tag(tag)[0]))
        return deliveries

    def _claims_of(self, incarnation: str) -> dict[str, str]:
        """The claims by tag; the value is ``<bytes of raw>:<list>``."""
        flat = self._links.call("HGETALL", self._keys.claims(layout.check_incarnation(incarnation)))
        return {tag.decode(): claim.decode() for tag, claim in zip(flat[::2], flat[1::2], strict=True)}

    def _queue_of(self, source: str) -> str:
        return source[len(self._keys.prefix) :].split(self._keys.sep, 1)[0]

    def release(self, incarnation: str, *, keep: Iterable[str] = (), counted: bool = False) -> int:
        kept = set(keep)
        if not kept:
            self._waiters.retire(incarnation)
        if counted:
            tags = [tag for tag in self._claims_of(incarnation) if tag not in kept]
            returned = self._return_counted(incarnation, tags, only_expired=False, ends=not kept)
        else:
            arguments = [self._keys.prefix, layout.check_incarnation(incarnation), *kept]
            returned = self._links.script(RELEASE, self._return_keys(incarnation), arguments)
        if not kept:
            self._claimants.pop(incarnation, None)
            self._doubts.pop(incarnation, None)
        return int(returned)

    def _return_keys(self, incarnation: str) -> list[str]:
        keys = self._keys
        named = [keys.unacked, keys.unacked_index, keys.claims(incarnation)]
        return [*named, keys.leases, keys.calls(incarnation), keys.holds(incarnation)]

    def _return_counted(self, incarnation: str, tags: Sequence[str], *, only_expired: bool, ends: bool) -> int:
        """Return claims with their counts grown: looked at here, moved only where the claim still holds. Two may do it at once."""
        rounds = [*_by(SOME, sorted(tags, key=layout.split_tag, reverse=True))] or [[]]
        returned = 0
        for number, some in enumerate(rounds, 1):
            is_last = ends and number == len(rounds)
            found = dict(self._entries(some))
            # A claim without its message (a genuine worker restored it) is only forgotten.
            moves = [part for tag in some for part in (tag, layout.recount(found.get(tag, b"")))]
            arguments = [self._keys.prefix, incarnation, int(only_expired), int(is_last), *moves]
            moved = self._links.script(MOVE, self._return_keys(incarnation), arguments)
            if moved < 0:
                break
            returned += moved
        return returned

    # Reaping

    def reap(self) -> Reaped:
        keys = self._keys
        promoted, returned, next_due, expired, stale = self._links.script(
            REAP, [keys.parked, keys.leases, keys.waits, keys.unacked_index], [keys.prefix, self._visibility_timeout]
        )
        for incarnation in map(bytes.decode, expired):
            returned += self._return_counted(incarnation, self._overdue(incarnation), only_expired=True, ends=True)
        if stale:
            returned += self._restore_foreign([tag.decode() for tag in stale])
        return Reaped(returned=returned, promoted=promoted, next_due=float(next_due) if next_due else None)

    def _overdue(self, incarnation: str) -> list[str]:
        return [tag.decode() for tag in self._links.script(OVERDUE, self._lease_keys(incarnation), [incarnation])]

    def _restore_foreign(self, tags: Sequence[str]) -> int:
        """Give back what genuine workers left unacked, as they do it themselves: under their lock, without counting."""
        token = layout.new_name()
        if self._links.call("SET", self._keys.unacked_mutex, token, "NX", "EX", MUTEX_SECONDS) is None:
            return 0
        try:
            tables: dict[str, list[bytes]] = {}
            restored = 0
            for some in _by(SOME, tags):
                for tag, entry in zip(some, self._links.call("HMGET", self._keys.unacked, *some), strict=True):
                    restored += self._restore(tag, entry, tables)
            return restored
        finally:
            self._links.script(UNLOCK, [self._keys.unacked_mutex], [token])

    def _restore(self, tag: str, entry: bytes | None, tables: dict[str, list[bytes]]) -> int:
        record: bytes = b""
        moves: list[Argument] = []
        if entry is not None:
            try:
                message, exchange, routing_key = layout.open_unacked(entry)
                queues = self._routes(exchange, routing_key, tables)
                lists = [self._keys.list_of(queue, (message.get("properties") or {}).get("priority", 0)) for queue in queues]
            except (ValueError, AttributeError, RecursionError, QueueNotFound, re.error) as error:
                lists, exchange, message = [], f"? ({error})", {}
            # Kombu would drop what no queue is bound for. Ours rests where a person can see it.
            if lists:
                raw = layout.mark_redelivered(message)
                moves = [part for source in lists for part in (source, raw)]
            else:
                why = {"tag": tag, "exchange": exchange}
                record = layout.quarantine_record(
                    entry, queue="", reason="no queue is bound for this unacked message", evidence=why, attempt=1
                )
        keys = [self._keys.unacked, self._keys.unacked_index, self._keys.quarantine, self._keys.quarantine_order]
        return int(self._links.script(RESTORE, keys, [tag, self._visibility_timeout, record, *moves]))

    def _routes(self, exchange: str, routing_key: str, tables: dict[str, list[bytes]]) -> list[str]:
        if not exchange:
            return [routing_key]
        if exchange not in tables:
            tables[exchange] = list(self._links.call("SMEMBERS", self._keys.binding(exchange)))
        return layout.bound_queues(tables[exchange], routing_key, self._keys.sep)

    # Quarantine

    def quarantined(self, *, limit: int = 100, after: str = "") -> list[Quarantined]:
        return self._quarantine.page(limit, after)

    def requeue_quarantined(self, ids: Sequence[str]) -> int:
        return self._quarantine.requeue(ids)

    def drop_quarantined(self, ids: Sequence[str]) -> int:
        return self._quarantine.drop(ids)

    # Queues and the server

    def depth(self, queue: str) -> int:
        return sum(self._links.ask([["LLEN", source] for source in self._keys.queue(queue).lists]))

    def purge(self, queue: str) -> int:
        lists = self._keys.queue(queue).lists
        commands = [command for source in lists for command in (["LLEN", source], ["UNLINK", source])]
        lengths = self._links.ask([["MULTI"], *commands, ["EXEC"]])[-1]
        return sum(self._links.check(length) for length in lengths[::2])

    # Topics: a set of queues for each topic, and of topics for each queue.

    def bind_topic(self, topic: str, queue: str) -> None:
        self._keys.queue(queue)
        self._links.ask([["SADD", self._keys.topics_of(queue), topic], ["SADD", self._keys.topic(topic), queue]])

    def unbind_topic(self, topic: str, queue: str) -> None:
        self._links.ask([["SREM", self._keys.topic(topic), queue], ["SREM", self._keys.topics_of(queue), topic]])

    def publish_topic(self, topic: str, envelope: Envelope, *, timeout: float | None = None) -> None:
        (queues,) = self._links.ask([["SMEMBERS", self._keys.topic(topic)]])
        self.publish([replace(envelope, queue=_text(queue)) for queue in queues], timeout=timeout)

    def delete_queue(self, queue: str) -> None:
        (topics,) = self._links.ask([["SMEMBERS", self._keys.topics_of(queue)]])
        commands: list[Command] = [["SREM", self._keys.topic(_text(topic)), queue] for topic in topics]
        self._links.ask([*commands, ["UNLINK", self._keys.topics_of(queue), *self._keys.queue(queue).lists]])

    def ping(self) -> None:
        version = self._information("server").get("redis_version", "")
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers and numbers < OLDEST_SERVER:
            raise BrokerError(f"the broker at {self.url} is Redis {version}: version 6.2 or later is needed")

    def durability_warnings(self) -> list[str]:
        """What may lose messages on this server, as sentences for the log; empty when nothing does.

        :raises BrokerUnavailable: the server does not answer.
        """
        memory, persistence = self._information("memory"), self._information("persistence")
        warnings = []
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            warnings.append(f"Redis at {self.url} may evict messages (maxmemory-policy is {policy}): set it to noeviction.")
        if persistence.get("aof_enabled") == "0":
            warnings.append(
                f"Redis at {self.url} forgets messages since its last snapshot when it is killed: set appendonly to yes."
            )
        return warnings

    def _information(self, section: str) -> dict[str, str]:
        text = self._links.call("INFO", section).decode("utf-8", "replace")
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def close(self) -> None:
        self._waiters.close()
        self._links.close()


def _with_key(exchange: str, routing_key: str) -> str:
    """What Kombu's transport takes for the exchange's name: keys are not compared, but are part of the channel."""
    return f"{exchange}/{routing_key}" if routing_key else exchange


def _stream_id(raw: bytes) -> tuple[int, int]:
    """An entry's id in a stream, so that it can be compared."""
    milliseconds, _, number = raw.partition(b"-")
    return int(milliseconds), int(number)


def _among(known: Container[str], sources: Iterable[str]) -> list[str]:
    return [source for source in sources if source in known]


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _score(due: float) -> str:
    if due != due or due in (float("inf"), float("-inf")):
        raise ConfigurationError(f"a message is due at a time in seconds, not at {due!r}")
    return f"{due:.6f}"


def _bodies(parts: Sequence[bytes]) -> list[bytes]:
    # Line ends tell equal bodies apart; see count_part in _redis.lua.
    return [body.rstrip(b"\n") for body in parts]


def _raw_of(entry: bytes) -> bytes:
    """The message in an entry that a claim of ours made, ``[raw, "", "queue"]``: a name written as JSON holds no bare quotes."""
    return entry[1 : entry.rindex(b', "", "')]


def _by(size: int, items: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
