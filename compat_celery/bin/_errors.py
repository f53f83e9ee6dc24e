"""The error of commands, which is click's as well. Found in: exceptions."""

from __future__ import annotations

from click import ClickException

__all__ = ("CeleryCommandException",)


class CeleryCommandException(ClickException):
    """A command failed; the process ends with ``exit_code``."""

    __module__ = "celery.exceptions"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message=message)
        self.exit_code = exit_code  # type: ignore[misc] # click declares the default on the class
