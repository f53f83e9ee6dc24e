"""Whether a task is revoked: by its id, or by a stamp. Over: worker.state. Used by: worker.application, worker.control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu.utils.functional import maybe_list

from compat_celery.worker import state

__all__ = ("has_stamp", "is_revoked", "revoke_stamps")


def revoke_stamps(headers: Mapping[str, Any]) -> None:
    """Revoke every task that is stamped with one of these values (one or a list) under one of these headers."""
    for header, stamps in headers.items():
        known = list(maybe_list(state.revoked_stamps.get(header)) or ())
        known += [stamp for stamp in maybe_list(stamps) or () if stamp not in known]
        state.revoked_stamps[header] = known


def is_revoked(task_id: str, stamps: Mapping[str, Any] | None) -> bool:
    """Whether a task with this id and these stamps must not start."""
    return task_id in state.revoked or (bool(stamps) and has_stamp(stamps or {}, state.revoked_stamps))


def has_stamp(stamps: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether one of the ``wanted`` values (one or a list) stands under its header. Pure."""
    for header, values in wanted.items():
        mine = maybe_list(stamps.get(header)) or ()
        # Compared one by one: stamps may be of any JSON type, also of such that cannot be hashed.
        if any(stamp in (maybe_list(values) or ()) for stamp in mine):
            return True
    return False
