"""Errors that travel: making them picklable, and back. Also JSON for logs. Pure."""

from __future__ import annotations

import datetime as dt
import numbers
import pickle
import sys
from base64 import b64decode as base64decode
from base64 import b64encode as base64encode
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import takewhile
from typing import Any, NoReturn, Self

from compat_celery._later import kombu_encoding
from compat_celery._names import celery_named

__all__ = (
    "UnpickleableExceptionWrapper",
    "create_exception_cls",
    "find_pickleable_exception",
    "get_pickleable_etype",
    "get_pickleable_exception",
    "get_pickled_exception",
    "strtobool",
    "subclass_exception",
)

#: Classes too general to stand for a lost error.
unwanted_base_classes = (Exception, BaseException, object)

STRTOBOOL_DEFAULT_TABLE = {"false": False, "no": False, "0": False, "off": False, "true": True, "yes": True, "1": True, "on": True}


def subclass_exception(name: str, parent: type[BaseException], module: str) -> type[BaseException]:
    """A new class of errors with this name and module."""
    return type(name, (parent,), {"__module__": module})


def create_exception_cls(name: str, module: str, parent: type[BaseException] | None = None) -> type[BaseException]:
    """A new class of errors, for one whose own class is not known here."""
    return subclass_exception(name, parent or Exception, module)


def itermro(cls: type, stop: Iterable[type]) -> Iterator[type]:
    """The class and its bases, up to the first in ``stop``."""
    return takewhile(lambda base: base not in stop, cls.mro())


def find_pickleable_exception(
    exc: BaseException, loads: Callable[[bytes], Any] = pickle.loads, dumps: Callable[[Any], bytes] = pickle.dumps
) -> BaseException | None:
    """The same arguments in the nearest base class that survives pickling; None when only ``Exception`` does."""
    args = getattr(exc, "args", [])
    for base in itermro(type(exc), unwanted_base_classes):
        try:
            candidate: BaseException = base(*args)
            loads(dumps(candidate))
        except Exception:  # noqa: BLE001, S112 - a user's class may raise anything here; it is no candidate then
            continue
        return candidate
    return None


def ensure_serializable(items: Iterable[Any], encoder: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The items, each one that the encoder refuses replaced by its text."""
    return tuple(item if _encodes(item, encoder) else kombu_encoding.safe_repr(item) for item in items)


def _encodes(item: Any, encoder: Callable[[Any], Any]) -> bool:
    try:
        encoder(item)
    except Exception:  # noqa: BLE001 - encoders and the objects' own hooks raise anything
        return False
    return True


@celery_named
class UnpickleableExceptionWrapper(Exception):
    """Carries the name, arguments and text of an error that cannot be pickled itself."""

    exc_module: str | None = None
    exc_cls_name: str | None = None
    exc_args: tuple[Any, ...] | None = None

    def __init__(self, exc_module: str, exc_cls_name: str, exc_args: Iterable[Any], text: str | None = None) -> None:
        safe_args = ensure_serializable(exc_args, lambda value: pickle.loads(pickle.dumps(value)))  # noqa: S301 - what was pickled just now
        self.exc_module = exc_module
        self.exc_cls_name = exc_cls_name
        self.exc_args = safe_args
        self.text = text
        super().__init__(exc_module, exc_cls_name, safe_args, text)

    def restore(self) -> BaseException:
        """An error of a new class with the original's name."""
        return create_exception_cls(self.exc_cls_name or "Exception", self.exc_module or __name__)(*(self.exc_args or ()))

    def __str__(self) -> str:
        return self.text or ""

    @classmethod
    def from_exception(cls, exc: BaseException) -> Self:
        """Wrap this error, with its traceback."""
        wrapper = cls(type(exc).__module__, type(exc).__name__, getattr(exc, "args", []), kombu_encoding.safe_repr(exc))
        return wrapper.with_traceback(exc.__traceback__)


def get_pickleable_exception(exc: Any) -> Any:
    """The error itself if it survives pickling, else its nearest base that does, else a wrapper."""
    if exc is None:
        return None
    try:
        pickle.loads(pickle.dumps(exc))  # noqa: S301 - what was pickled just now
    except Exception:  # noqa: BLE001 - a user's class may raise anything here
        return find_pickleable_exception(exc) or UnpickleableExceptionWrapper.from_exception(exc)
    return exc


def get_pickleable_etype(
    cls: type[BaseException], loads: Callable[[bytes], Any] = pickle.loads, dumps: Callable[[Any], bytes] = pickle.dumps
) -> type[BaseException]:
    """The class if it survives pickling, else ``Exception``."""
    try:
        loads(dumps(cls))
    except Exception:  # noqa: BLE001 - a user's class may raise anything here
        return Exception
    return cls


def get_pickled_exception(exc: BaseException) -> BaseException:
    """The opposite of :func:`get_pickleable_exception`."""
    return exc.restore() if isinstance(exc, UnpickleableExceptionWrapper) else exc


def b64encode(s: str | bytes) -> str:
    """Base 64 as text."""
    text: str = kombu_encoding.bytes_to_str(base64encode(kombu_encoding.str_to_bytes(s)))
    return text


def b64decode(s: str | bytes) -> bytes:
    """The bytes behind base 64."""
    return base64decode(kombu_encoding.str_to_bytes(s))


def strtobool(term: Any, table: dict[str, bool] | None = None) -> Any:
    """``"yes"``, ``"off"``, ``"1"`` … as a bool; anything but a string is given back.

    :raises TypeError: the word means neither.
    """
    if not isinstance(term, str):
        return term
    try:
        return (table or STRTOBOOL_DEFAULT_TABLE)[term.lower()]
    except KeyError:
        raise TypeError(f"Cannot coerce {term!r} to type bool") from None


def _moment_to_json(moment: dt.date | dt.time) -> str:
    """ECMA-262's date format: milliseconds at most, and Z for UTC."""
    if isinstance(moment, dt.datetime | dt.time) and moment.microsecond:
        text = moment.isoformat(timespec="milliseconds")
    else:
        text = moment.isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def jsonify(
    obj: Any,
    builtin_types: tuple[type, ...] = (numbers.Real, str),
    key: Any = None,
    keyfilter: Callable[[Any], Any] | None = None,
    unknown_type_filter: Callable[[Any], Any] | None = None,
) -> Any:
    """The object as JSON knows it: mappings, lists, numbers and strings.

    :raises ValueError: it contains a type that JSON has no way for, and there is no ``unknown_type_filter``.
    """
    inner = partial(jsonify, builtin_types=builtin_types, keyfilter=keyfilter, unknown_type_filter=unknown_type_filter)
    if hasattr(obj, "as_dict"):  # kombu's Queue and Exchange
        obj = obj.as_dict(recurse=True)
    match obj:
        case None:
            return None
        case _ if isinstance(obj, builtin_types):
            return obj
        case tuple() | list():
            return [inner(value, key=key) for value in obj]
        case dict():
            return {name: inner(value, key=name) for name, value in obj.items() if keyfilter is None or keyfilter(name)}
        case dt.date() | dt.time():
            return _moment_to_json(obj)
        case dt.timedelta():
            return str(obj)
    if unknown_type_filter is None:
        raise ValueError(f"Unsupported type: {type(obj)!r} {obj!r} (parent: {key})")
    return unknown_type_filter(obj)


def raise_with_context(exc: BaseException) -> NoReturn:
    """Raise ``exc`` with the error that is being handled as its cause."""
    current = sys.exc_info()[1]
    if current is None or current is exc:
        raise exc
    raise exc from current
