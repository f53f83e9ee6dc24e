"""The checker, on ledgers made by hand: it must tell what happened, and must not be talked out of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.checker import Rules, Verdict, check

RULES = Rules(lease=2.0, settle=1.0)
CHILD, OTHER, STRANGER = 11, 22, 33


class Page:
    """A ledger that is written line by line."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._runs = 0

    def published(self, *ids: str) -> Page:
        for name in ids:
            self.entries += [{"event": "invoke", "id": name}, {"event": "ok", "id": name}]
        return self

    def unknown(self, name: str) -> Page:
        self.entries += [{"event": "invoke", "id": name}, {"event": "unknown", "id": name}]
        return self

    def ran(
        self,
        name: str,
        begin: float,
        end: float | None,
        *,
        pid: int = CHILD,
        node: str = "one.1",
        parent: str | None = None,
        **facts: Any,
    ) -> Page:
        self._runs += 1
        run = {"id": name, "run": f"{pid}:{self._runs}", "pid": pid, "node": node}
        self.entries.append({"event": "start", "time": begin, "parent": parent, **run, **facts})
        if end is not None:
            self.entries.append({"event": "finish", "time": end, **run})
        return self

    def killed(self, *pids: int, at: float, slots: int = 1, what: str = "child", node: str | None = None) -> Page:
        self.entries.append(
            {"event": "kill", "pids": [*pids], "node": node, "slots": slots, "began": at, "ended": at + 0.01, "what": what}
        )
        return self

    def stopped(self, *pids: int, begin: float, end: float) -> Page:
        self.entries.append({"event": "stop", "pids": [*pids], "began": begin, "ended": end, "what": "stop"})
        return self

    def cut(self, begin: float, end: float) -> Page:
        self.entries.append({"event": "cut", "began": begin, "ended": end, "what": "reset"})
        return self

    def quarantined(self, name: str) -> Page:
        self.entries.append({"event": "quarantined", "id": name})
        return self

    def check(self, rules: Rules = RULES) -> Verdict:
        verdict = check(self.entries, rules)
        assert check(reversed(self.entries), rules) == verdict, "the order of the entries matters"
        return verdict


@pytest.fixture
def page() -> Page:
    return Page()


def test_jobs_that_ran_once_are_fine(page: Page) -> None:
    verdict = page.published("a", "b").ran("a", 0, 1).ran("b", 1, 2).check()
    assert verdict.passed
    assert (verdict.ok, verdict.finished, verdict.starts, verdict.repeats) == (2, 2, 2, 0)


def test_a_job_that_never_ran_is_lost(page: Page) -> None:
    verdict = page.published("a", "b").ran("a", 0, 1).check()
    assert verdict.lost == ["b"]
    assert not verdict.passed


def test_a_job_that_was_killed_and_never_ran_again_is_lost(page: Page) -> None:
    assert page.published("a").ran("a", 0, None).killed(CHILD, at=1).check().lost == ["a"]


def test_a_job_whose_publishing_has_an_unknown_end_may_run_or_not(page: Page) -> None:
    verdict = page.unknown("a").unknown("b").ran("a", 0, 1).check()
    assert verdict.passed
    assert verdict.unknown == 2


def test_a_job_that_nobody_published_is_unexpected(page: Page) -> None:
    verdict = page.ran("a", 0, 1).check()
    assert verdict.unexpected == ["a"]
    assert not verdict.passed


def test_what_rests_in_quarantine_after_three_deaths_is_not_lost(page: Page) -> None:
    page.published("a")
    for moment in (0, 10, 20):
        page.ran("a", moment, None).killed(CHILD, at=moment + 1)
    assert page.quarantined("a").check().passed


def test_quarantine_before_the_third_start_is_shown(page: Page) -> None:
    verdict = page.published("a").ran("a", 0, None).killed(CHILD, at=1).quarantined("a").check()
    assert verdict.passed
    assert (verdict.quarantined, verdict.quarantined_early) == (1, 1)


def test_quarantine_of_what_no_dying_process_held_is_unjustified(page: Page) -> None:
    verdict = page.published("a").ran("a", 0, 1).killed(STRANGER, at=0.5).quarantined("a").check()
    assert verdict.unjustified == ["a"]
    assert not verdict.passed


def test_a_repeat_is_excused_when_the_earlier_start_was_in_flight_in_the_process_that_was_killed(page: Page) -> None:
    verdict = page.published("a").ran("a", 0, None).killed(CHILD, at=1).ran("a", 1.1, 2, pid=OTHER).check()
    assert verdict.passed
    assert (verdict.repeats, verdict.slots_killed, verdict.busy, verdict.causes) == (1, 1, 1, {"child": 1})


def test_a_repeat_is_excused_when_the_whole_node_was_killed(page: Page) -> None:
    page.published("a").ran("a", 0, None).killed(STRANGER, node="one.1", slots=2, at=1, what="node")
    assert page.ran("a", 4, 5, pid=OTHER, node="two.1").check().passed


def test_another_life_of_the_same_node_is_another_node(page: Page) -> None:
    page.published("a").ran("a", 0, None, node="one.2").killed(STRANGER, node="one.1", slots=2, at=1, what="node")
    assert len(page.ran("a", 4, 5, pid=OTHER, node="two.1").check().unexcused) == 1


