"""The worker: one message's way from the broker to its settlement, and the processes around it.

Read in this order: ``receive``, ``admit``, ``execute``, ``settle`` are the way of a message, a file each, with ``worker`` as
the actor that drives them. ``child`` is the process that a worker lives in, ``node`` the actor in its parent process, with
``children`` (started, heard, replaced), ``lease`` (renewed while the node lives), ``marks`` (what a child had started) and
``bury`` (what comes of what it held).

Comes from: :mod:`jumpstarter.nodes`, which puts the parts together. Knows brokers, results, executors and applications only as
ports.
"""

from jumpstarter.worker.node import Node
from jumpstarter.worker.options import POOLS, WorkerOptions
from jumpstarter.worker.parts import Parts
from jumpstarter.worker.worker import Worker

__all__ = ["POOLS", "Node", "Parts", "Worker", "WorkerOptions"]
