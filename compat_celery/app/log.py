"""Logging of workers and commands. Comes from: ``app.log``. Goes to: the logging package, the logging signals."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Any

from kombu.utils.encoding import set_default_encoding_file

from compat_celery import signals
from compat_celery._names import celery_named
from compat_celery._state import get_current_task
from compat_celery.exceptions import CDeprecationWarning, CPendingDeprecationWarning
from compat_celery.local import class_property
from compat_celery.utils.log import (
    ColorFormatter,
    LoggingProxy,
    get_logger,
    get_multiprocessing_logger,
    mlevel,
    reset_multiprocessing_logger,
)
from compat_celery.utils.nodenames import node_format
from compat_celery.utils.term import colored

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("Logging", "TaskFormatter")

MP_LOG = os.environ.get("MP_LOG")


@celery_named
class TaskFormatter(ColorFormatter):
    """Lines with the name and id of the task that runs (``%(task_name)s``, ``%(task_id)s``)."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        task = get_current_task()
        if task and task.request:
            record.__dict__.update(task_id=task.request.id, task_name=task.name)
        else:
            record.__dict__.setdefault("task_name", "???")
            record.__dict__.setdefault("task_id", "???")
        return super().format(record)


@celery_named
class Logging:
    """``app.log``. Logging is set up once per process, and not at all when ``setup_logging`` has a receiver."""

    _setup = False

    def __init__(self, app: Celery) -> None:
        conf = app.conf
        self.app = app
        self.loglevel = mlevel(logging.WARNING)
        self.format = conf.worker_log_format
        self.datefmt = conf.worker_log_datefmt
        self.task_format = conf.worker_task_log_format
        self.task_datefmt = conf.worker_task_log_datefmt
        self.colorize = conf.worker_log_color

    def setup(
        self,
        loglevel: Any = None,
        logfile: Any = None,
        redirect_stdouts: bool = False,
        redirect_level: Any = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> Any:
        """Set up logging; answers what the receivers of ``setup_logging`` did, if there are any.

        :param logfile: a file's name (with ``%n`` and its like), an open file, or None for standard error.
        :param redirect_stdouts: what is printed goes to the log.
        """
        level = mlevel(loglevel)
        handled = self.setup_logging_subsystem(level, logfile, colorize=colorize, hostname=hostname)
        if not handled and redirect_stdouts:
            self.redirect_stdouts(redirect_level)
        # Child processes that are not forked read these.
        os.environ.update(CELERY_LOG_LEVEL=str(level) if level else "", CELERY_LOG_FILE=str(logfile) if logfile else "")
        warnings.filterwarnings("always", category=CDeprecationWarning)
        warnings.filterwarnings("always", category=CPendingDeprecationWarning)
        logging.captureWarnings(capture=True)
        return handled

    def redirect_stdouts(self, loglevel: Any = None, name: str = "celery.redirected") -> None:
        """What is printed goes to the log."""
        self.redirect_stdouts_to_logger(get_logger(name), loglevel=loglevel)
        os.environ.update(CELERY_LOG_REDIRECT="1", CELERY_LOG_REDIRECT_LEVEL=str(loglevel or ""))

    def setup_logging_subsystem(
        self,
        loglevel: Any = None,
        logfile: Any = None,
        format: str | None = None,  # noqa: A002 - Celery's signature
        colorize: bool | None = None,
        hostname: str | None = None,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Set up the root and the task logger, unless that happened already or somebody else does it."""
        if self.already_setup:
            return None
        if logfile and hostname:
            logfile = node_format(logfile, hostname)
        Logging._setup = True
        level = mlevel(loglevel or self.loglevel)
        format = format or self.format  # noqa: A001 - as above
        colorize = self.supports_color(colorize, logfile)
        reset_multiprocessing_logger()
        responses = signals.setup_logging.send(sender=None, loglevel=level, logfile=logfile, format=format, colorize=colorize)
        for _, response in responses:
            if isinstance(response, Exception):
                Logging._setup = False
                raise response
        if not responses:
            dates = self.datefmt if datefmt is None else datefmt
            self._setup_loggers(level, logfile, format, colorize, dates, kwargs)
        for handler in logging.getLogger().handlers[:1]:
            if hasattr(handler, "stream"):
                set_default_encoding_file(handler.stream)
        name = logfile if isinstance(logfile, str) else ""
        os.environ.update(_MP_FORK_LOGLEVEL_=str(level), _MP_FORK_LOGFILE_=name, _MP_FORK_LOGFORMAT_=format)
        return responses

    def _setup_loggers(
        self, level: int, logfile: Any, form: str, colorize: bool, datefmt: str | None, options: dict[str, Any]
    ) -> None:
        root = logging.getLogger()
        if self.app.conf.worker_hijack_root_logger:
            for name in (None, "celery", "celery.task", "celery.redirected"):
                logging.getLogger(name).handlers = []
        self._configure_logger(root, logfile, level, form, colorize, datefmt=datefmt, **options)
        self._configure_logger(
            get_multiprocessing_logger(), logfile, level if MP_LOG else logging.ERROR, form, colorize, datefmt=datefmt, **options
        )
        signals.after_setup_logger.send(sender=None, logger=root, loglevel=level, logfile=logfile, format=form, colorize=colorize)
        self.setup_task_loggers(level, logfile, colorize=colorize)

    def _configure_logger(
        self, logger: logging.Logger | None, logfile: Any, loglevel: int, form: str, colorize: bool, **kwargs: Any
    ) -> None:
        if logger is not None:
            self.setup_handlers(logger, logfile, form, colorize, **kwargs)
            if loglevel:
                logger.setLevel(loglevel)

    def setup_task_loggers(
        self,
        loglevel: Any = None,
        logfile: Any = None,
        format: str | None = None,  # noqa: A002 - Celery's signature
        colorize: bool | None = None,
        propagate: bool = False,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Set up the logger of all tasks, and give it."""
        level = mlevel(loglevel or self.loglevel)
        form = format or self.task_format
        colorize = self.supports_color(colorize, logfile)
        logger = self.setup_handlers(
            get_logger("celery.task"),
            logfile,
            form,
            colorize,
            formatter=TaskFormatter,
            datefmt=self.task_datefmt if datefmt is None else datefmt,
            **kwargs,
        )
        logger.setLevel(level)
        logger.propagate = propagate
        signals.after_setup_task_logger.send(
            sender=None, logger=logger, loglevel=level, logfile=logfile, format=form, colorize=colorize
        )
        return logger

    def redirect_stdouts_to_logger(
        self, logger: logging.Logger, loglevel: Any = None, stdout: bool = True, stderr: bool = True
    ) -> LoggingProxy:
        """What is printed on either goes to the logger."""
        proxy = LoggingProxy(logger, loglevel)
        if stdout:
            sys.stdout = proxy
        if stderr:
            sys.stderr = proxy
        return proxy

    def supports_color(self, colorize: bool | None = None, logfile: Any = None) -> bool:
        """Whether lines are coloured: on a terminal, unless somebody said not to."""
        colorize = self.colorize if colorize is None else colorize
        if self.app.IS_WINDOWS:
            return False
        if colorize or colorize is None:
            return logfile is None and bool(getattr(sys.stderr, "isatty", lambda: False)())
        return colorize

    def colored(self, logfile: Any = None, enabled: bool | None = None) -> colored:
        """Text in colours, where they are supported."""
        return colored(enabled=self.supports_color(enabled, logfile))

    def setup_handlers(
        self,
        logger: logging.Logger,
        logfile: Any,
        format: str | None,  # noqa: A002 - Celery's signature
        colorize: bool,
        formatter: type[ColorFormatter] = ColorFormatter,
        datefmt: str | None = None,
        **_: Any,
    ) -> logging.Logger:
        """Give the logger a handler, if it has none."""
        if self._is_configured(logger):
            return logger
        handler = self._detect_handler(logfile)
        handler.setFormatter(formatter(format, datefmt=datefmt, use_color=colorize))
        logger.addHandler(handler)
        return logger

    def _detect_handler(self, logfile: Any = None) -> logging.Handler:
        target: Any = sys.__stderr__ if logfile is None else logfile
        if target is None or hasattr(target, "write"):
            return logging.StreamHandler(target)
        return WatchedFileHandler(target, encoding="utf-8")

    def _has_handler(self, logger: logging.Logger) -> bool:
        return any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers or ())

    def _is_configured(self, logger: logging.Logger) -> bool:
        return self._has_handler(logger) and not getattr(logger, "_rudimentary_setup", False)

    def get_default_logger(self, name: str = "celery", **_: Any) -> logging.Logger:
        """The logger of that name."""
        return get_logger(name)

    def _get_already_setup(cls) -> bool:  # noqa: N805 - it becomes a class property
        return bool(cls._setup)

    def _set_already_setup(cls, was_setup: bool) -> None:  # noqa: N805 - as above
        cls._setup = was_setup

    #: Whether logging was set up in this process; may be set.
    already_setup = class_property(_get_already_setup, _set_already_setup)
