"""The setting ``task_annotations``: attributes of tasks, by the tasks' names. Comes from: ``Task.bind``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compat_celery._names import celery_named
from compat_celery.utils.functional import firstmethod, mlazy
from compat_celery.utils.imports import instantiate

__all__ = ("MapAnnotation", "prepare", "resolve_all")

_first_match = firstmethod("annotate")
_first_match_any = firstmethod("annotate_any")


@celery_named
class MapAnnotation(dict[str, Any]):
    """Attributes by the name of the task; those under ``*`` are for all."""

    def annotate_any(self) -> dict[str, Any] | None:
        """Attributes for every task."""
        return dict(self["*"]) if "*" in self else None

    def annotate(self, task: Any) -> dict[str, Any] | None:
        """Attributes for this task."""
        return dict(self[task.name]) if task.name in self else None


def _expanded(annotation: Any) -> Any:
    if isinstance(annotation, dict):
        return MapAnnotation(annotation)
    return mlazy(instantiate, annotation) if isinstance(annotation, str) else annotation


def prepare(annotations: Any) -> Any:
    """The setting's value (a mapping, an object, a class's name, or a list of them) as a list of objects."""
    if annotations is None:
        return ()
    several = annotations if isinstance(annotations, list | tuple) else (annotations,)
    return [_expanded(annotation) for annotation in several]


def resolve_all(anno: Any, task: Any) -> Iterator[dict[str, Any]]:
    """The attributes for a task."""
    return (found for found in (_first_match(anno, task), _first_match_any(anno)) if found)
