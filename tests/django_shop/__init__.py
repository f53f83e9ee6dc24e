"""A small Django project that uses Celery as its documentation says, and the tests that run it."""
