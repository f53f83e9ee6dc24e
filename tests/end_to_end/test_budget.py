"""What one message costs in calls of our own functions, and how tangled the functions on its way may be, so that neither grows
unnoticed. The way itself is told in docs/explanation/the-way-of-one-message.md.
"""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import jumpstarter
from tests.peers import RedisServer, our_side

SOURCES = Path(jumpstarter.__file__).parents[1]
JOBS = 400
BROKER = "jumpstarter.brokers.redis.broker"

#: The modules that a message passes on Redis, from the claim to the ack.
SPINE = (
    "jumpstarter/worker/receive.py",
    "jumpstarter/brokers/redis/broker.py",
    "jumpstarter/brokers/redis/layout.py",
    "jumpstarter/jobs.py",
    "jumpstarter/worker/admit.py",
    "jumpstarter/worker/capacity.py",
    "jumpstarter/worker/worker.py",
    "jumpstarter/executors/thread.py",
    "jumpstarter/executors/loop.py",
    "jumpstarter/worker/execute.py",
    "jumpstarter/worker/marks.py",
    "compat_celery/worker/application.py",
    "compat_celery/protocol.py",
    "compat_celery/app/trace.py",
    "compat_celery/app/effects.py",
    "compat_celery/backends/documents.py",
    "jumpstarter/worker/settle.py",
    "jumpstarter/results/redis.py",
    "jumpstarter/_redis.py",
)

#: In these modules, but not on that way: what is configured, and how clients wait.
BESIDE = {"_tcp_address", "wait", "_wait_once"}


class Cost(NamedTuple):
    """Calls per job.

    :ivar own: by functions that every job calls, with the threads they run in; ``modules`` are those of these functions.
    :ivar shared: all others, of which there are fewer the larger the batches are that jobs travel in.
    :ivar shown: the list for people.
    """

    own: float
    modules: set[str]
    shared: float
    shown: str


def cost(folder: Path, who: str) -> Cost:
    """What jobs cost in a child process: ``bare``, or ``observed`` by signal receivers and traces."""
    with RedisServer(folder / "redis") as redis:
        done = subprocess.run(
            [*our_side().python, Path(__file__).parent / "app" / "counted.py", redis.url, who, str(JOBS)],
            env=our_side().environment(),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told: list[tuple[str, str, str, int]] = json.loads(done.stdout.splitlines()[-1])
    told.sort(key=lambda row: -row[3])
    settled = sum(number for _, module, function, number in told if (module, function) == (BROKER, "settle"))
    own, shared, modules = 0.0, 0.0, set()
    for thread, module, _, number in told:
        if number >= JOBS * 0.95:  # nearly: a claim may have been under way when the counting began
            own += number / JOBS
            modules.add(module)
        elif thread == "settle":
            # How many outcomes have gathered when the last batch is settled depends on what else the machine does. Ten are few.
            shared += number / settled / 10
        else:
            shared += number / JOBS
    lines = [f"{number / JOBS:6.2f} {module}:{function} in {thread}" for thread, module, function, number in told]
    head = f"{own:.1f} own calls a job in {len(modules)} modules, {shared:.1f} shared; {settled} batches were settled"
    return Cost(own, modules, shared, "\n".join([head, *lines]))


@pytest.mark.timeout(120)
def test_a_job_costs_forty_calls_in_twelve_modules(tmp_path: Path) -> None:
    spent = cost(tmp_path, "bare")
    print(spent.shown)
    assert spent.own < 30.5, spent.shown
    assert spent.own + spent.shared <= 40, spent.shown
    assert len(spent.modules) <= 12, spent.modules


@pytest.mark.timeout(120)
def test_a_job_that_is_observed_costs_sixty_calls(tmp_path: Path) -> None:
    spent = cost(tmp_path, "observed")
    print(spent.shown)
    assert spent.own < 44.5, spent.shown
    assert spent.own + spent.shared <= 60, spent.shown


@pytest.mark.parametrize("module", SPINE)
def test_no_function_on_the_way_has_more_than_ten_branches(module: str) -> None:
    tree = ast.parse((SOURCES / module).read_text())
    found = [(function.name, complexity(function)) for function in functions(tree) if function.name not in BESIDE]
    assert [(name, number) for name, number in found if number > 10] == []


def test_complexity_is_counted_by_mccabes_rule() -> None:
    source = """
def entangled(a, b):
    assert a                                      # 2
    for one in [x for x in a if x]:               # 3, 4 with the comprehension, 5 with its condition
        if one and b or one.z:                    # 6, 8 with its operators
            return 1 if one.y else 2              # 9
    try:
        return b
    except ValueError:                            # 10
        match b:
            case 1:                               # 11
                def inner(): return b or a        # one of its own
            case _: ...
"""
    outer, inner = functions(ast.parse(source))
    assert (complexity(outer), complexity(inner)) == (11, 2)


FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[FunctionNode]:
    """Every function and method, also those within others."""
    return (node for node in ast.walk(tree) if isinstance(node, FunctionNode))


def complexity(function: FunctionNode) -> int:
    """McCabe's number: one, and one more for each place where the way forks, boolean operators and comprehensions included."""
    return 1 + sum(_forks(node) for node in _own_nodes(function))


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, FunctionNode):
            yield child
            yield from _own_nodes(child)


def _forks(node: ast.AST) -> int:
    match node:
        case ast.If() | ast.IfExp() | ast.For() | ast.AsyncFor() | ast.While() | ast.ExceptHandler() | ast.Assert():
            return 1
        case ast.comprehension():
            return 1 + len(node.ifs)
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.Match():
            return sum(not _is_wildcard(case) for case in node.cases)
    return 0


def _is_wildcard(case: ast.match_case) -> bool:
    return isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None and case.guard is None
