"""A fake API that counts violations of its limits: ``python -m examples.pipelines.server --requests 10 --period 1``.

It answers a POST of rows with as many results, after ``--latency`` seconds; ``GET /`` tells what it has seen. It may refuse with
429, answer 500 for a share of the requests, and hang for another share, so that clients run into their timeouts.
"""

import argparse
import json
import random
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Ledger:
    """What the server has seen. A violation is more than the limit within any period, less the tolerance (seconds)."""

    def __init__(self, requests, rows, period, tolerance):
        self.limits = {"requests": requests, "rows": rows}
        self.period = period - tolerance
        self.recent = deque()
        self.seen = {"requests": 0, "rows": 0, "violations": 0, "errors": 0, "refused": 0, "hung": 0}
        self.keys = {}
        self.lock = threading.Lock()

    def note(self, rows, key):
        """Count a request when it arrives."""
        with self.lock:
            now = time.monotonic()
            while self.recent and self.recent[0][0] <= now - self.period:
                self.recent.popleft()
            self.recent.append((now, rows))
            used = {"requests": len(self.recent), "rows": sum(count for _, count in self.recent)}
            if any(limit and used[unit] > limit for unit, limit in self.limits.items()):
                self.seen["violations"] += 1
            self.seen["requests"] += 1
            self.seen["rows"] += rows
            if key:
                self.keys[key] = self.keys.get(key, 0) + 1

    def count(self, what):
        """Count something else."""
        with self.lock:
            self.seen[what] += 1

    def told(self):
        """What it tells those who ask."""
        with self.lock:
            return {**self.seen, "repeated": sum(count - 1 for count in self.keys.values())}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Tell what was seen."""
        self.answer(200, self.server.ledger.told())

    def do_POST(self):
        """Serve rows."""
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        options, ledger, dice = self.server.options, self.server.ledger, random.random()
        if dice < options.refusing:
            ledger.count("refused")
            return self.answer(429, {}, {"Retry-After": "0.2"})
        ledger.note(len(rows), self.headers.get("Idempotency-Key"))
        if dice < options.refusing + options.failing:
            ledger.count("errors")
            return self.answer(500, {"error": "no"})
        if dice < options.refusing + options.failing + options.hanging:
            ledger.count("hung")
            time.sleep(options.hang)
        time.sleep(options.latency)
        return self.answer(200, [{"row": row, "answer": str(row)[::-1]} for row in rows])

    def answer(self, status, body, headers=None):
        """Send it."""
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Serves until the process ends."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, options):
        super().__init__(("127.0.0.1", options.port), Handler)
        self.options = options
        self.ledger = Ledger(options.requests, options.rows, options.period, options.tolerance)

    def handle_error(self, request, client_address):
        """A client that was killed is no error of the server."""


def options(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8009)
    parser.add_argument("--requests", type=int, default=0, help="allowed per period; 0: any number")
    parser.add_argument("--rows", type=int, default=0, help="allowed per period; 0: any number")
    parser.add_argument("--period", type=float, default=1.0, help="seconds")
    parser.add_argument("--tolerance", type=float, default=0.05, help="seconds of the period that are forgiven")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds for each request")
    parser.add_argument("--refusing", type=float, default=0.0, help="the share of requests that get 429")
    parser.add_argument("--failing", type=float, default=0.0, help="the share that get 500")
    parser.add_argument("--hanging", type=float, default=0.0, help="the share that are answered late")
    parser.add_argument("--hang", type=float, default=3.0, help="how late, in seconds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    Server(options()).serve_forever()
