"""``celery upgrade settings``: rename settings of Celery 3 in a file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import click

from compat_celery.app.defaults import _TO_NEW_KEY

__all__ = ("renamed", "upgrade")

#: Whole words, the longest first: BROKER_TRANSPORT_OPTIONS is not BROKER_TRANSPORT with something behind it.
_OLD_KEYS = re.compile(r"\b(?:" + "|".join(sorted(map(re.escape, _TO_NEW_KEY), key=len, reverse=True)) + r")\b")


def renamed(text: str, *, upper: bool = False) -> str:
    """The text with every old name of a setting replaced. Pure.

    :param upper: by Django's way to write the new one: ``CELERY_`` and capitals.
    """

    def new_name(found: re.Match[str]) -> str:
        new: str = _TO_NEW_KEY[found[0]]
        if not upper:
            return new
        return new.upper() if new.startswith("celery_") else f"CELERY_{new.upper()}"

    return _OLD_KEYS.sub(new_name, text)


@click.group(name="upgrade")
def upgrade() -> None:
    """Change what an earlier version of Celery wants otherwise."""


@upgrade.command(name="settings")
@click.argument("filename", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--django", is_flag=True, help="Write the names as Django's settings have them: CELERY_TASK_ALWAYS_EAGER.")
@click.option("--compat", is_flag=True, help="The same.")
@click.option("--no-backup", is_flag=True, help="Do not keep the old file as FILENAME.orig.")
def settings(filename: Path, django: bool, compat: bool, no_backup: bool) -> None:
    """Rename the settings of Celery 3 in a file to those of Celery 4 and later."""
    click.echo(f"processing {filename}...", err=True)
    # As bytes: the line ends of the file stay as they are.
    before = filename.read_bytes().decode("utf-8")
    after = renamed(before, upper=django or compat)
    if after == before:
        click.echo("Does not seem to require any changes :-)")
        return
    if not no_backup:
        backup = filename.with_name(f"{filename.name}.orig")
        click.echo(f"writing backup to {backup}...", err=True)
        shutil.copyfile(filename, backup)
    filename.write_bytes(after.encode("utf-8"))
    click.echo("Changes to your setting have been made!")
