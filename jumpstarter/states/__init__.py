"""Charts: hierarchical state machines with SCXML's semantics, defined as `transitions` has it and run by a kernel of our own.

An actor's life is a chart. A definition (a machine of ``transitions``, its mapping form, an enum) is read by ``reader``,
checked by ``validation`` and turned into ``tables``; ``kernel`` is the algorithm over these tables, pure and without I/O;
``memo`` remembers what the kernel found. ``chart`` puts them together, ``instance`` walks through them and runs hooks.
``diagram`` and ``paths`` look at charts.

The neighbours: ``actors`` hang activities on steps; nobody else imports ``transitions``.
"""

from jumpstarter.states.chart import Chart
from jumpstarter.states.instance import Instance
from jumpstarter.states.paths import Paths, Stimulus, shortest_paths, simple_paths
from jumpstarter.states.step import EventData, Snapshot, Step, Transition

__all__ = [
    "Chart",
    "EventData",
    "Instance",
    "Paths",
    "Snapshot",
    "Step",
    "Stimulus",
    "Transition",
    "shortest_paths",
    "simple_paths",
]
