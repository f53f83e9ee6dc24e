"""Sphinx's settings."""

from __future__ import annotations

from importlib.metadata import version as version_of

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "Jumpstarter"
author = "The Jumpstarter authors"
copyright = "2026, The Jumpstarter authors"  # noqa: A001 - Sphinx wants this name
version = release = version_of("celery-jumpstarter")

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "Jumpstarter"


def setup(app: Sphinx) -> None:
    """Let diagrams be written as ``mermaid`` fences: code hosts draw them, here they are shown as text."""
    app.add_lexer("mermaid", TextLexer)
