"""Functions about functions and sequences: lazy values, chunks, generators that are read twice, call signatures. Pure."""

from __future__ import annotations

import inspect
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from importlib import import_module
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from kombu.utils.functional import LRUCache, lazy, maybe_evaluate, memoize

__all__ = (
    "LRUCache",
    "chunks",
    "dictfilter",
    "first",
    "firstmethod",
    "fun_accepts_kwargs",
    "head_from_fun",
    "is_list",
    "lazy",
    "mattrgetter",
    "maybe",
    "maybe_evaluate",
    "maybe_list",
    "memoize",
    "mlazy",
    "noop",
    "padlist",
    "regen",
    "uniq",
)

T = TypeVar("T")


class DummyContext:
    """A context that does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


#: Kombu's, looked up when they are needed; see ``_later``.
_KOMBUS = frozenset({"LRUCache", "lazy", "maybe_evaluate", "memoize"})


def __getattr__(name: str) -> Any:
    if name not in _KOMBUS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("kombu.utils.functional"), name)
    globals()[name] = value
    return value


class mlazy:  # noqa: N801 - Celery's public name
    """A value that is made at its first use, by ``fun(*args, **kwargs)``, and kept."""

    evaluated = False
    _value: Any = None

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._make = partial(fun, *args, **kwargs)

    def evaluate(self) -> Any:
        """The value."""
        if not self.evaluated:
            self._value = self._make()
            self.evaluated = True
        return self._value

    __call__ = evaluate

    def __str__(self) -> str:
        return str(self.evaluate())

    def __repr__(self) -> str:
        return repr(self.evaluate())

    def __eq__(self, other: object) -> bool:
        return bool(self.evaluate() == other)

    __hash__ = None  # type: ignore[assignment] # it equals its value, which may be none of a mapping's keys


def evaluated(item: Any) -> Any:
    """The value of what is made at its first use (also kombu's ``lazy``); anything else is given back."""
    evaluate = getattr(type(item), "evaluate", None)
    return item if evaluate is None else item.evaluate()


def is_list(obj: Any, scalars: tuple[type, ...] = (Mapping, str), iters: tuple[type, ...] = (Iterable,)) -> bool:
    """Whether the object is a sequence of things: iterable, but neither a mapping nor text."""
    return isinstance(obj, iters) and not isinstance(obj, scalars or ())


def maybe_list(obj: Any, scalars: tuple[type, ...] = (Mapping, str)) -> Any:
    """The list itself, one with the object in it, or None for None."""
    return obj if obj is None or is_list(obj, scalars) else [obj]


def dictfilter(d: Mapping[Any, Any] | None = None, **kw: Any) -> dict[Any, Any]:
    """The mapping without what is None."""
    return {key: value for key, value in {**(d or {}), **kw}.items() if value is not None}


def noop(*args: Any, **kwargs: Any) -> None:
    """Do nothing, whatever it is given."""


def pass1(arg: T, *args: Any, **kwargs: Any) -> T:  # noqa: ARG001 - it takes anything
    """The first argument."""
    return arg


def evaluate_promises(it: Iterable[Any]) -> Iterator[Any]:
    """The values, promises replaced by what they return."""
    for value in it:
        # A promise is vine's; where that was never imported there can be none.
        yield value() if type(value).__module__.startswith("vine") else value


def first(predicate: Callable[[Any], Any] | None, it: Iterable[Any]) -> Any:
    """The first value that the predicate accepts (None: that is not None), or None."""
    for value in evaluate_promises(it):
        if value is not None if predicate is None else predicate(value):
            return value
    return None


def firstmethod(method: str, on_call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function that calls ``method`` on each of a list of objects and gives the first answer that is not None.

    Objects without the method are passed over, lazy ones are evaluated.
    """

    def answer(it: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        for item in it:
            call = getattr(evaluated(item), method, None)
            if call is None:
                continue
            reply = on_call(call, *args, **kwargs) if on_call else call(*args, **kwargs)
            if reply is not None:
                return reply
        return None

    return answer


def chunks(it: Iterator[T], n: int) -> Iterator[list[T]]:
    """Lists of ``n`` items each; the last may be shorter. ``it`` must be an iterator, not a sequence."""
    for item in it:
        yield [item, *islice(it, n - 1)]


def padlist(container: Sequence[Any], size: int, default: Any = None) -> list[Any]:
    """A list of exactly ``size`` items: cut, or filled up with ``default``."""
    return [*container[:size], *[default] * (size - len(container))]


def mattrgetter(*attrs: str) -> Callable[[Any], dict[str, Any]]:
    """A function that gives these attributes of an object as a dict; None for those it lacks."""
    return lambda obj: {attr: getattr(obj, attr, None) for attr in attrs}


def uniq(it: Iterable[T]) -> Iterator[T]:
    """Each item once, in the order of its first appearance; read as they are asked for (the keys of an app's settings: whoever
    finds the one that he wants among the first does not make the app read its configuration)."""
    seen: set[T] = set()
    for item in it:
        if item not in seen:
            seen.add(item)
            yield item


def lookahead(it: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Each item with the one that follows it; None follows the last."""
    items = list(it)
    return zip_longest(items, items[1:])


def regen(it: Iterable[Any]) -> Any:
    """Something that can be iterated any number of times: lists and tuples as they are, others read lazily and kept."""
    return it if isinstance(it, list | tuple) else _regen(it)


class _regen(list[Any]):  # noqa: N801 - its name is in Celery's repr
    """A list that is filled from an iterable as it is read.

    A ``list`` by type, because serialisers and canvases ask for it; what it holds is elsewhere, so
    every method that reads is overridden. It looks one item ahead when it reads, so the last item is known to be the last while it
    is yielded.
    """

    def __init__(self, it: Iterable[Any]) -> None:
        super().__init__()
        self.__it: Any = it
        self.__is_begun = False
        self.__consumed: list[Any] = []
        self.__done = False
        #: Seconds that the slowest item took to come.
        self.slowest = 0.0

    def _fill(self, count: int | None = None) -> None:
        """Read until ``count`` items are there (None: all)."""
        while not self.__done and (count is None or len(self.__consumed) < count):
            if not self.__is_begun:
                # Not before somebody reads: a query asks its database here. An __iter__ may itself read what it is given to.
                self.__it, self.__is_begun = iter(self.__it), True
                continue
            began = time.monotonic()
            try:
                self.__consumed.append(next(self.__it))
            except StopIteration:
                self.__done = True
            self.slowest = max(self.slowest, time.monotonic() - began)

    @property
    def data(self) -> list[Any]:
        """All items, as a plain list."""
        self._fill()
        return self.__consumed

    def map(self, func: Callable[[Any], Any]) -> None:
        """Replace each item, read or not yet, by ``func(item)``."""
        self.__consumed = [func(item) for item in self.__consumed]
        self.__it = map(func, self.__it)

    def __reduce__(self) -> Any:
        return list, (self.data,)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return self.__reduce__()

    def __iter__(self) -> Iterator[Any]:
        index, reads = 0, False
        while True:
            # What is there is given without reading on: a chord's header may be endless.
            reads = reads or index >= len(self.__consumed)
            if reads:
                self._fill(index + 2)
            if index >= len(self.__consumed):
                return
            yield self.__consumed[index]
            index += 1

    def one_by_one(self) -> Iterator[Any]:
        """The items, each as soon as it is read: without the look ahead."""
        index = 0
        while True:
            self._fill(index + 1)
            if index >= len(self.__consumed):
                return
            yield self.__consumed[index]
            index += 1

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            index = operator.index(index)
            if index >= 0:
                self._fill(index + 2)
                return self.__consumed[index]
        return self.data[index]

    def __bool__(self) -> bool:
        self._fill(1)
        return bool(self.__consumed)

    def __len__(self) -> int:
        return len(self.data)

    def __length_hint__(self) -> int:
        return operator.length_hint(self.__it)

    def __contains__(self, item: object) -> bool:
        return any(item == known for known in self)

    def __eq__(self, other: object) -> bool:
        return self.data == (other.data if isinstance(other, _regen) else other)

    __hash__ = None

    def __add__(self, other: Any) -> Any:
        return self.data + list(other)

    def __radd__(self, other: Any) -> Any:
        return list(other) + self.data

    def __reversed__(self) -> Iterator[Any]:
        return iter(self.data[::-1])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.data[index] = value

    def __delitem__(self, index: Any) -> None:
        del self.data[index]

    def append(self, item: Any) -> None:
        """Add an item to the end."""
        self.data.append(item)

    def extend(self, items: Iterable[Any]) -> None:
        """Add items to the end."""
        self.data.extend(items)

    def insert(self, index: Any, item: Any) -> None:
        """Add an item before ``index``."""
        self.data.insert(index, item)

    def pop(self, index: Any = -1) -> Any:
        """Take an item out."""
        return self.data.pop(index)

    def index(self, *args: Any) -> int:
        """Where an item is."""
        return self.data.index(*args)

    def count(self, item: Any) -> int:
        """How often an item is there."""
        return self.data.count(item)

    def copy(self) -> list[Any]:
        """A plain list of the items."""
        return self.data.copy()

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.__consumed))
        return f"<{type(self).__name__}: [{shown}{'' if self.__done else '...'}]>"


