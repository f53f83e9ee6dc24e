"""Work-flows: calls that are put together before they are made. Sends through: task and app. Gives back: results.

A *signature* is a call that is not made yet: a plain dict (``task, args, kwargs, options, subtask_type, immutable``), so that every
serializer carries it. The others are signatures too, whose ``kwargs`` hold signatures:

========= ===============================================================================================
chain     one after the other, each with the result of the one before; written ``a | b | c``
group     side by side
chord     a group (the *header*), then one call with the list of its results (the *body*)
chunks    a long list of calls, cut in groups of n
xmap      one call that runs a task over a list, in one worker (xstarmap: with several arguments)
========= ===============================================================================================

*Freezing* gives every call in a canvas its id before anything is sent; that is how the results-to-be know each other.

How ``|`` rewrites (each rule has a test named after it): ``group | task`` is a chord; ``chord | task`` goes on in the chord's body;
a group of one is that one; an empty group is left out; ``chain | chain`` is one chain.

What goes on the wire is Celery's, byte for byte: workers of Celery 5.7 take up a canvas of ours and the other way round. A chain
travels as the list of its later steps, *reversed*, in the first step's message.
"""

from __future__ import annotations

import itertools
import operator
import time
import warnings
from abc import ABCMeta, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, MutableSequence
from contextlib import ExitStack
from copy import deepcopy
from functools import cached_property, reduce
from functools import partial as _partial
from types import GeneratorType
from typing import Any, ClassVar, Self, TypeVar, cast

from kombu.utils.functional import fxrange, reprcall
from vine import barrier

from compat_celery._state import current_app
from compat_celery.exceptions import CPendingDeprecationWarning
from compat_celery.result import EagerResult, GroupResult, allow_join_result
from compat_celery.states import IGNORED, REJECTED
from compat_celery.utils import abstract
from compat_celery.utils.functional import _regen, is_list, maybe_list, regen
from compat_celery.utils.functional import chunks as _chunks
from compat_celery.utils.ids import uuid
from compat_celery.utils.text import remove_repeating_from_task, truncate

__all__ = (
    "Signature",
    "StampingVisitor",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "xmap",
    "xstarmap",
)

Options = dict[str, Any]
_SignatureType = TypeVar("_SignatureType", bound="type[Signature]")

#: Seconds after which members of a group that a generator has brought are sent without those that are still to come.
_TAKES_ITS_TIME = 0.1

#: What a chain uses up itself instead of handing it to its first task.
_CHAIN_RUN_OPTIONS = frozenset({"chord", "group_id", "group_index", "link", "link_error", "parent_id", "root_id", "task_id"})


class _Item:
    """An attribute that lives in the dict: ``_Item("options", "task_id")`` is ``self["options"].get("task_id")``."""

    def __init__(self, *path: str) -> None:
        *self._where, self._key = path

    def _holder(self, obj: Any) -> Any:
        for key in self._where:
            obj = obj[key]
        return obj

    def __get__(self, obj: Any, owner: Any = None) -> Any:
        return owner if obj is None else self._holder(obj).get(self._key)

    def __set__(self, obj: Any, value: Any) -> None:
        self._holder(obj)[self._key] = value


# Stamps.


def _merge_dictionaries(d1: dict[str, Any], d2: Mapping[str, Any] | None, aggregate_duplicates: bool = True) -> None:
    """Merge ``d2`` into ``d1``, dict by dict and list by list.

    Where both have a plain value: with ``aggregate_duplicates`` they become a list of both, otherwise the one in ``d1`` stays.
    """
    if not d2:
        return
    for key, theirs in d2.items():
        if key not in d1:
            d1[key] = theirs
        elif isinstance(d1[key], dict):
            _merge_dictionaries(d1[key], theirs, aggregate_duplicates)
        else:
            d1[key] = _merged_values(d1[key], theirs, aggregate_duplicates)


def _merged_values(ours: Any, theirs: Any, aggregate: bool) -> Any:
    if isinstance(ours, int | float | str) and aggregate:
        ours = [ours]
    if isinstance(ours, list) and isinstance(theirs, list):
        ours.extend(theirs)
        return ours
    if not aggregate:
        return ours
    return [*(ours if ours is not None else ()), theirs]


class StampingVisitor(metaclass=ABCMeta):
    """Walks through a canvas and says which stamps (extra message headers) each part gets.

    Every ``on_…`` method is given the part and the headers collected so far, and returns the headers to add. A key
    ``stamped_headers`` in what it returns lists which of them are stamps; without it all of them are.
    """

    def on_group_start(self, group: group, **headers: Any) -> dict[str, Any]:  # noqa: ARG002 - a hook
        """Before the members of a group."""
        return {}

    def on_group_end(self, group: group, **headers: Any) -> None:  # noqa: B027 - a hook
        """After the members of a group."""

    def on_chain_start(self, chain: _chain, **headers: Any) -> dict[str, Any]:  # noqa: ARG002 - a hook
        """Before the steps of a chain."""
        return {}

    def on_chain_end(self, chain: _chain, **headers: Any) -> None:  # noqa: B027 - a hook
        """After the steps of a chain."""

    @abstractmethod
    def on_signature(self, sig: Signature, **headers: Any) -> dict[str, Any]:
        """At every single call."""

    def on_chord_header_start(self, sig: _chord, **header: Any) -> dict[str, Any]:
        """Before the header of a chord; by default as for a group."""
        if not isinstance(sig.tasks, group):
            sig.tasks = group(sig.tasks)
        return self.on_group_start(sig.tasks, **header)

    def on_chord_header_end(self, sig: _chord, **header: Any) -> None:
        """After the header of a chord; by default as for a group."""
        self.on_group_end(sig.tasks, **header)

    def on_chord_body(self, sig: _chord, **header: Any) -> dict[str, Any]:  # noqa: ARG002 - a hook
        """Before the body of a chord."""
        return {}

    def on_callback(self, callback: Signature, **header: Any) -> dict[str, Any]:  # noqa: ARG002 - a hook
        """At a call that is linked to a success."""
        return {}

    def on_errback(self, errback: Signature, **header: Any) -> dict[str, Any]:  # noqa: ARG002 - a hook
        """At a call that is linked to a failure."""
        return {}


def _stamp_regen_task(task: Signature, visitor: StampingVisitor | None, append_stamps: bool, **headers: Any) -> Signature:
    """Stamp one member of a generator when it is asked for, so that the generator is not used up."""
    task.stamp(visitor, append_stamps, **headers)
    return task


