"""Proxies: objects that stand for another one that is looked up at every use, or made at the first. Knows nobody."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import Any

from compat_celery._names import celery_named

__all__ = ("PromiseProxy", "Proxy", "class_property", "maybe_evaluate", "try_import")


def try_import(module: str, default: Any = None) -> Any:
    """The module, or ``default`` when it cannot be imported."""
    try:
        return import_module(module)
    except ImportError:
        return default


class _Forwarded(str):
    """A string for whoever asks the class, and the real object's attribute for whoever asks an instance.

    ``type`` insists on strings for ``__module__`` and ``__doc__``, so plain properties do not do.
    """

    __slots__ = ("attribute",)
    attribute: str

    @classmethod
    def make(cls, attribute: str, text: str) -> _Forwarded:
        self = cls(text)
        self.attribute = attribute
        return self

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self.attribute == "__doc__":
            doc = object.__getattribute__(instance, "_doc")
            if doc is not None:
                return doc
        return getattr(instance._get_current_object(), self.attribute)


@celery_named
class Proxy:
    """Stands for what ``local(*args, **kwargs)`` returns, asked anew at every use."""

    # No annotations in the body: the class would have __annotations__ then, and hide those of what it stands for.
    __slots__ = ("_args", "_doc", "_kwargs", "_local", "_name")

    def __init__(
        self,
        local: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        name: str | None = None,
        __doc__: str | None = None,  # noqa: A002 - Celery's signature
    ) -> None:
        keep = object.__setattr__
        keep(self, "_local", local)
        keep(self, "_args", args or ())
        keep(self, "_kwargs", kwargs or {})
        keep(self, "_name", name)
        keep(self, "_doc", __doc__)

    def _get_current_object(self) -> Any:
        """The object itself, for those who want it without the proxy."""
        read = object.__getattribute__
        return read(self, "_local")(*read(self, "_args"), **read(self, "_kwargs"))

    @property  # type: ignore[misc] # isinstance() asks __class__: the proxy passes for what it stands for
    def __class__(self) -> Any:
        return self._get_current_object().__class__

    @property
    def __dict__(self) -> Any:  # type: ignore[override] # vars() asks __dict__
        return self._get_current_object().__dict__

    def __getattr__(self, name: str) -> Any:
        if name in {"__name__", "__qualname__"}:
            custom = object.__getattribute__(self, "_name")
            if custom is not None:
                return custom
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __bool__(self) -> bool:
        try:
            return bool(self._get_current_object())
        except RuntimeError:  # unbound
            return False

    def __dir__(self) -> Any:
        try:
            return dir(self._get_current_object())
        except RuntimeError:
            return []

    def __repr__(self) -> str:
        try:
            return repr(self._get_current_object())
        except RuntimeError:
            return "<Proxy unbound>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get_current_object()(*args, **kwargs)

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._get_current_object().__reduce_ex__(protocol)

    def __enter__(self) -> Any:
        return self._get_current_object().__enter__()

    def __exit__(self, *exc_info: object) -> Any:
        return self._get_current_object().__exit__(*exc_info)


def _forward_operators() -> None:
    """Give the proxy the special methods, which Python looks up on the class and so passes by ``__getattr__``."""

    def unary(function: Callable[[Any], Any]) -> Callable[[Proxy], Any]:
        return lambda self: function(self._get_current_object())

    def binary(function: Callable[[Any, Any], Any]) -> Callable[[Proxy, Any], Any]:
        return lambda self, other: function(self._get_current_object(), other)

    def reflected(function: Callable[[Any, Any], Any]) -> Callable[[Proxy, Any], Any]:
        return lambda self, other: function(other, self._get_current_object())

    for name in ("lt", "le", "eq", "ne", "gt", "ge", "getitem", "delitem", "contains"):
        setattr(Proxy, f"__{name}__", binary(getattr(operator, name)))
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and_", "or_", "xor", "matmul"):
        bare = name.rstrip("_")
        setattr(Proxy, f"__{bare}__", binary(getattr(operator, name)))
        setattr(Proxy, f"__r{bare}__", reflected(getattr(operator, name)))
    functions: dict[str, Callable[[Any], Any]] = {
        "neg": operator.neg,
        "pos": operator.pos,
        "abs": operator.abs,
        "invert": operator.invert,
        "index": operator.index,
        "int": int,
        "float": float,
        "complex": complex,
        "hash": hash,
        "len": len,
        "iter": iter,
        "str": str,
    }
    for name, function in functions.items():
        setattr(Proxy, f"__{name}__", unary(function))
    setattr(Proxy, "__divmod__", binary(divmod))  # noqa: B010 - mypy knows the class; it need not know each operator
    setattr(Proxy, "__setitem__", lambda self, key, value: operator.setitem(self._get_current_object(), key, value))  # noqa: B010


_forward_operators()


@celery_named
class PromiseProxy(Proxy):
    """Stands for what ``local(*args, **kwargs)`` returns, which is called once, at the first use."""

    __slots__ = ("__weakref__", "_pending", "_thing")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "_pending", None)

    def _get_current_object(self) -> Any:
        try:
            return object.__getattribute__(self, "_thing")
        except AttributeError:
            return self.__evaluate__()

    def __then__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``fun`` when the promise is kept; at once when it is."""
        if self.__evaluated__():
            return fun(*args, **kwargs)
        pending = object.__getattribute__(self, "_pending")
        if pending is None:
            pending = deque()
            object.__setattr__(self, "_pending", pending)
        pending.append(lambda: fun(*args, **kwargs))
        return None

    def __evaluated__(self) -> bool:
        """Whether the object was made already."""
        try:
            object.__getattribute__(self, "_thing")
        except AttributeError:
            return False
        return True

    def __maybe_evaluate__(self) -> Any:
        """The object itself, made now if need be."""
        return self._get_current_object()

    def __evaluate__(self) -> Any:
        """Make the object, let go of what it is made from, and run what waits for it."""
        thing = super()._get_current_object()
        keep = object.__setattr__
        keep(self, "_thing", thing)
        keep(self, "_local", None)
        keep(self, "_args", ())
        keep(self, "_kwargs", {})
        pending = object.__getattribute__(self, "_pending")
        keep(self, "_pending", None)
        while pending:
            pending.popleft()()
        return thing


