"""What lies here and is run by ``python -m tests.conformance`` in environments of its own."""

collect_ignore = ["library_uses", "plugin"]
