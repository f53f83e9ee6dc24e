"""Chaos: real workers and real brokers, processes killed at random and at named points, and a ledger outside the broker that tells
what became of every job.

Read in this order: ``app/note`` (the ledger's writing end), ``checker`` (what the ledger proves; pure), ``grounds`` (the servers of
a run) and ``fleet`` (its worker and publisher processes), then the runs: ``storm`` (random kills), ``crash`` with ``points`` (named
crash points), ``stopped`` (SIGSTOP), ``outages`` with ``proxy`` (broker faults). ``faults`` plants errors that the runs must find.
``__main__`` is ``make chaos``.
"""
