"""Results in memcached: ``cache+memcached://host:port;host:port``. Over: pymemcache, which has to be installed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from kombu.utils.encoding import bytes_to_str

from compat_celery._names import celery_named
from compat_celery.backends.base import KeyValueStoreBackend
from compat_celery.exceptions import ImproperlyConfigured

__all__ = ("MemcachedBackend",)

#: What Celery calls it in URLs.
NAMES = frozenset({"memcache", "memcached", "pylibmc", "pymemcache"})

#: So that a failed write is an error, and a silent server no endless wait; ``cache_backend_options`` go over them.
_OPTIONS = {"default_noreply": False, "connect_timeout": 5.0, "timeout": 5.0}

#: Options of pylibmc that people have left in their settings.
_WITHOUT_MEANING = frozenset({"behaviors", "binary"})


@celery_named
class MemcachedBackend(KeyValueStoreBackend):
    """Results in one memcached or several.

    :raises ImproperlyConfigured: pymemcache is not installed, or no server is named.
    """

    key_t = staticmethod(bytes_to_str)
    supports_autoexpire = True
    supports_native_join = True
    implements_incr = True

    def __init__(self, app: Any, expires: Any = None, options: dict[str, Any] | None = None, url: str = "", **kwargs: Any) -> None:
        super().__init__(app, url=url, **kwargs)
        self.options = {**_OPTIONS, **(app.conf.cache_backend_options or {}), **(options or {})}
        self.servers = [server for server in url.partition("://")[2].rstrip("/").split(";") if server]
        if not self.servers:
            raise ImproperlyConfigured("result_backend names no memcached server: write cache+memcached://host:11211")
        self.expires = self.prepare_expires(expires, type=int)
        self._make_client()

    def _make_client(self) -> Any:
        try:
            from pymemcache.client.base import Client  # type: ignore[import-not-found] # noqa: PLC0415 - an extra
            from pymemcache.client.hash import HashClient  # type: ignore[import-not-found] # noqa: PLC0415 - as above
        except ImportError as error:
            raise ImproperlyConfigured("The memcached result backend needs pymemcache: pip install pymemcache") from error
        options = {name: value for name, value in self.options.items() if name not in _WITHOUT_MEANING}
        return Client(self.servers[0], **options) if len(self.servers) == 1 else HashClient(self.servers, **options)

    @cached_property
    def client(self) -> Any:
        """The client of pymemcache."""
        return self._make_client()

    def get(self, key: Any) -> Any:
        return self.client.get(key)

    def mget(self, keys: Any) -> Any:
        return self.client.get_multi(keys)

    def set(self, key: Any, value: Any) -> Any:
        return self.client.set(key, value, self.expires or 0)

    def delete(self, key: Any) -> Any:
        return self.client.delete(key)

    def incr(self, key: Any) -> int:
        return int(self.client.incr(key, 1))

    def expire(self, key: Any, value: Any) -> Any:
        return self.client.touch(key, int(value or 0))

    def _apply_chord_incr(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        # memcached counts only what is there.
        self.client.set(self.get_key_for_chord(header_result_args[0]), "0", int(self.chord_expires or 0))
        super()._apply_chord_incr(header_result_args, body, **kwargs)

    def as_uri(self, include_password: bool = False) -> str:  # noqa: ARG002 - as Backend
        return f"memcached://{';'.join(self.servers)}/"
