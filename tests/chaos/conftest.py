"""Runs of a module side by side: most of a run is waiting for what survived it, so three take little longer than one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

_AT_A_TIME = 3


@pytest.fixture(scope="module")
def side_by_side() -> Iterator[Callable[..., Future[Any]]]:
    """``submit`` of a pool that lives as long as the module's tests."""
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        yield pool.submit