for _cls in (Proxy, PromiseProxy):
    setattr(_cls, "__module__", _Forwarded.make("__module__", _cls.__module__))  # noqa: B010 - type checkers know it as a str
    setattr(_cls, "__doc__", _Forwarded.make("__doc__", _cls.__doc__ or ""))  # noqa: B010 - as above


def maybe_evaluate(obj: Any) -> Any:
    """The object behind a promise, or ``obj`` itself when it is none."""
    if type(obj) is PromiseProxy:
        return obj.__maybe_evaluate__()
    evaluate = getattr(obj, "__maybe_evaluate__", None)
    return obj if evaluate is None else evaluate()


@celery_named
class class_property:  # noqa: N801 - Celery's public name
    """A property of the class as well as of its instances."""

    def __init__(self, getter: Callable[[Any], Any], setter: Callable[[Any, Any], Any] | None = None) -> None:
        self._getter: Any = getter if isinstance(getter, classmethod) else classmethod(getter)
        self._setter: Any = setter if setter is None or isinstance(setter, classmethod) else classmethod(setter)
        self.__doc__ = getter.__doc__

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        return self._getter.__get__(obj, type(obj) if owner is None else owner)()

    def __set__(self, obj: Any, value: Any) -> Any:
        if self._setter is None:
            raise AttributeError("this attribute cannot be set")
        return self._setter.__get__(obj, type(obj))(value)

    def setter(self, setter: Callable[[Any, Any], Any]) -> class_property:
        """The same property with this setter."""
        return type(self)(self._getter, setter)
