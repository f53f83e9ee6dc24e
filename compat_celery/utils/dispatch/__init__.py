"""Signals: who wants to know is told. See :mod:`compat_celery.signals` for those that there are."""

from __future__ import annotations

from compat_celery.utils.dispatch.signal import Signal

__all__ = ("Signal",)
