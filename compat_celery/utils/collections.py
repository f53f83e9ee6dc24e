"""Mappings that look things up in several places, sets and queues that forget. Pure."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from heapq import heapify, heappop, heappush
from itertools import chain, count
from queue import Empty
from typing import Any

from compat_celery._names import celery_named
from compat_celery.utils.functional import first, uniq
from compat_celery.utils.text import match_case

__all__ = (
    "AttributeDict",
    "AttributeDictMixin",
    "BufferMap",
    "ChainMap",
    "ConfigurationView",
    "DictAttribute",
    "Evictable",
    "LimitedSet",
    "Messagebuffer",
    "OrderedDict",
    "force_mapping",
    "lpmerge",
)


def force_mapping(m: Any) -> Any:
    """The mapping, or the object's attributes as one."""
    wrapped = getattr(type(m), "__module__", "") == "django.utils.functional" or type(m).__name__ == "LazySettings"
    if wrapped:  # Django's lazy objects pass for anything; what they wrap does not
        if getattr(m, "_wrapped", None) is None or type(m._wrapped) is object:
            m._setup()
        m = m._wrapped
    return m if isinstance(m, Mapping) else DictAttribute(m)


def lpmerge(left: dict[Any, Any], right: Mapping[Any, Any]) -> dict[Any, Any]:
    """Put into ``left`` what ``right`` has that is not None, and give it back."""
    left.update((key, value) for key, value in right.items() if value is not None)
    return left


