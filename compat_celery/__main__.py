"""``python -m compat_celery prog.py …``: run any program with the alias installed. ``python -m celery``: Celery's command line.

The same file serves both: it is ``celery.__main__`` when the alias is installed.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from compat_celery._alias import install_as_celery
from compat_celery._names import CELERYS

__all__ = ("main", "run_program")

USAGE = """usage: python -m compat_celery PROGRAM [ARGUMENT …]
       python -m compat_celery -m MODULE [ARGUMENT …]

Runs the program with `import celery` answered by Jumpstarter."""


def main() -> None:
    """Celery's command line."""
    from compat_celery.bin.celery import main as command_line  # noqa: PLC0415 - the other use of this file does without

    sys.exit(command_line())


def run_program(arguments: list[str]) -> None:
    """Install the alias, then run a program as Python itself would run it."""
    if not arguments or arguments[0] in {"-h", "--help"} or arguments == ["-m"]:
        print(USAGE)
        sys.exit(0 if arguments and arguments[0] in {"-h", "--help"} else 2)
    install_as_celery()
    # Programs that start themselves anew (Django's reloader, multiprocessing's spawn) find the alias by this and the .pth file.
    os.environ.setdefault("COMPAT_CELERY", "1")
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    if __spec__ is not None and __spec__.name.startswith(CELERYS + "."):
        main()
    else:
        run_program(sys.argv[1:])
