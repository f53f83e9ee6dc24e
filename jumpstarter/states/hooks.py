"""Callbacks of a chart: find them on a model, look at their signatures once, and call them with what they accept.

Comes from: chart (hooks by index). Goes to: instance, which runs them. A callback is named or given directly; a name is an
attribute of the model first and a dotted import path second, as in `transitions`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from jumpstarter.errors import DefinitionError
from jumpstarter.states.definition import Callback
from jumpstarter.states.step import EventData

if TYPE_CHECKING:
    from jumpstarter.states.instance import Instance

#: A hook that is ready to be called for an instance whose event is under way.
Call = Callable[["Instance"], Any]
#: The names of the parameters to pass; None: all data, because it takes ``**kwargs``.
Accepted = tuple[str, ...] | None

_MISSING = object()


def label_of(callback: Callback) -> str:
    """What to call a callback in messages, diagrams and ``Chart.step``."""
    if isinstance(callback, str):
        return callback
    return str(getattr(callback, "__qualname__", None) or repr(callback))


def problem_with(callback: Callback, model_class: type | None, *, guard: bool) -> str | None:
    """Why the callback cannot be used on models of this class (None: unknown yet), or None when it can."""
    found: Any = callback
    if isinstance(callback, str):
        if model_class is None:
            return None
        found = _attribute(model_class, callback)
        if found is _MISSING:
            found = _imported(callback)
        if found is _MISSING and hasattr(model_class, "__getattr__"):
            return None
        if found is _MISSING:
            where = f"neither an attribute of {model_class.__qualname__} nor an import path"
            return f"callback {callback!r} is {where}; define the method or correct the name"
    if inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found):
        return f"callback {label_of(callback)!r} is asynchronous; hooks are synchronous, so make it an activity of the state"
    if not guard and found is not None and not callable(found) and not isinstance(found, property):
        return f"callback {label_of(callback)!r} is not callable, it is {found!r}"
    return None


def bind(callbacks: Sequence[Callback], model: object, owner: str, *, send_event: bool) -> tuple[Call, ...]:
    """Make every callback ready for models of the class of this model.

    :raises DefinitionError: a name is neither an attribute of the model nor can it be imported.
    """
    return tuple(_bind_one(callback, model, owner, send_event=send_event) for callback in callbacks)


def _bind_one(callback: Callback, model: object, owner: str, *, send_event: bool) -> Call:
    if not isinstance(callback, str):
        return _direct(callback, send_event=send_event)
    attribute = _attribute(type(model), callback)
    if attribute is _MISSING and not hasattr(model, callback):
        imported = _imported(callback)
        if not callable(imported):
            why = f"callback {callback!r} is neither an attribute of the model ({type(model).__qualname__}) nor an import path"
            raise DefinitionError(owner, f"{why}; define the method or correct the name")
        return _direct(imported, send_event=send_event)
    if inspect.isfunction(attribute) or isinstance(attribute, classmethod | staticmethod):
        return _method(
            callback, accepted_by(getattr(type(model), callback), skip=int(inspect.isfunction(attribute))), send_event=send_event
        )
    return _value(callback, send_event=send_event)


def accepted_by(function: Callable[..., Any], *, skip: int = 0) -> Accepted:
    """The parameters that can be passed by name, after the first ``skip`` ones; None when it takes any."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[skip:]
    except (TypeError, ValueError):
        return ()  # a builtin without a signature
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(
        parameter.name for parameter in parameters if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    )


def _attribute(model_class: type, name: str) -> Any:
    """The attribute as the class holds it. Annotated attributes count: instances will have them."""
    found = inspect.getattr_static(model_class, name, _MISSING)
    if found is _MISSING and any(name in getattr(base, "__annotations__", {}) for base in model_class.__mro__):
        return None
    return found


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    if not module:
        return _MISSING
    try:
        return getattr(import_module(module), name, _MISSING)
    except ImportError:
        return _MISSING


def _passing(instance: Instance, accepted: tuple[str, ...]) -> Mapping[str, Any]:
    """What a callable with these parameters is given: data of the event by name, ``instance`` and ``event`` themselves."""
    data = instance.data
    passed = {name: data[name] for name in accepted if name in data}
    if "instance" in accepted and "instance" not in passed:
        passed["instance"] = instance
    if "event" in accepted and "event" not in passed:
        passed["event"] = EventData(instance)
    return passed


# One closure per case, because these are called several times in each step: what can be decided is decided when the class is bound.


def _method(name: str, accepted: Accepted, *, send_event: bool) -> Call:
    if send_event:
        return lambda instance: getattr(instance.model, name)(EventData(instance))
    if accepted is None:
        return lambda instance: getattr(instance.model, name)(**instance.data)
    if not accepted:
        return lambda instance: getattr(instance.model, name)()
    return lambda instance: getattr(instance.model, name)(**_passing(instance, accepted))


def _direct(function: Callable[..., Any], *, send_event: bool) -> Call:
    if send_event:
        return lambda instance: function(EventData(instance))
    accepted = accepted_by(function)
    if accepted is None:
        return lambda instance: function(**instance.data)
    if not accepted:
        return lambda _instance: function()
    return lambda instance: function(**_passing(instance, accepted))


def _value(name: str, *, send_event: bool) -> Call:
    """A property, or whatever the instance holds under the name: its value counts, and is called when it can be."""

    def read(instance: Instance) -> Any:
        # A callable that only instances have is looked at anew each time: keeping what was found would keep the instance alive.
        value = getattr(instance.model, name)
        return _direct(value, send_event=send_event)(instance) if callable(value) else value

    return read