@abstract.CallableSignature.register
class Signature(dict[str, Any]):
    """A call that is not made yet.

    :param task: a task, its name, or a dict that is a signature already (the other parameters are then ignored).
    :param args: positional arguments.
    :param kwargs: keyword arguments.
    :param options: options of ``apply_async``; further keywords are options, too.
    :param immutable: take no further arguments, above all not the result of the step before.
    :param app: the app whose task of that name is meant; the current one by default.
    """

    TYPES: ClassVar[dict[str, type[Signature]]] = {}
    _app: Any = None
    _type: Any = None
    #: Whoever merges options leaves these as they are: changing them would part a task from those who wait for it.
    _IMMUTABLE_OPTIONS: ClassVar[frozenset[str] | set[str]] = frozenset({"group_id", "stamped_headers"})

    id = _Item("options", "task_id")
    parent_id = _Item("options", "parent_id")
    root_id = _Item("options", "root_id")
    task = _Item("task")
    args = _Item("args")
    kwargs = _Item("kwargs")
    options = _Item("options")
    subtask_type = _Item("subtask_type")
    immutable = _Item("immutable")

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[_SignatureType], _SignatureType]:
        """Class decorator: signatures with this ``subtask_type`` (the class's name by default) are made by the class's
        ``from_dict``."""

        def register(subclass: _SignatureType) -> _SignatureType:
            cls.TYPES[name or subclass.__name__] = subclass
            return subclass

        return register

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Any:
        """The signature that a plain dict stands for, of the class that its ``subtask_type`` names."""
        kind = d.get("subtask_type")
        if kind:
            target = cls.TYPES[kind]
            if target is not cls:
                return target.from_dict(d, app=app)
        return Signature(d, app=app)

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,  # noqa: A002, ARG002 - Celery's parameter, without effect there as well
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Any = None,
        **ex: Any,
    ) -> None:
        self._app = app
        if isinstance(task, dict):
            super().__init__(task)
            return
        name = task
        if hasattr(task, "name"):
            self._type, name = task, task.name
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=kwargs or {},
            options=dict(options or {}, **ex),
            subtask_type=subtask_type,
            immutable=immutable,
        )

    # Calling.

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Run the task here, as a plain function call."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs, None)
        return self.type(*args, **kwargs)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Send it, with further arguments before the ones it has."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run it here and now; returns an :class:`~celery.result.EagerResult`."""
        options = {name: value for name, value in options.items() if value is not None}
        args, kwargs, options = self._merge(args, kwargs, options)
        return self.type.apply(args, kwargs, **options)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send it; returns an :class:`~celery.result.AsyncResult`.

        :param args: put before the arguments it has, unless it is immutable.
        :param kwargs: merged over the ones it has, unless it is immutable.
        :param options: of ``Task.apply_async``; those that are None count as not given.
        """
        # A group of chunks hands ``route_name`` to all of its members; only maps have a use for it.
        options = {name: value for name, value in options.items() if value is not None and name != "route_name"}
        if args or kwargs or options:
            args, kwargs, options = self._merge(args, kwargs, options)
        else:
            args, kwargs, options = self.args, self.kwargs, self.options
        return self._apply_async(args, kwargs, **options)

    def __invert__(self) -> Any:
        """``~sig`` sends it and waits for the result."""
        return self.apply_async().get()

    def election(self) -> Any:
        """Ask the workers to agree on one of them that runs it."""
        kind = self.type
        app = kind.app
        task_id = self.options.get("task_id") or uuid()
        with app.producer_or_acquire(None) as producer:
            props = kind.backend.on_task_call(producer, task_id)
            app.control.election(task_id, "task", self.clone(task_id=task_id, **props), connection=producer.connection)
        return kind.AsyncResult(task_id)

    # Changing.

    def _merge(self, args: Any = None, kwargs: Any = None, options: Any = None, force: bool = False) -> tuple[Any, Any, Any]:
        """Arguments and options together with further ones. ``force``: also the arguments of an immutable signature."""
        merged = self.options if options is None else self._merged_options(options)
        if self.immutable and not force:
            return self.args, self.kwargs, merged
        return (
            tuple(args) + tuple(self.args) if args else self.args,
            dict(self.kwargs, **kwargs) if kwargs else self.kwargs,
            merged,
        )

    def _merged_options(self, options: Mapping[str, Any]) -> Options:
        own = self.options
        fixed = (
            {*self._IMMUTABLE_OPTIONS, *(own.get("stamped_headers") or ())} if "stamped_headers" in own else self._IMMUTABLE_OPTIONS
        )
        return {**own, **{name: value for name, value in options.items() if name not in fixed or name not in own}}

    def clone(self, args: Any = None, kwargs: Any = None, **opts: Any) -> Any:
        """A copy with further arguments and options. Its options share nothing with the original's."""
        if args or kwargs or opts:
            args, kwargs, opts = self._merge(args, kwargs, opts)
        else:
            args, kwargs, opts = self.args, self.kwargs, self.options
        copy = Signature.from_dict(
            {
                "task": self.task,
                "args": tuple(args),
                # A shallow copy, so that a change of the copy's arguments is not one of the original's. Not a deep one: the
                # maps keep live generators in there.
                "kwargs": dict(kwargs) if kwargs is self.kwargs else kwargs,
                "options": deepcopy(opts),
                "subtask_type": self.subtask_type,
                "immutable": self.immutable,
            },
            app=self._app,
        )
        copy._type = self._type
        return copy

    partial = clone

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give it the id under which it will run, and return its result-to-be.

        An id that it has stays. Send a frozen signature once only: a second message would have the same id.

        :param group_id: the group that it belongs to, unless it belongs to one.
        :param chord: the body to run when its group is complete.
        :param group_index: its place in the group.
        """
        options = self.options
        task_id = options.setdefault("task_id", _id or uuid())
        if root_id:
            options["root_id"] = root_id
        if parent_id:
            options["parent_id"] = parent_id
        if "reply_to" not in options:
            options["reply_to"] = self.app.thread_oid
        if group_id:
            options.setdefault("group_id", group_id)
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        return self.AsyncResult(task_id)

    _freeze = freeze

    def replace(self, args: Any = None, kwargs: Any = None, options: Any = None) -> Any:
        """A copy with other arguments or options; None keeps what there is."""
        copy = self.clone()
        for name, value in (("args", args), ("kwargs", kwargs), ("options", options)):
            if value is not None:
                copy[name] = value
        return copy

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options of ``apply_async``; returns itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Take no further arguments (True), or do (False)."""
        self.immutable = immutable

    # Stamping.

    def _stamp_headers(
        self,
        visitor_headers: dict[str, Any] | None = None,
        append_stamps: bool = False,
        self_headers: bool = True,
        **headers: Any,
    ) -> dict[str, Any]:
        """The stamps of a visitor, of ``headers`` and (``self_headers``) its own, merged."""
        headers.setdefault("stamped_headers", list(headers))
        if visitor_headers is not None:
            visitor_headers.setdefault("stamped_headers", list(visitor_headers))
            _merge_dictionaries(headers, visitor_headers, aggregate_duplicates=append_stamps)
            headers["stamped_headers"] = list(set(headers["stamped_headers"]))
        if self_headers:
            names = {*headers["stamped_headers"], *self.options.get("stamped_headers", ())}
            headers["stamped_headers"] = list(names)
            own = {name: value for name, value in self.options.items() if name in names}
            _merge_dictionaries(headers, own, aggregate_duplicates=append_stamps)
            headers["stamped_headers"] = list(set(headers["stamped_headers"]))
        return headers

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Put stamps on the call and on what is linked to it.

        :param visitor: says which stamps each part gets.
        :param append_stamps: a stamp that is there already becomes a list of both; otherwise it stays as it is.
        :param headers: stamps that all parts get.
        """
        self.stamp_links(visitor, append_stamps, **headers)
        visitor_headers = None if visitor is None else visitor.on_signature(self, **headers) or {}
        return self.set(**self._stamp_headers(visitor_headers, append_stamps, **headers))

    def stamp_links(self, visitor: StampingVisitor | None, append_stamps: bool = False, **headers: Any) -> None:
        """Put stamps on what is linked to the call: those of the visitor and of ``headers``, not the call's own."""
        on_callback, on_errback = (None, None) if visitor is None else (visitor.on_callback, visitor.on_errback)
        for option, hook in (("link", on_callback), ("link_error", on_errback)):
            stamps = deepcopy(headers)
            for linked in maybe_list(self.options.get(option)) or []:
                sig = maybe_signature(linked, app=self.app)
                visitor_headers = None if hook is None else hook(sig, **stamps) or {}
                stamps = self._stamp_headers(visitor_headers, append_stamps, self_headers=False, **stamps)
                sig.stamp(visitor, append_stamps, **stamps)

    # Linking.

    def _with_list_option(self, key: str) -> MutableSequence[Any]:
        items: Any = self.options.setdefault(key, [])
        if not isinstance(items, MutableSequence):
            items = self.options[key] = [items]
        return cast("MutableSequence[Any]", items)

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Add to an option that is a list, once; returns ``value``."""
        items = self._with_list_option(key)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Add one or several values to an option that is a list."""
        self._with_list_option(key).extend(maybe_list(value))

    def link(self, callback: Any) -> Any:
        """Call ``callback`` with the result on success; returns ``callback``."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Call ``errback`` on failure; returns ``errback``."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """As :meth:`link_error`, but returns itself."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Any]:
        """Itself, its callbacks, their callbacks, and so on."""
        below = (link.flatten_links() for link in maybe_list(self.options.get("link")) or [])
        return [self, *itertools.chain.from_iterable(below)]

    def __or__(self, other: Any) -> Any:
        """``self | other``: first this, then the other."""
        if isinstance(other, _chain):
            return _chain([self, *other.unchain_tasks()], app=self._app)
        if isinstance(other, group):
            return _chain(self, maybe_unroll_group(other), app=self.app)
        if isinstance(other, Signature):
            return _chain(self, other, app=self._app)
        return NotImplemented

    def __ior__(self, other: Any) -> Any:
        return self.__or__(other)

    # Showing, copying, pickling.

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as it would be written: ``tasks.add(2, 2)``."""
        args, kwargs, _ = self._merge(args, kwargs, {}, force=True)
        return str(reprcall(self["task"], args, kwargs))

    def __repr__(self) -> str:
        return self.reprcall()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        # Only the options are copied deeply, since only they are changed when a canvas is prepared; arguments may be live
        # generators.
        copy = dict(self)
        memo[id(self)] = copy
        copy["options"] = deepcopy(self.options, memo)
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    # What it belongs to.

    @property
    def name(self) -> Any:
        """The task's name (as tasks have it)."""
        return self.task

    @cached_property
    def type(self) -> Any:
        """The task itself.

        :raises NotRegistered: the app has no task of that name.
        """
        return self._type or self.app.tasks[self["task"]]

    @cached_property
    def app(self) -> Any:
        """The app that it belongs to."""
        return self._app or current_app

    @cached_property
    def AsyncResult(self) -> Any:  # noqa: N802 - Celery's public name
        """The class of its result: the task's, or the app's for a task that only workers have."""
        try:
            return self.type.AsyncResult
        except KeyError:
            return self.app.AsyncResult

    @cached_property
    def _apply_async(self) -> Callable[..., Any]:
        try:
            apply_async: Callable[..., Any] = self.type.apply_async
        except KeyError:  # a task that only workers have
            return _partial(self.app.send_task, self["task"])
        return apply_async


