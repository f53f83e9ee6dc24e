"""Helpers for objects: bunches, fallback contexts, where a class hierarchy defines an attribute. Pure."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection
from functools import reduce
from typing import Any

__all__ = ("Bunch", "FallbackContext", "getitem_property", "mro_lookup")


class Bunch:
    """An object with these attributes."""

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__.update(kwargs)


def mro_lookup(
    cls: type, attr: str, stop: Collection[type] | None = None, monkey_patched: Collection[str] | None = None
) -> type | None:
    """The first class in the method resolution order that defines ``attr``; None when none before ``stop`` does.

    A class in ``stop`` counts when its attribute comes from another module than ``monkey_patched`` names: it was patched in.
    """
    for node in cls.mro():
        if node in (stop or ()):
            value = node.__dict__.get(attr)
            origin = getattr(value, "__module__", None)
            return node if origin is not None and origin not in (monkey_patched or ()) else None
        if attr in node.__dict__:
            return node
    return None


class FallbackContext:
    """A context that gives what was provided and leaves it alone, or else enters and leaves what ``fallback`` makes."""

    def __init__(self, provided: Any, fallback: Callable[..., Any], *fb_args: Any, **fb_kwargs: Any) -> None:
        self.provided = provided
        self.fallback = fallback
        self.fb_args = fb_args
        self.fb_kwargs = fb_kwargs
        self._context: Any = None

    def __enter__(self) -> Any:
        if self.provided is not None:
            return self.provided
        context = self.fallback(*self.fb_args, **self.fb_kwargs)
        value = context.__enter__()
        self._context = context
        return value

    def __exit__(self, *exc_info: object) -> Any:
        return None if self._context is None else self._context.__exit__(*exc_info)

    __class_getitem__: Any = classmethod(types.GenericAlias)


class getitem_property:  # noqa: N801 - Celery's public name
    """An attribute that is a key of the object itself, or (``"options.link"``) of a mapping in it."""

    def __init__(self, keypath: str, doc: str | None = None) -> None:
        path, _, self.key = keypath.rpartition(".")
        self.path = path.split(".") if path else []
        self.__doc__ = doc

    def _mapping(self, obj: Any) -> Any:
        return reduce(lambda mapping, key: mapping[key], self.path, obj)

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        return owner if obj is None else self._mapping(obj).get(self.key)

    def __set__(self, obj: Any, value: Any) -> None:
        self._mapping(obj)[self.key] = value
