"""The ids that genuine Celery passes, one file per suite and broker: a plain list, one id per line. And those we leave out, with
reasons. Pure but for the files."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "yardstick"

#: Of a suite's ids, in per cent, how many pass at least, those with a reason not to counted as well.
LEAST = {"unit": 85}


def path_of(suite: str, broker: str) -> Path:
    """The file of a suite on a broker."""
    return FOLDER / f"{suite}-{broker}.txt"


def read(suite: str, broker: str) -> list[str]:
    """The frozen ids in the order of the file; empty when nobody froze them yet."""
    path = path_of(suite, broker)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def short() -> list[str]:
    """The ids that every `make test` runs: quick ones of the integration suite on Redis."""
    return (FOLDER / "short.txt").read_text(encoding="utf-8").splitlines()


def freeze(suite: str, broker: str, files: Collection[str], passed: Iterable[str]) -> None:
    """Write them down, sorted, in the place of what was known about these files."""
    FOLDER.mkdir(exist_ok=True)
    others = [each for each in read(suite, broker) if each.partition("::")[0] not in files]
    path_of(suite, broker).write_text("".join(f"{each}\n" for each in sorted({*others, *passed})), encoding="utf-8")


def exceptions(suite: str) -> dict[str, str]:
    """Ids that reach into the genuine implementation, with the reason: ``id`` and, on the indented lines below, why."""
    path = FOLDER / f"{suite}-exceptions.txt"
    found: dict[str, str] = {}
    last = ""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith(" "):
            found[last] = f"{found[last]} {line.strip()}".strip()
        else:
            last = line
            found[last] = ""
    return found
