"""The Redis broker: Kombu's layout of queues, claims with leases in Lua. Comes from: Redis. Goes to: worker.

``layout`` knows the bytes and the names of keys (pure), ``lua/`` does what must happen at once (each script opens with every key it
touches), ``waiter`` waits without polling, ``broker`` puts them together. Neighbour: :mod:`jumpstarter._redis`, the connections.
"""

from jumpstarter.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
