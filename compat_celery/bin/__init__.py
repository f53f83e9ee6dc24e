"""The command line, as Celery has it."""
