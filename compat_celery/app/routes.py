"""Where a task goes: the setting ``task_routes``. Comes from: ``send_task``. Goes to: the app's queues."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from compat_celery._later import kombu
from compat_celery._names import celery_named
from compat_celery.exceptions import QueueNotFound
from compat_celery.utils.collections import lpmerge
from compat_celery.utils.functional import evaluated, mlazy
from compat_celery.utils.imports import symbol_by_name

__all__ = ("MapRoute", "Router", "expand_router_string", "prepare")


@celery_named
class MapRoute:
    """Routes by the task's name: itself, a pattern with ``*``, or a compiled regular expression. Names come before patterns."""

    def __init__(self, map: Any) -> None:  # noqa: A002 - Celery's signature
        self.map: dict[str, Any] = {}
        self.patterns: dict[re.Pattern[str], Any] = {}
        for key, route in map.items() if isinstance(map, Mapping) else map:
            if isinstance(key, re.Pattern):
                self.patterns[key] = route
            elif "*" in key:
                self.patterns[re.compile(fnmatch.translate(key))] = route
            else:
                self.map[key] = route

    def __call__(self, name: str, *_: Any, **__: Any) -> dict[str, Any] | None:
        if name in self.map:
            return _as_route(self.map[name])
        for pattern, route in self.patterns.items():
            if pattern.match(name):
                return _as_route(route)
        return None


def _as_route(route: Any) -> dict[str, Any]:
    return {"queue": route} if isinstance(route, str) else dict(route)


@celery_named
class Router:
    """Adds to a call's options where it goes."""

    def __init__(
        self,
        routes: Any = None,
        queues: Any = None,
        create_missing: bool = False,
        app: Any = None,
        queues_when_needed: Callable[[], Any] | None = None,
    ) -> None:
        """:param queues_when_needed: gives the queues instead of ``queues``; not called before one of them is looked at."""
        self.app = app
        self._queues = {} if queues is None and queues_when_needed is None else queues
        self._queues_when_needed = queues_when_needed
        self.routes = [] if routes is None else routes
        self.create_missing = create_missing

    def route(
        self, options: dict[str, Any], name: str, args: Any = (), kwargs: Any = None, task_type: Any = None
    ) -> dict[str, Any]:
        """The options with queue, exchange and routing key; what the caller said comes before what the routes say.

        :raises QueueNotFound: the queue is not in ``task_queues``, and missing ones may not be created.
        """
        options = self.expand_destination(options)
        if self.routes:
            route = self.lookup_route(name, args, kwargs or {}, options, task_type)
            if route:
                return lpmerge(self.expand_destination(route), options)
        if "queue" not in options:
            options = {option: value for option, value in options.items() if value is not None}
            default = self.app.conf["task_default_queue"]
            if default:
                plain = self.app.amqp.plain_default_queue if self._queues is None else None
                options["queue"] = self._queue(default) if plain is None else plain
        return options

    @property
    def queues(self) -> Any:
        """The queues by their names."""
        if self._queues is None and self._queues_when_needed is not None:
            self._queues = self._queues_when_needed()
        return self._queues

    def expand_destination(self, route: Any) -> dict[str, Any]:
        """The route with its queue's name replaced by the queue."""
        queue, route = (route, {}) if isinstance(route, str) else (route.pop("queue", None), route)
        if queue:
            route["queue"] = queue if isinstance(queue, kombu.Queue) else self._queue(queue)
        return route  # type: ignore[no-any-return] # it was a dict or is one now

    def _queue(self, name: str) -> Any:
        try:
            return self.queues[name]
        except KeyError:
            raise QueueNotFound(f"Queue {name!r} missing from task_queues") from None

    def lookup_route(self, name: str, args: Any = None, kwargs: Any = None, options: Any = None, task_type: Any = None) -> Any:
        """What the first router that knows says, or None."""
        for router in self.routes:
            route = self.query_router(router, name, args, kwargs, options, task_type)
            if route is not None:
                return route
        return None

    def query_router(self, router: Any, task: str, args: Any, kwargs: Any, options: Any, task_type: Any) -> Any:
        """What one router says: a function, or an object with ``route_for_task``."""
        router = evaluated(router)
        if hasattr(router, "route_for_task"):
            return router.route_for_task(task, args, kwargs)
        return router(task, args, kwargs, options, task=task_type)


def expand_router_string(router: Any) -> Any:
    """The router behind a name; a class with ``route_for_task`` is instantiated."""
    found = symbol_by_name(router)
    return found() if hasattr(found, "route_for_task") and isinstance(found, type) else found


def prepare(routes: Any) -> Iterable[Any]:
    """The setting's value (a mapping, a function, a name, or a list of them) as a list of routers."""
    if routes is None:
        return ()
    several = routes if isinstance(routes, list | tuple) else (routes,)
    return [_router(route) for route in several]


def _router(route: Any) -> Any:
    if isinstance(route, Mapping | list | tuple):
        return MapRoute(route)
    return mlazy(expand_router_string, route) if isinstance(route, str) else route