class AttributeDictMixin:
    """A mapping whose keys are attributes as well."""

    def __getattr__(self, k: str) -> Any:
        try:
            return self[k]  # type: ignore[index] # the class it is mixed into is a mapping
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {k!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


class AttributeDict(dict[Any, Any], AttributeDictMixin):
    """A dict whose keys are attributes as well."""


class DictAttribute:
    """An object whose attributes are a mapping's keys."""

    obj: Any

    def __init__(self, obj: Any) -> None:
        object.__setattr__(self, "obj", obj)

    def __getattr__(self, key: str) -> Any:
        return getattr(self.obj, key)

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute, or the default."""
        return getattr(self.obj, key, default)

    def setdefault(self, key: str, default: Any = None) -> None:
        """Set the attribute unless it is there."""
        if key not in self:
            self[key] = default

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __contains__(self, key: str) -> bool:
        return hasattr(self.obj, key)

    def keys(self) -> Iterator[str]:
        """The names of the attributes."""
        return iter(dir(self.obj))

    __iter__ = keys

    def items(self) -> Iterator[tuple[str, Any]]:
        """The attributes with their names."""
        return ((name, getattr(self.obj, name)) for name in self.keys())

    def values(self) -> Iterator[Any]:
        """The attributes."""
        return (value for _, value in self.items())


MutableMapping.register(DictAttribute)


class ChainMap(MutableMapping[Any, Any]):
    """Looks a key up in several mappings, the first that has it wins; changes go to the first mapping."""

    key_t: Callable[[Any], Any] | None
    changes: Any
    defaults: list[Any]
    maps: list[Any]
    _observers: list[Callable[..., Any]]

    def __init__(self, *maps: Any, key_t: Callable[[Any], Any] | None = None) -> None:
        layers = list(maps) or [{}]
        self.__dict__.update(key_t=key_t, maps=layers, changes=layers[0], defaults=layers[1:], _observers=[])

    def add_defaults(self, d: Any) -> None:
        """Another mapping, consulted after the changes and before the other defaults."""
        layer = force_mapping(d)
        self.defaults.insert(0, layer)
        self.maps.insert(1, layer)

    def pop(self, key: Any, *default: Any) -> Any:
        """Take a changed key out."""
        try:
            return self.maps[0].pop(self._key(key), *default)
        except KeyError:
            raise KeyError(f"Key not found in the first mapping: {key!r}") from None

    def __missing__(self, key: Any) -> Any:
        raise KeyError(key)

    def _key(self, key: Any) -> Any:
        return key if self.key_t is None else self.key_t(key)

    def __getitem__(self, key: Any) -> Any:
        name = self._key(key)
        for mapping in self.maps:
            try:
                return mapping[name]
            except KeyError:
                continue
        return self.__missing__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.changes[self._key(key)] = value

    def __delitem__(self, key: Any) -> None:
        try:
            del self.changes[self._key(key)]
        except KeyError:
            raise KeyError(f"Key not found in first mapping: {key!r}") from None

    def clear(self) -> None:
        """Forget the changes; the defaults stay."""
        self.changes.clear()

    def get(self, key: Any, default: Any = None) -> Any:
        """The value, or the default."""
        try:
            return self[key]
        except KeyError:
            return default

    def __len__(self) -> int:
        return len(set(self))

    def __iter__(self) -> Iterator[Any]:
        # The defaults first: dict(self) then ends with the changes.
        return uniq(chain.from_iterable(mapping.keys() for mapping in reversed(self.maps)))

    def __contains__(self, key: Any) -> bool:
        name = self._key(key)
        return any(name in mapping for mapping in self.maps)

    def __bool__(self) -> bool:
        return any(self.maps)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Set the key unless it is there."""
        if key not in self:
            self[key] = default

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Change several keys, and tell who is bound to changes."""
        found = (dict(*args),) if args else ()
        self.changes.update(*found, **kwargs)
        for callback in self._observers:
            callback(*found, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.maps))})"

    @classmethod
    def fromkeys(cls, iterable: Iterable[Any], *args: Any) -> ChainMap:
        """A map with these keys."""
        return cls(dict.fromkeys(iterable, *args))

    def copy(self) -> ChainMap:
        """The same map with changes of its own."""
        return type(self)(self.maps[0].copy(), *self.maps[1:], key_t=self.key_t)

    def __copy__(self) -> ChainMap:
        return self.copy()

    def bind_to(self, callback: Callable[..., Any]) -> None:
        """Call ``callback`` with the arguments of every :meth:`update`."""
        self._observers.append(callback)

    def keys(self) -> Any:
        """The keys."""
        return iter(self)

    def items(self) -> Any:
        """The keys with their values."""
        return ((key, self[key]) for key in self)

    def values(self) -> Any:
        """The values."""
        return (self[key] for key in self)


class ConfigurationView(ChainMap, AttributeDictMixin):
    """A :class:`ChainMap` whose keys have several names: with the app's prefix, in the old style, in the new.

    :param keys: functions from a name to another name of the same setting.
    :param prefix: what the app's settings begin with in the user's module (Django's ``CELERY_``).
    """

    prefix: str | None
    _keys: tuple[Callable[[str], str], ...] | None
    _known_names: dict[str, tuple[str, ...]]

    def __init__(
        self,
        changes: Any,
        defaults: list[Any] | None = None,
        keys: tuple[Callable[[str], str], ...] | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(changes, *(defaults or []))
        self.__dict__.update(prefix=f"{prefix.rstrip('_')}_" if prefix else prefix, _keys=keys, _known_names={})

    def copy(self) -> ConfigurationView:
        """The same view with changes of its own."""
        copied = type(self)(self.changes.copy(), self.defaults, self._keys, self.prefix)
        copied.__dict__["key_t"] = self.key_t
        return copied

    def _to_keys(self, key: str) -> tuple[str, ...]:
        names: tuple[str, ...] = (key,)
        if self.prefix:
            prefixed = key if key.startswith(self.prefix) else self.prefix + key
            names = (match_case(prefixed, self.prefix), key)
        return tuple(dict.fromkeys((*names, *(rename(key) for rename in self._keys or ()))))

    def __getitem__(self, key: str) -> Any:
        names = self._known_names.get(key)
        if names is None:
            names = self._known_names[key] = tuple(self._key(name) for name in self._to_keys(key))
        for mapping in self.maps:
            # Settings are read several times for every publish, and most are found in the last of the maps, which is a dict:
            # asking costs a tenth of a KeyError that is caught.
            if type(mapping) is dict:
                for name in names:
                    if name in mapping:
                        return mapping[name]
                continue
            for name in names:
                try:
                    return mapping[name]
                except KeyError:
                    continue
        try:
            return self.__missing__(key)
        except KeyError:
            if self.prefix:
                prefixed = self._to_keys(key)[0]
                raise KeyError(f"Key not found: {key!r} (with prefix: {prefixed!r})") from None
            raise

    def first(self, *keys: str) -> Any:
        """The first of these settings that is not None."""
        return first(None, (self.get(key) for key in keys))

    def __contains__(self, key: object) -> bool:
        return any(ChainMap.__contains__(self, name) for name in self._to_keys(str(key)))

    def swap_with(self, other: ConfigurationView) -> None:
        """Become ``other`` in place, for those who hold a reference; who observes changes stays."""
        theirs = other.__dict__
        names = ("changes", "defaults", "key_t", "prefix", "_keys")
        self.__dict__.update({name: theirs[name] for name in names}, maps=[theirs["changes"], *theirs["defaults"]], _known_names={})


@celery_named
class LimitedSet:
    """A set that forgets: the oldest items beyond ``maxlen``, and those older than ``expires`` seconds (but keeps ``minlen``).

    :param data: items to begin with: an iterable, a mapping from item to the time of its insertion, or another such set.
    """

    #: The heap may hold this share of stale entries before it is built anew.
    max_heap_percent_overload = 15

    def __init__(self, maxlen: int | None = 0, expires: float = 0, data: Any = None, minlen: int = 0) -> None:
        self.maxlen = maxlen or 0
        self.minlen = minlen or 0
        self.expires = expires or 0
        #: When each item was added, and the how manieth it was: of items of one time, the first is the oldest.
        self._data: dict[Any, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Any]] = []
        self._numbers = count()
        if data:
            self.update(data)
        if not self.maxlen >= self.minlen >= 0:
            raise ValueError("minlen must be a positive number, less or equal to maxlen.")
        if self.expires < 0:
            raise ValueError("expires must not be negative!")

    def clear(self) -> None:
        """Forget all."""
        self._data.clear()
        self._heap.clear()

    def add(self, item: Any, now: float | None = None) -> None:
        """Add an item, or make it new again. ``now``: monotonic seconds."""
        stamp = (time.monotonic() if now is None else now, next(self._numbers))
        self._data[item] = stamp
        heappush(self._heap, (*stamp, item))
        if len(self._heap) * 100 > len(self._data) * (100 + self.max_heap_percent_overload):
            self._refresh_heap()
        if self.maxlen and len(self._data) >= self.maxlen:
            self.purge()

    def _refresh_heap(self) -> None:
        self._heap[:] = [(*stamp, item) for item, stamp in self._data.items()]
        heapify(self._heap)

    def update(self, other: Any) -> None:
        """Add what another set, a mapping from items to times, or an iterable holds."""
        if isinstance(other, LimitedSet):
            other = {item: other._data[item][0] for item in other}
        if isinstance(other, Mapping):
            for item, inserted in other.items():
                self.add(item, inserted[0] if isinstance(inserted, tuple) else inserted)
        else:
            for item in other or ():
                self.add(item)

    def discard(self, item: Any) -> None:
        """Forget an item; nothing happens when it is not there."""
        self._data.pop(item, None)

    def purge(self, now: Any = None) -> None:
        """Forget what is too old or too much. ``now``: monotonic seconds, or what gives them."""
        now = time.monotonic() if now is None else now() if callable(now) else now
        if self.maxlen:
            while len(self._data) > self.maxlen:
                self.pop()
        if self.expires:
            while len(self._data) > self.minlen >= 0:
                oldest = self._oldest()
                if oldest is None or now < oldest[0] + self.expires:
                    break
                self.pop()

    def _oldest(self) -> tuple[float, int, Any] | None:
        # Items that were discarded or added again have left entries behind.
        while self._heap and self._data.get(self._heap[0][2]) != self._heap[0][:2]:
            heappop(self._heap)
        return self._heap[0] if self._heap else None

    def pop(self, default: Any = None) -> Any:
        """Take the oldest item; the default when there is none."""
        oldest = self._oldest()
        if oldest is None:
            return default
        heappop(self._heap)
        item = oldest[2]
        self._data.pop(item, None)
        return item

    def as_dict(self) -> dict[Any, float]:
        """Each item with the time of its insertion, oldest first."""
        return {item: self._data[item][0] for item in self}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitedSet) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment] # it changes

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({len(self)}): maxlen={self.maxlen}, expires={self.expires}, minlen={self.minlen}>"

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(self._data, key=self._data.__getitem__))

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, item: Any) -> bool:
        return item in self._data

    def __bool__(self) -> bool:
        return bool(self._data)

    def __reduce__(self) -> Any:
        return type(self), (self.maxlen, self.expires, self.as_dict(), self.minlen)


class Evictable:
    """Something that throws out what is too much."""

    Empty = Empty
    maxsize: int | None = None

    def evict(self) -> None:
        """Throw out what is too much, however much that is."""
        while self._evict():
            pass

    def _evict(self, limit: int = 100) -> bool:
        """Throw out at most ``limit`` items (whoever adds something does not wait for long); answers whether there is more."""
        for _ in range(limit):
            if self._surplus() <= 0:
                return False
            try:
                self._pop_to_evict()
            except IndexError:
                raise self.Empty from None
        return self._surplus() > 0

    def _surplus(self) -> int:
        return self._evictcount - self.maxsize if self.maxsize else 0

    @property
    def _evictcount(self) -> int:
        """How much there is."""
        raise NotImplementedError

    def _pop_to_evict(self) -> Any:
        raise NotImplementedError


class Messagebuffer(Evictable):
    """A queue of at most ``maxsize`` items (None: any number); the oldest are thrown out, at most 100 at a time."""

    def __init__(self, maxsize: int | None, iterable: Iterable[Any] | None = None) -> None:
        self.maxsize = maxsize
        self.data: deque[Any] = deque(iterable or [])

    def put(self, item: Any) -> None:
        """Add an item."""
        self.data.append(item)
        self._evict()

    def extend(self, it: Iterable[Any]) -> None:
        """Add several."""
        self.data.extend(it)
        self._evict()

    def take(self, *default: Any) -> Any:
        """The oldest item, taken out.

        :raises Empty: there is none, and no default.
        """
        if self.data:
            return self.data.popleft()
        if default:
            return default[0]
        raise self.Empty

    def _pop_to_evict(self) -> Any:
        return self.take()

    @property
    def _evictcount(self) -> int:
        return len(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}/{self.maxsize}>"

    def __iter__(self) -> Iterator[Any]:
        while self.data:
            yield self.data.popleft()

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, item: Any) -> bool:
        return item in self.data

    def __reversed__(self) -> Iterator[Any]:
        while self.data:
            yield self.data.pop()

    def __getitem__(self, index: int) -> Any:
        return self.data[index]


class BufferMap(OrderedDict[Any, Messagebuffer], Evictable):
    """A :class:`Messagebuffer` for each key; at most ``maxsize`` items in all of them together, ``bufmaxsize`` in each.

    What is thrown out is the oldest item of the key that was used the longest time ago.
    """

    Buffer = Messagebuffer

    def __init__(self, maxsize: int | None, iterable: Any = None, bufmaxsize: int | None = 1000) -> None:
        super().__init__()
        self.maxsize = maxsize
        self.bufmaxsize = bufmaxsize
        for key, items in dict(iterable or {}).items():
            self._buffer(key).extend(items)
        self.total = sum(map(len, self.values()))
        self.evict()

    def _buffer(self, key: Any) -> Messagebuffer:
        buffer = self.get(key)
        if buffer is None:
            buffer = self[key] = self.Buffer(self.bufmaxsize)
        return buffer

    def put(self, key: Any, item: Any) -> None:
        """Add an item to the key's buffer."""
        self.extend(key, [item])

    def extend(self, key: Any, it: Iterable[Any]) -> None:
        """Add several items to the key's buffer."""
        buffer = self._buffer(key)
        before = len(buffer)
        buffer.extend(it)
        self.total += len(buffer) - before
        self.move_to_end(key)
        self._evict()

    def take(self, key: Any, *default: Any) -> Any:
        """The oldest item of the key, taken out.

        :raises Empty: there is none, and no default.
        """
        buffer = self.get(key)
        if buffer is None or not buffer:
            if default:
                return default[0]
            raise self.Empty
        item = buffer.take()
        self.total -= 1
        self.move_to_end(key)
        return item

    def _LRUpop(self, *default: Any) -> Any:  # noqa: N802 - Celery's name
        return self[next(iter(self))].take(*default)

    def _pop_to_evict(self) -> Any:
        key = next(key for key, buffer in self.items() if buffer)
        item = self.take(key)
        if not self[key]:
            del self[key]
        return item

    @property
    def _evictcount(self) -> int:
        return self.total

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.total}/{self.maxsize}>"
