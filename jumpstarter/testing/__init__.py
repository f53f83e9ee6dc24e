"""What tests of programs built on Jumpstarter need: virtual time (``clock``). Nobody but tests imports it."""

from jumpstarter.testing.clock import LoopClock, ManualClock, VirtualTimeLoop, virtual_backend

__all__ = ["LoopClock", "ManualClock", "VirtualTimeLoop", "virtual_backend"]
