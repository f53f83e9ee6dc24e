"""The loader of the app that nobody made: a module ``celeryconfig`` is its configuration."""

from __future__ import annotations

import os
import warnings
from typing import Any

from compat_celery._names import celery_named
from compat_celery.exceptions import NotConfigured
from compat_celery.loaders.base import BaseLoader
from compat_celery.utils.collections import DictAttribute
from compat_celery.utils.serialization import strtobool

__all__ = ("DEFAULT_CONFIG_MODULE", "Loader")

DEFAULT_CONFIG_MODULE = "celeryconfig"


@celery_named
class Loader(BaseLoader):
    """Reads ``celeryconfig``, or the module that ``CELERY_CONFIG_MODULE`` names."""

    def setup_settings(self, settingsdict: Any) -> Any:
        """A configuration from a mapping."""
        return DictAttribute(settingsdict)

    def read_configuration(self, fail_silently: bool = True) -> Any:  # type: ignore[override] # Celery's signature
        """The configuration; empty when there is none and ``fail_silently``."""
        name = os.environ.get("CELERY_CONFIG_MODULE", DEFAULT_CONFIG_MODULE)
        try:
            found = self._import_config_module(name)
        except ImportError:
            if not fail_silently:
                raise
            # Only for those who want to know: a program that configures its app itself has no such module.
            if strtobool(os.environ.get("C_WNOCONF", "0")):
                warnings.warn(
                    NotConfigured(f"No {name} module found! Please make sure it exists and is available to Python."), stacklevel=2
                )
            return self.setup_settings({})
        self.configured = True
        return self.setup_settings(found)
