"""Modules that are imported when a name of theirs is first needed. Knows the import system only.

Importing anything of kombu takes 70 ms of processor time (py-amqp, billiard, TLS, importlib.metadata), which is more than all that
a program needs of ours to publish its first message to Redis. So what clients import names kombu through these; see
benchmarks/startup.py and test_a_client_needs_no_kombu.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = (
    "Later",
    "kombu",
    "kombu_common",
    "kombu_compression",
    "kombu_encoding",
    "kombu_exceptions",
    "kombu_json",
    "kombu_serialization",
)


class Later:
    """Stands for a module: its names are looked up when they are first used, and kept."""

    def __init__(self, name: str) -> None:
        self.__dict__["_name"] = name

    def __getattr__(self, name: str) -> Any:
        value = getattr(import_module(self._name), name)
        self.__dict__[name] = value
        return value


kombu: Any = Later("kombu")
kombu_common: Any = Later("kombu.common")
kombu_compression: Any = Later("kombu.compression")
kombu_encoding: Any = Later("kombu.utils.encoding")
kombu_exceptions: Any = Later("kombu.exceptions")
kombu_json: Any = Later("kombu.utils.json")
kombu_serialization: Any = Later("kombu.serialization")
