"""Results on Redis, in Celery's layout: genuine Celery clients and workers read and write the same. Over:
jumpstarter.results.redis."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from compat_celery._names import celery_named
from compat_celery.backends.native import NativeBackend
from compat_celery.utils.serialization import strtobool

__all__ = ("RedisBackend",)


#: Celery's default of ``redis_socket_timeout``, in seconds. Who has not set it does not want to wait that long for a dead server.
_CELERYS_TIMEOUT = 120.0


def _url_of(conf: Any) -> str:
    """The address in parts: the settings ``redis_host``, ``redis_port``, ``redis_db``, ``redis_username``, ``redis_password``."""
    user, password = quote(conf.get("redis_username") or "", safe=""), quote(conf.get("redis_password") or "", safe="")
    login = f"{user}:{password}@" if user or password else ""
    return f"redis://{login}{conf.get('redis_host') or 'localhost'}:{conf.get('redis_port') or 6379}/{conf.get('redis_db') or 0}"


@celery_named
class RedisBackend(NativeBackend):
    """``redis://``, ``rediss://`` and ``redis+socket://``."""

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        url = url if url and url != "redis://" else _url_of(app.conf)
        #: Whether :attr:`client` gives text instead of bytes, and so cannot give what is compressed.
        self._decodes = strtobool(dict(parse_qsl(urlsplit(url).query)).get("decode_responses", "false"))
        super().__init__(app, url=url, **kwargs)

    def prepare_compression(self, compression: str | None) -> str | None:
        """As Backend; none where clients decode what they get."""
        return None if self._decodes else super().prepare_compression(compression)

    def _store_url(self) -> str:
        parts = urlsplit(super()._store_url())
        # For the client alone: the store works with bytes.
        query = "&".join(option for option in parts.query.split("&") if not option.startswith("decode_responses="))
        return urlunsplit(parts._replace(query=query))

    def _store_options(self) -> dict[str, Any]:
        conf = self.app.conf
        transport = conf.get("result_backend_transport_options") or {}
        options: dict[str, Any] = {"ordered_joins": bool(transport.get("result_chord_ordered", True))}
        timeout = transport.get("socket_timeout") or conf.get("redis_socket_timeout")
        if timeout and timeout != _CELERYS_TIMEOUT:
            options["timeout"] = float(timeout)
        if conf.get("redis_backend_use_ssl"):
            options["ssl"] = conf.redis_backend_use_ssl
        return options

    @cached_property
    def client(self) -> Any:
        """A client of redis-py's, for users who want to do other things on the same server (locks, counters)."""
        import redis  # noqa: PLC0415 - only for those who ask

        url = (self.url or "").replace("redis+socket://", "unix://").replace("virtual_host=", "db=")
        ssl = self.app.conf.get("redis_backend_use_ssl")
        return redis.Redis.from_url(url, **(ssl if isinstance(ssl, Mapping) else {}))

    def add_to_chord(self, chord_id: str, result: Any) -> None:  # noqa: ARG002 - as Backend
        """Let a chord that is under way wait for one more part."""
        key = self.get_key_for_group(chord_id, ".t")
        with self.client.pipeline() as pipeline:
            pipeline.incr(key)
            if self.chord_expires:
                pipeline.expire(key, int(self.chord_expires))
            pipeline.execute()
