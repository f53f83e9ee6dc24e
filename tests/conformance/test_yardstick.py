"""What a run is measured by: the frozen ids, those left out with reasons, and how many have to pass all the same."""

from __future__ import annotations

import pytest

from tests.conformance import report, runs, yardstick
from tests.conformance.runs import Verdict


@pytest.mark.parametrize("suite", runs.SUITES)
def test_what_is_left_out_is_of_the_yardstick_and_has_a_reason(suite: str) -> None:
    frozen = {each for broker in runs.BROKERS for each in yardstick.read(suite, broker)}
    left_out = yardstick.exceptions(suite)
    assert left_out.keys() <= frozen
    assert all(left_out.values())


def test_what_is_left_out_is_not_missed_but_counts_in_the_share() -> None:
    verdicts = [Verdict("t/a.py::passes", "passed"), Verdict("t/a.py::fails", "failed")]
    frozen = [*(verdict.id for verdict in verdicts), "t/a.py::unknown"]
    assert [verdict.id for verdict in report.missed(verdicts, frozen, ["t/a.py::fails"])] == ["t/a.py::unknown"]
    assert report.share("integration", verdicts, frozen) == ("1 of 3, 33.3 %", True)


@pytest.mark.parametrize(("passed", "is_enough"), [(85, True), (84, False)])
def test_a_list_of_exceptions_cannot_hide_that_less_of_the_unit_tests_pass_than_we_promise(passed: int, is_enough: bool) -> None:
    frozen = [str(number) for number in range(100)]
    verdicts = [Verdict(each, "passed" if int(each) < passed else "failed") for each in frozen]
    assert report.missed(verdicts, frozen, frozen) == []
    assert report.share("unit", verdicts, frozen) == (f"{passed} of 100, {passed}.0 % (at least 85 % are promised)", is_enough)
