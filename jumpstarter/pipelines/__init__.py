"""Looped pipelines: poll → process → settle, within somebody else's limits."""