def head_from_fun(fun: Callable[..., Any], bound: bool = False) -> Callable[..., Any]:
    """A function with the parameters of ``fun`` that does nothing: calling it checks the arguments.

    :param bound: the first parameter is filled in (a task's ``self``).
    :raises TypeError: when called with arguments that ``fun`` would refuse; the message names ``fun``.
    """
    # A compiled function checks its arguments in 0.2 µs; inspect.Signature.bind takes 5.
    name, spec = _spec_of(fun)
    source = f"def {name}({_parameters(spec)}):\n    return 1\n"
    namespace: dict[str, Any] = {"__name__": getattr(fun, "__module__", None) or __name__}
    exec(source, namespace)  # noqa: S102 - built from identifiers of a function that exists
    head: Callable[..., Any] = namespace[name]
    head._source = source  # type: ignore[attr-defined] # read by people who debug
    return partial(head, object()) if bound else head


def _spec_of(fun: Callable[..., Any]) -> tuple[str, inspect.FullArgSpec]:
    is_plain = inspect.isfunction(fun) or inspect.ismethod(fun) or type(fun).__name__ == "cython_function_or_method"
    name = fun.__name__ if is_plain else type(fun).__name__
    return name if name.isidentifier() else "task", inspect.getfullargspec(fun)


def _parameters(spec: inspect.FullArgSpec) -> str:
    """The parameter list as source; defaults become ``None``, since only their being there matters."""
    defaults = len(spec.defaults or ())
    split = len(spec.args) - defaults
    keyword_defaults = spec.kwonlydefaults or {}
    parts = [*spec.args[:split], *(f"{name}=None" for name in spec.args[split:])]
    if spec.varargs:
        parts.append(f"*{spec.varargs}")
    elif spec.kwonlyargs:
        parts.append("*")
    parts.extend(f"{name}=None" if name in keyword_defaults else name for name in spec.kwonlyargs)
    if spec.varkw:
        parts.append(f"**{spec.varkw}")
    return ", ".join(parts)


