"""Where the embedded broker's file lies when nobody says anything else."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder: ``$JUMPSTARTER_HOME``, or ``.jumpstarter`` in the working directory. It need not exist."""
    return Path(os.environ.get("JUMPSTARTER_HOME") or ".jumpstarter").expanduser().resolve()


def file_in(folder: Path) -> Path:
    """The file in that folder."""
    return folder / "jumpstarter.db"
