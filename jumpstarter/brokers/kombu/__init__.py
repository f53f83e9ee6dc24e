"""The broker that Kombu connects to: AMQP servers, RabbitMQ first. Kombu's other transports are still to come.

From the outside in: ``broker`` (the port), ``session`` (what one incarnation holds: claims and settlements),
``publisher`` (confirmed publishing), ``quarantine``; ``topology`` (what is declared), ``message`` (our headers, copies); ``link``
(a connection), ``wire`` (bytes). The only room in jumpstarter that imports Kombu.
"""

from __future__ import annotations

from jumpstarter.brokers.kombu.broker import AmqpBroker

__all__ = ["AmqpBroker"]
