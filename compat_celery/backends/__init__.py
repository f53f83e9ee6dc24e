"""Where results are stored.

=========== ====================================================================================================
documents   results as bytes, and the parts of a chord; pure, used by workers
chords      what is done when a chord's header is complete
base        Celery's backend classes and hooks, which backends of third parties are made from
native      the backend over Jumpstarter's own results stores, which the next three give their names to
redis       ``redis://``, ``rediss://``, ``redis+socket://``
sqlite      ``sqlite:///path``
memory      ``memory://``, for one process
rpc         ``rpc://``: messages to who called; ``replies`` is the mailbox of a process
cache       ``cache+memory://``, the same by Celery's name, and
memcached   ``cache+memcached://host:port``
database    ``db+postgresql://…``, by SQLAlchemy, in Celery's tables
filesystem  ``file:///folder``
=========== ====================================================================================================

Which class belongs to a URL is decided in ``compat_celery.app.backends``.
"""