def arity_greater(fun: Callable[..., Any], n: int) -> bool:
    """Whether ``fun`` takes more than ``n`` positional arguments."""
    spec = inspect.getfullargspec(fun)
    return bool(spec.varargs) or len(spec.args) > n


def fun_takes_argument(name: str, fun: Callable[..., Any], position: int | None = None) -> bool:
    """Whether ``fun`` takes an argument of that name, or one at that position."""
    spec = inspect.getfullargspec(fun)
    return bool(spec.varkw or spec.varargs) or (len(spec.args) >= position if position else name in spec.args)


def fun_accepts_kwargs(fun: Callable[..., Any]) -> bool:
    """Whether ``fun`` takes any keyword arguments (``**kwargs``)."""
    code = getattr(fun, "__code__", None)
    if code is not None:
        return bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(fun).parameters.values())


def maybe(typ: Callable[[Any], T], val: Any) -> T | None:
    """``typ(val)``, or None for None."""
    return None if val is None else typ(val)


def seq_concat_item(seq: Any, item: Any) -> Any:
    """The tuple or list with one item more."""
    return (*seq, item) if isinstance(seq, tuple) else [*seq, item]


def seq_concat_seq(a: Any, b: Any) -> Any:
    """Both sequences in one, of the type of the longer (of the first when they are equally long)."""
    kind = type(b) if len(b) > len(a) else type(a)
    left = a if isinstance(a, kind) else kind(a)
    right = b if isinstance(b, kind) else kind(b)
    return left + right


def is_numeric_value(value: Any) -> bool:
    """Whether it is a number; bools are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@lru_cache(maxsize=1024)
def is_coroutine_function(fun: Callable[..., Any]) -> bool:
    """Whether calling ``fun`` makes a coroutine; looks through ``functools.partial`` and callable objects."""
    while isinstance(fun, partial):
        fun = fun.func
    return inspect.iscoroutinefunction(fun) or inspect.iscoroutinefunction(getattr(fun, "__call__", None))  # noqa: B004 - it is asked about, not called
