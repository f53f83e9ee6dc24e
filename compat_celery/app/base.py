"""The app: tasks, settings, and everything that hangs on them. Comes from: user code. Goes to: all other rooms of ``app``."""

from __future__ import annotations

import importlib
import inspect
import os
import platform
import sys
import threading
import types
import warnings
from collections import UserDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from functools import cached_property, partial
from operator import attrgetter
from typing import Any, ClassVar, Self
from weakref import WeakSet

from vine import starpromise

from compat_celery import signals
from compat_celery._later import kombu_exceptions
from compat_celery._names import CELERYS, OURS, celery_named
from compat_celery._state import (
    _announce_app_finalized,
    _deregister_app,
    _register_app,
    _set_current_app,
    _task_stack,
    connect_on_app_finalize,
    get_current_app,
    get_current_worker_task,
    set_default_app,
)
from compat_celery.app import (  # the built-in tasks register themselves
    backends,
    builtins,  # noqa: F401 - imported for the tasks that it registers
    publisher,
)
from compat_celery.app._pydantic import pydantic_wrapper
from compat_celery.app.annotations import prepare as prepare_annotations
from compat_celery.app.autoretry import add_autoretry_behaviour
from compat_celery.app.defaults import DEFAULT_SECURITY_DIGEST, find_deprecated_settings
from compat_celery.app.registry import TaskRegistry
from compat_celery.app.utils import (
    AppPickler,
    Settings,
    _new_key_to_old,
    _old_key_to_new,
    _unpickle_app,
    _unpickle_app_v2,
    appstr,
    bugreport,
    detect_settings,
)
from compat_celery.exceptions import AlwaysEagerIgnored, DuplicateTaskNameWarning, ImproperlyConfigured
from compat_celery.loaders import get_loader_cls
from compat_celery.local import PromiseProxy, maybe_evaluate
from compat_celery.utils import abstract
from compat_celery.utils.collections import AttributeDictMixin
from compat_celery.utils.dispatch import Signal
from compat_celery.utils.functional import first, head_from_fun, is_coroutine_function, maybe_list
from compat_celery.utils.ids import uuid
from compat_celery.utils.imports import gen_task_name, instantiate, qualname, symbol_by_name
from compat_celery.utils.log import get_logger
from compat_celery.utils.objects import FallbackContext, mro_lookup
from compat_celery.utils.time import maybe_iso8601, subtract_datetimes, timezone
from jumpstarter.abc.broker import Broker

__all__ = ("Celery",)

logger = get_logger(__name__)

#: Tells "not given" from None, which clears what the task says.
_OMITTED: Any = object()

BUILTIN_FIXUPS = {"celery.fixups.django:fixup"}

#: Set in processes that multiprocessing started anew: task decorators bind to the current app there.
USING_EXECV = os.environ.get("FORKED_BY_MULTIPROCESSING")

#: Options of a call that a task may have as attributes, and which are arguments of their own to the message.
LIMITS = ("time_limit", "soft_time_limit", "expires")


def app_has_custom(app: Celery, attr: str) -> bool:
    """Whether the app's class overrides something of Celery's."""
    own_modules = ("celery.app.base", "compat_celery.app.base")
    return mro_lookup(type(app), attr, stop={Celery, object}, monkey_patched=own_modules) is not None


def _unpickle_appattr(reverse_name: str, args: tuple[Any, ...]) -> Any:
    """Rebuild something that belongs to an app (``AsyncResult``), for the current app."""
    return get_current_app()._rgetattr(reverse_name)(*args)


_unpickle_appattr.__module__ = "celery.app.base"  # results are pickled as calls of it


def caller_stacklevel() -> int:
    """How many frames up the first one is that is not of this package, for warnings."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in {OURS, CELERYS}:
        frame, level = frame.f_back, level + 1
    return level


def _after_fork_in_child() -> None:
    for app in tuple(_forking_apps):
        app._after_fork()


#: Apps that are told of a fork. One handler for the process: handlers cannot be taken back.
_forking_apps: WeakSet[Celery] = WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)


@celery_named
class PendingConfiguration(UserDict[str, Any], AttributeDictMixin):
    """What stands for the settings before they are read: changes are kept, and the first look-up reads them (``callback``)."""

    callback: Callable[[], Any]
    _data: dict[str, Any]

    def __init__(self, conf: dict[str, Any], callback: Callable[[], Any]) -> None:
        object.__setattr__(self, "_data", conf)
        object.__setattr__(self, "callback", callback)

    def __setitem__(self, key: str, value: Any) -> None:
        self._data[key] = value

    def clear(self) -> None:
        """Forget the changes."""
        self._data.clear()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Keep several changes."""
        self._data.update(*args, **kwargs)

    def setdefault(self, *args: Any, **kwargs: Any) -> Any:
        """Keep a change unless there is one."""
        return self._data.setdefault(*args, **kwargs)

    def __contains__(self, key: object) -> bool:
        # Looks at the changes only: setdefault() asks this first, and must not read the settings.
        return key in self._data

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return repr(self.data)

    @property
    def data(self) -> Any:  # type: ignore[override] # UserDict has an attribute of that name
        """The settings, read now if that has not happened yet."""
        try:
            return self.__dict__["data"]
        except KeyError:
            found = self.__dict__["data"] = self.callback()
            return found


