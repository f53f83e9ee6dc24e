"""What ``importlib.metadata`` says about a distribution ``celery`` where the alias is installed. Used by: _alias."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

from compat_celery._names import CELERYS

__all__ = ("CeleryDistribution",)

#: What ``importlib.metadata.version("celery")`` answers.
VERSION = "5.7.0"


class CeleryDistribution(importlib.metadata.Distribution):
    """Celery's metadata, for packages that look whether it is installed and which one."""

    FILES = {  # noqa: RUF012 - a constant
        "METADATA": f"Metadata-Version: 2.1\nName: {CELERYS}\nVersion: {VERSION}\nSummary: Jumpstarter under Celery's name\n",
        "entry_points.txt": "[console_scripts]\ncelery = celery.__main__:main\n",
        "top_level.txt": f"{CELERYS}\n",
    }

    def read_text(self, filename: str) -> str | None:
        """A file of the metadata, or None."""
        return self.FILES.get(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Any:
        """Where a file of the distribution is."""
        return Path(__file__).parent.parent / path
