"""Actors: components whose life is a hierarchical state machine, with resources, tasks, timers and health.

A class declares (``declare``: ``@resource``, ``@task``, ``loop``, ``@timer``, ``@health_check``); ``plan`` reads the class, adds
its regions to the common ``lifecycle`` and compiles the chart. ``actor`` is what users subclass and call.

An actor has one ``host``: it takes events from a queue, steps the chart and tells ``activities`` and ``phases`` what was entered
and left. ``work`` is what tasks and loops do, ``resources`` keeps what is acquired, ``health`` sums up what is wrong, ``publish``
and ``metrics`` tell telemetry, ``threads`` connects threads. ``hosting`` runs it all.

The neighbours: ``states`` (charts) and ``telemetry`` below; the worker above.
"""

from jumpstarter.actors import metrics as _metrics  # noqa: F401 - says what there is to measure
from jumpstarter.actors.actor import Actor
from jumpstarter.actors.backoff import Backoff, backoff
from jumpstarter.actors.breakers import CircuitBreaker, circuit_breaker
from jumpstarter.actors.declare import Loop, Resource, health_check, loop, resource, task, timer
from jumpstarter.actors.family import Child, Need, Strategy, child, needs, one_for_all, one_for_one, rest_for_one
from jumpstarter.actors.handlers import Handler, handles
from jumpstarter.actors.health import Concern
from jumpstarter.actors.hosting import hosted, run
from jumpstarter.actors.inspection import ActorView, class_diagram, look, tree, tree_diagram, watch
from jumpstarter.actors.letters import DeadLetter, DeadLetters, Mailbox, dead_letters
from jumpstarter.actors.messages import Command, Document, Event, Message
from jumpstarter.actors.modes import Condition, Mode, State, degraded, failing, healthy, lost, reported, unhealthy
from jumpstarter.actors.ref import ActorRef, Ref
from jumpstarter.actors.threads import DedicatedThread
from jumpstarter.actors.view import StateView
from jumpstarter.actors.watching import Down
from jumpstarter.actors.window import Window

__all__ = [
    "Actor",
    "ActorRef",
    "ActorView",
    "Backoff",
    "Child",
    "CircuitBreaker",
    "Command",
    "Concern",
    "Condition",
    "DeadLetter",
    "DeadLetters",
    "DedicatedThread",
    "Document",
    "Down",
    "Event",
    "Handler",
    "Loop",
    "Mailbox",
    "Message",
    "Mode",
    "Need",
    "Ref",
    "Resource",
    "State",
    "StateView",
    "Strategy",
    "Window",
    "backoff",
    "child",
    "circuit_breaker",
    "class_diagram",
    "dead_letters",
    "degraded",
    "failing",
    "handles",
    "health_check",
    "healthy",
    "hosted",
    "look",
    "loop",
    "lost",
    "needs",
    "one_for_all",
    "one_for_one",
    "reported",
    "resource",
    "rest_for_one",
    "run",
    "task",
    "timer",
    "tree",
    "tree_diagram",
    "unhealthy",
    "watch",
]
