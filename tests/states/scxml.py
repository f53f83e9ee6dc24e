"""Read an SCXML document into a definition of ours: as much of SCXML as the SCION suite uses.

Names of states may contain dots in SCXML and may not here, so each state is named by its place (``s0``, ``s1`` …), and
`Document.ids` says which is which. Events match by prefix in SCXML: ``foo`` becomes ``foo.*``.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jumpstarter.states import Instance

_STATES = ("state", "parallel", "final", "history")
_SILENT = ("log",)


@dataclass
class Document:
    """A document as a definition. `ids`: our name for each of its ids."""

    definition: dict[str, Any]
    ids: dict[str, str] = field(default_factory=dict)

    def atomic(self, instance: Instance) -> set[str]:
        """The ids of the active atomic states, which is what the suite's oracles list."""
        back = {name: identifier for identifier, name in self.ids.items()}
        chart = instance.chart
        return {back[path.rpartition(".")[2]] for path in instance.active if not chart.children(path)}


def read(path: Path) -> Document:
    """The definition in a file."""
    root = ET.parse(path).getroot()
    document = Document({})
    for element in root.iter():
        if _tag(element) in _STATES:
            identifier = element.get("id") or f"anonymous {len(document.ids)}"
            element.set("id", identifier)
            document.ids[identifier] = f"s{len(document.ids)}"
    document.definition = {"name": path.stem, "lenient": True, **_Reader(document.ids).scope(root)}
    return document


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


class _Reader:
    def __init__(self, ids: dict[str, str]) -> None:
        self._ids = ids

    def scope(self, element: ET.Element) -> dict[str, Any]:
        """Children, initial and transitions of a state or of the document."""
        children = [self.state(child) for child in element if _tag(child) in _STATES]
        found: dict[str, Any] = {"states": children}
        if _tag(element) == "parallel":
            found["parallel"] = True
        elif children and _tag(element) != "history":
            found["initial"] = self._initial(element)
        found["transitions"] = [self._transition(child) for child in element if _tag(child) == "transition"]
        return found

    def state(self, element: ET.Element) -> dict[str, Any]:
        name = self._ids[element.get("id", "")]
        if _tag(element) == "history":
            (transition,) = [child for child in element if _tag(child) == "transition"]
            return {"name": name, "history": element.get("type", "shallow"), "default": self._targets(transition.get("target"))}
        found = {"name": name, "final": _tag(element) == "final", **self.scope(element)}
        for child in element:
            if _tag(child) in ("onentry", "onexit"):
                key = "on_enter" if _tag(child) == "onentry" else "on_exit"
                found[key] = self._actions(child)
        return found

    def _initial(self, element: ET.Element) -> list[str]:
        if element.get("initial"):
            return self._targets(element.get("initial"))
        for child in element:
            if _tag(child) == "initial":
                (transition,) = list(child)
                return self._targets(transition.get("target"))
        # SCXML enters the first child where nothing is said.
        return [self._ids[next(child for child in element if _tag(child) in _STATES).get("id", "")]]

    def _targets(self, value: str | None) -> list[str]:
        return [self._ids[identifier] for identifier in (value or "").split()]

    def _transition(self, element: ET.Element) -> dict[str, Any]:
        condition = element.get("cond")
        return {
            "trigger": [_pattern(token) for token in element.get("event", "").split()] or "",
            "dest": self._targets(element.get("target")) or None,
            "type": element.get("type", "external"),
            "conditions": [self._condition(condition)] if condition else [],
            "action": self._actions(element),
        }

    def _condition(self, text: str) -> str | Callable[[], bool]:
        if text in ("true", "false"):
            return lambda: text == "true"
        found = re.fullmatch(r"(?P<negation>!?)In\('(?P<id>[^']+)'\)", text)
        assert found, f"no translation for {text}"
        return f"{found['negation']}In({self._ids[found['id']]})"

    def _actions(self, element: ET.Element) -> list[Callable[..., None]]:
        actions = []
        for child in element:
            if _tag(child) == "raise":
                actions.append(_raising(child.get("event", "")))
            else:
                assert _tag(child) in _SILENT, f"no translation for <{_tag(child)}>"
        return actions


def _raising(event: str) -> Callable[..., None]:
    def raise_event(instance: Instance) -> None:
        instance.raise_(event)

    return raise_event


def _pattern(token: str) -> str:
    return token if token.endswith("*") else f"{token}.*"
