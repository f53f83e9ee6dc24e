"""Write into the ledger of a chaos run. Used by publishers, tasks and dying processes; needs nothing but the standard library.

One line of JSON per note, one ``O_APPEND`` write per line: lines of several processes do not mix, and a killed process leaves whole
lines only. ``CHAOS_FSYNC=1`` also flushes each line to the disk, for runs that the machine itself may not survive.
"""

import itertools
import json
import os
import time

_numbers = itertools.count()


def boot_time():
    """Seconds on the ledger's clock: the same for all processes of a machine, never set back, and counting while it sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def note(event, **facts):
    """Append one line. ``pid`` and ``time`` are added unless they are given."""
    line = json.dumps({"event": event, "pid": os.getpid(), "time": boot_time(), **facts})
    file = os.open(os.environ["CHAOS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode() + b"\n")
        if os.environ.get("CHAOS_FSYNC"):
            os.fsync(file)
    finally:
        os.close(file)


def new_run():
    """A name for one run of one task: its finish is found by it."""
    return f"{os.getpid()}:{next(_numbers)}"
