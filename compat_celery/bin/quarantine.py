"""``celery quarantine``: Jumpstarter's command over the app's own broker."""

from __future__ import annotations

import click

from compat_celery.bin.base import CLIContext
from jumpstarter.abc.broker import Broker
from jumpstarter.cli.quarantine import commands

__all__ = ("quarantine",)


def _broker_of_the_app(context: click.Context) -> Broker:
    from compat_celery.app.publisher import broker_for  # noqa: PLC0415 - the alias comes first

    found = context.find_object(CLIContext)
    assert found is not None, "the group makes it"
    return broker_for(found.app())


quarantine = commands(_broker_of_the_app)
