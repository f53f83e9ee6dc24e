"""What an answer says about how long to stay away. Pure. Used by: lane.

HTTP libraries raise different errors; what they have in common is a status and headers, on the error or on its ``response``.
"""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime
from typing import Any

from jumpstarter.errors import Throttled

#: Answers that ask to stay away, where they say for how long: Too Many Requests, Service Unavailable.
_STATUSES = (429, 503)
#: Seconds to stay away after a 429 that says nothing.
_UNSAID = 1.0


def stay_away(error: BaseException, now: float) -> float | None:
    """Seconds for which the other side wants to be left alone; None when the error says nothing of the kind.

    Understood are :class:`~jumpstarter.errors.Throttled`, and errors of httpx, requests, aiohttp and urllib for 429, and for 503
    with ``Retry-After`` (seconds or a date, RFC 9110 §10.2.3).

    :param now: wall time.
    """
    if isinstance(error, Throttled):
        return max(0.0, error.after)
    response = getattr(error, "response", None) or error
    status = next(
        (found for name in ("status_code", "status", "code") if isinstance(found := getattr(response, name, None), int)), 0
    )
    if status not in _STATUSES:
        return None
    said = _retry_after(getattr(response, "headers", None), now)
    return _UNSAID if said is None and status == 429 else said


def _retry_after(headers: Any, now: float) -> float | None:
    if not hasattr(headers, "get"):
        return None
    text = headers.get("Retry-After") or headers.get("retry-after")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(str(text)).timestamp() - now
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
