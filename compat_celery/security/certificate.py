"""X.509 certificates, and where the trusted ones are. Used by: serialization."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import load_pem_x509_certificate
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from compat_celery.exceptions import SecurityError
from compat_celery.security.utils import reraise_errors, signature_padding

__all__ = ("CertStore", "Certificate", "FSCertStore")


class Certificate:
    """A certificate of an RSA key, in PEM.

    :raises SecurityError: it is none.
    """

    def __init__(self, cert: Any) -> None:
        with reraise_errors("Invalid certificate: {0!r}", (ValueError,)):
            self._cert = load_pem_x509_certificate(ensure_bytes(cert))
            if not isinstance(self._cert.public_key(), rsa.RSAPublicKey):
                raise ValueError("Non-RSA certificates are not supported.")

    def has_expired(self) -> bool:
        """Whether its time is over."""
        return datetime.now(UTC) >= self._cert.not_valid_after_utc

    def get_pubkey(self) -> Any:
        """The key that it is about."""
        return self._cert.public_key()

    def get_serial_number(self) -> int:
        """Its number."""
        return self._cert.serial_number

    def get_issuer(self) -> str:
        """Who made it."""
        return " ".join(str(attribute.value) for attribute in self._cert.issuer)

    def get_id(self) -> str:
        """Who made it and its number, which nobody else's has."""
        return f"{self.get_issuer()} {self.get_serial_number()}"

    def verify(self, data: Any, signature: bytes, digest: Any) -> None:
        """:raises SecurityError: the owner of the key has not signed this, or the certificate's time is over."""
        if self.has_expired():
            raise SecurityError(f"Expired certificate: {self.get_id()!r}")
        with reraise_errors("Bad signature: {0!r}"):
            self.get_pubkey().verify(signature, ensure_bytes(data), signature_padding(digest), digest)


class CertStore:
    """Trusted certificates by their ids."""

    def __init__(self) -> None:
        self._certs: dict[str, Certificate] = {}

    def itercerts(self) -> Iterator[Certificate]:
        """All of them."""
        return iter(self._certs.values())

    def __getitem__(self, id: Any) -> Certificate:  # noqa: A002 - Celery's name
        try:
            return self._certs[str(bytes_to_str(id))]
        except KeyError:
            raise SecurityError(f"Unknown certificate: {id!r}") from None

    def add_cert(self, cert: Certificate) -> None:
        """:raises SecurityError: it is there already."""
        if cert.get_id() in self._certs:
            raise SecurityError(f"Duplicate certificate: {cert.get_id()!r}")
        self._certs[cert.get_id()] = cert


class FSCertStore(CertStore):
    """The certificates in a folder, or of a pattern.

    :raises SecurityError: the time of one of them is over.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        for name in glob.glob(f"{path}/*" if Path(path).is_dir() else path):  # noqa: PTH207 - a pattern with a path in it
            certificate = Certificate(Path(name).read_text())
            if certificate.has_expired():
                raise SecurityError(f"Expired certificate: {certificate.get_id()!r}")
            self.add_cert(certificate)
