"""Results as files in a folder: ``file:///path``. For a few machines that share one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from kombu.utils.encoding import bytes_to_str, ensure_bytes

from compat_celery._names import celery_named
from compat_celery.backends.base import KeyValueStoreBackend
from compat_celery.exceptions import ImproperlyConfigured

__all__ = ("FilesystemBackend",)


@celery_named
class FilesystemBackend(KeyValueStoreBackend):
    """One file for each result, named by its key.

    :param url: ``file:///folder``; the folder must be there.
    :raises ImproperlyConfigured: the folder is missing, or cannot be written.
    """

    supports_result_compression = True

    def __init__(self, app: Any = None, url: str | None = None, *args: Any, **kwargs: Any) -> None:
        if isinstance(app, str):  # Celery's first argument here is the URL
            app, url = kwargs.pop("app", None), app
        super().__init__(app, *args, url=url, **kwargs)
        self.path = self._folder(url)
        self._check()

    @staticmethod
    def _folder(url: str | None) -> Path:
        if not url:
            raise ImproperlyConfigured("The file-system result backend needs a folder: set result_backend to file:///path/to/it")
        for prefix in ("file://localhost/", "file://"):
            if url.startswith(prefix):
                return Path("/" * prefix.endswith("t/") + url[len(prefix) :])
        raise ImproperlyConfigured(f"The file-system result backend is named file:///path/to/folder, not {url!r}")

    def _check(self) -> None:
        key = f".fs-backend-{uuid4()}"
        try:
            self.set(key, b"test")
            self.delete(key)
        except OSError as error:
            raise ImproperlyConfigured(
                f"The folder of the file-system result backend cannot be used ({self.path}: {error.strerror}): make it, and let "
                "the workers and clients write to it"
            ) from error

    def _file(self, key: Any) -> Path:
        return self.path / str(bytes_to_str(key))

    def get(self, key: Any) -> bytes | None:
        try:
            return self._file(key).read_bytes()
        except FileNotFoundError:
            return None

    def mget(self, keys: Any) -> Iterator[bytes | None]:
        return map(self.get, keys)

    def set(self, key: Any, value: Any) -> None:
        # Beside and then in place: a reader must never see half a file.
        beside = self.path / f".{uuid4().hex}"
        beside.write_bytes(ensure_bytes(value))
        beside.replace(self._file(key))

    def delete(self, key: Any) -> None:
        self._file(key).unlink()

    def _forget(self, task_id: str) -> None:
        with suppress(FileNotFoundError):
            super()._forget(task_id)

    def cleanup(self) -> None:
        """Drop what has expired. ``celery.backend_cleanup`` does it every night."""
        if not self.expires:
            return
        before = time.time() - self.expires
        prefixes = tuple(map(bytes_to_str, (self.task_keyprefix, self.group_keyprefix, self.chord_keyprefix)))
        for entry in os.scandir(self.path):
            if entry.name.startswith(prefixes):
                with suppress(FileNotFoundError):  # somebody else cleans up, too
                    if entry.stat().st_mtime < before:
                        Path(entry.path).unlink()

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> tuple[Any, ...]:
        return super().__reduce__(args, {**(kwargs or {}), "url": self.url})
