"""Actors: components whose life is a hierarchical state machine, with resources, tasks, timers and health.

A class declares (``declare``: ``@resource``, ``@task``, ``loop``, ``@timer``, ``@health_check``); ``plan`` reads the class, adds
its regions to the common ``lifecycle`` and compiles the chart. ``actor`` is what users subclass and call.

An actor has one ``host``: it takes events from a queue, steps the chart and tells ``activities`` and ``phases`` what was entered
and left. ``work`` is what tasks and loops do, ``resources`` keeps what is acquired, ``health`` sums up what is wrong, ``publish``
tells the telemetry bus, ``threads`` connects threads. ``hosting`` runs it all.

The neighbours: ``states`` (charts) and ``telemetry`` below; the worker above.
"""

from jumpstarter.actors.actor import Actor
from jumpstarter.actors.backoff import Backoff, backoff
from jumpstarter.actors.declare import Loop, Resource, health_check, loop, resource, task, timer
from jumpstarter.actors.health import Concern
from jumpstarter.actors.hosting import hosted, run
from jumpstarter.actors.threads import DedicatedThread
from jumpstarter.actors.view import StateView

__all__ = [
    "Actor",
    "Backoff",
    "Concern",
    "DedicatedThread",
    "Loop",
    "Resource",
    "StateView",
    "backoff",
    "health_check",
    "hosted",
    "loop",
    "resource",
    "run",
    "task",
    "timer",
]
