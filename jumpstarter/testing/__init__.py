"""What tests of programs built on Jumpstarter need; nobody but tests imports it.

Virtual time is in ``clock``, a harness for actors in ``actors``, state machines for hypothesis in ``machines`` (which imports
hypothesis, so it is not imported here), and test cases from a chart are :func:`jumpstarter.states.shortest_paths` and
:func:`jumpstarter.states.simple_paths`. Whoever writes a broker or a store runs ``broker_kit`` and ``results_kit`` against it.
"""

from jumpstarter.states import shortest_paths, simple_paths
from jumpstarter.testing.actors import Handled, harness, run_virtually
from jumpstarter.testing.clock import LoopClock, ManualClock, VirtualTimeLoop, virtual_backend

__all__ = [
    "Handled",
    "LoopClock",
    "ManualClock",
    "VirtualTimeLoop",
    "harness",
    "run_virtually",
    "shortest_paths",
    "simple_paths",
    "virtual_backend",
]
