"""Where jobs run: slots in threads, in the main thread, on the loop, inline; and the processes that hold them.

Implements :mod:`jumpstarter.abc.executor` and :mod:`jumpstarter.abc.processes`. Knows neither workers nor brokers.
"""

from jumpstarter.executors.loop import LoopExecutor
from jumpstarter.executors.process import ForkTemplate
from jumpstarter.executors.thread import CallingThreadExecutor, InlineExecutor, ThreadExecutor

__all__ = ["CallingThreadExecutor", "ForkTemplate", "InlineExecutor", "LoopExecutor", "ThreadExecutor"]
