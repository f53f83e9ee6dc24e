"""The documentation is true: its Python examples run, and every page can be found."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)

_BLOCK = re.compile(r"(?P<skip><!-- not run: [^>]+ -->\n\n?)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_TOCTREE = re.compile(r"^```\{toctree\}\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)

# A page's examples build on each other. Those that a reader is told to save under a name can be imported by the later ones.
_RUNNER = """
import sys, types
page, *blocks = sys.argv[1:]
sys.modules["__page__"] = module = types.ModuleType("__page__")
for block in blocks:
    line, name, code = block.split("|", 2)
    into = module
    if name:
        into = sys.modules[name] = types.ModuleType(name)
    exec(compile("\\n" * int(line) + code, page, "exec"), into.__dict__)
"""


@dataclass(frozen=True)
class Block:
    """A Python example: the line before its first, the module it is to be saved as (or none), and its code."""

    line: int
    name: str
    code: str

    @property
    def argument(self) -> str:
        return f"{self.line}|{self.name}|{self.code}"


def blocks_of(page: Path) -> list[Block]:
    """The examples of a page, but for those under a comment ``<!-- not run: the reason -->``."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        if match["skip"]:
            continue
        saved_as = re.findall(r"[Ss]ave (?:them|this|it) as `(\w+)\.py`", text[: match.start()].rpartition("```")[2])
        named = re.match(r"# (\w+)\.py\n", match["code"])
        name = saved_as[-1] if saved_as else named[1] if named else ""
        found.append(Block(text[: match.start("code")].count("\n"), name, match["code"]))
    return found


WITH_EXAMPLES = [page for page in [ROOT / "README.md", *PAGES] if blocks_of(page)]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    (tmp_path / "run_page.py").write_text(_RUNNER, encoding="utf-8")
    arguments = [str(page), *(block.argument for block in blocks_of(page))]
    result = subprocess.run(
        [sys.executable, "-m", "compat_celery", "run_page.py", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def entries_of(page: Path) -> set[Path]:
    """The pages that the toctrees of a page name."""
    found: set[Path] = set()
    for match in _TOCTREE.finditer(page.read_text(encoding="utf-8")):
        lines = [line.strip() for line in match["body"].splitlines()]
        for entry in (line for line in lines if line and not line.startswith(":")):
            found |= set(page.parent.glob(f"{entry}.md")) - {page}
    return found


def test_every_page_is_in_a_toctree() -> None:
    reachable, fresh = {DOCS / "index.md"}, {DOCS / "index.md"}
    while fresh:
        fresh = set().union(*(entries_of(page) for page in fresh)) - reachable
        reachable |= fresh
    assert set(PAGES) == reachable


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="`pip install --group docs .` brings what builds the documentation")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            "-d",
            tmp_path / "doctrees",
            DOCS,
            tmp_path / "html",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stderr


_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_of_the_pages_outside_docs_lead_somewhere(page: Path) -> None:
    targets = _LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_target_of_the_makefile_that_the_readme_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"make ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named <= targets
