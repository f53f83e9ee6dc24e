"""Settings: where they come from, by which names, and what happens when the names are mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compat_celery import Celery
from compat_celery.app.defaults import DEFAULTS, NAMESPACES, find, flatten
from compat_celery.app.utils import sanitize_url
from compat_celery.exceptions import CDeprecationWarning, ImproperlyConfigured


def test_every_setting_of_celery_5_7_is_known() -> None:
    assert len(DEFAULTS) == 207
    assert dict(flatten(NAMESPACES)).keys() == DEFAULTS.keys()


# A sample over all sections, as genuine Celery 5.7.0 has them.
@pytest.mark.parametrize(
    ("name", "old", "default", "kind"),
    [
        ("task_acks_late", "CELERY_ACKS_LATE", False, "bool"),
        ("task_always_eager", "CELERY_ALWAYS_EAGER", False, "bool"),
        ("task_time_limit", "CELERYD_TASK_TIME_LIMIT", None, "float"),
        ("worker_prefetch_multiplier", "CELERYD_PREFETCH_MULTIPLIER", 4, "int"),
        ("worker_send_task_events", "CELERY_SEND_EVENTS", False, "bool"),
        ("beat_schedule_filename", "CELERYBEAT_SCHEDULE_FILENAME", "celerybeat-schedule", "string"),
        ("result_expires", "CELERY_TASK_RESULT_EXPIRES", DEFAULTS["result_expires"], "float"),
        ("broker_connection_timeout", "BROKER_CONNECTION_TIMEOUT", 4, "float"),
        ("redis_socket_timeout", "CELERY_REDIS_SOCKET_TIMEOUT", 120.0, "float"),
        ("accept_content", "CELERY_ACCEPT_CONTENT", ("json",), "list"),
        ("result_accept_content", "RESULT_ACCEPT_CONTENT", None, "list"),
    ],
)
def test_a_setting_has_a_default_a_type_and_an_old_name(app: Celery, name: str, old: str, default: Any, kind: str) -> None:
    assert getattr(app.conf, name) == app.conf[name] == app.conf[old] == default
    assert dict(flatten(NAMESPACES))[name].type == kind


def test_settings_may_be_set_by_attribute_item_and_several_at_once(app: Celery) -> None:
    app.conf.task_default_queue = "one"
    app.conf["task_acks_late"] = True
    app.conf.update(task_track_started=True, own_setting=5)
    assert (app.conf.task_default_queue, app.conf.task_acks_late, app.conf.task_track_started) == ("one", True, True)
    assert app.conf.own_setting == 5
    assert app.conf.CELERY_ACKS_LATE is True


def test_a_setting_that_there_is_not_is_an_attribute_error(app: Celery) -> None:
    with pytest.raises(AttributeError, match="no_such_setting"):
        app.conf.no_such_setting  # noqa: B018 - the look-up is the test
    assert app.conf.get("no_such_setting", 7) == 7


def test_a_derived_setting_follows_the_queue(app: Celery) -> None:
    app.conf.task_default_queue = "mine"
    assert (app.conf.task_default_exchange, app.conf.task_default_routing_key) == ("mine", "mine")


def test_defaults_are_not_shared_between_apps(app: Celery) -> None:
    app.conf.beat_schedule["x"] = {}
    app.conf.broker_transport_options["y"] = 1
    other = Celery("other")
    assert (other.conf.beat_schedule, other.conf.broker_transport_options) == ({}, {})


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "project_settings.py").write_text(
        "task_default_queue = 'from-module'\nclass Production:\n    task_default_queue = 'from-class'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "project_settings", raising=False)
    return "project_settings"


def test_settings_come_from_a_module_a_class_in_it_a_mapping_or_an_object(module: str) -> None:
    class Settings:
        task_default_queue = "from-object"

    for source, expected in [
        (module, "from-module"),
        (f"{module}:Production", "from-class"),
        (f"{module}.Production", "from-class"),
        ({"task_default_queue": "from-mapping"}, "from-mapping"),
        (Settings, "from-object"),
    ]:
        app = Celery("proj")
        app.config_from_object(source)
        assert app.conf.task_default_queue == expected


def test_settings_are_read_when_they_are_needed(module: str) -> None:
    app = Celery("proj")
    app.config_from_object("no_such_module_at_all")
    with pytest.raises(ImportError):
        app.conf.task_default_queue  # noqa: B018 - the look-up is the test


def test_a_missing_module_may_be_passed_over() -> None:
    app = Celery("proj")
    app.config_from_object("no_such_module_at_all", silent=True)
    assert app.conf.task_default_queue == "celery"


def test_settings_may_have_a_prefix_and_others_are_left_alone() -> None:
    app = Celery("proj")
    app.config_from_object({"CELERY_TASK_DEFAULT_QUEUE": "mine", "TIME_ZONE": "Europe/Berlin", "DEBUG": True}, namespace="CELERY")
    assert app.conf.task_default_queue == "mine"
    assert app.conf.timezone == "Europe/Berlin"
    assert str(app.timezone) == "Europe/Berlin"


def test_old_names_work_and_are_warned_about_when_somebody_asks() -> None:
    app = Celery("proj")
    app.config_from_object({"CELERY_DEFAULT_QUEUE": "old", "CELERYD_CONCURRENCY": 3})
    assert (app.conf.task_default_queue, app.conf.worker_concurrency) == ("old", 3)
    with pytest.warns(CDeprecationWarning, match="CELERY"):
        assert app.conf.maybe_warn_deprecated_settings() is True


def test_mixing_old_and_new_names_is_refused_with_the_renames() -> None:
    app = Celery("proj")
    app.config_from_object({"task_default_queue": "new", "task_acks_late": True, "CELERYD_CONCURRENCY": 3})
    with pytest.raises(ImproperlyConfigured, match=r"CELERYD_CONCURRENCY\s+-> worker_concurrency"):
        app.conf.task_default_queue  # noqa: B018 - the look-up is the test


def test_a_setting_under_both_names_is_no_mix() -> None:
    app = Celery("proj")
    app.config_from_object({"task_acks_late": True, "CELERY_ACKS_LATE": True})
    assert app.conf.task_acks_late is True


def test_settings_come_from_the_module_that_the_environment_names(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("proj")
    with pytest.raises(ImproperlyConfigured, match="MY_SETTINGS"):
        app.config_from_envvar("MY_SETTINGS")
    assert app.config_from_envvar("MY_SETTINGS", silent=True) is False
    monkeypatch.setenv("MY_SETTINGS", module)
    app.config_from_envvar("MY_SETTINGS", force=True)
    assert app.conf.task_default_queue == "from-module"


def test_settings_come_from_the_command_line(app: Celery) -> None:
    app.config_from_cmdline(["worker.prefetch_multiplier=10", "task_always_eager=yes", 'task.queues=(list)["a"]'])
    assert (app.conf.worker_prefetch_multiplier, app.conf.task_always_eager, app.conf.task_queues) == (10, True, ["a"])
    with pytest.raises(ValueError, match="worker_prefetch_multiplier"):
        app.config_from_cmdline(["worker.prefetch_multiplier=many"])


def test_changes_made_before_the_settings_are_read_stay(app: Celery) -> None:
    app.conf.task_default_queue = "early"
    app.config_from_object({"task_default_queue": "late", "task_acks_late": True})
    assert (app.conf.task_default_queue, app.conf.task_acks_late) == ("early", True)


def test_a_reference_to_the_settings_stays_good(app: Celery) -> None:
    conf = app.conf
    assert conf.task_default_queue == "celery"
    app.conf.task_default_queue = "changed"
    assert conf.task_default_queue == "changed"


def test_further_defaults_come_after_changes_and_before_the_source_of_settings() -> None:
    app = Celery("proj")
    app.add_defaults({"task_default_queue": "fallback", "own": 1})
    app.add_defaults(lambda: {"own_late": 2})
    app.config_from_object({"own": 3, "task_acks_late": True})
    app.conf.own_late = 4
    assert (app.conf.task_default_queue, app.conf.own, app.conf.own_late, app.conf.task_acks_late) == ("fallback", 1, 4, True)


def test_receivers_are_told_before_and_after_the_settings_are_read() -> None:
    app, told = Celery("proj"), []
    app.on_configure.connect(lambda **_: told.append("before"), weak=False)
    app.on_after_configure.connect(lambda source, **_: told.append(source.task_default_queue), weak=False)
    assert told == []
    app.conf.task_default_queue  # noqa: B018 - the first look-up
    assert told == ["before", "celery"]


def test_the_table_shows_what_was_configured_without_secrets(app: Celery) -> None:
    app.conf.update(broker_password="hunter2", redis_password="hunter2", broker_url="redis://user:hunter2@host/0", own=1)
    table = app.conf.table()
    assert table["own"] == 1
    assert "task_default_queue" not in table
    assert "hunter2" not in str(table) + app.conf.humanize() + app.bugreport()
    assert app.conf.table(censored=False)["broker_password"] == "hunter2"
    assert app.conf.table(with_defaults=True)["task_default_queue"] == "celery"


def test_settings_are_found_by_parts_of_their_names(app: Celery) -> None:
    assert find("prefetch_multiplier")[:2] == ("worker", "prefetch_multiplier")
    assert app.conf.find_value_for_key("prefetch_multiplier") == 4
    assert app.conf.get_by_parts("task", "acks_late") is False
    assert app.conf.value_set_for("task_acks_late") is False
    with pytest.raises(KeyError):
        find("no_such_thing")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:1/0", "redis://:********@host:1/0"),
        ("redis://user:secret@host/0", "redis://user:********@host/0"),
        ("redis://host/0", "redis://host/0"),
        ("redis://:a@h1;redis://:b@h2", "redis://:********@h1;redis://:********@h2"),
        ("sqlite:///file.db", "sqlite:///file.db"),
        ("disabled", "disabled"),
        (None, None),
    ],
)
def test_urls_are_shown_without_their_passwords(url: Any, shown: Any) -> None:
    assert sanitize_url(url) == shown


@pytest.mark.parametrize("url", ["redis://user:se@cret@host/0", "redis://:se/cret@host/0", "x://a:secret@h1:1;b:secret@h2:1/0"])
def test_urls_that_are_hard_to_read_show_no_part_of_the_password(url: str) -> None:
    assert "cret" not in sanitize_url(url)


def test_the_time_zone_is_utc_unless_settings_say_otherwise() -> None:
    app = Celery("proj")
    assert app.uses_utc_timezone()
    assert app.now().utcoffset().total_seconds() == 0
    berlin = Celery("proj", timezone="Europe/Berlin")
    assert not berlin.uses_utc_timezone()
    assert str(berlin.now().tzinfo) == "Europe/Berlin"
