"""Each of Celery's settings is read somewhere, or the documentation says that it is not, and why."""

from __future__ import annotations

import re
from pathlib import Path

from compat_celery.app.defaults import DEFAULTS

ROOT = Path(__file__).parents[2]


def without_effect() -> list[str]:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    table = page.partition("## What is accepted without effect")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert all(row.rstrip(" |").split("|")[-1].strip() for row in rows), "a row gives no reason"
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def is_read(name: str, code: str) -> bool:
    section, _, rest = name.partition("_")
    by_parts = rf'find_value_for_key\("{rest}", "{section}"\)'
    return bool(re.search(rf'(conf\.|["\']){name}\b', code) or re.search(by_parts, code))


def test_what_no_code_reads_is_documented_and_nothing_else_is() -> None:
    files = [file for file in (ROOT / "compat_celery").rglob("*.py") if file.name != "defaults.py"]
    code = "\n".join(file.read_text() for file in files)
    unread = {name for name in DEFAULTS if not is_read(name, code)}
    listed = without_effect()
    assert sorted(unread) == sorted(listed)
    assert len(listed) == len(set(listed))
