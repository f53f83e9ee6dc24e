"""A small shop, written as a Celery user writes it."""
