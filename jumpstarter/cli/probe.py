"""``jumpstarter probe live|ready --statefile PATH [--max-age SECONDS]``: ask a worker on this machine how it is.

For exec probes of Kubernetes and for watchdogs: it reads a file, asks no server, and imports next to nothing.

====  ================================================================================================
exit  means
====  ================================================================================================
0     yes
1     no, or there is no such worker; one sentence on standard output says why
2     the command was misspelt
====  ================================================================================================
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from jumpstarter.statefile import MAX_AGE, Verdict, live, read, ready

_QUESTIONS = {"live": live, "ready": ready}


def main(argv: Sequence[str] | None = None) -> int:
    """Answer the exit code."""
    options = _parser().parse_args(argv)
    verdict = ask(options.question, options.statefile, options.max_age)
    print(verdict.why)
    return 0 if verdict.is_good else 1


def ask(question: str, statefile: str, max_age: float) -> Verdict:
    """What the state file says to ``live`` or ``ready``."""
    try:
        return _QUESTIONS[question](read(statefile), max_age=max_age)
    except FileNotFoundError:
        return Verdict(False, f"not {question}: there is no state file {statefile}, so no worker runs with it")
    except (OSError, ValueError) as error:
        return Verdict(False, f"not {question}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jumpstarter probe", description="Ask a worker on this machine how it is.")
    parser.add_argument("question", choices=_QUESTIONS, help="live: its loop runs; ready: it is healthy, and so are its children")
    parser.add_argument("--statefile", required=True, metavar="PATH", help="the file that the worker was given as --statefile")
    parser.add_argument(
        "--max-age", type=float, default=MAX_AGE, metavar="SECONDS", help="how long its loop may be silent (default: %(default)g)"
    )
    return parser
