"""Celery's worker package: the app as Jumpstarter's application, and the names that task modules import from here."""
