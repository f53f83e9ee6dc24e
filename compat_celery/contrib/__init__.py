"""Additions for frameworks, tests and debugging."""
