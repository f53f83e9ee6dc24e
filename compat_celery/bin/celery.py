"""``celery …``: the group of commands and its global options. Entry: :func:`main`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from compat_celery._alias import install_as_celery
from compat_celery.app.agents import instrument_late
from compat_celery.bin.base import CLIContext
from compat_celery.bin.call import call, purge, result
from compat_celery.bin.control import control, inspect, status
from compat_celery.bin.quarantine import quarantine
from compat_celery.bin.upgrade import upgrade
from compat_celery.bin.worker import worker

__all__ = ("celery", "main")


@click.group(
    name="celery", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, invoke_without_command=True
)
@click.option(
    "-A", "--app", envvar="APP", metavar="APPLICATION", help="The module that holds the app: proj, proj.celery or proj:app."
)
@click.option("-b", "--broker", envvar="BROKER_URL", help="URL of the broker.")
@click.option("--result-backend", envvar="RESULT_BACKEND", help="URL of the result backend.")
@click.option("--loader", envvar="LOADER", help="The loader class.")
@click.option("--config", envvar="CONFIG_MODULE", help="The module with the settings.")
@click.option("--workdir", type=click.Path(exists=True, file_okay=False), help="Change to this folder first.")
@click.option("-C", "--no-color", envvar="NO_COLOR", is_flag=True, default=None, help="No colours.")
@click.option("-q", "--quiet", is_flag=True, help="Say as little as possible.")
@click.option("--version", is_flag=True, help="Show the version and end.")
@click.pass_context
def celery(
    context: click.Context,
    app: str | None,
    broker: str | None,
    result_backend: str | None,
    loader: str | None,
    config: str | None,
    workdir: str | None,
    no_color: bool | None,
    quiet: bool,
    version: bool,
) -> None:
    """Celery's command line, on Jumpstarter."""
    if version:
        from compat_celery import __version__  # noqa: PLC0415 - one name, when it is asked for
        from jumpstarter import __version__ as ours  # noqa: PLC0415 - as above

        click.echo(f"{__version__} (jumpstarter {ours})")
        context.exit(0)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(0)
    settings = {name: value for name, value in (("broker_url", broker), ("result_backend", result_backend)) if value}
    context.obj = CLIContext(app, workdir, loader, config, no_color, quiet, settings)


for command in (worker, call, result, purge, inspect, control, status, quarantine, upgrade):
    celery.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; answer its exit code. ``import celery`` means ours from here on."""
    install_as_celery()
    instrument_late()
    try:
        code = celery.main(args=None if argv is None else list(argv), prog_name="celery", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Abort:
        return 130
    sys.stdout.flush()
    return code if isinstance(code, int) else 0
