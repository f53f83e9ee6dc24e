"""The brokers that Kombu connects to: AMQP servers, RabbitMQ first, and every other transport that Kombu has.

AMQP, from the outside in: ``broker`` (the port), ``session`` (what one incarnation holds: claims and settlements),
``publisher`` (confirmed publishing), ``quarantine``; ``topology`` (what is declared), ``message`` (our headers, copies); ``link``
(a connection), ``wire`` (bytes).

The others: ``plain`` (the port), ``hold`` (what one incarnation holds), ``parcels`` (messages).

The only room in jumpstarter that imports Kombu.
"""

from __future__ import annotations

from jumpstarter.brokers.kombu.broker import AmqpBroker
from jumpstarter.brokers.kombu.plain import KombuBroker, schemes

__all__ = ["AmqpBroker", "KombuBroker", "schemes"]
