"""Celery's own tests, run against ours and against genuine Celery. ``make conformance``; see :mod:`tests.conformance.__main__`.

Nothing of Celery's tests is kept in this repository: pip downloads the source distribution into ``.cache``, and only its folder
``t`` is unpacked. What is kept is the *yardstick*: the ids that genuine Celery passes, one file per suite and broker.
"""
