"""Warnings about what will go. Pure."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable as Function
from typing import Any

from compat_celery.exceptions import CDeprecationWarning, CPendingDeprecationWarning
from compat_celery.utils.imports import qualname

__all__ = ("Callable", "Property", "warn")


def warn(
    description: str | None = None,
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    stacklevel: int = 2,
) -> None:
    """Warn that something is deprecated, or (``deprecation`` names a version) will be."""
    if deprecation is not None:
        text = f"{description} is scheduled for deprecation in version {deprecation} and removal in version v{removal}."
        category: type[Warning] = CPendingDeprecationWarning
    else:
        text = f"{description} is deprecated and scheduled for removal in version {removal}."
        category = CDeprecationWarning
    warnings.warn(f"{text} {alternative}" if alternative else text, category, stacklevel=stacklevel + 1)


def Callable(  # noqa: N802 - Celery's public name
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> Function[[Function[..., Any]], Function[..., Any]]:
    """Decorator: every call warns."""

    def decorate(fun: Function[..., Any]) -> Function[..., Any]:
        @functools.wraps(fun)
        def warned(*args: Any, **kwargs: Any) -> Any:
            warn(description or qualname(fun), deprecation, removal, alternative)
            return fun(*args, **kwargs)

        return warned

    return decorate


def Property(  # noqa: N802 - Celery's public name
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> Function[[Function[[Any], Any]], property]:
    """Decorator: a property of which every use warns."""

    def decorate(fun: Function[[Any], Any]) -> property:
        warned = Callable(deprecation, removal, alternative, description or fun.__name__)(fun)
        return property(warned, doc=fun.__doc__)

    return decorate
