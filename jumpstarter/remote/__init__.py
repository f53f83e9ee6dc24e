"""Actors, events and documents between processes and machines, over any broker.

A ``PostOffice`` is the actor through which a process sends and receives: it gives actors an inbox queue, hands out a ``RemoteRef``
to actors of other processes, and subscribes groups to events. ``Post`` is the sending half without an event loop, for Celery
tasks and scripts. ``codec`` turns messages into JSON and back, ``post`` writes envelopes, ``receiver`` claims deliveries,
``deliver`` says what is done with each.

The neighbours: ``actors`` below, brokers beside; nobody else imports it.
"""

from jumpstarter.remote.office import PostOffice, RemoteRef
from jumpstarter.remote.post import Post, results_to

__all__ = ["Post", "PostOffice", "RemoteRef", "results_to"]
