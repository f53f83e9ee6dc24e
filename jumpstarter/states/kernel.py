"""The algorithm of a microstep over the tables: which transitions are taken, what is left, what is entered, in which order.

Comes from: tables. Goes to: memo, which remembers what comes out. Pure functions of their arguments: no hooks run and no guards
are called here; a guard whose answer is needed and not known is the *answer* of :func:`select`.

The semantics are SCXML's (https://www.w3.org/TR/scxml/#AlgorithmforSCXMLInterpretation), whose names are given beside each
function, with one addition, ``local`` transitions (see :func:`exit_set`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jumpstarter.states.definition import done_event
from jumpstarter.states.step import Transition
from jumpstarter.states.tables import Edge, Tables, Target, bits

#: Recorded configurations, one mask for each history state; 0: nothing recorded.
Histories = tuple[int, ...]
#: Transitions with the states that each leaves, or enters.
Owners = Sequence[tuple[Transition, int]]


@dataclass(frozen=True, slots=True)
class Listeners:
    """Which states have transitions for one event, and which postpone it."""

    sources: int
    edges: Mapping[int, Sequence[Edge]]
    postponing: int


@dataclass(frozen=True, slots=True)
class Question:
    """The guard whose answer decides how the selection goes on."""

    guard: int


class Op(NamedTuple):
    """One thing to do while a microstep is carried out. A tuple, because instances unpack one for each hook of each step.

    :ivar mask: the configuration that is visible at this moment.
    :ivar hook: the hook to run, or -1 to raise an event.
    :ivar transition: on whose behalf; None while the initial configuration is entered.
    :ivar event: the event to raise.
    """

    mask: int
    hook: int
    transition: Transition | None
    event: str = ""


@dataclass(frozen=True, slots=True)
class Microstep:
    """What one set of transitions does. States are numbers, in order."""

    mask: int
    histories: Histories
    transitions: tuple[Transition, ...]
    exited: tuple[int, ...]
    entered: tuple[int, ...]
    ops: tuple[Op, ...]
    done: bool


def matches(pattern: str, event: str) -> bool:
    """Whether a trigger means an event: the same name, ``*`` for any, ``a.*`` for ``a`` and all below it."""
    if pattern == event or pattern == "*":
        return True
    return pattern.endswith(".*") and (event == pattern[:-2] or event.startswith(pattern[:-1]))


def listeners(tables: Tables, event: str) -> Listeners:
    """Who listens to the event; empty means eventless transitions."""
    by_state: dict[int, Sequence[Edge]] = {}
    sources = postponing = 0
    for state, edges in enumerate(tables.edges):
        mine = [edge for edge in edges if _listens(edge, event)]
        if mine:
            by_state[state] = mine
            sources |= 1 << state
    for state in bits(tables.postponing):
        if event and any(matches(pattern, event) for pattern in tables.postpone[state]):
            postponing |= 1 << state
    return Listeners(sources, by_state, postponing)


def _listens(edge: Edge, event: str) -> bool:
    if not event:
        return not edge.triggers
    return any(matches(pattern, event) for pattern in edge.triggers)


def leaves(tables: Tables, mask: int) -> int:
    """The active states that have no active state inside."""
    found = mask & tables.atomic
    for state in bits(mask & tables.resting):
        if not mask & tables.below[state]:
            found |= 1 << state
    return found


def select(tables: Tables, mask: int, heard: Listeners, answers: Mapping[int, bool]) -> list[Edge] | Question:
    """The enabled transitions in document order of the active leaves; for each leaf the innermost one (SCXML: selectTransitions).

    Conflicts are still in it: see :func:`prevail`.
    """
    candidates = mask & heard.sources
    if not candidates:
        return []
    selected: list[Edge] = []
    verdicts: dict[int, Edge | None] = {}
    for leaf in bits(leaves(tables, mask)):
        chain = candidates & (tables.above[leaf] | 1 << leaf)
        while chain:
            state = chain.bit_length() - 1  # the innermost, as bits follow document order
            if state not in verdicts:
                enabled = _enabled(heard.edges[state], mask, answers)
                if isinstance(enabled, Question):
                    return enabled
                verdicts[state] = enabled
                if enabled is not None:
                    selected.append(enabled)
            if verdicts[state] is not None:
                break
            chain ^= 1 << state
    return selected


def _enabled(edges: Sequence[Edge], mask: int, answers: Mapping[int, bool]) -> Edge | Question | None:
    """The first transition of a state whose conditions all hold."""
    for edge in edges:
        for check in edge.checks:
            answer = bool(mask & check.mask) if check.mask else answers.get(check.guard)
            if answer is None:
                return Question(check.guard)
            if answer is not check.expected:
                break
        else:
            return edge
    return None


def prevail(tables: Tables, mask: int, histories: Histories, selected: Sequence[Edge]) -> list[Edge]:
    """Of transitions that would leave the same state, the one defined further inside, else the first (SCXML: removeConflicting)."""
    if len(selected) == 1:
        return list(selected)
    kept: list[tuple[Edge, int]] = []
    union = 0
    for edge in selected:
        leaving = exit_set(tables, mask, histories, edge)
        if leaving & union:
            rivals = [other for other, theirs in kept if theirs & leaving]
            if not all(tables.above[edge.source] >> other.source & 1 for other in rivals):
                continue
            kept = [(other, theirs) for other, theirs in kept if other not in rivals]
        kept.append((edge, leaving))
        union |= leaving
    return [edge for edge, _ in kept]


def deferred(tables: Tables, mask: int, heard: Listeners, selected: Sequence[Edge]) -> bool:
    """Whether the event is postponed: an active state postpones it, and every transition for it is defined on an ancestor of such
    a state."""
    postponing = mask & heard.postponing
    return bool(postponing) and all(tables.below[edge.source] & postponing for edge in selected)


def effective(tables: Tables, histories: Histories, targets: Sequence[Target]) -> list[int]:
    """Targets with history states replaced by what they stand for now (SCXML: getEffectiveTargetStates)."""
    found: list[int] = []
    for target in targets:
        if target >= 0:
            found.append(target)
        elif recorded := histories[-target - 1]:
            found += bits(recorded)
        else:
            found += effective(tables, histories, tables.histories[-target - 1].default)
    return found


def exit_set(tables: Tables, mask: int, histories: Histories, edge: Edge) -> int:
    """The active states that the transition leaves (SCXML: computeExitSet).

    ``external`` leaves everything below the nearest compound ancestor that contains source and targets; ``internal`` everything
    inside its source. ``local``, the default, leaves as little as possible, as `transitions` does: what is active below the
    nearest *active* ancestor of its target, and of a parallel one only the region that the target is. So a region that starts
    over does not disturb its siblings.
    """
    if not edge.targets:
        return 0
    targets = effective(tables, histories, edge.targets)
    if edge.type == "local":
        return _local_exit(tables, mask, targets)
    domain = _domain(tables, edge, targets)
    return mask & tables.below[domain]


def _local_exit(tables: Tables, mask: int, targets: Sequence[int]) -> int:
    leaving = 0
    for target in targets:
        anchor = (tables.above[target] & mask).bit_length() - 1
        if tables.parallel >> anchor & 1:
            # All regions of an active parallel state are active, so the target is a region itself.
            leaving |= mask & (tables.below[target] | 1 << target)
        else:
            leaving |= mask & tables.below[anchor]
    return leaving


def _domain(tables: Tables, edge: Edge, targets: Sequence[int]) -> int:
    """The state inside which all of the transition happens (SCXML: getTransitionDomain, findLCCA)."""
    source = edge.source
    if edge.type == "internal" and not tables.parallel >> source & 1 and all(tables.above[t] >> source & 1 for t in targets):
        return source
    common = tables.above[source]
    for target in targets:
        common &= tables.above[target]
    return (common & ~tables.parallel | 1).bit_length() - 1


def entry_set(tables: Tables, mask: int, histories: Histories, targets: Sequence[Target]) -> int:
    """The states to enter so that the targets are active and the configuration is legal (SCXML: computeEntrySet).

    ``mask``: what stays active.
    """
    entering = 0
    for target in targets:
        entering = _add_descendants(tables, histories, entering, target)
    for target in effective(tables, histories, targets):
        entering = _add_ancestors(tables, mask, histories, entering, target)
    return entering & ~mask


def _add_descendants(tables: Tables, histories: Histories, entering: int, target: Target) -> int:
    """Add the target and what its entry brings along by default."""
    if target < 0:
        history = tables.histories[-target - 1]
        recorded = histories[-target - 1]
        for state in bits(recorded) if recorded else history.default:
            entering = _add_descendants(tables, histories, entering, state)
        for state in effective(tables, histories, [target]):
            entering = _add_ancestors(tables, 1 << history.parent, histories, entering, state)
        return entering
    entering |= 1 << target
    for inner in tables.initial[target]:
        entering = _add_descendants(tables, histories, entering, inner)
    for inner in effective(tables, histories, tables.initial[target]):
        entering = _add_ancestors(tables, 1 << target, histories, entering, inner)
    return _add_regions(tables, histories, entering, target)


def _add_ancestors(tables: Tables, active: int, histories: Histories, entering: int, target: int) -> int:
    """Add what lies between the target and the nearest active ancestor, with the other regions of parallel states."""
    state = tables.parent[target]
    while state and not active >> state & 1:
        entering |= 1 << state
        entering = _add_regions(tables, histories, entering, state)
        state = tables.parent[state]
    return entering


def _add_regions(tables: Tables, histories: Histories, entering: int, state: int) -> int:
    """Of a parallel state, add each region in which nothing is entered yet."""
    if tables.parallel >> state & 1:
        for region in bits(tables.children[state]):
            if not entering & (tables.below[region] | 1 << region):
                entering = _add_descendants(tables, histories, entering, region)
    return entering


def record(tables: Tables, mask: int, histories: Histories, leaving: int) -> Histories:
    """The histories after these states are left."""
    if not histories:
        return histories
    active = leaves(tables, mask)
    return tuple(
        (active if history.deep else mask) & history.scope if leaving >> history.parent & 1 else old
        for history, old in zip(tables.histories, histories, strict=True)
    )


def region_of(tables: Tables, state: int) -> int:
    """The innermost child of a parallel state in which the state lies (or which it is); 0 for none."""
    while state and not tables.parallel >> tables.parent[state] & 1:
        state = tables.parent[state]
    return state


def start(tables: Tables) -> Microstep:
    """Enter the initial configuration."""
    histories: Histories = (0,) * len(tables.histories)
    entering = _add_descendants(tables, histories, 0, 0) & ~1
    ops = tuple(_enter(tables, 1, entering, ()))
    mask = entering | 1
    return Microstep(mask, histories, (), (), tuple(bits(entering)), ops, done=is_done(tables, mask, 0))


def microstep(tables: Tables, mask: int, histories: Histories, edges: Sequence[Edge], event: str) -> Microstep:
    """Carry out transitions that do not conflict (SCXML: microstep).

    Hooks run in this order: all ``before``, exits from the inside out, all ``action``, entries from the outside in, all ``after``.
    """
    leaving = [exit_set(tables, mask, histories, edge) for edge in edges]
    left = _union(leaving)
    stays = mask & ~left
    # What is left is recorded first: a transition from a state to a history state of its own parent comes back to where it was.
    recorded = record(tables, mask, histories, left)
    taken = [_report(tables, recorded, edge, theirs, event) for edge, theirs in zip(edges, leaving, strict=True)]
    entering = [entry_set(tables, stays, recorded, edge.targets) for edge in edges]
    joint = (
        entry_set(tables, stays, recorded, [target for edge in edges for target in edge.targets]) if left | _union(entering) else 0
    )
    after = stays | joint
    pairs = list(zip(edges, taken, strict=True))
    ops = [Op(mask, hook, transition) for edge, transition in pairs for hook in edge.before]
    ops += _exit(tables, mask, left, list(zip(taken, leaving, strict=True)))
    ops += [Op(stays, hook, transition) for edge, transition in pairs for hook in edge.action]
    ops += _enter(tables, stays, joint, list(zip(taken, entering, strict=True)))
    ops += [Op(after, hook, transition) for edge, transition in pairs for hook in edge.after]
    done = is_done(tables, after, 0)
    return Microstep(after, recorded, tuple(taken), tuple(bits(left)[::-1]), tuple(bits(joint)), tuple(ops), done)


def _union(masks: Sequence[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union


def _report(tables: Tables, histories: Histories, edge: Edge, leaving: int, event: str) -> Transition:
    source = tables.paths[edge.source]
    if not edge.targets:
        return Transition(tables.paths[region_of(tables, edge.source)], source, None, event)
    targets = effective(tables, histories, edge.targets)
    common = -1
    for state in {*bits(leaving), *targets}:
        common &= tables.above[state] | 1 << state
    region = region_of(tables, common.bit_length() - 1)
    return Transition(tables.paths[region], source, " ".join(tables.paths[target] for target in targets), event)


def _owner(owners: Owners, state: int) -> Transition | None:
    """On whose behalf a state is left or entered. Where several transitions share an entry, the first."""
    for transition, theirs in owners:
        if theirs >> state & 1:
            return transition
    return owners[0][0] if owners else None


def _exit(tables: Tables, mask: int, left: int, owners: Owners) -> Iterator[Op]:
    """Hooks see the state that they leave as active, and those left before it as gone."""
    for state in reversed(bits(left)):
        for hook in tables.on_exit[state]:
            yield Op(mask, hook, _owner(owners, state))
        mask &= ~(1 << state)


def _enter(tables: Tables, mask: int, entering: int, owners: Owners) -> Iterator[Op]:
    """Hooks see the state that they enter as active, and those entered after it as not yet there."""
    for state in bits(entering):
        mask |= 1 << state
        for hook in tables.on_enter[state]:
            yield Op(mask, hook, _owner(owners, state))
        if tables.final >> state & 1:
            yield from _complete(tables, mask, state, _owner(owners, state))


def _complete(tables: Tables, mask: int, state: int, transition: Transition | None) -> Iterator[Op]:
    """A final state was entered: its parent is done, and a parallel state around that one when all of its regions are."""
    yield from (Op(mask, hook, transition) for hook in tables.on_final[state])
    while state:
        state = tables.parent[state]
        if not is_done(tables, mask, state):
            return
        yield from (Op(mask, hook, transition) for hook in tables.on_final[state])
        if state:
            yield Op(mask, -1, transition, done_event(tables.paths[state]))
        if not tables.parallel >> tables.parent[state] & 1:
            return


def is_done(tables: Tables, mask: int, state: int) -> bool:
    """Whether the state has come to its end (SCXML: isInFinalState)."""
    if tables.final >> state & 1:
        return bool(mask >> state & 1)
    if tables.parallel >> state & 1:
        return all(is_done(tables, mask, region) for region in bits(tables.children[state]))
    return bool(mask & tables.final & tables.children[state])


def is_legal(tables: Tables, mask: int) -> bool:
    """Whether the mask is a configuration: one child of each active compound state is active, and all of each parallel one."""
    for state in bits(mask):
        inside = tables.children[state]
        active = mask & inside
        if tables.parallel >> state & 1:
            if active != inside:
                return False
        elif inside and active.bit_count() != 1 and (active or not tables.resting >> state & 1):
            return False
    return True
