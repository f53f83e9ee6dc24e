"""Hashes by their names, and errors of cryptography as ours. Used by: certificate, key, serialization."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from compat_celery.exceptions import ImproperlyConfigured, SecurityError

__all__ = ("get_digest_algorithm", "reraise_errors", "signature_padding")


def get_digest_algorithm(digest: str = "sha256") -> Any:
    """The hash of that name.

    :raises ImproperlyConfigured: there is none.
    """
    found = getattr(hashes, str(digest).upper(), None)
    if found is None:
        raise ImproperlyConfigured(f"security_digest: there is no hash {digest!r}; sha256 and sha512 are usual")
    return found()


def signature_padding(digest: Any) -> Any:
    """How signatures are padded: PSS, as RFC 8017 describes it."""
    return padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.MAX_LENGTH)


@contextmanager
def reraise_errors(
    msg: str = "{0!r}", errors: tuple[type[Exception], ...] = (InvalidSignature, UnsupportedAlgorithm)
) -> Iterator[None]:
    """These errors of the block as SecurityError, with ``msg`` about them."""
    try:
        yield
    except errors as error:
        raise SecurityError(msg.format(error)) from error
