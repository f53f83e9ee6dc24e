"""Boot steps: parts of a worker that are started in the order of what they require, and stopped in the reverse.

``app.steps["worker"].add(Step)`` runs them in the node's process; ``Step.requires`` names others, as classes or ``module:Class``.
Celery's own steps do not exist here, because Jumpstarter's worker is made of actors: a step that requires one of them is started as
if it were there. Used by: apps.worker. Goes to: user code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from threading import Event
from typing import Any, ClassVar

from compat_celery._names import CELERYS, OURS
from compat_celery.utils.graph import DependencyGraph, GraphFormatter
from compat_celery.utils.imports import instantiate, qualname, symbol_by_name

__all__ = ("Blueprint", "ConsumerStep", "StartStopStep", "Step")

RUN, CLOSE, TERMINATE = 0x1, 0x2, 0x3

logger = logging.getLogger("celery.bootsteps")


def _label(step: Any) -> str:
    return str(step.name).rsplit(".", 1)[-1]


class StepType(type):
    """Gives step classes their names."""

    name: Any = None
    requires: Any = None

    def __new__(cls, name: str, bases: tuple[type, ...], attrs: dict[str, Any]) -> Any:
        """The class, its name with its module's before it unless it has one."""
        module = attrs.get("__module__")
        full = f"{module}.{name}" if module else name
        attrs.update(__qualname__=full, name=attrs.get("name") or full)
        return super().__new__(cls, name, bases, attrs)

    def __str__(cls) -> str:
        return str(cls.name)

    def __repr__(cls) -> str:
        return f"step:{cls.name}{{{cls.requires!r}}}"


