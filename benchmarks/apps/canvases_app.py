"""Canvases in Celery's words. Genuine workers and ours are given this same file, which is the client of both, too:

    python canvases_app.py KIND SIZE

With BENCH_BYTES, every process appends the sizes of what it publishes to that file: messages as they lie in Redis, and what a
message refers to. That costs time, so times are taken without.
"""

import json
import os
import sys
import time
from typing import Any

from celery import Celery, chain, chord, group

SETTINGS: dict[str, Any] = {
    "broker_connection_retry_on_startup": True,
    "worker_prefetch_multiplier": 64,
    "broker_transport_options": {"exclusive": True} if os.environ.get("BENCH_EXCLUSIVE") else {},
}
app = Celery("canvases_app", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_BROKER"])
app.conf.update(SETTINGS)
#: Seconds that a client waits.
PATIENCE = 600


@app.task
def add(a: int, b: int) -> int:
    """A step."""
    return a + b


@app.task
def total(numbers: list[int]) -> int:
    """A body."""
    return sum(numbers)


def nested(levels: int, width: int) -> Any:
    """Chords in the headers of chords."""
    return chord([nested(levels - 1, width) if levels else add.s(1, 1) for _ in range(width)], total.s())


def make(kind: str, size: int) -> tuple[Any, Any]:
    """A canvas, and the result that it must come to."""
    match kind:
        case "chain":
            return chain(add.s(0, 1), *(add.s(1) for _ in range(size - 1))), size
        case "chord":
            return chord([add.s(1, 1) for _ in range(size)], total.s()), 2 * size
        case "group":
            return group(add.s(1, 1) for _ in range(size)), [2] * size
        case "nested":
            return nested(2, size), 2 * size**3
        case _:
            raise ValueError(kind)


def count_bytes(path: str) -> None:
    """Note the size of everything that this process publishes from now on."""

    def note(size: int) -> None:
        with open(path, "a") as file:  # noqa: PTH123 - one write in append mode; genuine children inherit nothing else
            file.write(f"{size}\n")

    if os.environ.get("BENCH_SIDE") == "ours":
        from jumpstarter.brokers.redis import layout  # noqa: PLC0415 - genuine Celery's environment has none
        from jumpstarter.results.redis import RedisResults  # noqa: PLC0415

        encode, put = layout.encode, RedisResults.put

        def encoding(envelope: Any) -> bytes:
            raw = encode(envelope)
            note(len(raw))
            return raw

        def putting(self: Any, documents: Any, **options: Any) -> Any:
            note(sum(len(document.key) + len(document.body) for document in documents if "canvas" in document.key))
            return put(self, documents, **options)

        layout.encode, RedisResults.put = encoding, putting  # type: ignore[method-assign]
    else:
        from kombu.transport.redis import Channel  # noqa: PLC0415

        real = Channel._put

        def _put(self: Any, queue: str, message: Any, **options: Any) -> Any:
            note(len(json.dumps(message)))
            return real(self, queue, message, **options)

        Channel._put = _put


if path := os.environ.get("BENCH_BYTES"):
    count_bytes(path)


def main() -> None:
    """Print seconds from the call to the result."""
    add.delay(0, 0).get(timeout=PATIENCE)  # the first one opens connections and looks things up
    canvas, expected = make(sys.argv[1], int(sys.argv[2]))
    began = time.perf_counter()
    found = canvas.apply_async().get(timeout=PATIENCE, disable_sync_subtasks=False)
    seconds = time.perf_counter() - began
    if found != expected:
        raise AssertionError(f"{sys.argv[1:]} came to {found!r:.100}, not {expected!r:.100}")
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
