"""What the embedded brokers and results stores share: one file, or one process, that holds both.

``brokers`` and ``results`` do not know each other, and yet an ack and its result must be written together. So what lies below both
lives here:

- ``packing``: an envelope as bytes and back;
- ``space``: the shared memory of ``memory://`` brokers and results of one process;
- ``database``: the SQLite file: connections per thread, forks, transactions, the schema, and errors that say what to do;
- ``doorbell``: how a process that waits hears at once that another one has committed something.

Above: :mod:`jumpstarter.brokers`, :mod:`jumpstarter.results`. Below: :mod:`jumpstarter.jobs`.
"""
