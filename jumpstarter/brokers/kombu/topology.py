"""What has to exist on the server before a message can travel: queues, exchanges, bindings, the delay and the quarantine.

Everything is declared once per connection and stays. Genuine Celery declares the same things under the same names and arguments.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast
from urllib.parse import quote

import kombu

from jumpstarter.brokers.kombu.link import NOT_FOUND, Declarer, Link, Refused
from jumpstarter.errors import ConfigurationError
from jumpstarter.jobs import Envelope

QUARANTINE: Final = "jumpstarter.quarantine"
#: The exchange of all topics.
TOPICS: Final = "jumpstarter.topics"

#: Celery's native delayed delivery: a message that waits n seconds passes one queue for each bit of n.
LEVELS: Final = 28
DELIVERY: Final = "celery_delayed_delivery"
#: Routing keys end with the queue's name marked like this: one word that no other fleet's pattern (``#.name``) matches.
_MARK: Final = "@"

#: Seconds after which a private queue goes whose process died, and longer than any task takes all slots.
_UNUSED: Final = 86_400
_RANDOM: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")

LONGEST_DELAY: Final = (1 << LEVELS) - 1


class Topology:
    """The declarations of one broker.

    :param queues: what the application says about its queues; a mapping may grow.
    :param queue_type: of queues that nobody said anything about, ``classic`` or ``quorum``.
    :param delayed_queue_type: of the 28 queues of delayed delivery; a fleet has to agree on it (Celery's default is ``quorum``).
    :param delayed_prefix: stands before their names and that of the exchanges.
    :raises ConfigurationError: one of these cannot be used.
    """

    def __init__(
        self,
        queues: Iterable[kombu.Queue] | Mapping[str, kombu.Queue] = (),
        *,
        queue_type: str = "classic",
        delayed_queue_type: str = "quorum",
        delayed_prefix: str = "",
    ) -> None:
        for name, value in (("queue_type", queue_type), ("delayed_queue_type", delayed_queue_type)):
            if value not in {"classic", "quorum"}:
                raise ConfigurationError(f"{name} is classic or quorum, not {value!r}")
        self._queues: Mapping[str, kombu.Queue] = (
            queues if isinstance(queues, Mapping) else {queue.name: queue for queue in cast("Iterable[kombu.Queue]", queues)}
        )
        self._queue_type = queue_type
        self._delayed_queue_type = delayed_queue_type
        self._prefix = f"{delayed_prefix}_" if delayed_prefix else ""
        self._reply_queues: dict[str, kombu.Queue] = {}
        # The server takes the same declaration twice, but two threads' declarations on one link would be sent twice.
        self._lock = threading.Lock()

    def restart(self) -> None:
        """In a forked child."""
        self._lock = threading.Lock()

    def queue(self, name: str) -> kombu.Queue:
        """What is known of the queue, or how Celery declares one that nobody said anything about."""
        known = self._queues.get(name) or self._reply_queues.get(name)
        if known is not None:
            return _lasting(known) if _is_private(known) else known
        arguments = {"x-queue-type": "quorum"} if self._queue_type == "quorum" else None
        return kombu.Queue(name, kombu.Exchange(name, type="direct"), routing_key=name, queue_arguments=arguments)

    def expect_replies(self, name: str, expires: float | None) -> None:
        """From now on the queue is declared as one that goes when nobody wanted anything of it for ``expires`` seconds. Durable,
        and not deleted with its last consumer as genuine clients' are: between two waits ours has none."""
        self._reply_queues[name] = kombu.Queue(name, expires=expires)

    def ensure_exchange(self, link: Link, name: str, kind: str) -> None:
        """The exchange exists: as the application says that one of its queues is bound to it, else of that kind."""
        if ("exchange", name) in link.declared:
            return
        exchanges = [each for queue in self._queues.values() for each in _exchanges(queue) if each.name == name]
        (exchanges[0] if exchanges else kombu.Exchange(name, type=kind)).declare(channel=Declarer(link))
        link.declared.add(("exchange", name))

    def has_dead_letters(self, name: str) -> bool:
        """Whether the queue says itself where rejected messages go."""
        known = self._queues.get(name)
        return known is not None and "x-dead-letter-exchange" in (known.queue_arguments or {})

    def ends_with_its_consumers(self, name: str) -> bool:
        """Whether the server deletes the queue with the last of its consumers."""
        known = self._queues.get(name)
        return known is not None and bool(known.auto_delete)

    def ensure(self, link: Link, name: str) -> None:
        """The queue exists."""
        if name not in link.declared:
            with self._lock:
                queue = self.queue(name)
                if queue.no_declare:
                    Declarer(link).queue_declare(name, passive=True)
                else:
                    queue.declare(channel=Declarer(link))
                link.declared.add(name)

    def ensure_consumed(self, link: Link, name: str) -> None:
        """The queue exists, and where the fleet delays natively, what its clients delay reaches it.

        Celery uses native delayed delivery where one of the queues is a quorum queue.
        """
        if ("consumed", name) in link.declared:
            return
        self.ensure(link, name)
        if self._queue_type == "quorum" or any(map(_is_quorum, self._queues.values())):
            self.ensure_delay(link)
            self._bind_as_celery(Declarer(link), self.queue(name))
        link.declared.add(("consumed", name))

    def _bind_as_celery(self, declarer: Declarer, queue: kombu.Queue) -> None:
        """From the exchange of delivery to the queue's exchanges, by routing key. Direct exchanges know no wildcards: there the
        queue itself is bound."""
        found = list(queue.bindings) or [kombu.binding(queue.exchange, queue.routing_key)]
        for binding in found:
            key = binding.routing_key or queue.name
            pattern = key if key.startswith("#") else f"#.{key}"
            exchange = binding.exchange
            if exchange is None or not exchange.name or exchange.type == "direct":
                declarer.queue_bind(queue.name, self._prefix + DELIVERY, pattern)
            else:
                declarer.exchange_bind(exchange.name, self._prefix + DELIVERY, pattern)
                declarer.queue_bind(queue.name, exchange.name, pattern, binding.arguments)

    def route(self, link: Link, envelope: Envelope) -> tuple[str, str]:
        """Exchange and routing key to publish to; both lead to the envelope's queue."""
        queue, exchange = envelope.queue, envelope.exchange
        routing_key = envelope.routing_key or queue
        if not envelope.mandatory:
            return exchange, routing_key
        if not exchange:
            # The default exchange knows nothing but the names of queues.
            self.ensure(link, queue)
            return "", queue
        if (exchange, routing_key, queue) not in link.declared:
            self.ensure(link, queue)
            self._ensure_binding(link, exchange, routing_key, queue)
            link.declared.add((exchange, routing_key, queue))
        return exchange, routing_key

    def _ensure_binding(self, link: Link, exchange: str, routing_key: str, queue: str) -> None:
        known = self._queues.get(queue)
        if known is not None and exchange in {one.name for one in _exchanges(known)}:
            return  # the application said how the queue is bound to it
        declarer = Declarer(link)
        try:
            declarer.exchange_declare(exchange, passive=True)
        except Refused as error:
            if error.code != NOT_FOUND:
                raise
            declarer.exchange_declare(exchange)
        declarer.queue_bind(queue, exchange, routing_key)

    def ensure_quarantine(self, link: Link) -> None:
        """The queue of quarantine exists."""
        if QUARANTINE not in link.declared:
            Declarer(link).queue_declare(QUARANTINE)
            link.declared.add(QUARANTINE)

    def ensure_topics(self, link: Link) -> None:
        """The exchange of all topics exists. Direct: a topic is a name, no pattern."""
        if TOPICS not in link.declared:
            Declarer(link).exchange_declare(TOPICS)
            link.declared.add(TOPICS)

    # Delays

    def delay(self, link: Link, queue: str, seconds: float) -> tuple[str, str]:
        """Exchange and routing key that lead to the queue after so many seconds, rounded up, at most :data:`LONGEST_DELAY`."""
        if ("delay", queue) not in link.declared:
            self.ensure(link, queue)
            self.ensure_delay(link)
            Declarer(link).queue_bind(queue, self._prefix + DELIVERY, f"#.{_marked(queue)}")
            link.declared.add(("delay", queue))
        whole = min(max(1, math.ceil(seconds)), LONGEST_DELAY)
        bits = ".".join(f"{whole:0{LEVELS}b}")
        # In at the first bit that is set: each exchange that it passes costs the server some 50 µs.
        return self._level(whole.bit_length() - 1), f"{bits}.{_marked(queue)}"

    def ensure_delay(self, link: Link) -> None:
        """The exchanges and queues of delayed delivery exist."""
        if "delay" in link.declared:
            return
        declarer = Declarer(link)
        try:
            declarer.exchange_declare(self._prefix + DELIVERY, type="topic", passive=True)  # what is declared last
        except Refused as error:
            if error.code != NOT_FOUND:
                raise
            self._declare_delay(declarer)
        link.declared.add("delay")

    def _level(self, number: int) -> str:
        return f"{self._prefix}celery_delayed_{number}"

    def _declare_delay(self, declarer: Declarer) -> None:
        """Exchange n looks at bit n of the routing key: 1 leads through queue n, where a message stays 2ⁿ seconds, 0 past it;
        both go on to exchange n - 1, and at last to that of delivery."""
        names = [self._level(number) for number in range(LEVELS)]
        delivery = self._prefix + DELIVERY
        for name in names:
            declarer.exchange_declare(name, type="topic")
        for number, name in enumerate(names):
            declarer.queue_declare(name, arguments=self._arguments_of_level(number))
            declarer.queue_bind(name, name, _looks_at(number, "1"))
        declarer.exchange_declare(delivery, type="topic")
        for number, name in enumerate(names):
            declarer.exchange_bind(names[number - 1] if number else delivery, name, _looks_at(number, "0"))

    def _arguments_of_level(self, number: int) -> Mapping[str, Any]:
        arguments = {
            "x-queue-type": self._delayed_queue_type,
            "x-overflow": "reject-publish",
            "x-message-ttl": 1000 << number,
            "x-dead-letter-exchange": self._level(number - 1) if number else self._prefix + DELIVERY,
        }
        if self._delayed_queue_type == "quorum":
            arguments["x-dead-letter-strategy"] = "at-least-once"
        return arguments


def _is_quorum(queue: kombu.Queue) -> bool:
    return (queue.queue_arguments or {}).get("x-queue-type") == "quorum"


def _is_private(queue: kombu.Queue) -> bool:
    """Whether the queue is one process' own (Kombu's ``Broadcast`` names them at random), for what a fanout exchange says."""
    return bool(queue.auto_delete and queue.exchange.type == "fanout" and _RANDOM.search(queue.name))


def _lasting(queue: kombu.Queue) -> kombu.Queue:
    """The same, but not deleted with its last consumer: while all slots of a worker are busy, it has none."""
    return kombu.Queue(
        queue.name,
        queue.exchange,
        queue.routing_key,
        durable=queue.durable,
        expires=_UNUSED,
        queue_arguments=queue.queue_arguments,
        binding_arguments=queue.binding_arguments,
    )


def _exchanges(queue: kombu.Queue) -> Iterator[kombu.Exchange]:
    if queue.exchange is not None:
        yield queue.exchange
    for binding in queue.bindings:
        if binding.exchange is not None:
            yield binding.exchange


def _looks_at(level: int, bit: str) -> str:
    return "*." * (LEVELS - 1 - level) + f"{bit}.#"


def _marked(queue: str) -> str:
    # A routing key has at most 255 bytes, the bits take 56. Queue names have at most 255 themselves: long ones are hashed.
    name = quote(queue, safe="").replace(".", "%2E").replace("~", "%7E")
    if len(name) > 180:
        import hashlib  # noqa: PLC0415 - only for such names

        name = hashlib.sha256(queue.encode("utf-8", "surrogatepass")).hexdigest()
    return _MARK + name


def undelayed(routing_key: str) -> str | None:
    """The routing key as its publisher knew it, of a message that came through delayed delivery (empty where we sent it to a queue
    ourselves); None for others."""
    bits, rest = routing_key[: 2 * LEVELS], routing_key[2 * LEVELS :]
    if rest and set(bits[::2]) <= {"0", "1"} and set(bits[1::2]) == {"."}:
        return "" if rest.startswith(_MARK) else rest
    return None