class Step(metaclass=StepType):
    """A part of a worker. ``__init__`` gets the worker when it is set up, and may put attributes on it.

    :cvar requires: steps that are started before.
    :cvar conditional: shown as such in drawings.
    :cvar last: started after all others.
    :cvar enabled: False leaves it out.
    """

    name: Any = None
    label: str | None = None
    conditional = False
    requires: Any = ()
    last = False
    enabled: Any = True

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """For subclasses."""

    def include_if(self, parent: Any) -> Any:  # noqa: ARG002 - for subclasses
        """Whether it takes part."""
        return self.enabled

    def instantiate(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the class behind a name."""
        return instantiate(name, *args, **kwargs)

    def create(self, parent: Any) -> Any:
        """Make what it starts and stops, if anything."""

    def include(self, parent: Any) -> Any:
        """Take part, or not."""
        return self._should_include(parent)[0]

    def _should_include(self, parent: Any) -> tuple[bool, Any]:
        return (True, self.create(parent)) if self.include_if(parent) else (False, None)

    @property
    def alias(self) -> str:
        """Its name for logs."""
        return self.label or _label(self)

    def info(self, obj: Any) -> Any:
        """What it adds to ``inspect stats``."""

    def __repr__(self) -> str:
        return f"<step: {self.alias}>"


class StartStopStep(Step):
    """A step that is started and stopped, by default by starting and stopping what :meth:`create` gave."""

    obj: Any = None

    def start(self, parent: Any) -> Any:  # noqa: ARG002 - for subclasses
        """Begin."""
        return self.obj.start() if self.obj else None

    def stop(self, parent: Any) -> Any:  # noqa: ARG002 - for subclasses
        """End."""
        return self.obj.stop() if self.obj else None

    def close(self, parent: Any) -> Any:
        """The worker is going to end; called for all before any is stopped."""

    def terminate(self, parent: Any) -> Any:  # noqa: ARG002 - for subclasses
        """End at once."""
        return getattr(self.obj, "terminate", self.obj.stop)() if self.obj else None

    def include(self, parent: Any) -> Any:
        """Take part: the worker starts and stops it."""
        included, made = self._should_include(parent)
        if included:
            self.obj = made
            parent.steps.append(self)
        return included


class ConsumerStep(StartStopStep):
    """A step that reads messages of its own, by Kombu's consumers: :meth:`get_consumers` makes them of a channel."""

    requires: Any = ("celery.worker.consumer:Connection",)
    consumers: Any = None

    def get_consumers(self, channel: Any) -> Any:
        """Kombu consumers on this channel."""
        raise NotImplementedError("missing get_consumers")

    def start(self, c: Any) -> None:
        self.consumers = self.get_consumers(c.connection.channel())
        for consumer in self.consumers or []:
            consumer.consume()

    def stop(self, c: Any) -> None:  # noqa: ARG002 - see StartStopStep
        for consumer in self.consumers or []:
            consumer.cancel()
            if consumer.channel:
                consumer.channel.close()

    shutdown = stop


class StepFormatter(GraphFormatter):
    """Draws steps."""

    blueprint_prefix = "⧉"
    conditional_prefix = "∘"
    blueprint_scheme: ClassVar[dict[str, str]] = {"shape": "parallelogram", "color": "slategray4", "fillcolor": "slategray3"}

    def label(self, step: Any) -> Any:
        """The step's name, marked when it is the last or conditional."""
        if step is None:
            return None
        prefix = self.blueprint_prefix if step.last else self.conditional_prefix if step.conditional else ""
        return f"{prefix}{step.label or _label(step)}"

    def node(self, obj: Any, **attrs: Any) -> Any:
        """A step."""
        return self.draw_node(obj, self.blueprint_scheme if obj.last else self.node_scheme, attrs)


class Blueprint:
    """Several steps in the order of what they require.

    :param steps: classes, or names of classes.
    :param on_start: called before the first is started. :param on_close: before the first is stopped.
    :param on_stopped: after the last was.
    """

    GraphFormatter = StepFormatter

    name: Any = None
    state: int | None = None
    started = 0
    default_steps: Any = frozenset()
    state_to_name: ClassVar[dict[int, str]] = {0: "initializing", RUN: "running", CLOSE: "closing", TERMINATE: "terminating"}

    def __init__(
        self,
        steps: Iterable[Any] | None = None,
        name: str | None = None,
        on_start: Callable[[], Any] | None = None,
        on_close: Callable[[], Any] | None = None,
        on_stopped: Callable[[], Any] | None = None,
    ) -> None:
        self.name = name or self.name or qualname(type(self))
        self.types = set(steps or []) | set(self.default_steps)
        self.on_start = on_start
        self.on_close = on_close
        self.on_stopped = on_stopped
        self.shutdown_complete = Event()
        self.steps: dict[str, Any] = {}
        self.order: list[Any] = []

    @property
    def alias(self) -> str:
        """Its name for logs."""
        return _label(self)

    def human_state(self) -> str:
        """What it does now."""
        return self.state_to_name[self.state or 0]

    def apply(self, parent: Any, **kwargs: Any) -> Blueprint:
        """Make the steps, in order; those that take part and can be started are in ``parent.steps`` afterwards.

        :raises CycleError: steps require each other.
        """
        self.steps = self.claim_steps()
        self.order = [step(parent, **kwargs) for step in self._finalize_steps(self.steps)]
        self.steps.update({step.name: step for step in self.order})
        logger.debug("%s: boot order %s", self.alias, ", ".join(step.alias for step in self.order))
        for step in self.order:
            step.include(parent)
        return self

    def claim_steps(self) -> dict[str, Any]:
        """The classes by their names."""
        return dict(self.load_step(step) for step in self.types)

    def load_step(self, step: Any) -> tuple[str, Any]:
        """The name and the class behind a step."""
        found = symbol_by_name(step)
        return found.name, found

    def _finalize_steps(self, steps: dict[str, Any]) -> Any:
        waiting = list(steps.values())
        while waiting:
            step = waiting.pop()
            step.requires = [found for found in map(_required, step.requires) if found is not None]
            for found in step.requires:
                if found.name not in steps:
                    steps[found.name] = found
                    waiting.append(found)
        last = next((step for step in steps.values() if step.last), None)
        self.graph = DependencyGraph(((step, step.requires) for step in steps.values()), formatter=self.GraphFormatter(root=last))
        for step in steps.values():
            if last is not None and step is not last:
                self.graph.add_edge(last, step)
        return self.graph.topsort()

    def connect_with(self, other: Blueprint) -> None:
        """Draw another one as what follows."""
        self.graph.adjacent.update(other.graph.adjacent)
        self.graph.add_edge(type(other.order[0]), type(self.order[-1]))

    def __getitem__(self, name: str) -> Any:
        return self.steps[name]

    # Running.

    def start(self, parent: Any) -> None:
        """Start the parent's steps, in order."""
        self.state = RUN
        if self.on_start:
            self.on_start()
        for number, step in enumerate((step for step in parent.steps if step is not None), start=1):
            logger.debug("%s: starting %s", self.alias, step.alias)
            self.started = number
            step.start(parent)

    def info(self, parent: Any) -> dict[str, Any]:
        """What the steps tell of themselves."""
        told: dict[str, Any] = {}
        for step in parent.steps:
            told.update(step.info(parent) or {})
        return told

    def close(self, parent: Any) -> None:
        """Tell the steps that they are going to be stopped."""
        if self.on_close:
            self.on_close()
        self.send_all(parent, "close", "closing", reverse=False)

    def restart(self, parent: Any, method: str = "stop", description: str = "restarting", propagate: bool = False) -> None:
        """Stop the steps, so that they can be started again."""
        self.send_all(parent, method, description, propagate=propagate)

    def send_all(
        self,
        parent: Any,
        method: str,
        description: str | None = None,
        reverse: bool = True,
        propagate: bool = True,
        args: Any = (),
    ) -> None:
        """Call a method of every step that has it.

        :param propagate: False: what one raises is logged, and the others are called.
        """
        for step in reversed(parent.steps) if reverse else parent.steps:
            call = getattr(step, method, None)
            if call is None:
                continue
            try:
                call(parent, *args)
            except Exception:
                if propagate:
                    raise
                logger.exception("Error on %s %s", description or method, step.alias)

    def stop(self, parent: Any, close: bool = True, terminate: bool = False) -> None:  # noqa: ARG002 - Celery's signature
        """Stop the steps, the last first. When not all of them were started, nothing is stopped."""
        if self.state in (CLOSE, TERMINATE):
            return
        if self.state == RUN and self.started == len(parent.steps):
            self.close(parent)
            self.state = CLOSE
            self.restart(parent, "terminate" if terminate else "stop", "terminating" if terminate else "stopping")
            if self.on_stopped:
                self.on_stopped()
        self.state = TERMINATE
        self.shutdown_complete.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it is stopped."""
        self.shutdown_complete.wait(timeout=timeout)


def _required(step: Any) -> Any:
    """The class that a step requires; None for Celery's own, which are not parts of this worker."""
    if isinstance(step, str) and step.startswith((f"{CELERYS}.worker", f"{OURS}.worker")):
        try:
            step = symbol_by_name(step)
        except (ImportError, AttributeError):
            return None
        return step if isinstance(step, StepType) else None
    return symbol_by_name(step)
