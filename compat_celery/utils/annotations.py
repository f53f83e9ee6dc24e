"""Questions about type annotations. Pure; used by tasks with pydantic models."""

from __future__ import annotations

import types
import typing
from inspect import isclass
from typing import Any


def is_none_type(value: Any) -> bool:
    """Whether it is the type of None."""
    return value is types.NoneType


def get_optional_arg(annotation: Any) -> Any:
    """``X`` for ``X | None`` and ``Optional[X]``; None for anything else."""
    if typing.get_origin(annotation) not in {typing.Union, types.UnionType}:
        return None
    members = [member for member in typing.get_args(annotation) if not is_none_type(member)]
    return members[0] if len(members) == 1 and len(typing.get_args(annotation)) > 1 else None


def annotation_is_class(annotation: Any) -> bool:
    """Whether it may be given to ``isinstance``."""
    return isclass(annotation) and not isinstance(annotation, types.GenericAlias)


def annotation_issubclass(annotation: Any, cls: type) -> bool:
    """Whether it is a class below ``cls``."""
    return annotation_is_class(annotation) and issubclass(annotation, cls)
