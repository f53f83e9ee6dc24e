"""The same application for dramatiq, on Redis or RabbitMQ, with results in Redis."""

import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from notes import burn, note, setting

URL = setting("BENCH_BROKER")
RESULTS = setting("BENCH_RESULTS")

# Without the middleware for metrics, which dramatiq 2 adds no more of itself; the others are what it comes with.
broker = RabbitmqBroker(url=URL) if URL.startswith("amqp") else RedisBroker(url=URL)
if RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(url=RESULTS), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def nothing(number: int) -> int:
    """Note the number."""
    note(number)
    return number


@dramatiq.actor
def compute(number: int, seconds: float) -> int:
    """Keep a core busy."""
    began = time.monotonic()
    burn(seconds)
    note(number, began)
    return number


@dramatiq.actor
def pause(number: int, seconds: float) -> int:
    """Wait, holding a thread."""
    began = time.monotonic()
    time.sleep(seconds)
    note(number, began)
    return number


def send(number: int) -> None:
    """One message."""
    nothing.send(number)


def send_bulk(numbers: range) -> None:
    """A group, the bulk call that it has."""
    dramatiq.group([nothing.message(number) for number in numbers]).run()


def call(number: int) -> int:
    """One message and its result."""
    return int(nothing.send(number).get_result(block=True, timeout=30_000))
