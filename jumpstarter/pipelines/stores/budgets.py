"""Budgets of stores that decide in this process: the state is read, ``windows`` decides, and it is written back, in one step.

Used by: memory, sqlite. On Redis the same is decided in Lua (``budget.lua``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from jumpstarter.pipelines import windows
from jumpstarter.pipelines.clocks import clock
from jumpstarter.pipelines.stores.port import BudgetSpec, Grant, Room
from jumpstarter.pipelines.windows import Amounts, State

T = TypeVar("T")


class LocalBudgets(ABC):
    """The part of a :class:`~jumpstarter.pipelines.stores.port.Store` that is about budgets."""

    @abstractmethod
    def on_state(self, budget: BudgetSpec, work: Callable[[State], T]) -> T:
        """What ``work`` answers, given the budget's state, which it may change; nobody else changes it meanwhile."""

    def take(self, budget: BudgetSpec, want: Amounts, least: Amounts) -> Grant:
        now = clock().now()
        decision = self.on_state(budget, lambda state: windows.take(state, budget.windows(now), now, want, least))
        return Grant(decision.granted, now, decision.wait)

    def peek(self, budget: BudgetSpec, least: Amounts) -> Room:
        now = clock().now()
        looks = self.on_state(budget, lambda state: windows.examine(state, budget.windows(now), now, least))
        return Room(now, max((look.wait for look in looks), default=0.0), looks)

    def refund(self, budget: BudgetSpec, grant: Grant, back: Amounts) -> None:
        now = clock().now()
        self.on_state(budget, lambda state: windows.refund(state, budget.windows(now), grant.amounts, grant.at, back))

    def block(self, budget: BudgetSpec, seconds: float | None, until: float | None) -> None:
        moment = until if until is not None else clock().now() + (seconds or 0.0)
        self.on_state(budget, lambda state: windows.block(state, moment))