# Chains.


def maybe_unroll_group(group: Any) -> Any:
    """The only member of a group that has one member, else the group. A generator is asked for its length, never used up."""
    tasks = group.tasks
    try:
        size = len(tasks)
    except TypeError:
        try:
            size = tasks.__length_hint__()
        except (AttributeError, TypeError):
            return group
        return next(iter(tasks)) if size == 1 else group
    return tasks[0] if size == 1 else group


def _is_empty_group(task: Any) -> bool:
    return isinstance(task, group) and isinstance(task.tasks, list | tuple) and not task.tasks


def _merge_chain_step(steps: list[Any], other: Any, clone_other: bool = True) -> Any:
    """Add ``other`` to the steps of a chain that is being built, by the rules of ``|``.

    Returns ``steps``, or what the chain has become if that is no chain, or NotImplemented. ``|`` itself clones the whole chain
    at every step, which makes long chains quadratic.
    """
    if isinstance(other, group):
        return _merge_group(steps, other, clone_other)
    if isinstance(other, _chain):
        return _merge_chain(steps, other, clone_other)
    if not isinstance(other, Signature):
        return NotImplemented
    last = steps[-1] if steps else None
    if isinstance(last, group):
        steps[-1] = chord(last, other.clone() if clone_other else other)
    elif isinstance(last, chord) and not isinstance(other, chord):
        last.body = last.body | other
    else:
        steps.append(other.clone() if clone_other else other)
    return steps


def _merge_group(steps: list[Any], other: group, clone_other: bool) -> Any:
    if _is_empty_group(other):
        return steps
    only = maybe_unroll_group(other)
    if not isinstance(only, group):
        return _merge_chain_step(steps, only, clone_other)
    if not steps:
        return only
    if isinstance(steps[-1], chord):
        steps[-1].body = steps[-1].body | only
    else:
        steps.append(only.clone() if clone_other else only)
    return steps


def _merge_chain(steps: list[Any], other: _chain, clone_other: bool) -> Any:
    inner = other.unchain_tasks()
    remaining = iter(inner)
    for position, task in enumerate(remaining, start=1):
        merged = _merge_chain_step(steps, task, clone_other or position < len(inner))
        if merged is NotImplemented:
            return merged
        if merged is not steps:
            return reduce(operator.or_, remaining, merged)
    return steps


def _fold_chain(tasks: Iterable[Any]) -> Any:
    """What ``a | b | c`` gives, in one pass. Parts that one pass cannot put together are left to ``|``."""
    tasks = list(tasks)
    steps: list[Any] = []
    remaining = iter(tasks)
    for position, task in enumerate(remaining, start=1):
        # The last one goes in as the caller's own object, as with ``|``.
        merged = _merge_chain_step(steps, task, position < len(tasks))
        if merged is NotImplemented:
            return reduce(operator.or_, tasks, _chain())
        if merged is not steps:
            return reduce(operator.or_, remaining, merged)
    # Inner chains hand one errback object to all of their steps; a visitor that stamps each errback needs them apart.
    return _chain([step.clone() for step in steps[:-1]] + steps[-1:])


def _is_chain_led_by_task(body: Any) -> bool:
    """A body whose later steps may be steps of the chain around it. Not so when a group leads: it has to stay one body."""
    return isinstance(body, _chain) and bool(body.tasks) and not isinstance(body.tasks[0], group)


def _first_task_options(sig: Signature) -> Options:
    return {name: value for name, value in sig.options.items() if name not in _CHAIN_RUN_OPTIONS}


def _clear_chord_option(sig: Any) -> None:
    """Take the body away from whatever ends ``sig``."""
    sig.options.pop("chord", None)
    if isinstance(sig, group):
        for task in sig.tasks:
            _clear_chord_option(task)
    elif isinstance(sig, _chain) and sig.tasks:
        _clear_chord_option(sig.tasks[-1])
    elif isinstance(sig, _chord) and sig.body is not None:
        _clear_chord_option(sig.body)


def _strip_chord_header_links(sig: Any) -> None:
    """Make a copy that is about to be sent smaller: a chord that runs later carries its body once, not in each task of its header.

    Freezing puts the body on every header task; ``run()`` does so again when the header is sent.
    """
    if isinstance(sig, _chord):
        _clear_chord_option(sig.tasks)
        _strip_chord_header_links(sig.tasks)
        if sig.body is not None:
            _strip_chord_header_links(sig.body)
    elif isinstance(sig, group | _chain):
        for task in sig.tasks:
            _strip_chord_header_links(task)


def _prepare_chain_from_options(options: Options, tasks: list[Any], use_link: bool | None) -> Options:
    """The first step's options with the later steps in them.

    The members of a group share their options: neither they nor a ``chain`` in them may be changed, hence new objects throughout.
    """
    if use_link:
        return {**options, "chain": None}
    return {**options, "chain": [*(options.get("chain") or ()), *tasks]}


class _Steps:
    """Takes a chain apart into the tasks that are sent one after the other, frozen. See :meth:`_chain.prepare_steps`."""

    def __init__(self, tasks: Iterable[Any], app: Any, root_id: str | None, link_error: Any, clone: bool, use_link: bool) -> None:
        self.app = app
        self.root_id = root_id
        self.errbacks = maybe_list(link_error) or []
        self.clone = clone
        self.use_link = use_link
        self.pending = deque(tasks)
        #: From the last to the first, and their results in the same order.
        self.tasks: list[Any] = []
        self.results: list[Any] = []
        self.prev_task: Any = None
        self.prev_result: Any = None
        self.reached_last = False

    def prepare(self, args: Any, kwargs: Any, last: Options) -> tuple[list[Any], list[Any]]:
        """Walk from the end. ``args`` and ``kwargs`` are for the first task, the options ``last`` for the last one."""
        self._normalise_head()
        while self.pending:
            task = self._as_signature(self.pending.pop())
            is_first = not self.pending
            if isinstance(task, group):
                task = maybe_unroll_group(task)
                if _is_empty_group(task) and (self.pending or self.prev_task):
                    continue
            if self.clone and isinstance(task, chord) and _is_chain_led_by_task(task.body):
                # Otherwise each task of the header would carry the rest of the chain.
                self.pending.extend(task._unroll_body())
                continue
            task = self._with_arguments(task, args, kwargs) if is_first else self._copied(task)
            if isinstance(task, _chain):
                self.pending.extend(task.tasks)
                continue
            self._add(task, last)
        if self.clone:
            for task in self.tasks:
                _strip_chord_header_links(task)
        return self.tasks, self.results

    def _as_signature(self, task: Any) -> Any:
        return task if isinstance(task, abstract.CallableSignature) else Signature.from_dict(task, app=self.app)

    def _normalise_head(self) -> None:
        """Make the first step one that is sent: it is the one that gets the arguments of the call."""
        stripped = None
        steps = self.pending
        while steps:
            head = steps[0] = self._as_signature(steps[0])
            if isinstance(head, _chain):
                steps.popleft()
                steps.extendleft(reversed((head.clone() if self.clone else head).tasks))
                continue
            if isinstance(head, group):
                head = steps[0] = maybe_unroll_group(head)
                if len(steps) > 1 and _is_empty_group(head):
                    stripped = steps.popleft()
                    continue
            break
        if stripped is not None and not steps:  # nothing but empty things: one empty group is the result
            steps.append(stripped)

    def _copied(self, task: Any) -> Any:
        return task.clone() if self.clone else task

    def _with_arguments(self, task: Any, args: Any, kwargs: Any) -> Any:
        if self.clone:
            return task.clone(args, kwargs)
        task.args = tuple(args) + tuple(task.args)
        return task

    def _add(self, task: Any, last: Options) -> None:
        if isinstance(task, group) and self.prev_task:
            task = self._upgrade(task)
        # Whoever waits for the chain (a chord, a group) waits for its last task, hence the ids of the chain go there.
        result = task.freeze(root_id=self.root_id, **({} if self.reached_last else last))
        self.reached_last = True
        if self.prev_task:
            if self.use_link:
                task.link(self.prev_task)
            if self.prev_result and not self.prev_result.parent:
                self.prev_result.parent = result
        self._link_errbacks(task)
        self.tasks.append(task)
        self.results.append(result)
        self.prev_task, self.prev_result = task, result
        if isinstance(task, chord):
            self.app.backend.ensure_chords_allowed()
            # What comes after the step before the chord is the chord's header, which is the root of the body's result.
            self.prev_result = _first_ancestor(result)

    def _upgrade(self, header: group) -> Any:
        """A group that is followed by something is a chord with that as its body."""
        body, body_result = self.tasks.pop(), self.results.pop()
        options: Options = {"root_id": self.root_id}
        body_id = getattr(self.prev_result, "task_id", None)
        if body_id is not None:  # a group's result has none
            options["task_id"] = body_id
        upgraded = chord(header, body=body, app=self.app, **options)
        # Not the body, or with use_link the chord would be linked to its own body.
        self.prev_task = self.tasks[-1] if self.tasks else None
        # The later steps follow the body's result so far and follow the chord's from now on; else the body's id is in there twice.
        node = self.results[-1] if self.results else None
        while node is not None and node.parent is not body_result:
            node = node.parent
        if node is not None:
            node.parent = None
            self.prev_result = node
        return upgraded

    def _link_errbacks(self, task: Any) -> None:
        for errback in self.errbacks:
            task.link_error(errback)
            if isinstance(task, chord) and task.body:
                task.body.link_error(errback)


