"""Private keys. Used by: serialization."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kombu.utils.encoding import ensure_bytes

from compat_celery.security.utils import reraise_errors, signature_padding

__all__ = ("PrivateKey",)


class PrivateKey:
    """An RSA key in PEM.

    :raises SecurityError: it is none, or the password is wrong.
    """

    def __init__(self, key: Any, password: Any = None) -> None:
        with reraise_errors("Invalid private key: {0!r}", (ValueError, TypeError)):
            found = serialization.load_pem_private_key(ensure_bytes(key), password=ensure_bytes(password))
            if not isinstance(found, rsa.RSAPrivateKey):
                raise ValueError("Non-RSA keys are not supported.")
        self._key = found

    def sign(self, data: Any, digest: Any) -> bytes:
        """The signature of the data."""
        with reraise_errors("Unable to sign data: {0!r}"):
            return self._key.sign(ensure_bytes(data), signature_padding(digest), digest)