def test_the_death_of_another_process_excuses_nothing(page: Page) -> None:
    verdict = page.published("a").ran("a", 0, None).killed(STRANGER, at=1).ran("a", 1.1, 2, pid=OTHER).check()
    assert len(verdict.unexcused) == 1
    assert not verdict.passed


def test_a_repeat_of_what_was_finished_within_the_settle_window_before_the_kill_is_excused(page: Page) -> None:
    assert page.published("a").ran("a", 0, 1).killed(CHILD, at=1.9).ran("a", 2.1, 3, pid=OTHER).check().passed


def test_a_repeat_of_what_was_finished_before_the_settle_window_is_not(page: Page) -> None:
    verdict = page.published("a").ran("a", 0, 1).killed(CHILD, at=2.1).ran("a", 2.2, 3, pid=OTHER).check()
    assert len(verdict.unexcused) == 1


def test_a_repeat_that_began_before_the_kill_is_not_excused_by_it(page: Page) -> None:
    verdict = page.published("a").ran("a", 0, None).ran("a", 1, 2, pid=OTHER).killed(CHILD, at=1.5).check()
    assert len(verdict.unexcused) == 1


def test_a_kill_before_the_earlier_start_excuses_nothing(page: Page) -> None:
    verdict = page.published("a").killed(CHILD, at=0).ran("a", 1, 2).ran("a", 3, 4, pid=OTHER).check()
    assert len(verdict.unexcused) == 1


def test_one_lost_start_excuses_one_repeat(page: Page) -> None:
    page.published("a").ran("a", 0, None).killed(CHILD, at=1)
    verdict = page.ran("a", 2, 3, pid=OTHER).ran("a", 4, 5, pid=OTHER).check()
    assert (verdict.repeats, len(verdict.unexcused)) == (2, 1)


def test_a_stop_excuses_a_repeat_only_once_the_lease_can_have_run_out(page: Page) -> None:
    stopped = page.published("a").ran("a", 0, 8).stopped(CHILD, begin=1, end=7)
    assert stopped.ran("a", 3, 4, pid=OTHER).check().passed


def test_a_stop_shorter_than_two_thirds_of_the_lease_excuses_nothing(page: Page) -> None:
    stopped = page.published("a").ran("a", 0, 8).stopped(CHILD, begin=1, end=2)
    assert len(stopped.ran("a", 2.5, 4, pid=OTHER).check().unexcused) == 1


def test_a_repeat_that_begins_while_the_lease_of_the_stopped_one_must_still_hold_is_not_excused(page: Page) -> None:
    stopped = page.published("a").ran("a", 0, 8).stopped(CHILD, begin=1, end=7)
    assert len(stopped.ran("a", 1.5, 4, pid=OTHER).check().unexcused) == 1


def test_a_sleeper_may_begin_on_waking_up_what_was_taken_over_meanwhile(page: Page) -> None:
    page.published("a").ran("a", 4, 5, pid=OTHER).stopped(CHILD, begin=1, end=7)
    assert page.ran("a", 7.01, 8).check().causes == {"sleeper": 1}


def test_a_sleeper_may_not_begin_what_was_taken_before_its_lease_ran_out_nor_what_it_meets_later(page: Page) -> None:
    page.published("a", "b").stopped(CHILD, begin=1, end=7)
    page.ran("a", 1.5, 2, pid=OTHER).ran("a", 7.01, 8).ran("b", 4, 5, pid=OTHER).ran("b", 9, 10)
    assert len(page.check().unexcused) == 2


def test_a_fault_of_the_broker_excuses_what_was_in_flight_meanwhile_and_no_more(page: Page) -> None:
    page.published("a").ran("a", 0, 2).cut(1, 1.5).ran("a", 3, 4, pid=OTHER)
    assert page.check().passed
    page.published("b")
    assert len(page.ran("b", 5, 6).ran("b", 7, 8, pid=OTHER).check().unexcused) == 1


def test_a_chord_body_with_a_result_missing_or_twice_is_wrong(page: Page) -> None:
    page.published("a", "b", "c")
    page.ran("a", 0, 1, got=[0, 1, 2], size=3).ran("b", 0, 1, got=[0, 1], size=3).ran("c", 0, 1, got=[0, 1, 1], size=3)
    assert [fact.split()[0] for fact in page.check().wrong] == ["b", "c"]


def test_a_child_that_was_idle_when_it_was_killed_was_not_busy(page: Page) -> None:
    verdict = page.published("a").ran("a", 0, 1).killed(CHILD, at=5).killed(OTHER, at=6).check()
    assert (verdict.slots_killed, verdict.busy) == (2, 0)


def test_a_follow_up_that_a_repeated_job_sent_again_is_excused_only_where_sending_and_acking_are_two_steps(page: Page) -> None:
    page.published("a", "b").ran("a", 0, 1).killed(CHILD, at=1.2).ran("a", 2, 3, pid=OTHER)
    page.ran("b", 1.3, 1.4, parent="a").ran("b", 3.3, 3.4, parent="a")
    assert len(page.check().unexcused) == 1
    assert page.check(Rules(lease=2.0, atomic=False)).passed


def test_the_table_names_what_is_wrong(page: Page) -> None:
    table = page.published("missing").check().table()
    assert "lost: missing" in table
