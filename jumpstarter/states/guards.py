"""Guards that look at the configuration: ``In(state)``, as SCXML writes them."""

from __future__ import annotations

import re

from jumpstarter.states.definition import Callback

_IN = re.compile(r"""^\s*(?P<negation>!|not\s)?\s*In\(\s*(?P<quote>['"]?)(?P<state>[^'"()]+?)(?P=quote)\s*\)\s*$""")


def parse_in(callback: Callback) -> tuple[str, bool] | None:
    """The state that ``In(state)`` (True), ``!In(state)`` or ``not In(state)`` (False) asks for; None for any other guard."""
    found = _IN.match(callback) if isinstance(callback, str) else None
    return (found["state"], not found["negation"]) if found else None
