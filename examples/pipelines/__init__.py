"""Four pipelines of real projects. ``STORE`` is a SQLite file, or what ``$PIPELINES_STORE`` says: ``redis://…``."""

import os

#: Where rows, budgets and progress are kept.
STORE = os.environ.get("PIPELINES_STORE", "sqlite:///pipelines.db")
#: Where the fake API listens: ``python -m examples.pipelines.server --requests 10``.
API = os.environ.get("PIPELINES_API", "http://127.0.0.1:8009")