@celery_named
class Celery:
    """An application.

    :param main: stands for ``__main__`` in the names of tasks.
    :param broker: URL of the broker.
    :param backend: URL or class of the result backend.
    :param include: modules that workers import.
    :param autofinalize: False: using the tasks before :meth:`finalize` raises RuntimeError.
    :param set_as_current: it becomes the current app of this thread.
    :param changes: settings.
    :param config_source: where settings come from, see :meth:`config_from_object`.
    :param fixups: what fits the app to other frameworks.
    :param namespace: what settings begin with in the ``config_source``.
    :param strict_typing: calls of tasks are checked against the functions' signatures.
    :param kwargs: settings.
    """

    Pickler = AppPickler
    SYSTEM = platform.system()
    IS_macOS, IS_WINDOWS = SYSTEM == "Darwin", SYSTEM == "Windows"

    main: str | None = None
    user_options: Any = None
    steps: Any = None
    builtin_fixups: ClassVar[set[str]] = BUILTIN_FIXUPS

    amqp_cls: Any = "celery.app.amqp:AMQP"
    backend_cls: Any = None
    events_cls: Any = "celery.app.events:Events"
    loader_cls: Any = None
    log_cls: Any = "celery.app.log:Logging"
    control_cls: Any = "celery.app.control:Control"
    task_cls: Any = "celery.app.task:Task"
    registry_cls: Any = "celery.app.registry:TaskRegistry"

    _pool: Any = None
    _conf: Any = None

    #: Sent before the settings are read; after that; after the tasks were made; in each forked process.
    on_configure: Any = None
    on_after_configure: Any = None
    on_after_finalize: Any = None
    on_after_fork: Any = None

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: Any = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        broker: Any = None,
        include: Any = None,
        changes: dict[str, Any] | None = None,
        config_source: Any = None,
        fixups: Any = None,
        task_cls: Any = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        config_source_silent: bool = False,
        **kwargs: Any,
    ) -> None:
        self._local = threading.local()
        self._backend_cache: Any = None
        self._brokers: dict[tuple[str, str], Broker] = {}
        self.main = main
        self.amqp_cls = amqp or self.amqp_cls
        self.events_cls = events or self.events_cls
        self.loader_cls = loader or self._get_default_loader()
        self.log_cls = log or self.log_cls
        self.control_cls = control or self.control_cls
        self._custom_task_cls_used = bool(task_cls) or app_has_custom(self, "task_cls")
        self.task_cls = task_cls or self.task_cls
        self.set_as_current = set_as_current
        self.registry_cls = symbol_by_name(self.registry_cls)
        self.user_options = defaultdict(set)
        self.steps = defaultdict(set)
        self.autofinalize = autofinalize
        self.namespace = namespace
        self.strict_typing = strict_typing

        self.configured = False
        self._config_source = config_source
        self._config_source_silent = config_source_silent
        self._pending_defaults: deque[Callable[[], Any]] = deque()
        self._pending_periodic_tasks: deque[tuple[str, Any, str | None]] = deque()

        self.finalized = False
        self._finalize_mutex = threading.RLock()
        self._pending: deque[Any] = deque()
        self._duplicate_task_names_warned: set[str] = set()
        self._tasks = tasks if isinstance(tasks, TaskRegistry) else self.registry_cls(tasks or {})
        # Who overrides this method expects apps to be pickled the old way.
        self._using_v1_reduce = app_has_custom(self, "__reduce_args__")

        self._preconf: dict[str, Any] = changes or {}
        self._preconf_set_by_auto: set[str] = set()
        for key, value in {"broker_url": broker, "result_backend": backend, "include": include, **kwargs}.items():
            if value is not None:
                self._preconf[key] = value
                self._preconf_set_by_auto.add(key)
        self._conf = Settings(
            PendingConfiguration(self._preconf, self._finalize_pending_conf),
            prefix=self.namespace,
            keys=(_old_key_to_new, _new_key_to_old),
        )

        self.fixups = set(self.builtin_fixups) if fixups is None else fixups
        self._fixups = [symbol_by_name(fixup)(self) for fixup in self.fixups]
        if self.set_as_current:
            self.set_current()

        if self.on_configure is None:  # a subclass may have a method of that name
            self.on_configure = Signal(name="app.on_configure")
        self.on_after_configure = Signal(name="app.on_after_configure", providing_args={"source"})
        self.on_after_finalize = Signal(name="app.on_after_finalize")
        self.on_after_fork = Signal(name="app.on_after_fork")

        self.on_init()
        _register_app(self)
        _forking_apps.add(self)

    def _get_default_loader(self) -> Any:
        return os.environ.get("CELERY_LOADER") or self.loader_cls or "celery.loaders.app:AppLoader"

    def on_init(self) -> None:
        """For subclasses: the app was made."""

    def set_current(self) -> None:
        """Make this the app of this thread."""
        _set_current_app(self)

    def set_default(self) -> None:
        """Make this the app of all threads that have none of their own."""
        set_default_app(self)

    def close(self) -> None:
        """Let go of connections and of the app. For apps that are made and dropped; ``with`` does it too."""
        self._pool = None
        brokers, self._brokers = self._brokers, {}
        for broker in brokers.values():
            broker.close()
        _deregister_app(self)

    def _after_fork(self) -> None:
        self._pool = None
        amqp = self.__dict__.get("amqp")
        if amqp is not None:
            amqp._producer_pool = None
        self.on_after_fork.send(sender=self)

    # Programs.

    def start(self, argv: list[str] | None = None) -> Any:
        """Run Celery's command line for this app; answers its exit code.

        :param argv: the arguments, the first is the program's name (default: ``sys.argv``).
        """
        from compat_celery.bin.celery import main  # noqa: PLC0415 - clients do without the command line

        arguments = list(sys.argv if argv is None else argv)
        self.set_default()
        self.set_current()
        # Celery drops nothing here: a list that begins with a command is what most programs give.
        if arguments and arguments[0] == sys.argv[0]:
            arguments = arguments[1:]
        return main(arguments)

    def worker_main(self, argv: list[str] | None = None) -> None:
        """Run a worker for this app. ``argv`` contains the command ``worker``.

        :raises ValueError: it does not.
        """
        arguments = sys.argv if argv is None else argv
        if "worker" not in arguments:
            raise ValueError(
                "The worker sub-command must be specified in argv.\nUse app.start() to programmatically start other commands."
            )
        self.start(argv=list(arguments))

    # Tasks.

    def task(self, *args: Any, **opts: Any) -> Any:
        """Decorator: make a task of a function. ``@app.task`` or ``@app.task(bind=True, …)``.

        What it gives stands for the task, which is made when it is first used or when the app is finalized.

        :param opts: ``name``, ``base`` (a task class), ``bind`` (the task is the first argument), ``shared`` (other apps get it),
            ``lazy`` (False: make it now), ``pydantic``; all else becomes an attribute of the task (``queue``, ``max_retries`` …).
        :raises TypeError: it is given anything but one function.
        """
        if USING_EXECV and opts.get("lazy", True):
            # The module with the tasks may be imported by another app in this process; use the current one's tasks.
            from compat_celery.app import shared_task  # noqa: PLC0415 - it imports this module

            return shared_task(*args, **{**opts, "lazy": False})
        if not args:
            return partial(self._make_task, **opts)
        if len(args) > 1:
            raise TypeError(f"@task() takes exactly 1 argument ({len(args) + len(opts)} given)")
        if not callable(args[0]):
            raise TypeError("argument 1 to @task() must be a callable")
        return self._make_task(args[0], **opts)

    def _make_task(
        self,
        fun: Callable[..., Any],
        shared: bool = True,
        filter: Callable[[Any], Any] | None = None,  # noqa: A002 - Celery's signature
        lazy: bool = True,
        **opts: Any,
    ) -> Any:
        if shared:

            def in_other_app(app: Celery) -> Any:
                return app._task_from_fun(fun, **opts)

            connect_on_app_finalize(in_other_app)
        if not lazy or self.finalized:
            task = self._task_from_fun(fun, **opts)
        else:
            task = PromiseProxy(self._task_from_fun, (fun,), opts, __doc__=fun.__doc__)
            self._pending.append(task)
        return filter(task) if filter else task

    def type_checker(self, fun: Callable[..., Any], bound: bool = False) -> Any:
        """Something that raises TypeError when called with arguments that ``fun`` would refuse."""
        return staticmethod(head_from_fun(fun, bound=bound))

    def _task_from_fun(
        self,
        fun: Callable[..., Any],
        name: str | None = None,
        base: Any = None,
        bind: bool = False,
        pydantic: bool = False,
        pydantic_strict: bool = False,
        pydantic_context: dict[str, Any] | None = None,
        pydantic_dump_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        if not self.finalized and not self.autofinalize:
            raise RuntimeError("Contract breach: app not finalized")
        name = name or self.gen_task_name(fun.__name__, fun.__module__)
        if name in self._tasks:
            task = self._tasks[name]
            self._warn_if_duplicate_task_name(task, fun, name)
            return task
        decorated, dump_arguments = fun, None
        if pydantic is True:
            fun = pydantic_wrapper(self, fun, name, pydantic_strict, pydantic_context, pydantic_dump_kwargs)
            dump_arguments = staticmethod(partial(fun.dump_arguments, bound=bind))  # type: ignore[attr-defined] # set by the wrapper
        run: Any = fun if bind else staticmethod(fun)
        attributes = {
            "app": self,
            "name": name,
            "run": run,
            "_decorated": True,
            "_dump_pydantic_arguments": dump_arguments,
            "__doc__": fun.__doc__,
            "__module__": fun.__module__,
            "__annotations__": getattr(fun, "__annotations__", {}),
            "__header__": self.type_checker(fun, bound=bind),
            "__wrapped__": run,
            "_decorated_fun": staticmethod(decorated),
            "is_coroutine": is_coroutine_function(fun),
        }
        task = type(fun.__name__, (base or self.Task,), attributes | options)()
        if hasattr(fun, "__qualname__"):
            task.__qualname__ = fun.__qualname__
        self._tasks[task.name] = task
        task.bind(self)
        add_autoretry_behaviour(task, **options)
        return task

    def register_task(self, task: Any, **options: Any) -> Any:
        """Add a task that is a class or an instance of one; gives the instance."""
        task = task() if inspect.isclass(task) else task
        if not task.name:
            task.name = self.gen_task_name(type(task).__name__, type(task).__module__)
        existing = self.tasks.get(task.name)
        if existing is not None and existing is not task:
            self._warn_duplicate_task_name(
                task.name,
                _callable_name(existing),
                _callable_name(task),
                "The new callable replaced the existing one; calls under this name now reach the new callable.",
            )
        add_autoretry_behaviour(task, **options)
        self.tasks[task.name] = task
        task._app = self
        task.bind(self)
        return task

    def _warn_if_duplicate_task_name(self, task: Any, fun: Callable[..., Any], name: str) -> None:
        existing = getattr(task, "_decorated_fun", None)
        # A module that is imported twice gives the same function again.
        if existing is not None and existing is not fun:
            self._warn_duplicate_task_name(
                name,
                qualname(existing),
                qualname(fun),
                "The new callable was not registered; calls under this name reach the callable registered first.",
            )

    def _warn_duplicate_task_name(self, name: str, existing: str, new: str, consequence: str) -> None:
        if name in self._duplicate_task_names_warned:
            return
        self._duplicate_task_names_warned.add(name)
        warnings.warn(
            DuplicateTaskNameWarning(
                f"Task name {name!r} is already registered to a different callable.\n\nExisting: {existing}\nNew:      {new}\n\n"
                f"{consequence}\n\nEvery task must have a unique name. Pass an explicit name= to the task decorator, or rename one "
                "of the callables."
            ),
            stacklevel=caller_stacklevel(),
        )

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task whose function has this name and module."""
        return gen_task_name(self, name, module)

    def finalize(self, auto: bool = False) -> None:
        """Make all tasks: the app's own, shared ones, built-in ones. Happens by itself when they are used.

        :raises RuntimeError: it happens by itself, and ``autofinalize`` is off.
        """
        with self._finalize_mutex:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError("Contract breach: app not finalized")
            self.finalized = True
            _announce_app_finalized(self)
            while self._pending:
                maybe_evaluate(self._pending.popleft())
            for task in tuple(self._tasks.values()):
                task.bind(self)
            self.on_after_finalize.send(sender=self)

    @cached_property
    def tasks(self) -> TaskRegistry:
        """All tasks by their names. Finalizes the app."""
        self.finalize(auto=True)
        return self._tasks

    # Settings.

    def add_defaults(self, fun: Any) -> None:
        """Further settings: a mapping, or a function that gives one when the settings are read.

        As in Celery, they come after what is set on ``app.conf``, and before what ``config_from_object`` names.
        """
        make = fun if callable(fun) else lambda: fun
        if self.configured:
            self._conf.add_defaults(make())
        else:
            self._pending_defaults.append(make)

    def config_from_object(self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None) -> Any:
        """Take settings from an object, a mapping, or a module's name (``"proj.config"``, ``"proj.config:Production"``).

        They are read at the first look-up, or now (``force``).

        :param silent: it may be missing.
        :param namespace: what the names of settings begin with there; others are left alone.
        """
        self._config_source = obj
        self._config_source_silent = silent
        self.namespace = namespace or self.namespace
        if (force or self.configured) and self.loader.config_from_object(obj, silent=silent):
            self._conf = None
            return self.conf
        return None

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> Any:
        """Take settings from the module that an environment variable names.

        :raises ImproperlyConfigured: it is not set, and may not be missing.
        """
        module = os.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(
                f"The environment variable {variable_name!r} is not set, and as such the configuration could not be loaded.\n\n"
                "Please set this variable and make sure it points to a valid configuration module.\n\n"
                f'Example:\n    {variable_name}="proj.celeryconfig"'
            )
        return self.config_from_object(module, silent=silent, force=force)

    def config_from_cmdline(self, argv: list[str], namespace: str = "celery") -> None:
        """Take settings from the command line (``worker.concurrency=4``)."""
        self._conf.update(self.loader.cmdline_config_parser(argv, namespace))

    def setup_security(
        self,
        allowed_serializers: Any = None,
        key: str | None = None,
        key_password: bytes | None = None,
        cert: str | None = None,
        store: str | None = None,
        digest: str = DEFAULT_SECURITY_DIGEST,
        serializer: str = "json",
    ) -> Any:
        """Sign what this process sends, and accept only what is signed. See :func:`compat_celery.security.setup_security`.

        :raises ImproperlyConfigured: a file is not named, or the settings would still send or accept other messages.
        """
        from compat_celery.security import setup_security  # noqa: PLC0415 - it needs a package that is an extra

        return setup_security(allowed_serializers, key, key_password, cert, store, digest, serializer, app=self)

    def prepare_config(self, c: Any) -> Any:
        """For subclasses: the configuration before it is used."""
        return find_deprecated_settings(c)

    def _finalize_pending_conf(self) -> Any:
        try:
            found = self._conf = self._load_config()
        except AttributeError as error:
            # Raised in a property, it would be taken for the settings' own missing attribute, and lead in circles.
            raise ModuleNotFoundError(*error.args) from error
        return found

    def _load_config(self) -> Any:
        if isinstance(self.on_configure, Signal):
            self.on_configure.send(sender=self)
        else:
            self.on_configure()
        if self._config_source:
            self.loader.config_from_object(self._config_source, silent=self._config_source_silent)
        self.configured = True
        settings = detect_settings(
            self.prepare_config(self.loader.conf), self._preconf, ignore_keys=self._preconf_set_by_auto, prefix=self.namespace
        )
        if self._conf is not None:
            # In place: somebody may hold app.conf from before.
            self._conf.swap_with(settings)
            self._conf.deprecated_settings = settings.deprecated_settings
        else:
            self._conf = settings
        while self._pending_defaults:
            self._conf.add_defaults(maybe_evaluate(self._pending_defaults.popleft()()))
        while self._pending_periodic_tasks:
            self._add_periodic_task(*self._pending_periodic_tasks.popleft())
        self.on_after_configure.send(sender=self, source=self._conf)
        return self._conf

    @property
    def conf(self) -> Any:
        """The settings."""
        if self._conf is None:
            self._conf = self._load_config()
        return self._conf

    @conf.setter
    def conf(self, d: Any) -> None:
        self._conf = d

    def either(self, default_key: str, *defaults: Any) -> Any:
        """The first of ``defaults`` that is not None, else the setting."""
        return first(None, [first(None, defaults), starpromise(self.conf.get, default_key)])

    def bugreport(self) -> str:
        """What belongs into the report of a bug."""
        return bugreport(self)

    # Discovery.

    def autodiscover_tasks(self, packages: Any = None, related_name: str | None = "tasks", force: bool = False) -> Any:
        """Import the modules ``tasks`` of these packages when a worker starts, or now (``force``).

        :param packages: names, a function that gives them, or None: those that the fix-ups know (Django's installed apps).
        :param related_name: the module's name; None: the packages themselves.
        """
        if force:
            return self._autodiscover_tasks(packages, related_name)
        signals.import_modules.connect(starpromise(self._autodiscover_tasks, packages, related_name), weak=False, sender=self)
        return None

    def _autodiscover_tasks(self, packages: Any, related_name: str | None, **_: Any) -> Any:
        if packages:
            return self._autodiscover_tasks_from_names(packages, related_name)
        return self._autodiscover_tasks_from_fixups(related_name)

    def _autodiscover_tasks_from_names(self, packages: Any, related_name: str | None) -> Any:
        return self.loader.autodiscover_tasks(packages() if callable(packages) else packages, related_name)

    def _autodiscover_tasks_from_fixups(self, related_name: str | None) -> Any:
        fixups = [fixup for fixup in self._fixups if hasattr(fixup, "autodiscover_tasks")]
        return self._autodiscover_tasks_from_names(
            [name for fixup in fixups for name in fixup.autodiscover_tasks()], related_name=related_name
        )

    # Calling tasks.

    def send_task(
        self,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: float | None = None,
        eta: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        connection: Any = None,
        router: Any = None,
        result_cls: Any = None,
        expires: Any = _OMITTED,
        publisher: Any = None,
        link: Any = None,
        link_error: Any = None,
        add_to_parent: bool = True,
        group_id: str | None = None,
        group_index: int | None = None,
        retries: int = 0,
        chord: Any = None,
        reply_to: str | None = None,
        time_limit: Any = _OMITTED,
        soft_time_limit: Any = _OMITTED,
        root_id: str | None = None,
        parent_id: str | None = None,
        route_name: str | None = None,
        shadow: str | None = None,
        chain: Any = None,
        task_type: Any = None,
        replaced_task_nesting: int = 0,
        **options: Any,
    ) -> Any:
        """Publish a call of a task, by its name. The options are those of ``Task.apply_async``.

        :raises NotPublished: the broker cannot be reached; nothing was sent. An OperationalError, as the next one is.
        :raises PublishUnconfirmed: the broker does not answer; whether it has the message is unknown.
        :raises EncodeError: the arguments cannot be serialised.
        """
        amqp, conf = self.amqp, self.conf
        task_id = task_id or uuid()
        of_task: dict[str, Any] = {}
        if task_type is None:
            if conf["task_always_eager"]:
                warnings.warn(AlwaysEagerIgnored("task_always_eager has no effect on send_task"), stacklevel=2)
            # From the registry itself: a name that is not there is another program's task, and no reason to finalize the app.
            task_type = self._tasks.get(name) if hasattr(self._tasks, "get") else None
            of_task = _options_of(task_type)
            options = {**{option: value for option, value in of_task.items() if option not in LIMITS}, **options}
        if expires is _OMITTED:
            expires = of_task.get("expires")
        if time_limit is _OMITTED:
            time_limit = of_task.get("time_limit")
        if soft_time_limit is _OMITTED:
            soft_time_limit = of_task.get("soft_time_limit")
        ignore_result = options.pop("ignore_result", None)
        options = (router or amqp.router).route(options, route_name or name, args, kwargs, task_type)
        if expires is not None:
            options["expiration"] = self._seconds_until(expires, task_id)
        root_id, parent_id = self._family(root_id, parent_id, options)
        message = amqp.create_task_message(
            task_id,
            name,
            args,
            kwargs,
            countdown,
            eta,
            group_id,
            group_index,
            expires,
            retries,
            chord,
            maybe_list(link),
            maybe_list(link_error),
            reply_to or self.thread_oid,
            time_limit,
            soft_time_limit,
            conf["task_send_sent_event"],
            root_id,
            parent_id,
            shadow,
            chain,
            ignore_result=ignore_result,
            replaced_task_nesting=replaced_task_nesting,
            **options,
        )
        for stamp in options.pop("stamped_headers", None) or ():
            options.pop(stamp, None)
        self._publish(name, message, task_id, options, producer or publisher, connection, ignore_result)
        result = (result_cls or self.AsyncResult)(task_id)
        # Not by the constructor: people's own classes of results do not know the argument.
        result.ignored = ignore_result
        parent = self.current_worker_task if add_to_parent else None
        if parent:
            parent.add_trail(result)
        return result

    def _publish(
        self, name: str, message: Any, task_id: str, options: dict[str, Any], producer: Any, connection: Any, ignore_result: Any
    ) -> None:
        amqp = self.amqp
        if connection is not None:
            is_ours = isinstance(connection, publisher.Connection)
            producer = connection.Producer() if is_ours else amqp.Producer(connection, auto_declare=False)
        with self.producer_or_acquire(producer) as chosen:
            if not (ignore_result or self._listens_to_nothing):
                self.backend.on_task_call(chosen, task_id)
            if isinstance(chosen, publisher.Producer):
                amqp.send_task_message(chosen, name, message, **options)
                return
            # A Kombu producer raises its transport's errors; callers catch Kombu's. Ours raises those itself.
            with chosen.connection._reraise_as_library_errors():
                amqp.send_task_message(chosen, name, message, **options)

    def _family(self, root_id: str | None, parent_id: str | None, options: dict[str, Any]) -> tuple[str | None, str | None]:
        """The ids of root and parent: of the task that calls, unless they are given. It may pass on its priority, too."""
        if root_id and parent_id:
            return root_id, parent_id
        parent = self.current_worker_task
        if parent is None:
            return root_id, parent_id
        request = parent.request
        if self.conf.task_inherit_parent_priority:
            options.setdefault("priority", (request.delivery_info or {}).get("priority"))
        return root_id or request.root_id or request.id, parent_id or request.id

    def _seconds_until(self, expires: Any, task_id: str) -> float:
        """The time to live of a message; 0 for one that is expired already."""
        if isinstance(expires, str):
            expires = maybe_iso8601(expires)
        left = subtract_datetimes(expires, self.now()).total_seconds() if isinstance(expires, datetime) else expires
        if left < 0:
            logger.warning("%s has an expiration date in the past (%ss ago). It is sent with a time to live of 0.", task_id, -left)
            return 0
        return left

    @contextmanager
    def bulk_publish(
        self, *, retry: bool | None = None, retry_policy: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Iterator[None]:
        """What is published to the app's broker in the block is sent in one round trip at its end; nothing when it raises.

        More than 10,000 messages, or 32 MiB, go in several parts.

        :param retry: try again while the broker cannot be reached (default: the setting ``task_publish_retry``).
        :param retry_policy: what differs from the setting ``task_publish_retry_policy``.
        :param timeout: seconds for each part (default: the setting ``task_publish_timeout``).
        :raises NotPublished: nothing of the last part was sent.
        :raises PublishUnconfirmed: whether the last part arrived is unknown. The error's ``sent`` has the ids of earlier parts.
        """
        with publisher.bulk_publish(self, retry=retry, retry_policy=retry_policy, timeout=timeout):
            yield

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """A signature that belongs to this app. Made of a task's name and arguments, or of a signature as a dict."""
        return self._canvas.signature(*args, **{**kwargs, "app": self})

    # Periodic tasks.

    def add_periodic_task(
        self, schedule: Any, sig: Any, args: Any = (), kwargs: Any = None, name: str | None = None, **opts: Any
    ) -> str:
        """Call ``sig`` again and again, when beat runs; gives the name of the entry.

        :param schedule: seconds, a timedelta, or a schedule (``crontab(…)``).
        :param name: one entry has it; the next one of that name takes its place.
        """
        kwargs = kwargs or {}
        found = sig.clone(args, kwargs) if isinstance(sig, abstract.CallableSignature) else self.signature(sig.name, args, kwargs)
        key = name or repr(found)
        entry = {
            "schedule": schedule,
            "task": found.name,
            "args": found.args,
            "kwargs": found.kwargs,
            "options": {**found.options, **opts},
        }
        if self.configured:
            self._add_periodic_task(key, entry, name)
        else:
            self._pending_periodic_tasks.append((key, entry, name))
        return key

    def _add_periodic_task(self, key: str, entry: dict[str, Any], name: str | None = None) -> None:
        if name is None and key in self._conf.beat_schedule:
            logger.warning(
                "Periodic task key='%s' shadowed a previous unnamed periodic task. Pass a name kwarg to add_periodic_task to "
                "silence this warning.",
                key,
            )
        self._conf.beat_schedule[key] = entry

    # Connections.

    def broker_url(self, *, write: bool = False) -> str:
        """The URL that is read from or written to; the embedded broker's when nothing is configured."""
        return publisher.broker_url(self, write=write)

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:
        """A connection for consumers."""
        return self._connection(url or self.broker_url(), **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Any:
        """A connection for producers."""
        return self._connection(url or self.broker_url(write=True), **kwargs)

    def connection(self, hostname: str | None = None, **kwargs: Any) -> Any:
        """A connection to the broker, not yet established. The other two, for reading and for writing, say what for."""
        return self.connection_for_write(hostname, **kwargs)

    broker_connection = connection

    def _connection(
        self,
        url: str,
        userid: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        port: int | None = None,
        ssl: Any = None,
        connect_timeout: float | None = None,
        transport: str | None = None,
        transport_options: Mapping[str, Any] | None = None,
        heartbeat: float | None = None,
        login_method: str | None = None,
        failover_strategy: Any = None,
        **_: Any,
    ) -> Any:
        conf = self.conf
        if isinstance(url, str) and url.partition("://")[0] in publisher.EMBEDDED_SCHEMES:
            return publisher.Connection(url, app=self)
        return self.amqp.Connection(
            url,
            userid or conf.broker_user,
            password or conf.broker_password,
            virtual_host or conf.broker_vhost,
            port or conf.broker_port,
            transport=transport or conf.broker_transport,
            ssl=self.either("broker_use_ssl", ssl),
            heartbeat=heartbeat,
            login_method=login_method or conf.broker_login_method,
            failover_strategy=failover_strategy or conf.broker_failover_strategy,
            transport_options={**conf.broker_transport_options, **(transport_options or {})},
            connect_timeout=self.either("broker_connection_timeout", connect_timeout),
        )

    @property
    def pool(self) -> Any:
        """Kombu's pool of connections, for programs that take some from it. Publishing does not."""
        if self._pool is None:
            from kombu import pools  # noqa: PLC0415 - publishing does without

            pools.set_limit(self.conf.broker_pool_limit)
            self._pool = pools.connections[self.connection_for_write()]
        return self._pool

    def _acquire_connection(self, pool: bool = True) -> Any:
        if not pool:
            return self.connection_for_write()
        timeout, limit = self.conf.broker_pool_acquire_timeout, self.conf.broker_pool_limit
        try:
            return self.pool.acquire(block=True, timeout=timeout)
        except kombu_exceptions.LimitExceeded as error:
            raise kombu_exceptions.OperationalError(
                f"Timed out waiting for a broker connection after {timeout}s. All {limit} connections are in use. Consider "
                f"increasing broker_pool_limit (currently {limit}) or broker_pool_acquire_timeout (currently {timeout}s)."
            ) from error

    def connection_or_acquire(self, connection: Any = None, pool: bool = True, *_: Any, **__: Any) -> FallbackContext:
        """A context with the connection that is given, or else one from the pool."""
        return FallbackContext(connection, self._acquire_connection, pool=pool)

    default_connection = connection_or_acquire

    @property
    def producer_pool(self) -> Any:
        """Gives producers."""
        return self.amqp.producer_pool

    def _acquire_producer(self, timeout: float | None = None) -> Any:
        return self.producer_pool.acquire(block=True, timeout=timeout)

    def producer_or_acquire(self, producer: Any = None) -> FallbackContext:
        """A context with the producer that is given, or else the app's own."""
        return FallbackContext(producer, self._acquire_producer)

    default_producer = producer_or_acquire

    def select_queues(self, queues: Any = None) -> Any:
        """Consume from these queues alone."""
        return self.amqp.queues.select(queues)

    # Results.

    def _get_backend(self) -> Any:
        configured = self.backend_cls or self.conf.result_backend
        if not configured and self._is_embedded:
            from compat_celery.app.embedded import EmbeddedBackend  # noqa: PLC0415 - clients of other stores do without

            return EmbeddedBackend(self)
        backend, url = backends.by_url(configured, self.loader)
        return backend(app=self, url=url)

    @cached_property
    def _listens_to_nothing(self) -> bool:
        """Whether results are in a store of ours, which need not hear of a call before it is sent. Found out without making it."""
        configured = self.backend_cls or self.conf.result_backend
        scheme = configured.partition("://")[0] if isinstance(configured, str) else ""
        found = backends.BACKEND_ALIASES.get(scheme, "") if self._backend is None and not self.loader.override_backends else ""
        return found in backends.SILENT

    @property
    def _is_embedded(self) -> bool:
        conf = self.conf
        return not (
            conf.broker_url or conf.broker_read_url or conf.broker_write_url or conf.broker_transport or conf.task_always_eager
        )

    @property
    def _backend(self) -> Any:
        return self._backend_cache if self._backend_cache is not None else getattr(self._local, "backend", None)

    @_backend.setter
    def _backend(self, backend: Any) -> None:
        if backend.thread_safe:
            self._backend_cache = backend
        else:
            self._local.backend = backend

    @property
    def backend(self) -> Any:
        """The store of results."""
        found = self._backend
        if found is None:
            found = self._backend = self._get_backend()
        return found

    # Time.

    def now(self) -> datetime:
        """The time, in the app's time zone."""
        return datetime.now(UTC).astimezone(self.timezone)

    @cached_property
    def timezone(self) -> tzinfo:
        """The time zone: the setting ``timezone``, else UTC, or the system's without ``enable_utc``."""
        conf = self.conf
        if conf.timezone:
            return timezone.get_timezone(conf.timezone)
        return timezone.utc if conf.enable_utc else timezone.local

    def uses_utc_timezone(self) -> bool:
        """Whether the time zone is UTC."""
        return self.timezone == timezone.utc

    # What belongs to the app.

    def create_task_cls(self) -> Any:
        """The class of the app's tasks."""
        return self.subclass_with_self(self.task_cls, name="Task", attribute="_app", keep_reduce=True, abstract=True)

    def subclass_with_self(
        self,
        Class: Any,  # noqa: N803 - Celery's signature
        name: str | None = None,
        attribute: str = "app",
        reverse: str | None = None,
        keep_reduce: bool = False,
        **kw: Any,
    ) -> Any:
        """A subclass that belongs to this app.

        :param attribute: where the class expects its app.
        :param reverse: how to find the subclass on another app, for pickling (default: the class's name).
        :param keep_reduce: leave pickling to the class.
        """
        base = symbol_by_name(Class)
        path = reverse or base.__name__
        attributes = {attribute: self, "__module__": base.__module__, "__doc__": base.__doc__, **kw}
        if not keep_reduce:
            attributes["__reduce__"] = lambda instance: (_unpickle_appattr, (path, instance.__reduce_args__()))
        return type(name or base.__name__, (base,), attributes)

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's public name
        """The worker program, for this app."""
        return self.subclass_with_self("celery.apps.worker:Worker")

    @cached_property
    def WorkController(self) -> Any:  # noqa: N802 - as above
        """The worker, to be embedded."""
        return self.subclass_with_self("celery.worker:WorkController")

    @cached_property
    def Beat(self) -> Any:  # noqa: N802 - as above
        """The scheduler program, for this app."""
        return self.subclass_with_self("celery.apps.beat:Beat")

    @cached_property
    def Task(self) -> Any:  # noqa: N802 - as above
        """The class of this app's tasks."""
        return self.create_task_cls()

    @cached_property
    def AsyncResult(self) -> Any:  # noqa: N802 - as above
        """Results of this app's tasks."""
        return self.subclass_with_self("celery.result:AsyncResult")

    @cached_property
    def ResultSet(self) -> Any:  # noqa: N802 - as above
        """Several results."""
        return self.subclass_with_self("celery.result:ResultSet")

    @cached_property
    def GroupResult(self) -> Any:  # noqa: N802 - as above
        """The results of a group."""
        return self.subclass_with_self("celery.result:GroupResult")

    @cached_property
    def annotations(self) -> Any:
        """The setting ``task_annotations``, prepared."""
        return prepare_annotations(self.conf.task_annotations)

    @cached_property
    def shelf(self) -> Any:
        """Where large canvases lie while they run; see :mod:`compat_celery.app.shelf`."""
        from compat_celery.app.shelf import Shelf  # noqa: PLC0415 - only canvases need it

        return Shelf(self)

    @cached_property
    def amqp(self) -> Any:
        """Queues, routes and messages."""
        return instantiate(self.amqp_cls, app=self)

    @cached_property
    def control(self) -> Any:
        """Remote control of workers."""
        return instantiate(self.control_cls, app=self)

    @cached_property
    def events(self) -> Any:
        """Monitoring events."""
        return instantiate(self.events_cls, app=self)

    @cached_property
    def loader(self) -> Any:
        """What finds the configuration and imports modules."""
        return get_loader_cls(self.loader_cls)(app=self)

    @cached_property
    def log(self) -> Any:
        """Logging of workers and commands."""
        return instantiate(self.log_cls, app=self)

    @cached_property
    def _canvas(self) -> Any:
        return importlib.import_module("compat_celery.canvas")

    @property
    def current_task(self) -> Any:
        """The task that runs now, or None."""
        return _task_stack.top

    @property
    def current_worker_task(self) -> Any:
        """The task that the worker runs now, or None: tasks that it calls directly do not count."""
        return get_current_worker_task()

    @cached_property
    def oid(self) -> str:
        """A name for this app in this process."""
        return uuid()

    @property
    def thread_oid(self) -> str:
        """A name for this app in this thread: where replies to its calls would go."""
        process = os.getpid()
        known = getattr(self._local, "oid", None)
        if known is not None and known[0] == process:
            return str(known[1])
        # Celery makes it of the machine, the process, the thread and this object; a random one is as unlike others.
        made: str = uuid()
        self._local.oid = process, made
        return made

    @cached_property
    def clock(self) -> Any:
        """The logical clock of what this app says to others."""
        from kombu.clocks import LamportClock  # noqa: PLC0415 - publishing does without

        return LamportClock()

    # Pickling: as how it was made, not with what it holds.

    def __reduce__(self) -> Any:
        if self._using_v1_reduce:
            return self.__reduce_v1__()
        return _unpickle_app_v2, (type(self), self.__reduce_keys__())

    def __reduce_v1__(self) -> Any:
        """As ``__reduce_args__`` of a subclass says."""
        return _unpickle_app, (type(self), self.Pickler, *self.__reduce_args__())

    def __reduce_keys__(self) -> dict[str, Any]:
        """Keyword arguments that make the same app."""
        return {
            "main": self.main,
            "changes": self._conf.changes if self.configured else self._preconf,
            "loader": self.loader_cls,
            "backend": self.backend_cls,
            "amqp": self.amqp_cls,
            "events": self.events_cls,
            "log": self.log_cls,
            "control": self.control_cls,
            "fixups": self.fixups,
            "config_source": self._config_source,
            "config_source_silent": self._config_source_silent,
            "task_cls": self.task_cls,
            "namespace": self.namespace,
        }

    def __reduce_args__(self) -> tuple[Any, ...]:
        """Positional arguments for :attr:`Pickler`; overridden by old programs."""
        return (
            self.main,
            self._conf.changes if self.configured else {},
            self.loader_cls,
            self.backend_cls,
            self.amqp_cls,
            self.events_cls,
            self.log_cls,
            self.control_cls,
            False,
            self._config_source,
            self._config_source_silent,
        )

    def _rgetattr(self, path: str) -> Any:
        return attrgetter(path)(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {appstr(self)}>"

    __class_getitem__: Any = classmethod(types.GenericAlias)


App = Celery


def _callable_name(task: Any) -> str:
    return qualname(getattr(task, "_decorated_fun", None) or type(task))


def _options_of(task: Any) -> dict[str, Any]:
    """What a task says about its calls."""
    options = task._get_exec_options() if inspect.ismethod(getattr(task, "_get_exec_options", None)) else None
    return {name: value for name, value in (options or {}).items() if value is not None}
