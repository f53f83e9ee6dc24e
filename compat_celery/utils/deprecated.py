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
        return _WarningProperty(fun, how=(description or fun.__name__, deprecation, removal, alternative), doc=fun.__doc__)

    return decorate


class _WarningProperty(property):
    """A property of which every use warns; asked of the class, it is itself."""

    def __init__(self, fget: Any = None, fset: Any = None, fdel: Any = None, doc: str | None = None, *, how: Any = ()) -> None:
        super().__init__(fget, fset, fdel, doc)
        self._how = how

    def _warn(self) -> None:
        description, deprecation, removal, alternative = self._how
        warn(description=description, deprecation=deprecation, removal=removal, alternative=alternative, stacklevel=3)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        self._warn()
        return super().__get__(instance, owner)

    def __set__(self, instance: Any, value: Any) -> Any:
        if instance is None:
            return self
        if self.fset is not None:
            self._warn()
        super().__set__(instance, value)
        return None

    def __delete__(self, instance: Any) -> Any:
        if instance is None:
            return self
        if self.fdel is not None:
            self._warn()
        super().__delete__(instance)
        return None

    def setter(self, fset: Any) -> property:
        return _WarningProperty(self.fget, fset, self.fdel, self.__doc__, how=self._how)

    def deleter(self, fdel: Any) -> property:
        return _WarningProperty(self.fget, self.fset, fdel, self.__doc__, how=self._how)
