"""``make conformance [SUITE=…]``: run Celery's tests against ours and say what genuine Celery passes beside it.

::

    python -m tests.conformance integration                       the whole suite, ours; fails when an id of the yardstick does
    python -m tests.conformance t/unit/utils/test_text.py          one file, or a single id
    python -m tests.conformance integration --broker rabbitmq      RabbitMQ as broker, results in Redis (rpc: results there too)
    python -m tests.conformance integration --freeze              genuine Celery, best of 3: writes the yardstick, or a part
    python -m tests.conformance t/… --side genuine -- -k name      anything behind -- goes to pytest
    python -m tests.conformance libraries                         libraries from PyPI; see tests/conformance/libraries.py

The exit status is 0 when every id of the yardstick passed, or every test where there is none. Ids that are left out with a reason
need not pass, but of a suite's ids so many must as ``yardstick.LEAST`` says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from tests.conformance import environments, libraries, report, yardstick
from tests.conformance.runs import BROKERS, SUITES, Verdict, files_of, run, servers

#: How often genuine Celery may try: what it passes once is the yardstick.
TRIES = 3


def main(arguments: Sequence[str]) -> int:
    """Run; the exit status."""
    if arguments and arguments[0] == "libraries":
        return libraries.main(arguments[1:])
    own, rest = _split(arguments)
    asked = _parser().parse_args(own)
    try:
        root = environments.sources()
        environment = environments.genuine() if asked.freeze or asked.side == "genuine" else environments.ours()
    except environments.CannotDownload as why:
        print(f"cannot run: {why}", file=sys.stderr)
        return 2
    suite = asked.what
    ids = [suite] if "::" in suite else []
    broker = asked.broker or ("none" if suite.startswith(("unit", "t/unit")) else "redis")
    runner = _Runner(environment, root, broker, suite, asked.limit, rest, asked.log)
    if asked.freeze:
        return runner.freeze()
    return runner.compare(ids)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Ours, and pytest's behind ``--``."""
    both = list(arguments)
    return (both[: both.index("--")], both[both.index("--") + 1 :]) if "--" in both else (both, [])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", help=f"{', '.join(SUITES)}, or a file, a folder or an id of Celery's tests (t/…)")
    parser.add_argument("--broker", choices=BROKERS, help="default: redis, and none for unit tests")
    parser.add_argument("--side", choices=("ours", "genuine"), default="ours")
    parser.add_argument("--freeze", action="store_true", help="run genuine Celery, best of 3, and write the yardstick")
    parser.add_argument(
        "--limit", type=float, default=300.0, metavar="SECONDS", help="for one test (300, as the suite itself says)"
    )
    parser.add_argument("--log", type=Path, default=environments.CACHE / "logs", help="folder for what the tests print")
    return parser


class _Runner:
    """One suite (or path) on one broker in one environment."""

    def __init__(
        self,
        environment: environments.Environment,
        root: Path,
        broker: str,
        suite: str,
        limit: float,
        options: list[str],
        log: Path,
    ) -> None:
        self.environment = environment
        self.root = root
        self.broker = broker
        self.suite = suite
        self.limit = limit
        self.options = options
        self.log = log / broker

    def run(self, ids: Sequence[str] = ()) -> list[Verdict]:
        """The verdicts of the suite, or of these ids of it."""
        files = files_of(self.root, self.suite)
        with servers(self.broker) as variables:
            return run(
                self.environment,
                self.root,
                files,
                variables=variables,
                ids=ids,
                options=self.options,
                limit=self.limit,
                log=self.log,
            )

    def freeze(self) -> int:
        """Genuine Celery, all of it once, and what failed up to twice more."""
        verdicts = self.best(self.run())
        passed = [verdict.id for verdict in verdicts if verdict.outcome == "passed"]
        suite = self.suite if self.suite in SUITES else self.suite.split("/")[1]
        yardstick.freeze(suite, self.broker, files_of(self.root, self.suite), passed)
        print(f"{len(passed)} ids: {yardstick.path_of(suite, self.broker)}")
        return 0

    def best(self, verdicts: Sequence[Verdict], left_out: Collection[str] = ()) -> list[Verdict]:
        """The best of three: what failed runs up to twice more, and is named when it passes. Some of Celery's tests race against
        the worker in their own process: test_replaced_task_nesting_level_0 clears a variable after the call that has it set."""
        by_id = {verdict.id: verdict for verdict in verdicts}
        for number in range(2, TRIES + 1):
            failed = [each.id for each in by_id.values() if each.outcome == "failed" and each.id not in left_out]
            if not failed:
                break
            for verdict in self.run(failed):
                if verdict.outcome == "passed":
                    print(f"passed when it ran for the {number}. time: {verdict.id}")
                    by_id[verdict.id] = verdict
        return list(by_id.values())

    def compare(self, ids: Sequence[str]) -> int:
        """Run and say how it went beside the yardstick."""
        verdicts = self.run(ids)
        is_whole = self.suite in SUITES and not self.options
        frozen = yardstick.read(self.suite, self.broker) if is_whole else []
        excepted = yardstick.exceptions(self.suite)
        if frozen:
            verdicts = self.best(verdicts, {verdict.id for verdict in verdicts} - set(frozen) | set(excepted))
        if is_whole and self.environment.name == "ours":
            report.keep(self.suite, self.broker, "ours", verdicts)
            report.write_page()
        print("\n".join(report.table(self.suite, verdicts, frozen)))
        is_enough = True
        if frozen:
            wrong = report.missed(verdicts, frozen, excepted)
        else:
            wrong = [verdict for verdict in verdicts if verdict.outcome in ("failed", "uncollected")]
        for verdict in wrong:
            print(f"{verdict.outcome:11} {verdict.id}\n            {verdict.why}")
        print(f"{len(wrong)} missed; what the tests printed: {self.log}")
        if frozen and excepted:
            in_words, is_enough = report.share(self.suite, verdicts, frozen)
            print(f"of all ids, those that are left out too: {in_words}")
        return 1 if wrong or not verdicts or not is_enough else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
