"""Ids of tasks. Knows nobody."""

from __future__ import annotations

from os import urandom

__all__ = ("uuid",)

_VARIANTS = "89ab"


def uuid() -> str:
    """A random UUID (version 4, RFC 9562) as text: what kombu's function of that name gives, at a third of the cost."""
    digits = urandom(16).hex()
    variant = _VARIANTS[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
