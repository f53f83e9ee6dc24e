"""Programs: the worker behind ``celery worker``."""
