"""What happens, told to whoever wants to know. Comes from: actors, worker, publishers. Goes to: OpenTelemetry, logs, subscribers.

``bus`` is where every transition of every machine is announced; ``tracing`` makes the spans of messages and the metrics that go
with them; ``setup`` switches OpenTelemetry on for a process when the standard ``OTEL_*`` variables ask for it; ``observer`` turns
transitions into spans, log events and metrics, and looks up the ``measures`` that others know; ``log`` turns transitions into lines
of Python's own logging.

Off means off: importing this room loads nothing of OpenTelemetry.
"""

from jumpstarter.telemetry.bus import Bus, StateTransition, bus
from jumpstarter.telemetry.setup import Telemetry, configure

__all__ = ["Bus", "StateTransition", "Telemetry", "bus", "configure"]
