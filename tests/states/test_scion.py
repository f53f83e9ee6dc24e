"""The SCION statechart suite: documents in SCXML, each with the configurations that must come out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jumpstarter.states import Chart

from .scxml import read

SUITE = Path(__file__).parents[2].parent / "shared" / "scion"
DOCUMENTS = sorted(SUITE.glob("*/*.scxml"))


@pytest.mark.skipif(not DOCUMENTS, reason=f"the SCION documents are not at {SUITE.name}/ beside the checkout")
def test_the_whole_suite_is_here():
    assert len(DOCUMENTS) == 68


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "memoised"])
def test_a_document_goes_through_the_configurations_of_its_oracle(path, warm):
    document = read(path)
    oracle = json.loads(path.with_suffix(".json").read_text())
    chart = Chart.compile(document.definition)
    for _ in range(2 if warm else 1):
        instance = chart.instance()
        instance.start()
        assert document.atomic(instance) == set(oracle["initialConfiguration"])
        for number, step in enumerate(oracle["events"]):
            instance.send(step["event"]["name"])
            assert document.atomic(instance) == set(step["nextConfiguration"]), f"after event {number}, {step['event']['name']}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_document_survives_a_snapshot_after_each_event(path):
    document = read(path)
    oracle = json.loads(path.with_suffix(".json").read_text())
    chart = Chart.compile(document.definition)
    instance = chart.instance()
    instance.start()
    for step in oracle["events"]:
        stored = json.dumps(instance.snapshot())
        instance = chart.instance()
        instance.restore(json.loads(stored))
        instance.send(step["event"]["name"])
        assert document.atomic(instance) == set(step["nextConfiguration"])
