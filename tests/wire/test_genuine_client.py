"""A genuine Celery 5.7 client gets right results from our worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers import Conversation, Side
from tests.wire.cases import EXPECTED
from tests.wire.conftest import observe, wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=["prefork", "threads"])
def client(
    request: pytest.FixtureRequest, sides: dict[str, Side], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Conversation]:
    with wire(tmp_path_factory.mktemp(request.param)) as link:
        link.worker(sides["ours"], "-c", "2", "-P", request.param)
        yield link.client(sides["genuine"])


@pytest.mark.parametrize("case", EXPECTED)
def test_our_worker_serves_a_genuine_client(client: Conversation, case: str) -> None:
    assert observe(client, case) == EXPECTED[case]
