"""The table of guards fits the source: what it takes out is there, once, and its tests exist. Whether they notice is told by
``python -m tests.reliability.guards``."""

from __future__ import annotations

import re

import pytest

from tests.peers import ROOT
from tests.reliability.removals import REMOVALS, Removal


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: f"{removal.number} {removal.what}")
def test_what_is_taken_out_is_there_and_its_tests_exist(removal: Removal) -> None:
    for edit in removal.edits:
        assert edit.applied_to((ROOT / edit.file).read_text()) != (ROOT / edit.file).read_text()
    for test in removal.tests:
        file, _, name = test.partition("::")
        assert not name or re.search(rf"^(?:async )?def {name.partition('[')[0]}\(", (ROOT / file).read_text(), re.MULTILINE)
