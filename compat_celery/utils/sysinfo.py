"""What this machine has: load, room on disks, and how many processors we may use. Knows nobody. Used by: the worker, events."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

__all__ = (
    "AUTO_CONCURRENCY",
    "CpuBudget",
    "available_cpu_count",
    "cgroup_cpu_quota",
    "cpu_budget",
    "df",
    "is_auto_concurrency",
    "load_average",
)

#: As ``worker_concurrency`` or ``--concurrency``: as many slots as the container may use processors.
AUTO_CONCURRENCY = "auto"

CGROUP_ROOT = "/sys/fs/cgroup"
PROC_SELF_CGROUP = "/proc/self/cgroup"

#: Reads a folder of a control group: the quota and its period in microseconds, as they are written there.
_ReadQuota = Callable[[str], "tuple[str, str] | None"]


def is_auto_concurrency(value: Any) -> bool:
    """Whether a setting says ``auto``, in any case and with blanks around it."""
    return isinstance(value, str) and value.strip().lower() == AUTO_CONCURRENCY


def available_cpu_count() -> int:
    """How many processors this process may be scheduled on (``taskset``, ``docker run --cpuset-cpus``); 2 when nobody knows."""
    count: int | None = None
    if hasattr(os, "process_cpu_count"):  # since Python 3.13
        count = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            count = len(os.sched_getaffinity(0))
    return count or os.cpu_count() or 2


class CpuBudget(NamedTuple):
    """How many slots to start, and why."""

    #: The slots.
    count: int  # type: ignore[assignment] # Celery's name; a tuple has a method of that name
    #: Processors that the scheduler gives us.
    available: int
    #: Processors' worth of time that the control group gives us; None: no limit, or it was not asked for.
    quota: float | None


def cpu_budget(use_cgroup_quota: bool = True) -> CpuBudget:
    """How many slots of a pool that computes are worth starting.

    :param use_cgroup_quota: False for pools that wait more than they compute: a quota of time does not limit them.
    """
    available = available_cpu_count()
    quota = cgroup_cpu_quota() if use_cgroup_quota else None
    # Rounded up: half a processor that nobody uses is lost.
    count = available if quota is None else min(available, max(1, ceil(quota)))
    return CpuBudget(count, available, quota)


def cgroup_cpu_quota() -> float | None:
    """The processors' worth of time that this process's control group may use: the least that it or one of its parents
    allows; None when there is no limit."""
    groups = _cgroups()
    if groups.unified is not None:
        quota = _least(CGROUP_ROOT, groups.unified, _read_v2_quota)
        if quota is not None:
            return quota
    if groups.cpu is None:
        return None
    # The controllers' own mount first: the link named "cpu" does not exist everywhere.
    mounts = dict.fromkeys((groups.cpu_mount, "cpu"))
    quotas = (_least(posixpath.join(CGROUP_ROOT, mount), groups.cpu, _read_v1_quota) for mount in mounts)
    return next((quota for quota in quotas if quota is not None), None)


class _Groups(NamedTuple):
    #: In the unified hierarchy (version 2).
    unified: str | None
    #: In the hierarchy of the controller ``cpu`` (version 1), and where that is mounted.
    cpu: str | None
    cpu_mount: str


def _cgroups() -> _Groups:
    """The control groups of this process. When nobody tells, the root of each: in a namespace of its own that is it."""
    unified: str | None = None
    cpu: str | None = None
    mount = "cpu"
    for line in (_read_text(PROC_SELF_CGROUP) or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon:
            continue
        if number == "0" and not controllers:
            unified = path
        elif "cpu" in controllers.split(","):
            cpu, mount = path, controllers
    if unified is None and cpu is None:
        unified = cpu = "/"
    return _Groups(unified, cpu, mount)


def _least(base: str, group: str, read: _ReadQuota) -> float | None:
    found = (read(posixpath.join(base, each.lstrip("/"))) for each in _ancestors(group))
    return min((quota for quota in (_processors(*pair) for pair in found if pair) if quota is not None), default=None)


def _ancestors(path: str) -> list[str]:
    """The group and those it is in, up to the root. In a namespace it may be written ``/../..``."""
    # posixpath, not os.path: these are the kernel's names, whatever the system's paths look like to a test.
    path = posixpath.normpath("/" + path.lstrip("/"))
    groups = [path]
    while groups[-1] != "/":
        groups.append(posixpath.dirname(groups[-1]))
    return groups


def _processors(quota: str, period: str) -> float | None:
    try:
        micros, each = int(quota), int(period)
    except ValueError:  # version 2 writes "max" for no limit
        return None
    return micros / each if micros > 0 and each > 0 else None  # version 1 writes -1


def _read_v2_quota(folder: str) -> tuple[str, str] | None:
    match (_read_text(posixpath.join(folder, "cpu.max")) or "").split():
        case [quota, period]:
            return quota, period
    return None


def _read_v1_quota(folder: str) -> tuple[str, str] | None:
    quota = _read_text(posixpath.join(folder, "cpu.cfs_quota_us"))
    period = _read_text(posixpath.join(folder, "cpu.cfs_period_us"))
    return None if quota is None or period is None else (quota.strip(), period.strip())


def _read_text(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None


def load_average() -> tuple[float, ...]:
    """The machine's load over 1, 5 and 15 minutes, rounded up to hundredths."""
    return tuple(ceil(load * 100) / 100 for load in os.getloadavg())


class df:  # noqa: N801 - Celery's public name
    """Room in the file system that a path is in."""

    def __init__(self, path: str | bytes | os.PathLike[Any]) -> None:
        self.path = path

    @cached_property
    def stat(self) -> os.statvfs_result:
        """What the system says, asked once."""
        return os.statvfs(self.path)

    @property
    def total_blocks(self) -> float:
        """Its size, in KiB."""
        return self.stat.f_blocks * self.stat.f_frsize / 1024

    @property
    def available(self) -> float:
        """What users may still write, in KiB."""
        return self.stat.f_bavail * self.stat.f_frsize / 1024

    @property
    def capacity(self) -> int:
        """How full it is, in per cent, as the command ``df`` rounds it."""
        used = self.stat.f_blocks - self.stat.f_bfree
        return ceil(used * 100 / (used + self.stat.f_bavail) + 0.5)
