"""The serializer ``auth``: what another serializer writes, with a signature. Used by: security.

On the wire: base64 of five fields, separated by two bytes that none of the first four contains: signer and signature (both
base64), content type and encoding of the body, the body.
"""

from __future__ import annotations

from typing import Any

from kombu.serialization import dumps, loads, registry
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from compat_celery.app.defaults import DEFAULT_SECURITY_DIGEST
from compat_celery.security.certificate import Certificate, FSCertStore
from compat_celery.security.key import PrivateKey
from compat_celery.security.utils import get_digest_algorithm, reraise_errors
from compat_celery.utils.serialization import b64decode, b64encode

__all__ = ("SecureSerializer", "register_auth")

DEFAULT_SEPARATOR = b"\x00\x01"


class SecureSerializer:
    """Signs what it writes, and reads only what somebody trusted has signed."""

    def __init__(
        self,
        key: Any = None,
        cert: Any = None,
        cert_store: Any = None,
        digest: str = DEFAULT_SECURITY_DIGEST,
        serializer: str = "json",
    ) -> None:
        self._key = key
        self._cert = cert
        self._cert_store = cert_store
        self._digest = get_digest_algorithm(digest)
        self._serializer = serializer

    def serialize(self, data: Any) -> Any:
        """The data, signed.

        :raises SecurityError: it cannot be serialised or signed.
        """
        assert self._key is not None
        assert self._cert is not None
        with reraise_errors("Unable to serialize: {0!r}", (Exception,)):
            # The serialised bytes are signed: receivers need not decode anything before they know who wrote it.
            content_type, content_encoding, body = dumps(data, serializer=self._serializer)
            body = ensure_bytes(body)
            signature = self._key.sign(body, self._digest)
            return self._pack(body, content_type, content_encoding, signature=signature, signer=self._cert.get_id())

    def deserialize(self, data: Any) -> Any:
        """What was signed.

        :raises SecurityError: nobody trusted has signed this.
        """
        assert self._cert_store is not None
        with reraise_errors("Unable to deserialize: {0!r}", (Exception,)):
            payload = self._unpack(data)
            self._cert_store[payload["signer"]].verify(payload["body"], payload["signature"], self._digest)
        return loads(payload["body"], payload["content_type"], payload["content_encoding"], force=True)

    def _pack(
        self, body: bytes, content_type: str, content_encoding: str, signer: Any, signature: Any, sep: bytes = DEFAULT_SEPARATOR
    ) -> Any:
        fields = (b64encode(signer), b64encode(signature), content_type, content_encoding, body)
        return b64encode(sep.join(ensure_bytes(field) for field in fields))

    def _unpack(self, payload: Any, sep: bytes = DEFAULT_SEPARATOR) -> dict[str, Any]:
        # The body may contain the separator.
        signer, signature, content_type, content_encoding, body = b64decode(ensure_bytes(payload)).split(sep, maxsplit=4)
        return {
            "signer": b64decode(signer),
            "signature": b64decode(signature),
            "content_type": bytes_to_str(content_type),
            "content_encoding": bytes_to_str(content_encoding),
            "body": body,
        }


def register_auth(
    key: Any = None,
    key_password: Any = None,
    cert: Any = None,
    store: str | None = None,
    digest: str = DEFAULT_SECURITY_DIGEST,
    serializer: str = "json",
) -> None:
    """Make ``auth`` a serializer of kombu's. ``key`` and ``cert`` are PEM, ``store`` is a folder."""
    auth = SecureSerializer(
        key and PrivateKey(key, password=key_password), cert and Certificate(cert), store and FSCertStore(store), digest, serializer
    )
    registry.register("auth", auth.serialize, auth.deserialize, content_type="application/data", content_encoding="utf-8")
