"""Kombu's ``filesystem`` transport with files that appear whole. Used by: plain.

Kombu's own opens a message's file under its final name and then writes it. A reader that comes in between (one of some thousand
does) gets an empty message, and takes it out of the queue.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import filesystem


class _Channel(filesystem.Channel):  # type: ignore[misc]  # Kombu has no types
    def _put(self, queue: str, payload: Any, **_options: Any) -> None:
        folder = Path(self.data_folder_out)
        stem = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}"  # readers take them in the order of their names
        unseen = folder / f"{stem}.part"
        try:
            unseen.write_text(json.dumps(payload), "utf-8")
            unseen.replace(folder / f"{stem}.msg")
        except OSError as error:
            unseen.unlink(missing_ok=True)
            raise ChannelError(f"cannot write a message into {str(folder)!r}: {error}") from error


class Transport(filesystem.Transport):  # type: ignore[misc]  # as above
    """What ``filesystem://`` opens here. Genuine publishers and readers share its folders."""

    Channel = _Channel
