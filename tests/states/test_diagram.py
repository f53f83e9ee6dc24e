"""Diagrams in Mermaid."""

from __future__ import annotations

import re

from hypothesis import given, settings

from jumpstarter.states import Chart

from .random_charts import definitions

DEFINITION = {
    "name": "worker",
    "initial": "starting",
    "states": [
        {"name": "starting", "on_enter": "open", "timeout": 30, "postpone": "job"},
        {
            "name": "started",
            "label": 'the "real" life',
            "on_exit": ["tidy", "_count"],
            "parallel": [
                {
                    "name": "health",
                    "initial": "healthy",
                    "states": ["healthy", "degraded"],
                    "transitions": [
                        {"trigger": "warn", "source": "healthy", "dest": "degraded", "unless": "In(idle)"},
                        {"trigger": "shout", "source": "healthy", "dest": "degraded", "unless": "In(idle)"},
                        {"trigger": "ping", "source": "healthy", "dest": None},
                    ],
                },
                {
                    "name": "polling",
                    "initial": "idle",
                    "states": ["idle", "check", "busy", {"name": "h", "history": "deep"}],
                    "transitions": [
                        {"trigger": "slot: begin", "source": "idle", "dest": "check"},
                        {"trigger": "", "source": "check", "dest": "busy", "conditions": ["_has_room", "In(healthy)"]},
                        {"trigger": "", "source": "check", "dest": "idle"},
                    ],
                },
            ],
        },
        {"name": "stopped", "final": True},
    ],
    "transitions": [
        {"trigger": "ready", "source": "starting", "dest": "started", "before": "go"},
        ["resume", "starting", "started"],
        ["stop", "started", "stopped"],
        ["resume", "starting", "started.polling.h"],
    ],
    "lenient": True,
}

EXPECTED = """\
stateDiagram-v2
    state started_polling_check <<choice>>
    [*] --> starting
    starting --> started : ready / go<br/>resume
    started --> stopped : stop
    starting --> started_polling_h : resume
    state "starting" as starting
    starting : entry / open
    starting : postpones job
    starting : timeout 30 s
    state "the 'real' life · exit / tidy" as started
    state started {
        state "health" as started_health
        state started_health {
            [*] --> started_health_healthy
            started_health_healthy --> started_health_degraded : warn / shout [not In(idle)]
            started_health_healthy --> started_health_healthy : ping (stays)
            state "healthy" as started_health_healthy
            state "degraded" as started_health_degraded
        }
        --
        state "polling" as started_polling
        state started_polling {
            [*] --> started_polling_idle
            started_polling_idle --> started_polling_check : slot#58; / begin
            started_polling_check --> started_polling_busy : [has_room and In(healthy)]
            started_polling_check --> started_polling_idle
            state "idle" as started_polling_idle
            state "busy" as started_polling_busy
            state "H*" as started_polling_h
            started_polling_h --> started_polling_idle : default
        }
    }
    state "stopped" as stopped
    stopped --> [*]
    classDef active fill:#2f855a,color:#fff,stroke:#22543d
    class started_health_degraded active
"""


def test_a_chart_is_drawn_with_all_that_it_has():
    active = ["started", "started.health", "degraded"]
    assert Chart.compile(DEFINITION).mermaid(active=active) == EXPECTED


def test_without_active_states_nothing_stands_out():
    assert "classDef" not in Chart.compile(DEFINITION).mermaid()


def test_states_whose_names_differ_only_in_signs_have_identifiers_of_their_own():
    definition = {"states": ["a_b", {"name": "a", "states": ["b"]}, "end", "É", "È"], "lenient": True}
    names = re.findall(r" as (\w+)$", Chart.compile(definition).mermaid(), flags=re.MULTILINE)
    assert len(names) == 6
    assert len({name.lower() for name in names} | {"end"}) == 7


def test_a_transition_between_regions_is_drawn_outside_of_them():
    region = {"initial": "1", "states": ["1", "2"]}
    definition = {
        "states": [{"name": "p", "parallel": [{"name": "r", **region}, {"name": "s", **region}]}],
        "transitions": [["drive", "p.r.1", "p.s.2"]],
        "lenient": True,
    }
    assert "\n    p_r_1 --> p_s_2 : drive\n" in Chart.compile(definition).mermaid()


def test_a_state_that_a_trigger_and_no_trigger_lead_to_alike_needs_none_to_be_told():
    definition = {
        "states": ["a", "b"],
        "initial": "a",
        "transitions": [
            {"trigger": "go", "source": "a", "dest": "b", "conditions": "may"},
            {"trigger": "", "source": "a", "dest": "b", "conditions": "may"},
        ],
    }
    assert "a --> b : [may]\n" in Chart.compile(definition).mermaid()


def test_a_state_that_may_be_rested_in_is_no_choice():
    definition = {
        "states": ["a", "b", "c"],
        "initial": "a",
        "transitions": [
            {"trigger": "", "source": "a", "dest": "b", "conditions": "may"},
            {"trigger": "", "source": "a", "dest": "c", "conditions": "must"},
        ],
    }
    assert "choice" not in Chart.compile(definition).mermaid()


@settings(max_examples=100, deadline=None)
@given(definitions())
def test_every_chart_can_be_drawn_with_balanced_frames_and_known_names(definition):
    text = Chart.compile(definition).mermaid()
    assert text.count("{\n") == text.count("}\n")
    known = set(re.findall(r" as (\w+)|state (\w+) <<choice>>", text))
    names = {name for pair in known for name in pair if name}
    for source, target in re.findall(r"^\s*(\S+) --> (\S+)", text, flags=re.MULTILINE):
        assert {source, target} - {"[*]"} <= names
