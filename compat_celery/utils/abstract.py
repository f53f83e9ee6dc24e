"""What a task and a signature must offer, whatever class they are of. Used by: canvas, task, serialization."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

__all__ = ("CallableSignature", "CallableTask")

_Type = TypeVar("_Type", bound=type)


class _AbstractClass(metaclass=ABCMeta):  # noqa: B024 - its subclasses have them
    """An abstract class that recognises others by the attributes they define."""

    #: A class that defines all of them counts as a subclass.
    __required_attributes__: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def _offers(cls, other: type) -> bool:
        defined = {name for base in other.__mro__ for name in vars(base)}
        return cls.__required_attributes__ <= defined

    @classmethod
    def register(cls, other: _Type) -> _Type:
        """Count ``other`` as a subclass; returns it, so that this works as a class decorator."""
        type(cls).register(cls, other)
        return other


class CallableTask(_AbstractClass, Callable[..., Any]):  # type: ignore[misc]  # an ABC at run time, a special form to mypy
    """A task: something that can be called here, or sent to be called elsewhere."""

    __required_attributes__ = frozenset({"apply", "apply_async", "delay"})

    @abstractmethod
    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it with these arguments."""

    @abstractmethod
    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Send it with arguments and options."""

    @abstractmethod
    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Run it here and now."""

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return True if cls is CallableTask and cls._offers(other) else NotImplemented


class CallableSignature(CallableTask):
    """A call that is not made yet: a task with arguments and options."""

    __required_attributes__ = frozenset({"__or__", "clone", "freeze", "link", "link_error", "set"})

    name: Any
    type: Any
    app: Any
    id: Any
    task: Any
    args: Any
    kwargs: Any
    options: Any
    subtask_type: Any
    immutable: Any

    @abstractmethod
    def clone(self, args: Any = None, kwargs: Any = None) -> Any:
        """A copy, with further arguments."""

    @abstractmethod
    def freeze(self, id: Any = None, group_id: Any = None, chord: Any = None, root_id: Any = None, group_index: Any = None) -> Any:  # noqa: A002
        """Give it an id and return the result-to-be."""

    @abstractmethod
    def set(self, immutable: Any = None, **options: Any) -> Any:
        """Set options; returns itself."""

    @abstractmethod
    def link(self, callback: Any) -> Any:
        """Call ``callback`` with the result on success."""

    @abstractmethod
    def link_error(self, errback: Any) -> Any:
        """Call ``errback`` on failure."""

    @abstractmethod
    def __or__(self, other: Any) -> Any: ...

    @abstractmethod
    def __invert__(self) -> Any: ...

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return True if cls is CallableSignature and cls._offers(other) else NotImplemented
