"""What all commands share: the global options, finding the app, and how a command ends with an error."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ("CLIContext", "CommaSeparatedList", "Failure", "load_app", "pass_context")


class Failure(click.ClickException):
    """Ends a command with one sentence on stderr; ``details`` (a traceback of the user's code) comes before it."""

    def __init__(self, message: str, *, details: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.details = details
        self.exit_code = exit_code  # type: ignore[misc] # click reads it from the instance, and annotates it as the class's

    def show(self, file: Any = None) -> None:
        if self.details:
            click.echo(self.details, file=file, err=True)
        click.echo(f"Error: {self.message}", file=file, err=True)


@dataclass(slots=True)
class CLIContext:
    """The global options.

    :ivar app_name: what ``-A`` named.
    :ivar settings: settings that options override.
    """

    app_name: str | None
    workdir: str | None = None
    loader: str | None = None
    config: str | None = None
    no_color: bool | None = None
    quiet: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def app(self) -> Any:
        """The application, loaded and with the options' settings applied.

        :raises Failure: it cannot be loaded.
        """
        return load_app(self)


pass_context = click.make_pass_decorator(CLIContext)


def load_app(context: CLIContext) -> Any:
    """Find and import what ``-A`` names, from the working directory as well.

    :raises Failure: not found, or its import failed.
    """
    from compat_celery.app.utils import find_app  # noqa: PLC0415 - the alias is installed by now, not when this module is imported

    if context.workdir:
        os.chdir(context.workdir)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if context.loader:
        os.environ["CELERY_LOADER"] = context.loader
    if context.config:
        os.environ["CELERY_CONFIG_MODULE"] = context.config
    app = _default_app() if context.app_name is None else _import_app(context.app_name, find_app)
    for name, value in context.settings.items():
        setattr(app.conf, name, value)
    return app


def _default_app() -> Any:
    from compat_celery import current_app  # noqa: PLC0415 - as above

    return current_app._get_current_object()


def _import_app(name: str, find_app: Callable[[str], Any]) -> Any:
    _import_module(name)
    try:
        app = find_app(name)
    except (ImportError, AttributeError) as error:
        module, _, attribute = name.partition(":")
        raise _not_found(name, f"module {module!r} has no attribute {attribute!r}" if attribute else str(error)) from error
    if not hasattr(app, "tasks") or not hasattr(app, "conf"):
        raise _not_found(name, f"what is there is no Celery app, but {app!r}")
    return app


def _import_module(name: str) -> None:
    """Import the module of the app by itself, so that an error in the user's code is told from a name that does not exist."""
    module = name.partition(":")[0]
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{module}.".startswith(f"{missing}."):
            raise _broken_import(name, error) from error
        parent, _, attribute = module.rpartition(".")
        if missing == module and parent and hasattr(sys.modules.get(parent), attribute):
            return  # proj.app: an attribute, named with a dot
        raise _not_found(name, f"there is no module named {missing!r}. Run the command from the folder that contains it") from error
    except Exception as error:
        raise _broken_import(name, error) from error


def _not_found(name: str, why: str) -> Failure:
    return Failure(
        f"Unable to load the application {name!r}: {why}. Name the module that holds your Celery app, and the attribute after a "
        "colon if it is not called 'app' or 'celery': -A proj.module:attribute"
    )


def _broken_import(name: str, error: BaseException) -> Failure:
    return Failure(
        f"Unable to load the application {name!r}: importing it raised {type(error).__name__}: {error}",
        details=_users_traceback(error),
    )


def _users_traceback(error: BaseException) -> str:
    """The traceback from where the user's code begins: what imports it is ours and Python's, and tells nothing."""
    trace = error.__traceback__
    while trace is not None and _is_machinery(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    shown = error.with_traceback(trace or error.__traceback__)
    return "".join(traceback.format_exception(shown, chain=error.__cause__ is not None)).rstrip()


def _is_machinery(filename: str) -> bool:
    ours = str(Path(__file__).parent.parent)
    return filename.startswith((ours, "<frozen")) or filename == importlib.__file__


def import_modules(app: Any) -> None:
    """Import everything the app includes.

    :raises Failure: with the traceback, when one of the modules cannot be imported.
    """
    try:
        app.loader.import_default_modules()
        app.finalize()
    except Exception as error:
        raise Failure(
            f"Unable to import the task modules of {app.main or 'the application'}: {type(error).__name__}: {error}",
            details=_users_traceback(error),
        ) from error


class CommaSeparatedList(click.ParamType[Any]):
    """``a,b,c``."""

    name = "comma separated list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:  # noqa: ARG002 - click's signature
        if isinstance(value, str):
            return [item.strip() for item in value.split(",") if item.strip()]
        return list(value)
