"""The shop's tasks. Nothing here knows Jumpstarter: these are lines of a Celery project.

Start a worker for them with ``jumpstarter celery -A examples.shop.tasks worker``, or with Celery's own command.
"""

import time

from celery import Celery
from celery.utils.log import get_task_logger

logger = get_task_logger(__name__)

app = Celery("shop")
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    timezone="UTC",
    result_expires=3600,
)


class TerminalBusy(Exception):
    """The card terminal does not answer just now."""


class NoAddress(Exception):
    """The customer has given no address to send the invoice to."""


@app.task
def check_order(order):
    """Work out what the order costs."""
    time.sleep(0.05)
    return order | {"amount": round(order["price"] * order["pieces"], 2)}


@app.task(bind=True, autoretry_for=(TerminalBusy,), retry_jitter=False, default_retry_delay=1, max_retries=3)
def charge_card(self, order):
    """Charge the customer's card; the terminal is busy when Noor comes first."""
    time.sleep(0.1)
    if order["customer"] == "Noor" and self.request.retries == 0:
        raise TerminalBusy("the card terminal is busy")
    return order | {"attempts": self.request.retries + 1}


@app.task
def reserve_stock(order):
    """Find the shelf."""
    time.sleep(0.05)
    return order | {"shelf": f"{order['article'][0].upper()}{order['number']:02d}"}


@app.task
def write_invoice(order):
    """Write the invoice; Finn has given no address."""
    time.sleep(0.05)
    if order["customer"] == "Finn":
        raise NoAddress(f"no address is known for {order['customer']}")
    return order | {"invoice": f"2026-{order['number']:04d}"}


@app.task
def tell_support(task_id):
    """An errback: Celery calls it with the id of the task that failed."""
    failure = app.AsyncResult(task_id).result
    logger.warning("an invoice could not be written: %s", failure)
    return f"support was told: {failure}"


@app.task
def print_label(number):
    """Print the label of one parcel."""
    time.sleep(0.05)
    return f"parcel {number:02d}"


@app.task
def read_sale(price, pieces):
    """One sale of the day."""
    time.sleep(0.05)
    return round(price * pieces, 2)


@app.task
def add_up(sales):
    """The chord's body: what was sold today."""
    return round(sum(sales), 2)
