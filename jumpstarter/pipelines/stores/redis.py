"""A store on a Redis server (6.2 or newer), shared by many machines. Each call is one script, at the server's time.

All keys begin with ``{jumpstarter}:``, one hash slot, so that rows can be settled and handed to another queue in one step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from jumpstarter._redis import Links, Script, parse_address
from jumpstarter.errors import ConfigurationError, StoreUnavailable
from jumpstarter.pipelines.clocks import clock, injected_now
from jumpstarter.pipelines.stores.port import (
    Arrived,
    BudgetSpec,
    Claim,
    Counts,
    DeadRow,
    Grant,
    JoinSpec,
    Part,
    Put,
    Room,
    Row,
    Settlement,
)
from jumpstarter.pipelines.windows import Amounts, Look, Window

_ROOT: Final = "{jumpstarter}:"
_LUA: Final = files("jumpstarter") / "pipelines" / "stores" / "lua"
_BUDGET: Final = Script((_LUA / "budget.lua").read_text("utf-8"))
_ROWS: Final = Script((_LUA / "rows.lua").read_text("utf-8"))
#: Seconds after the longest window for which an idle budget is kept.
_KEEP: Final = 86_400.0
#: Rows in one call: a larger one would keep the server from serving others for milliseconds.
_AT_ONCE: Final = 5_000


class RedisStore:
    """See the module's text.

    :param url: ``redis://host:port/database``.
    :param timeout: seconds for one call.
    """

    is_quick = False

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        address = parse_address(url)
        self.url = address.url
        self._links = Links(
            address,
            timeout,
            unavailable=lambda why: StoreUnavailable(address.url, why),
            refused=lambda message: StoreUnavailable(address.url, message),
        )

    # -- budgets --

    def take(self, budget: BudgetSpec, want: Amounts, least: Amounts) -> Grant:
        want = {unit: amount for unit, amount in want.items() if amount > 0}
        need = {unit: min(least.get(unit, 1), amount) for unit, amount in want.items()}
        _, reply = self._budget("take", budget, need, want=want)
        return Grant({unit.decode(): amount for unit, amount in reply[4]}, float(reply[1]), float(reply[2]))

    def peek(self, budget: BudgetSpec, least: Amounts) -> Room:
        windows, (_, at, wait, looks, _) = self._budget("peek", budget, least)
        seen = (
            Look(window, left, free, float(own), float(resets))
            for window, (left, free, own, resets) in zip(windows, looks, strict=True)
        )
        return Room(float(at), float(wait), tuple(seen))

    def refund(self, budget: BudgetSpec, grant: Grant, back: Amounts) -> None:
        self._budget("refund", budget, {}, at=grant.at, granted=dict(grant.amounts), back=dict(back))

    def block(self, budget: BudgetSpec, seconds: float | None, until: float | None) -> None:
        self._budget("block", budget, {}, **({"until": until} if until is not None else {"seconds": seconds or 0.0}))

    def _budget(self, mode: str, budget: BudgetSpec, least: Amounts, **more: Any) -> tuple[tuple[Window, ...], Any]:
        now = clock().now()
        for unit, amount in least.items():
            for rate in budget.limits.get(unit, ()):
                if amount > rate.limit:
                    raise ConfigurationError(
                        f"{amount} {unit} at once are never to be had: the limit is {rate.limit} in {rate.period:g} s"
                    )
        while True:
            windows = budget.windows(now)
            known = {window.unit for window in windows}
            arguments = {
                "windows": [_as_json(window) for window in windows],
                "least": least,
                "keep": max(window.hold for window in windows) + _KEEP,
                **more,
            }
            if "want" in more:
                arguments["want"] = {unit: amount for unit, amount in more["want"].items() if unit in known}
            reply = self._links.script(
                _BUDGET, [f"{_ROOT}budget:{budget.name}"], [mode, _moment(), json.dumps(arguments, separators=(",", ":"))]
            )
            if reply[0] != b"bounds":
                break
            now = float(reply[1])
        if mode == "take":
            # What is not limited is granted as it is wanted.
            free = [[unit.encode(), amount] for unit, amount in more["want"].items() if unit not in known]
            if reply[4] or (not arguments["want"] and float(reply[2]) == 0.0):
                reply[4] += free
        return windows, reply

    # -- rows --

    def put(self, put: Put) -> int:
        return sum(
            self._rows("put", queue=put.queue, rows=_flat(put.rows[first : first + _AT_ONCE]), after=put.after)
            for first in range(0, len(put.rows), _AT_ONCE)
        )

    def feed(self, put: Put, before: str | None, after: str) -> bool:
        rows = _flat(put.rows)
        return bool(self._rows("feed", queue=put.queue, rows=rows, after=put.after, before=before or "", after_cursor=after) == 1)

    def cursor(self, queue: str) -> str | None:
        found = self._links.call("GET", f"{_ROOT}rows:{queue}:cursor")
        return None if found is None else str(found.decode())

    def claim(self, queue: str, limit: int, lease: float, max_attempts: int, least: int = 1) -> Claim:
        reply = self._rows("claim", queue=queue, limit=limit, lease=float(lease), most=max_attempts, least=max(1, least))
        if reply[0] == 0:
            return Claim(0, (), reply[2], max(0.0, float(reply[1])) if reply[1] else None)
        fence, keys, values, tries = reply
        counts = [int(count) + 1 for count in tries] or [1] * len(keys)
        found = json.loads(b"[" + b",".join(values) + b"]")  # a third of the time of one by one
        rows = [Row(key.decode(), value, attempt) for key, value, attempt in zip(keys, found, counts, strict=True)]
        return Claim(fence, tuple(rows))

    def renew(self, queue: str, fence: int, lease: float) -> bool:
        return bool(self._rows("renew", queue=queue, fence=str(fence), lease=float(lease)))

    def settle(self, settlement: Settlement) -> bool:
        return bool(self._rows("settle", **_settlement(settlement)))

    def counts(self, queue: str) -> Counts:
        return Counts(*self._rows("counts", queue=queue))

    def dead(self, queue: str, limit: int) -> list[DeadRow]:
        return [
            DeadRow(key.decode(), json.loads(body), reason.decode(), int(tries), float(at))
            for key, body, reason, tries, at in self._rows("dead", queue=queue, limit=limit)
        ]

    def revive(self, queue: str, keys: Sequence[str] | None) -> int:
        return int(self._rows("revive", queue=queue, **({} if keys is None else {"keys": list(keys)})))

    # -- joins --

    def arrive(self, part: Part) -> Arrived:
        answer: Arrived = self._rows("arrive", **_part(part)).decode()
        return answer

    def expire(self, join: JoinSpec) -> int:
        return int(self._rows("expire", **_join(join)))

    # -- counts --

    def add(self, pipeline: str, counts: Mapping[str, float]) -> None:
        self._rows("add", pipeline=pipeline, counts=dict(counts))

    def progress(self, pipeline: str) -> dict[str, float]:
        found = self._links.call("HGETALL", f"{_ROOT}progress:{pipeline}")
        return {name.decode(): float(value) for name, value in zip(found[::2], found[1::2], strict=True)}

    def close(self) -> None:
        self._links.close()

    def forget(self, queue: str) -> None:
        cursor = b"0"
        while True:
            pattern = f"{_ROOT}rows:{queue}:*"
            cursor, keys = self._links.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            if keys:
                self._links.call("DEL", *keys)
            if cursor == b"0":
                return

    def _rows(self, what: str, **arguments: Any) -> Any:
        return self._links.script(_ROWS, [_ROOT], [what, _moment(), json.dumps(arguments, separators=(",", ":"))])


def _moment() -> str:
    now = injected_now()
    return "" if now is None else repr(now)


def _as_json(window: Window) -> dict[str, Any]:
    return {
        "key": window.key,
        "unit": window.unit,
        "limit": window.limit,
        "period": window.period,
        "hold": window.hold,
        "calendar": window.is_calendar,
        "smooth": window.is_smooth,
        "bounds": window.bounds,
    }


def _flat(rows: Sequence[tuple[str, Any]]) -> list[str]:
    return [text for key, value in rows for text in (key, json.dumps(value))]


def _join(join: JoinSpec) -> dict[str, Any]:
    return {
        "queue": join.queue,
        "expect": join.expect,
        "timeout": join.timeout or 0.0,
        "timed_out": join.timed_out,
        "late": join.late,
        "remember": join.remember,
    }


def _part(part: Part) -> dict[str, Any]:
    return {"join": _join(part.join), "key": part.key, "name": part.name, "value": json.dumps(part.value)}


def _settlement(one: Settlement) -> dict[str, Any]:
    found: dict[str, Any] = {
        "queue": one.queue,
        "fence": str(one.fence),
        "back": [
            {"key": back.key, "after": float(back.after), "counted": back.is_counted, "reason": back.reason} for back in one.back
        ],
        "dead": list(one.dead),
        "most": one.max_attempts,
        "remember": float(one.remember),
        "puts": [{"queue": put.queue, "rows": _flat(put.rows), "after": float(put.after)} for put in one.puts],
        "parts": [_part(part) for part in one.parts],
        "pipeline": one.pipeline,
        "counts": {name: count for name, count in one.counts.items() if count},
    }
    if one.keys is not None:
        found["keys"] = list(one.keys)
    return found
