"""Loaders find the configuration and import task modules. ``app`` is the usual one; ``default`` serves the app that nobody made."""

from __future__ import annotations

from typing import Any

from compat_celery.utils.imports import import_from_cwd, symbol_by_name

__all__ = ("get_loader_cls",)

LOADER_ALIASES = {
    "app": "celery.loaders.app:AppLoader",
    "default": "celery.loaders.default:Loader",
}


def get_loader_cls(loader: Any) -> Any:
    """The loader class of that name (an alias or ``module:Class``)."""
    return symbol_by_name(loader, LOADER_ALIASES, imp=import_from_cwd)
