"""What all commands share: the global options, finding the app, and how a command ends with an error."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from jumpstarter.errors import JumpstarterError

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ("CLIContext", "CommaSeparatedList", "Failure", "load_app", "pass_context")


class Failure(click.ClickException):
    """Ends a command with one sentence on stderr; ``details`` (a traceback of the user's code) comes before it."""

    def __init__(self, message: str, *, details: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.details = details
        self.exit_code = exit_code

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
    if context.app_name is None:
        app = _default_app()
    else:
        app = _import_app(context.app_name, find_app)
    for name, value in context.settings.items():
        setattr(app.conf, name, value)
    return app


def _default_app() -> Any:
    from compat_celery import current_app  # noqa: PLC0415 - as above

    return current_app._get_current_object()


def _import_app(name: str, find_app: Callable[[str], Any]) -> Any:
    module = name.partition(":")[0]
    try:
        return find_app(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise Failure(
                f"Unable to load the application {name!r}: there is no module named {error.name!r}. Name the module that holds "
                "your Celery app with -A, and run the command from the folder that contains it."
            ) from error
        raise _broken_import(name, error) from error
    except AttributeError as error:
        if getattr(error, "obj", None) is not None and _is_ours(error):
            raise Failure(
                f"Unable to load the application {name!r}: {error}. Name the attribute that holds your Celery app after a colon, "
                f"for example -A {module}:app."
            ) from error
        raise _broken_import(name, error) from error
    except click.ClickException:
        raise
    except Exception as error:
        raise _broken_import(name, error) from error


def _is_ours(error: BaseException) -> bool:
    """Whether the error comes from looking the app up, not from the user's module."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and "compat_celery" in last.tb_frame.f_globals.get("__name__", "")


def _broken_import(name: str, error: BaseException) -> Failure:
    return Failure(
        f"Unable to load the application {name!r}: importing it raised {type(error).__name__}: {error}",
        details="".join(traceback.format_exception(error)).rstrip(),
    )


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
            details="".join(traceback.format_exception(error)).rstrip(),
        ) from error


def as_failure(error: JumpstarterError) -> Failure:
    """An error of ours as the end of a command."""
    return Failure(str(error))


class CommaSeparatedList(click.ParamType):
    """``a,b,c``."""

    name = "comma separated list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, str):
            return [item.strip() for item in value.split(",") if item.strip()]
        return list(value)