def _first_ancestor(result: Any) -> Any:
    while result.parent:
        result = result.parent
    return result


@Signature.register_type(name="chain")
class _chain(Signature):  # noqa: N801 - Celery's name, which the wire and pickles know
    """Calls one after the other. Made by :class:`chain` and by ``|``, which put nested canvases in order first."""

    tasks = _Item("kwargs", "tasks")

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Any:
        """The chain that a plain dict stands for."""
        tasks = d["kwargs"]["tasks"]
        if tasks:
            if isinstance(tasks, tuple):
                tasks = d["kwargs"]["tasks"] = list(tasks)
            tasks = [maybe_signature(task, app=app) for task in tasks]
        return cls(tasks, app=app, **d["options"])

    def __init__(self, *tasks: Any, **options: Any) -> None:
        steps = regen(tasks[0]) if len(tasks) == 1 and is_list(tasks[0]) else tasks
        super().__init__("celery.chain", (), {"tasks": steps}, **options)
        self._use_link: bool | None = options.get("use_link")
        self.subtask_type = "chain"
        self._frozen: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it; None when it has no steps."""
        return self.apply_async(args, kwargs) if self.tasks else None

    def __or__(self, other: Any) -> Any:
        if isinstance(other, group):
            return self._or_group(other)
        if isinstance(other, _chain):
            return reduce(operator.or_, other.unchain_tasks(), self)
        if not isinstance(other, Signature):
            return NotImplemented
        last = self.tasks[-1] if self.tasks else None
        if isinstance(last, group):
            return self._or_after_group(other)
        if isinstance(last, chord) and not isinstance(other, chord):
            sig = self.clone()
            sig.tasks[-1].body = sig.tasks[-1].body | other
            return sig
        return type(self)([*self.unchain_tasks(), other], app=self._app)

    def _or_group(self, other: group) -> Any:
        if _is_empty_group(other):
            return self
        only = maybe_unroll_group(other)
        if not isinstance(only, group):
            return self | only
        tasks = self.unchain_tasks()
        if not tasks:
            return only
        if isinstance(tasks[-1], chord):
            tasks[-1].body = tasks[-1].body | only
            return type(self)(tasks, app=self.app)
        return type(self)([*tasks, only], app=self._app)

    def _or_after_group(self, other: Signature) -> Any:
        sig = self.clone()
        sig.tasks[-1] = chord(sig.tasks[-1], other, app=self._app)
        if len(sig.tasks) > 1 and isinstance(sig.tasks[-2], chord):
            # Of two chords in a row, the second one goes on in the body of the first.
            sig.tasks[-2].body = sig.tasks[-2].body | sig.tasks[-1]
            sig.tasks = sig.tasks[:-1]
        return sig

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        """A copy, with copies of its steps."""
        copy = super().clone(*args, **kwargs)
        copy.kwargs["tasks"] = [maybe_signature(task, app=self._app, clone=True) for task in copy.kwargs["tasks"]]
        return copy

    def unchain_tasks(self) -> list[Any]:
        """Copies of the steps, the last one with the chain's callbacks and each with the chain's errbacks."""
        tasks = [task.clone() for task in self.tasks]
        for callback in maybe_list(self.options.get("link")) or []:
            tasks[-1].link(callback)
        for errback in maybe_list(self.options.get("link_error")) or []:
            for task in tasks:
                task.link_error(errback)
        return tasks

    def _unroll_chords(self, app: Any = None) -> None:
        """Make what follows the first task of a chord's body a step of this chain. For copies that are about to be sent only."""
        app = app or self.app
        if self._links_steps(app):
            return  # a failed header has to reach the end of the body, which only the whole body knows then
        pending = deque(self.tasks)
        tasks: list[Any] = []
        while pending:
            task = pending.popleft()
            if isinstance(task, _chain):
                task = task.clone()
                task._unroll_chords(app)
            if isinstance(task, _chord) and _is_chain_led_by_task(task.body):
                pending.extendleft(reversed(task._unroll_body()))
            else:
                tasks.append(task)
        self.tasks = tasks

    def _links_steps(self, app: Any) -> bool:
        """True when each step is sent as a callback of the one before: protocol 1 has no field for chains."""
        return bool(app.conf.task_protocol == 1 if self._use_link is None else self._use_link)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send it; returns the last step's result, whose ``parent`` is the one before, and so on."""
        app = self.app
        if app.conf.task_always_eager:
            with allow_join_result():
                return self.apply(args or (), kwargs or {}, **options)
        return self.run(args or (), kwargs or {}, app=app, **(dict(self.options, **options) if options else self.options))

    def run(
        self,
        args: Any = None,
        kwargs: Any = None,
        group_id: str | None = None,
        chord: Any = None,
        task_id: str | None = None,
        link: Any = None,
        link_error: Any = None,
        publisher: Any = None,  # noqa: ARG002 - Celery's parameter
        producer: Any = None,  # noqa: ARG002 - Celery's parameter
        root_id: str | None = None,
        parent_id: str | None = None,
        app: Any = None,
        group_index: int | None = None,
        **options: Any,
    ) -> Any:
        """Freeze the steps and send the first one, which carries the others."""
        app = app or self.app
        args = tuple(args) + tuple(self.args) if args and not self.immutable else self.args
        tasks, results = self.prepare_steps(
            args, kwargs or {}, self.tasks, root_id, parent_id, link_error, app, task_id, group_id, chord, group_index=group_index
        )
        if not results:
            return None
        if link:
            tasks[0].extend_list_option("link", link)
        first = tasks.pop()
        links = self._links_steps(app)
        later = tasks if links else app.shelf.steps(tasks, options)
        result = first.apply_async(**_prepare_chain_from_options(options, later, links))
        # The frozen result of a single step would do, but for a group, whose members fulfil the one that sending it returned.
        return results[0] if tasks else result

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Freeze every step, in place; returns the last one's result."""
        _, results = self._frozen = self.prepare_steps(
            self.args,
            self.kwargs,
            self.tasks,
            root_id,
            parent_id,
            None,
            self.app,
            _id,
            group_id,
            chord,
            clone=False,
            group_index=group_index,
        )
        return results[0]

    def prepare_steps(
        self,
        args: Any,
        kwargs: Any,
        tasks: Iterable[Any],
        root_id: str | None = None,
        parent_id: str | None = None,  # noqa: ARG002 - Celery's parameter, without effect there as well
        link_error: Any = None,
        app: Any = None,
        last_task_id: str | None = None,
        group_id: str | None = None,
        chord_body: Any = None,
        clone: bool = True,
        from_dict: Any = None,  # noqa: ARG002 - Celery's parameter
        group_index: int | None = None,
    ) -> tuple[list[Any], list[Any]]:
        """The steps as they are sent, frozen, from the last to the first, and their results in the same order.

        Inner chains become steps of this one, a group followed by something becomes a chord, empty groups vanish.

        :param args: for the first step.
        :param link_error: errbacks for every step.
        :param last_task_id: the id of the last step, which is the chain's.
        :param group_id: the group that the chain is a member of.
        :param chord_body: what runs when that group is complete.
        :param clone: prepare copies. Otherwise the steps are frozen in place and keep their shape as far as possible.
        """
        app = app or self.app
        last = {"_id": last_task_id, "group_id": group_id, "chord": chord_body, "group_index": group_index}
        steps = _Steps(tasks, app, root_id, link_error, clone, self._links_steps(app))
        prepared, results = steps.prepare(args, kwargs, last)
        self.id = results[0].id if results else last_task_id
        return prepared, results

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp every step."""
        visitor_headers = None if visitor is None else visitor.on_chain_start(self, **headers) or {}
        headers = self._stamp_headers(visitor_headers, append_stamps, **headers)
        self.stamp_links(visitor, **headers)
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_chain_end(self, **headers)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run the steps here, one after the other; returns the last one's result. Raises what a step raised.

        A callback of the chain is called once, after the last step; an errback goes with each.
        """
        options = dict(self.options, **options)
        link = options.pop("link", None)
        tasks = list(self.tasks)
        last_index = max((index for index, task in enumerate(tasks) if not _is_empty_group(task)), default=len(tasks) - 1)
        last = None
        for index, task in enumerate(tasks):
            if _is_empty_group(task) and (index < len(tasks) - 1 or last is not None):
                continue
            step = task.clone()
            if link and index == last_index:
                # A chord applies nothing but its body; chord.link() would change the caller's members when the body is a group.
                (step.body if isinstance(step, _chord) else step).extend_list_option("link", link)
            result = step.apply((last.get(),), None, **options) if last else step.apply(args or (), kwargs or {}, **options)
            result.parent, last = last, result
            if isinstance(result, EagerResult) and result.state in {IGNORED, REJECTED}:
                break
        return last

    @property
    def app(self) -> Any:
        """The app of the chain, of its first step, or the current one."""
        if self._app is not None:
            return self._app
        try:
            return self.tasks[0].app or current_app
        except (LookupError, AttributeError):  # no steps, or plain dicts that belong to no app yet
            return current_app

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<{type(self).__name__}@{id(self):#x}: empty>"
        return str(remove_repeating_from_task(self.tasks[0]["task"], " | ".join(repr(task) for task in self.tasks)))


class chain(_chain):  # noqa: N801 - Celery's public name
    """Calls one after the other: ``chain(a, b, c)`` is ``a | b | c``.

    With a single argument, that is an iterable of signatures. What comes out need not be a chain: ``chain(g, t)`` for a group
    is a chord.
    """

    def __new__(cls, *tasks: Any, **kwargs: Any) -> Any:
        """Fold the steps with the rules of ``|``."""
        if kwargs or not tasks or (len(tasks) == 1 and not is_list(tasks[0])):
            return super().__new__(cls, *tasks, **kwargs)
        folded = _fold_chain(tasks[0] if len(tasks) == 1 else tasks)
        if cls is not chain and isinstance(folded, _chain) and not isinstance(folded, cls):
            return super().__new__(cls, folded.tasks)
        return folded


# Maps.


class _basemap(Signature):  # noqa: N801 - after its public subclasses
    """One call that runs ``task`` over the items of ``it``, in one worker."""

    _task_name: ClassVar[str]

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Any:
        """The map that a plain dict stands for."""
        return cls(d["kwargs"]["task"], d["kwargs"]["it"], app=app, **d["options"])

    def __init__(self, task: Any, it: Any, **options: Any) -> None:
        super().__init__(self._task_name, (), {"task": task, "it": regen(it)}, immutable=True, **options)

    def apply_async(self, args: Any = None, kwargs: Any = None, **opts: Any) -> Any:  # noqa: ARG002 - a map takes no further arguments
        """Send it. Routed as a call of the mapped task would be."""
        _, _, options = self._merge(options={name: value for name, value in opts.items() if value is not None})
        task = self.kwargs["task"]
        route_name = options.pop("route_name", None) or getattr(task, "name", task)
        return self.type.apply_async((), {"task": task, "it": list(self.kwargs["it"])}, route_name=route_name, **options)

    def _shown(self, call: str) -> str:
        items = truncate(repr(self.kwargs["it"]), 100)
        return f"[{self.kwargs['task'].task}({call}) for x in {items}]"


@Signature.register_type()
class xmap(_basemap):  # noqa: N801 - Celery's public name
    """One call that runs ``task(x)`` for every x of a list."""

    _task_name = "celery.map"

    def __repr__(self) -> str:
        return self._shown("x")


@Signature.register_type()
class xstarmap(_basemap):  # noqa: N801 - Celery's public name
    """One call that runs ``task(*x)`` for every x of a list."""

    _task_name = "celery.starmap"

    def __repr__(self) -> str:
        return self._shown("*x")


@Signature.register_type()
class chunks(Signature):  # noqa: N801 - Celery's public name
    """A long list of calls in pieces of n: a group of starmaps."""

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Any:
        """The chunks that a plain dict stands for."""
        kwargs = d["kwargs"]
        return cls(kwargs["task"], kwargs["it"], kwargs["n"], app=app, **d["options"])

    def __init__(self, task: Any, it: Any, n: int, **options: Any) -> None:
        super().__init__("celery.chunks", (), {"task": task, "it": regen(it), "n": n}, immutable=True, **options)

    def __call__(self, **options: Any) -> Any:
        """Send it."""
        return self.apply_async(**options)

    def apply_async(self, args: Any = None, kwargs: Any = None, **opts: Any) -> Any:
        """Send it; returns a :class:`~celery.result.GroupResult`."""
        task = self.kwargs["task"]
        return self.group().apply_async(args or (), kwargs or {}, route_name=getattr(task, "name", task), **opts)

    def group(self) -> group:
        """The group of starmaps that it stands for; made piece by piece."""
        task, items, size = self.kwargs["task"], self.kwargs["it"], self.kwargs["n"]
        return group((xstarmap(task, part, app=self._app) for part in _chunks(iter(items), size)), app=self._app)

    @classmethod
    def apply_chunks(cls, task: Any, it: Any, n: int, app: Any = None) -> Any:
        """Send the calls of ``task`` over ``it`` in pieces of n."""
        return cls(task, it, n, app=app)()


# Groups.


def _maybe_group(tasks: Any, app: Any) -> Any:
    """The members of whatever a chord's header was given as."""
    if isinstance(tasks, dict):
        tasks = signature(tasks, app=app)
    if isinstance(tasks, group | _chain):
        return tasks.tasks
    if isinstance(tasks, abstract.CallableSignature):
        return [tasks]
    members = (signature(task, app=app) for task in tasks)
    return regen(members) if isinstance(tasks, GeneratorType) else list(members)


def _is_empty_chain(task: Any) -> bool:
    return isinstance(task, _chain) and not task.tasks


@Signature.register_type()
class group(Signature):  # noqa: N801 - Celery's public name
    """Calls side by side.

    With a single argument, that is an iterable of signatures; a generator is not used up before the group is sent. Options are
    those of ``apply_async`` and go to every member.

    Sending it gives a :class:`~celery.result.GroupResult`; all of its messages go out in one round trip.
    """

    tasks = _Item("kwargs", "tasks")

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Any:
        """The group that a plain dict stands for. The dict's members are replaced by signatures, as whoever freezes the dict
        expects."""
        members = d["kwargs"]["tasks"]
        rebuilt = d["kwargs"]["tasks"] = type(members)(maybe_signature(task, app=app) for task in members)
        return cls(rebuilt, app=app, **d["options"])

    def __init__(self, *tasks: Any, **options: Any) -> None:
        members: Any = tasks
        if len(tasks) == 1:
            members = tasks[0]
            if isinstance(members, group):
                members = members.tasks
            if isinstance(members, abstract.CallableSignature):
                members = [members.clone()]
            if not isinstance(members, _regen):
                members = regen(members)
        super().__init__("celery.group", (), {"tasks": members}, **options)
        self.subtask_type = "group"

    def __call__(self, *partial_args: Any, **options: Any) -> Any:
        """Send it."""
        return self.apply_async(partial_args, **options)

    def __or__(self, other: Any) -> Any:
        if isinstance(other, group) and not isinstance(other.tasks, _regen) and _is_empty_group(other):
            return self
        return chord(self, body=other, app=self._app)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Give the members countdowns (seconds) that grow from ``start`` to ``stop`` by ``step``, so that they do not start at
        once."""
        countdowns = fxrange(start, stop, step, repeatlast=True)
        for task in self.tasks:
            task.set(countdown=next(countdowns))
        return self

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        add_to_parent: bool = True,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> Any:
        """Send the members; returns a :class:`~celery.result.GroupResult`.

        :param add_to_parent: inside a task, count the group among the task's children.
        :raises TypeError: ``link`` or ``link_error`` given: there is no one result that they could follow.
        """
        if link is not None:
            raise TypeError("Cannot add link to group: use a chord")
        if link_error is not None:
            raise TypeError("Cannot add link to group: do that on individual tasks")
        app = self.app
        if app.conf.task_always_eager:
            return self.apply(args or (), kwargs, **options)
        if not self.tasks:
            return self.freeze()
        options, group_id, root_id = self._freeze_gid(options)
        tasks = self._prepared(self.tasks, [], group_id, root_id, app)
        ready = barrier()
        results = list(self._apply_tasks(tasks, producer, app, ready, args=args or (), kwargs=kwargs, **options))
        result = app.GroupResult(group_id, results, ready_barrier=ready)
        ready.finalize()
        if len(result) == 1 and isinstance(result[0], GroupResult):
            result = result[0]  # the only member was a chain that ends in a group
        parent = app.current_worker_task
        if add_to_parent and parent:
            parent.add_trail(result)
        return result

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run the members here, one after the other."""
        app = self.app
        if not self.tasks:
            return self.freeze()
        options, group_id, root_id = self._freeze_gid(options)
        tasks = self._prepared(self.tasks, [], group_id, root_id, app, freeze=False)
        return app.GroupResult(group_id, [sig.apply(args=args or (), kwargs=kwargs or {}, **options) for sig, _, _ in tasks])

    def set_immutable(self, immutable: bool) -> None:
        """Let all members take no further arguments (True), or take them."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp every member; those of a generator when they are asked for."""
        visitor_headers = None if visitor is None else visitor.on_group_start(self, **headers) or {}
        headers = self._stamp_headers(visitor_headers, append_stamps, **headers)
        self.stamp_links(visitor, append_stamps, **headers)
        if isinstance(self.tasks, _regen):
            self.tasks.map(_partial(_stamp_regen_task, visitor=visitor, append_stamps=append_stamps, **headers))
        else:
            members = [maybe_signature(task, app=self.app) for task in self.tasks]
            for task in members:
                task.stamp(visitor, append_stamps, **headers)
            self._set_members(members)
        if visitor is not None:
            visitor.on_group_end(self, **headers)

    def _set_members(self, members: list[Any]) -> None:
        """In place where that is possible: a chord's header and its dict share the list."""
        if isinstance(self.tasks, MutableSequence):
            self.tasks[:] = members
        else:
            self.tasks = members

    def link(self, callback: Any) -> Any:
        """Call ``callback``, immutably, when the *first* member succeeds. Use a chord to wait for all of them."""
        return self.tasks[0].link(callback.clone().set(immutable=True))

    def link_error(self, errback: Any) -> tuple[Any, ...]:  # one errback for each member
        """Call ``errback`` for every member that fails; returns the copies that were linked."""
        errback = maybe_signature(errback)
        return tuple(task.link_error(errback.clone()) for task in self.tasks)

    def _prepared(
        self,
        tasks: Iterable[Any],
        partial_args: Any,
        group_id: str,
        root_id: str | None,
        app: Any,
        *,
        freeze: bool = True,
    ) -> Iterator[tuple[Any, Any, str]]:
        """Copies of the members as they are sent: ``(signature, result, group id)``. Groups in the group are flattened, in
        order."""
        for index, member in enumerate(_one_by_one(tasks)):
            task = member.clone() if isinstance(member, abstract.CallableSignature) else Signature.from_dict(member, app=app)
            if isinstance(task, group):
                yield from task._prepared(task.tasks, partial_args, group_id, root_id, app, freeze=freeze)
                continue
            if _is_empty_chain(task):
                continue
            if partial_args and not task.immutable:
                task.args = tuple(partial_args) + tuple(task.args)
            yield task, task.freeze(group_id=group_id, root_id=root_id, group_index=index) if freeze else None, group_id

    def _apply_tasks(
        self,
        tasks: Iterable[tuple[Any, Any, str]],
        producer: Any = None,
        app: Any = None,
        p: Any = None,
        add_to_parent: Any = None,  # noqa: ARG002 - Celery's parameter
        chord: Any = None,
        args: Any = None,
        kwargs: Any = None,
        group_index: int | None = None,  # noqa: ARG002 - each member has its own
        **options: Any,
    ) -> Generator[Any, None, None]:
        """Send the members and yield their results. The chord's size is known to the backend before the last one is sent.

        They are sent together; those of a generator that takes its time as they come.
        """
        from compat_celery.app import publisher  # noqa: PLC0415 - building canvases does without brokers

        app = app or self.app
        chord_size = 0
        early = isinstance(self.tasks, _regen) and not publisher.is_collecting()
        # Its first items have been read by now.
        sent = 0.0 if early and self.tasks.slowest > _TAKES_ITS_TIME else time.monotonic()
        with ExitStack() as stack:
            producer = stack.enter_context(app.producer_or_acquire(producer))
            stack.enter_context(app.bulk_publish())
            for (sig, result, group_id), is_last in _marking_last(tasks):
                body = chord if chord is not None else sig.options.get("chord")
                chord_size += _chord._descend(sig)
                if body is not None and is_last:
                    app.backend.set_chord_size(group_id, chord_size)
                sig.apply_async(producer=producer, add_to_parent=False, chord=body, args=args, kwargs=kwargs, **options)
                if early and time.monotonic() - sent > _TAKES_ITS_TIME:
                    publisher.flush()
                    sent = time.monotonic()
                if p and not p.cancelled and not p.ready:
                    # Not barrier.add(): that would keep the results alive for as long as anything waits for them.
                    p.size += 1
                    result.then(p, weak=True)
                yield result

    def _freeze_gid(self, options: Options) -> tuple[Options, str, str | None]:
        """The options for the members, in which the id that the group was given is their group's, not their own."""
        merged = {
            **self.options,
            **{name: value for name, value in options.items() if name not in self._IMMUTABLE_OPTIONS or name not in self.options},
        }
        group_id = merged["group_id"] = merged.pop("task_id", None) or uuid()
        return merged, group_id, merged.get("root_id")

    def _freeze_group_tasks(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> tuple[str, Any]:
        """Freeze the members; returns the group's id and their results. Those of a generator are frozen when they are asked for."""
        options = self.options
        own_id = options.setdefault("task_id", uuid())
        if group_id:
            options["group_id"] = group_id
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        root_id = options.setdefault("root_id", root_id)
        parent_id = options.setdefault("parent_id", parent_id)
        if isinstance(self.tasks, _regen):
            to_freeze, to_keep = itertools.tee(self._unroll_tasks(self.tasks))
            results = regen(self._freeze_tasks(to_freeze, group_id, chord, root_id, parent_id))
            slowest = self.tasks.slowest
            self.tasks = regen(to_keep)
            self.tasks.slowest = slowest
            return own_id, results
        members: list[Any] = []
        results = list(self._freeze_unroll(members, group_id, chord, root_id, parent_id))
        self._set_members(members)
        return own_id, results

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Freeze every member; returns the :class:`~celery.result.GroupResult`-to-be."""
        return self.app.GroupResult(
            *self._freeze_group_tasks(
                _id=_id, group_id=group_id, chord=chord, root_id=root_id, parent_id=parent_id, group_index=group_index
            )
        )

    _freeze = freeze

    def _freeze_tasks(
        self, tasks: Iterable[Any], group_id: str | None, chord: Any, root_id: str | None, parent_id: str | None
    ) -> Iterator[Any]:
        for index, task in enumerate(tasks):
            if not _is_empty_chain(task):
                yield task.freeze(group_id=group_id, chord=chord, root_id=root_id, parent_id=parent_id, group_index=index)

    def _unroll_tasks(self, tasks: Iterable[Any]) -> Iterator[Any]:
        for task in _one_by_one(tasks):
            yield maybe_signature(task, app=self._app).clone()

    def _freeze_unroll(
        self, new_tasks: list[Any], group_id: str | None, chord: Any, root_id: str | None, parent_id: str | None
    ) -> Iterator[Any]:
        """Freeze copies of the members, put them in ``new_tasks`` and yield their results.

        Groups in the group are flattened, *their members in reverse*: a chord of ``[2, group(3, 7)]`` gives ``[2, 7, 3]``.
        That is how Celery numbers them, and a body sees it.
        """
        pending = deque(self.tasks)
        index = 0
        while pending:
            task = maybe_signature(pending.popleft(), app=self._app).clone()
            if isinstance(task, group):
                pending.extendleft(task.tasks)
            elif not _is_empty_chain(task):
                new_tasks.append(task)
                yield task.freeze(group_id=group_id, chord=chord, root_id=root_id, parent_id=parent_id, group_index=index)
                index += 1

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        if not self.tasks:
            return "group(<empty>)"
        return str(remove_repeating_from_task(self.tasks[0]["task"], f"group({self.tasks!r})"))

    @property
    def app(self) -> Any:
        """The app of the group, of its first member, or the current one."""
        if self._app is not None:
            return self._app
        try:
            app = self.tasks[0].app
        except LookupError:
            app = None
        return app if app is not None else current_app


def _one_by_one(tasks: Iterable[Any]) -> Iterator[Any]:
    """The members; those of a generator as soon as they come."""
    return tasks.one_by_one() if isinstance(tasks, _regen) else iter(tasks)


def _marking_last(items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Every item with whether it is the last one. Looks one item ahead, so that a generator is used up step by step."""
    iterator = iter(items)
    for item in iterator:
        for following in iterator:
            yield item, False
            item = following  # noqa: PLW2901 - the window moves on
        yield item, True


# Chords.


@Signature.register_type(name="chord")
class _chord(Signature):  # noqa: N801 - Celery's name, which the wire and pickles know
    """A group (the header), then one call (the body) with the list of the header's results, in order.

    If a task of the header fails the body does not run: it becomes a failure with a ``ChordError`` that names the task.
    Needs a results store.
    """

    tasks = _Item("kwargs", "header")
    body = _Item("kwargs", "body")

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Any:
        """The chord that a plain dict stands for."""
        options = dict(d)
        kwargs = dict(options.pop("kwargs"))
        header, body = kwargs.pop("header", None), kwargs.pop("body", None)
        return cls(header, body, kwargs=kwargs, app=app, **options)

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Any = None,
        kwargs: dict[str, Any] | None = None,
        app: Any = None,
        **options: Any,
    ) -> None:
        parts = {"header": _maybe_group(header, app), "body": maybe_signature(body, app=app)}
        super().__init__(task, args or (), {**(kwargs or {"kwargs": {}}), **parts}, app=app, **options)
        self.subtask_type = "chord"

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it, with this body instead of its own if one is given."""
        return self.apply_async((), {"body": body} if body else {}, **options)

    def __or__(self, other: Any) -> Any:
        if isinstance(other, group) and len(other.tasks) == 1:
            other = maybe_unroll_group(other)
        elif isinstance(other, group | _chain) or not isinstance(other, Signature):
            return super().__or__(other)
        sig = self.clone()
        sig.body = sig.body | other
        return sig

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Freeze header and body; returns the body's result, whose first ancestor is the header's.

        :raises RuntimeError: the body's result is an ancestor of itself.
        """
        if not isinstance(self.tasks, group):
            self.tasks = group(self.tasks, app=self.app)
        header_result = self.tasks.freeze(parent_id=parent_id, root_id=root_id, chord=self.body)
        self.id = self.tasks.id
        if self.body is None:
            return None
        body_result = self.body.freeze(_id, root_id=root_id, chord=chord, group_id=group_id, group_index=group_index)
        _put_below(header_result, body_result)
        return body_result

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp the header's tasks, and with a visitor the body."""
        tasks = self.tasks.tasks if isinstance(self.tasks, group) else self.tasks
        visitor_headers = None if visitor is None else visitor.on_chord_header_start(self, **headers) or {}
        headers = self._stamp_headers(visitor_headers, append_stamps, **headers)
        self.stamp_links(visitor, append_stamps, **headers)
        if isinstance(tasks, _regen):
            tasks.map(_partial(_stamp_regen_task, visitor=visitor, append_stamps=append_stamps, **headers))
        else:
            stamps = headers.copy()
            for task in tasks:
                task.stamp(visitor, append_stamps, **stamps)
        if visitor is None:
            return
        visitor.on_chord_header_end(self, **headers)
        if self.body is not None:
            visitor_headers = visitor.on_chord_body(self, **headers) or {}
            headers = self._stamp_headers(visitor_headers, append_stamps, **headers)
            self.body.stamp(visitor, append_stamps, **headers)

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,  # noqa: ARG002 - Celery's parameters, without effect there as well
        publisher: Any = None,  # noqa: ARG002
        connection: Any = None,  # noqa: ARG002
        router: Any = None,  # noqa: ARG002
        result_cls: Any = None,  # noqa: ARG002
        **options: Any,
    ) -> Any:
        """Send the header; returns the body's result.

        :param args: for the header's tasks.
        :param kwargs: for the header's tasks; ``body`` replaces the body.
        :param task_id: the id of the body.
        :param options: ``countdown`` and ``eta`` delay the header, ``link`` and ``link_error`` go to the body, the others to both.
        """
        kwargs = dict(kwargs or {})
        args = tuple(args) + tuple(self.args) if args and not self.immutable else self.args
        body = kwargs.pop("body", None) or self.kwargs["body"]
        kwargs = dict(self.kwargs["kwargs"], **kwargs)
        header_delay = {name: options.pop(name) for name in ("countdown", "eta") if options.get(name) is not None}
        callbacks = {name: options.pop(name) for name in ("link", "link_error") if name in options}
        body = body.clone(**self._body_options(options))
        app = self._get_app(body)
        header = self._header_copy(app)
        if app.conf.task_always_eager:
            body = self._add_body_callbacks(body, dict(self.options, **callbacks))
            with allow_join_result():
                return self.apply(args, kwargs, body=body, task_id=task_id, **options)
        merged = dict(self.options, **options, **callbacks)
        # run() takes ``countdown`` for the interval of Celery's chord_unlock task; it finds those of .set() in self.options.
        merged = {name: value for name, value in merged.items() if name not in {"countdown", "eta"}}
        own_id = merged.pop("task_id", None)
        if header_delay:
            merged["header_delay"] = header_delay
        return self.run(header, body, args, task_id=own_id if task_id is None else task_id, kwargs=kwargs, **merged)

    def _header_copy(self, app: Any) -> group:
        tasks = self.tasks
        if isinstance(tasks, group):
            copy: group = tasks.clone()
            return copy
        # Freezing replaces the members of a list in place; a generator gets no further layer of looking ahead.
        if isinstance(tasks, MutableSequence) and not isinstance(tasks, _regen):
            tasks = tasks[:]
        return group(tasks, app=app, task_id=self.options.get("task_id") or uuid())

    def apply(self, args: Any = None, kwargs: Any = None, propagate: bool = True, body: Any = None, **options: Any) -> Any:  # noqa: ARG002
        """Run header and body here. Raises what a task of the header raised, unless ``propagate`` is false."""
        body = self.body if body is None else body
        header = self.tasks.clone() if isinstance(self.tasks, group) else group(self.tasks, app=self.app)
        return body.apply(args=(header.apply(args or (), kwargs or {}).get(propagate=propagate),))

    @classmethod
    def _descend(cls, sig_obj: Any) -> int:
        """How many parts a member of the header adds to the chord: how many tasks report to it in the end."""
        if not isinstance(sig_obj, Signature) and isinstance(sig_obj, dict):
            sig_obj = Signature.from_dict(sig_obj)
        if isinstance(sig_obj, group):
            return sum(cls._descend(task) for task in getattr(sig_obj.tasks, "tasks", sig_obj.tasks))
        if isinstance(sig_obj, _chain):  # the last step that is not empty reports
            return next((size for task in reversed(sig_obj.tasks) if (size := cls._descend(task)) > 0), 0)
        if isinstance(sig_obj, _chord):  # its body reports
            return cls._descend(sig_obj.body)
        return 1 if isinstance(sig_obj, Signature) else len(sig_obj)

    def __length_hint__(self) -> int:
        """How many parts the chord waits for."""
        return sum(self._descend(task) for task in getattr(self.tasks, "tasks", self.tasks))

    @staticmethod
    def _body_options(options: Options) -> Options:
        """Without the parent: the body's is the task that completes the header."""
        return {name: value for name, value in options.items() if name != "parent_id"}

    @staticmethod
    def _add_body_callbacks(body: Any, options: Options) -> Any:
        """Move ``link`` and ``link_error`` from the options, which are changed, to the body; returns a copy of it if there are
        any."""
        callbacks = maybe_list(options.pop("link", None)) or []
        errbacks = maybe_list(options.pop("link_error", None)) or []
        if callbacks or errbacks:
            body = _clone_with_members(body)
        for callback in callbacks:
            linked = _clone_with_members(maybe_signature(callback, app=body._app))
            if isinstance(body, group) and not body.tasks:
                body.append_to_list_option("link", linked)
            else:
                body.link(linked)
        for errback in errbacks:
            if isinstance(body, group):
                _link_error_to_body_tasks(body, maybe_signature(errback, app=body._app))
            else:
                body.append_to_list_option("link_error", errback)
        return body

    def run(
        self,
        header: Any,
        body: Any,
        partial_args: Any,
        app: Any = None,
        interval: float | None = None,
        countdown: float = 1,
        max_retries: int | None = None,
        eager: bool = False,  # noqa: ARG002 - Celery's parameter
        task_id: str | None = None,
        kwargs: dict[str, Any] | None = None,
        header_delay: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send the header; each of its tasks carries the body. An empty header sends the body at once, with ``[]``.

        :param interval: seconds between the looks of Celery's chord_unlock task, on backends that need one; ``countdown``
            before the first, ``max_retries`` how many.
        :param header_delay: ``countdown`` or ``eta`` of the header.
        """
        app = app or self._get_app(body)
        group_id = header.options.get("task_id") or uuid()
        root_id = body.options.get("root_id")
        options = dict(self.options, **options)
        delay = dict(header_delay or {})
        for name in ("countdown", "eta"):
            value = options.pop(name, None)
            if value is not None:
                delay.setdefault(name, value)
        if options:
            options.pop("task_id", None)
            body = self._add_body_callbacks(body, options)
            body.options.update(self._body_options(options))
        if isinstance(body, _chain):
            body._unroll_chords(app)
        body_result = body.freeze(task_id or uuid(), group_id=group_id, root_id=root_id)
        _strip_chord_header_links(body)
        # The header's tasks get neither the rest of a chain nor an outer chord: both follow the body.
        for name in ("chain", "chord", "task_id"):
            options.pop(name, None)
        header.options["task_id"] = group_id
        carried = app.shelf.body(body, _known_size(header.tasks), options)
        frozen = header._freeze_group_tasks(group_id=group_id, chord=carried, root_id=root_id)
        if header.tasks:
            app.backend.apply_chord(frozen, body, interval=interval, countdown=countdown, max_retries=max_retries)
            body_result.parent = header.apply_async(partial_args, kwargs, task_id=group_id, **{**options, **delay})
        else:
            body.delay([])
            body_result.parent = self.app.GroupResult(*frozen)
        return body_result

    def _unroll_body(self) -> list[Any]:
        """``chord(header, a | b | c)`` as the steps ``chord(header, a), b, c``: every task of the header carries a copy of the
        body."""
        task = self.clone()
        first, *later = task.body.unchain_tasks()
        task.body = first.clone(**_first_task_options(task.body))
        return [task, *later]

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        """A copy, with a copy of its body."""
        copy = super().clone(*args, **kwargs)
        copy.kwargs["body"] = maybe_signature(copy.kwargs.get("body"), clone=True)
        return copy

    def link(self, callback: Any) -> Any:
        """Call ``callback`` with the body's result."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Call ``errback`` when the body fails or cannot run; with ``task_allow_error_cb_on_chord_header`` also for each
        header task."""
        errback = maybe_signature(errback)
        header = maybe_list(self.tasks) or []
        if self.app.conf.task_allow_error_cb_on_chord_header:
            for task in header:
                task.link_error(errback.clone(immutable=True))
        else:
            warnings.warn(
                "With task_allow_error_cb_on_chord_header=False an errback of a chord is not called for the tasks of its header. "
                "A future release calls it for them as well: set it to True to have that now.",
                CPendingDeprecationWarning,
                stacklevel=2,
            )
        for task in header:
            if isinstance(task, _chord):  # which links its own body
                task.link_error(errback)
        self.body.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Let the header's tasks take no further arguments (True), or take them. The body always takes the results."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def __repr__(self) -> str:
        body = self.body
        if not body:
            return f"<chord without body: {self.tasks!r}>"
        if not isinstance(body, _chain):
            return "%" + str(remove_repeating_from_task(body["task"], body.reprcall(self.tasks)))
        first, rest = body.tasks[0], chain(body.tasks[1:], app=self._app)
        return str(remove_repeating_from_task(first["task"], f"%({first.reprcall(self.tasks)} | {rest!r})"))

    @cached_property
    def app(self) -> Any:
        """The app of the chord, of its header, of its body, or the current one."""
        return self._get_app(self.body)

    def _get_app(self, body: Any = None) -> Any:
        app = self._app
        if app is None:
            tasks = getattr(self.tasks, "tasks", self.tasks)
            if tasks:
                app = self._app_of(tasks[0])
            if app is None and body is not None:
                app = self._app_of(body)
        return app if app is not None else current_app

    @staticmethod
    def _app_of(task: Any) -> Any:
        """The app that a task is bound to by itself or through what it is made of; None if that is just the current one."""
        if task._app is not None:
            return task._app
        try:
            app = task.app
        except AttributeError:  # members that are plain dicts belong to no app yet
            return None
        return None if app is current_app else app


#: The name of the class is ``_chord`` because parameters called ``chord`` hide it.
chord = _chord


def _known_size(tasks: Any) -> int | None:
    """How many there are; None for a generator, which asking would use up."""
    return None if isinstance(tasks, _regen) else len(tasks)


@Signature.register_type(name="shelved")
class _shelved(Signature):  # noqa: N801 - beside the other types
    """What a ticket for the shelf stands for; there are no objects of this class."""

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Any = None) -> Any:
        """The signature on the shelf.

        :raises CanvasExpired: it is not there any more.
        """
        return (app or current_app).shelf.signature(d)


def _put_below(header_result: Any, body_result: Any) -> None:
    """Make the header's result the first ancestor of the body's."""
    seen = set()
    node = body_result
    while node:
        if node.id in seen:
            raise RuntimeError("Recursive result parents")
        seen.add(node.id)
        if node.parent is None:
            node.parent = header_result
            return
        node = node.parent


def _clone_with_members(sig: Any) -> Any:
    """A copy that shares no signature with the original which ``link()`` would change."""
    sig = maybe_signature(sig, clone=True)
    if isinstance(sig, group):
        sig.tasks = [_clone_with_members(task) for task in sig.tasks]
    elif isinstance(sig, _chord):
        sig.body = _clone_with_members(sig.body)
    return sig


def _link_error_to_body_tasks(sig: Any, errback: Any, runs_as_group: bool = True) -> None:
    """Link an errback to what a chord's body ends in.

    A group that runs as one and has errbacks of its own gets it there: when it runs, they replace those of its members. In a
    flattened inner group they are lost, so there it goes to the members.
    """
    if isinstance(sig, group):
        if runs_as_group and sig.options.get("link_error") is not None:
            sig.append_to_list_option("link_error", errback.clone())
        else:
            for task in sig.tasks:
                _link_error_to_body_tasks(task, errback, runs_as_group=False)
    elif isinstance(sig, _chord):
        _link_error_to_body_tasks(sig.body, errback)
    else:
        sig.link_error(errback.clone())


def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """Make a signature: from a task or its name, from a dict that is one, or a copy of one."""
    if isinstance(varies, dict):
        if isinstance(varies, abstract.CallableSignature):
            return varies.clone()
        return Signature.from_dict(varies, app=kwargs.get("app"))
    return Signature(varies, *args, **kwargs)


def maybe_signature(d: Any, app: Any = None, clone: bool = False) -> Any:
    """A dict as the signature that it stands for; a signature as it is (``clone``: as a copy); None as None.

    :param app: the app that it belongs to from now on.
    """
    if d is None:
        return None
    if isinstance(d, abstract.CallableSignature):
        if clone:
            d = d.clone()
    elif isinstance(d, dict):
        d = signature(d, app=app) if d.get("subtask_type") == "shelved" else signature(d)
    if app is not None:
        d._app = app
    return d


subtask = signature
maybe_subtask = maybe_signature

# Genuine peers unpickle signatures by Celery's name (see ``Signature.__reduce__``).
signature.__module__ = "celery.canvas"
