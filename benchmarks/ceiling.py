"""The least that a child can do: what no-op tasks with results would cost if a worker were nothing but its hot loop.

Two processes. Each claims a batch with one Lua call (pop, record in Kombu's ``unacked`` hash and ``unacked_index``), decodes
the 900-byte protocol 2 messages, calls the function, and sends one pipeline: SETEX and PUBLISH for each result, then one Lua
call that acks all. No lease, no fence, no signals, no request object, no retry, no shutdown: a sketch, for comparison. The
tools are ours (redis-py, hiredis, orjson for envelopes, the standard library's json for bodies and results).

    python benchmarks/ceiling.py                       # 60,000 tasks, batches of 100 and of 16, 3 rounds
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import multiprocessing.synchronize
import os
import resource
import sys
import time
import uuid
from pathlib import Path

import orjson
import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs as a plain script

from benchmarks import figures
from benchmarks.apps.notes import note
from benchmarks.noted import Notes, notes
from benchmarks.processes import processor_time
from tests.peers import RedisServer, load, raw_message, scratch

CLAIM = """
local raws = redis.call('RPOP', KEYS[1], ARGV[1])
if not raws then return {} end
local entries, scores = {}, {}
for n, raw in ipairs(raws) do
    local tag = ARGV[2] .. '.' .. n
    entries[2 * n - 1], entries[2 * n] = tag, raw
    scores[2 * n - 1], scores[2 * n] = ARGV[3], tag
end
redis.call('HSET', KEYS[2], unpack(entries))
redis.call('ZADD', KEYS[3], unpack(scores))
return raws
"""
ACK = """
redis.call('HDEL', KEYS[1], unpack(ARGV))
redis.call('ZREM', KEYS[2], unpack(ARGV))
"""
DAY = 86_400


def child(port: int, batch: int, path: str, gate: multiprocessing.synchronize.Barrier) -> None:
    """Work until the queue is empty."""
    os.environ["BENCH_NOTES"] = path
    client = redis.Redis(port=port)
    claim, ack = client.register_script(CLAIM), client.register_script(ACK)
    client.ping()
    me, calls = uuid.uuid4().hex, 0

    def nothing(number: int) -> int:
        note(number)
        return number

    tasks = {"fast.nothing": nothing}
    gate.wait()
    while True:
        calls += 1
        stem = f"{me}.{calls}"
        raws = claim(keys=["celery", "unacked", "unacked_index"], args=[batch, stem, time.time()])
        if not raws:
            return
        pipe = client.pipeline(transaction=False)
        for raw in raws:
            message = orjson.loads(raw)
            headers = message["headers"]
            args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
            result = tasks[headers["task"]](*args, **kwargs)
            meta = {"status": "SUCCESS", "result": result, "traceback": None, "children": [], "task_id": headers["id"]}
            key, document = f"celery-task-meta-{headers['id']}", json.dumps(meta)
            pipe.execute_command("SETEX", key, DAY, document)  # type: ignore[no-untyped-call]  # redis-py has not typed it
            pipe.publish(key, document)
        ack(keys=["unacked", "unacked_index"], args=[f"{stem}.{n}" for n in range(1, len(raws) + 1)], client=pipe)
        pipe.execute()


def measure(server: RedisServer, noted: Notes, tasks: int, batch: int, processes: int = 2) -> tuple[float, float]:
    """Tasks per second of one run, and processor seconds a task, of the processes and of Redis."""
    server.client.flushall()
    noted.clear()
    load(server.client, (raw_message("fast.nothing", [number]) for number in range(tasks)))
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(processes)
    children = [context.Process(target=child, args=(server.port, batch, str(noted.path), gate)) for _ in range(processes)]
    redis_pid = int(server.client.info("server")["process_id"])
    served, worked = processor_time(redis_pid), resource.getrusage(resource.RUSAGE_CHILDREN)
    for each in children:
        each.start()
    for each in children:
        each.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = processor_time(redis_pid) - served + after.ru_utime - worked.ru_utime + after.ru_stime - worked.ru_stime
    done = noted.check(tasks)
    stored = server.client.dbsize()
    assert stored == tasks, f"{stored} keys after {tasks} tasks"
    return (tasks - 1) / (done[-1].ended - done[0].began), cost / tasks


def parse() -> argparse.Namespace:
    """The command line."""
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=60_000)
    parser.add_argument("--batches", default="100,16")
    options = parser.parse_args()
    if options.short:
        options.tasks, options.rounds = 10_000, 1
    return options


def main() -> int:
    """Print the rates."""
    options = parse()
    print(figures.ground())
    batches = [int(batch) for batch in options.batches.split(",")]
    rates: dict[int, list[float]] = {batch: [] for batch in batches}
    with scratch("ceiling-") as folder, RedisServer(folder / "redis") as server, notes() as noted:
        for _ in range(options.rounds):
            for batch, found in rates.items():
                rate, cost = measure(server, noted, options.tasks, batch)
                print(f"  batches of {batch}: {rate:,.0f} tasks/s, {cost * 1e6:.0f} µs of processor time a task", flush=True)
                found.append(rate)
    return figures.finish(
        [
            figures.Line(f"sketch of a child, 2 processes, batches of {batch}", figures.spread(found))
            for batch, found in rates.items()
        ],
        options,
    )


if __name__ == "__main__":
    sys.exit(main())
