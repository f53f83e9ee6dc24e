"""The scheduler whose entries are in a file. Found in: beat."""

from __future__ import annotations

import contextlib
import logging
import shelve
from pathlib import Path
from typing import Any, ClassVar

from compat_celery import __version__
from compat_celery.beat import Scheduler

__all__ = ("PersistentScheduler",)

logger = logging.getLogger("celery.beat")


class PersistentScheduler(Scheduler):
    """A scheduler that remembers the last runs in a file.

    :param schedule_filename: as :mod:`shelve` takes it.
    """

    __module__ = "celery.beat"

    persistence: Any = shelve
    #: What the kinds of :mod:`dbm` append to the file's name.
    known_suffixes: ClassVar[tuple[str, ...]] = ("", ".db", ".dat", ".bak", ".dir")

    _store: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.schedule_filename = kwargs.get("schedule_filename")
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Open the file, and make its entries what the settings say."""
        self._store = self._opened()
        conf = self.app.conf
        # Times of another zone would be read as of this one.
        for name, now in (("tz", conf.timezone), ("utc_enabled", conf.enable_utc)):
            before = self._store.get(name)
            if before is not None and before != now:
                logger.warning("Reset: %s changed from %r to %r", name, before, now)
                self._store.clear()
        self._store.setdefault("entries", {})
        self.merge_inplace(conf.beat_schedule)
        self.install_default_entries(self.schedule)
        self._store.update({"__version__": __version__, "tz": conf.timezone, "utc_enabled": conf.enable_utc})
        self.sync()
        logger.debug("Current schedule:\n%s", "\n".join(map(repr, self.schedule.values())))

    def _opened(self) -> Any:
        store = None
        try:
            store = self._open_schedule()
            store.keys()
            store.get("entries")
            return store
        except Exception as error:
            # Half-written, or by another version: the last runs are lost, which is no reason never to run again.
            logger.exception("Removing corrupted schedule file %r: %r", self.schedule_filename, error)
            if store is not None:
                with contextlib.suppress(Exception):
                    store.close()
            self._remove_db()
            return self._open_schedule()

    def _open_schedule(self) -> Any:
        return self.persistence.open(self.schedule_filename, writeback=True)

    def _remove_db(self) -> None:
        for suffix in self.known_suffixes:
            Path(f"{self.schedule_filename}{suffix}").unlink(missing_ok=True)

    def get_schedule(self) -> Any:
        """The entries by their names."""
        return self._store["entries"]

    def set_schedule(self, schedule: Any) -> None:
        """Put others in their place."""
        self._store["entries"] = schedule

    def sync(self) -> None:
        """Write the file."""
        if self._store is not None:
            self._store.sync()

    def close(self) -> None:
        """Write and close the file, and let go of the connection."""
        try:
            super().close()
        finally:
            if self._store is not None:
                self._store.close()

    @property
    def info(self) -> str:
        """A line for people."""
        return f"    . db -> {self.schedule_filename}"
