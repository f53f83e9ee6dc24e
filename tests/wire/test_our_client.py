"""Our client gets right results from a genuine Celery 5.7 worker: the same program, run with ``python -m compat_celery``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers import Conversation, Side
from tests.wire.cases import EXPECTED
from tests.wire.conftest import observe, wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def client(sides: dict[str, Side], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Conversation]:
    with wire(tmp_path_factory.mktemp("our-client")) as link:
        link.worker(sides["genuine"], "-c", "2", "-P", "prefork")
        yield link.client(sides["ours"])


@pytest.mark.parametrize("case", EXPECTED)
def test_a_genuine_worker_serves_our_client(client: Conversation, case: str) -> None:
    assert observe(client, case) == EXPECTED[case]
