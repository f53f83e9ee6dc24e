"""Logging: names, formats, who sets it up."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from compat_celery import Celery, signals
from compat_celery.app.log import Logging, TaskFormatter
from compat_celery.utils.log import ColorFormatter, LoggingProxy, get_logger, get_task_logger, in_sighandler, mlevel
from compat_celery.utils.term import colored


@pytest.fixture(autouse=True)
def logging_is_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root, task = logging.getLogger(), logging.getLogger("celery.task")
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in (root, task)]
    for name in ("CELERY_LOG_LEVEL", "CELERY_LOG_FILE", "_MP_FORK_LOGLEVEL_", "_MP_FORK_LOGFILE_", "_MP_FORK_LOGFORMAT_"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(Logging, "_setup", False)
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(capture=False)
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate


def test_loggers_have_celerys_names_and_parents() -> None:
    assert get_logger("compat_celery.worker.x").name == "celery.worker.x"
    task = get_task_logger("shop.tasks")
    assert task.name == "shop.tasks"
    assert task.parent is logging.getLogger("celery.task")
    with pytest.raises(RuntimeError, match="reserved"):
        get_task_logger("celery.task")


def test_lines_of_tasks_carry_their_name_and_id(app: Celery) -> None:
    @app.task(name="shop.sell", bind=True)
    def sell(self: Any) -> str:
        record = logging.LogRecord("x", logging.INFO, "", 0, "sold", (), None)
        return TaskFormatter("%(task_name)s[%(task_id)s] %(message)s", use_color=False).format(record)

    assert sell.apply(task_id="id-1").get() == "shop.sell[id-1] sold"
    outside = logging.LogRecord("x", logging.INFO, "", 0, "idle", (), None)
    assert TaskFormatter("%(task_name)s %(message)s", use_color=False).format(outside) == "??? idle"


def test_setting_up_logs_to_the_file_once_and_tells_receivers(app: Celery) -> None:
    stream, told = io.StringIO(), []

    def receiver(logger: Any, loglevel: Any, **_: Any) -> None:
        told.append((logger.name, loglevel))

    signals.after_setup_logger.connect(receiver)
    signals.after_setup_task_logger.connect(receiver)
    app.log.setup("info", stream)
    app.log.setup("debug", io.StringIO())
    get_logger("celery.worker").info("ready")
    get_task_logger("shop.tasks").info("sold")
    text = stream.getvalue()
    assert "INFO/MainProcess] ready" in text
    assert "???[???]: sold" in text
    assert told == [("root", logging.INFO), ("celery.task", logging.INFO)]


def test_a_receiver_of_setup_logging_does_it_all_itself(app: Celery) -> None:
    told = []

    def receiver(loglevel: Any, **_: Any) -> None:
        told.append(loglevel)

    signals.setup_logging.connect(receiver)
    handlers = logging.getLogger().handlers[:]
    app.log.setup("error", io.StringIO())
    assert told == [logging.ERROR]
    assert logging.getLogger().handlers == handlers


def test_an_error_in_such_a_receiver_is_raised(app: Celery) -> None:
    def broken(**_: Any) -> None:
        raise ValueError("bad logging configuration")

    signals.setup_logging.connect(broken)
    with pytest.raises(ValueError, match="bad logging configuration"):
        app.log.setup("error")
    assert app.log.already_setup is False


def test_levels_are_names_or_numbers() -> None:
    assert (mlevel("warning"), mlevel(20), mlevel(None)) == (logging.WARNING, 20, None)


def test_colours_are_for_severity_and_unreadable_lines_do_no_harm() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    bad = logging.LogRecord("x", logging.ERROR, "", 0, Broken(), (), None)
    assert "Unrepresentable" in ColorFormatter("%(message)s").format(bad)
    assert "\x1b[1;31m" in ColorFormatter("%(message)s").format(logging.LogRecord("x", logging.ERROR, "", 0, "m", (), None))
    assert ColorFormatter("%(message)s").format(logging.LogRecord("x", logging.INFO, "", 0, "m", (), None)) == "m"


def test_colours_nest_and_may_be_left_out() -> None:
    text = colored(enabled=True).red("a", colored(enabled=True).bold("b"))
    assert str(text) == "\x1b[1;31ma\x1b[1mb\x1b[0m"
    assert text.no_color() == "ab"
    assert str(colored(enabled=False).red("a")) == "a"


def test_what_is_printed_goes_to_a_logger(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    proxy = LoggingProxy(logging.getLogger("celery.redirected"), "warning")
    with caplog.at_level(logging.WARNING, "celery.redirected"):
        print("to the log", file=proxy)
        proxy.writelines(["one", "two"])
        with in_sighandler():
            proxy.write("from a signal handler")
    assert [record.message for record in caplog.records] == ["to the log", "one", "two"]
    assert "from a signal handler" in capfd.readouterr().err
    assert proxy.isatty() is False
    proxy.close()
    assert proxy.write("late") == 0
