"""A busy morning: place the shop's orders, watch them being worked on, and say what came of them.

``python -m compat_celery -m examples.shop.place_orders``, while a worker runs. Exits with 1 when something came out otherwise
than it should.
"""

import sys
import time

from celery import chain, chord, group, uuid

from examples.shop.tasks import (
    add_up,
    app,
    charge_card,
    check_order,
    print_label,
    read_sale,
    reserve_stock,
    tell_support,
    write_invoice,
)

CUSTOMERS = ["Ada", "Bela", "Chidi", "Noor", "Emil", "Finn", "Gita", "Hugo", "Ines", "Juro"]
ARTICLES = {"kettle": 39.90, "lamp": 24.50, "mug": 8.25, "teapot": 31.00}

PATIENCE = 60.0  # seconds


def make_orders():
    """One order of each customer."""
    articles = list(ARTICLES.items())
    for number, customer in enumerate(CUSTOMERS, start=1):
        article, price = articles[number % len(articles)]
        yield {"number": number, "customer": customer, "article": article, "price": price, "pieces": 1 + number % 3}


class Morning:
    """Everything that was sent, by the name under which the summary speaks of it."""

    def __init__(self):
        self.orders = {}
        self.errbacks = {}
        self.watched = []

    def place(self, order):
        """Four steps in a chain; somebody is told when the last one fails."""
        errback = tell_support.s().set(task_id=uuid())
        invoice = write_invoice.s().on_error(errback)
        result = chain(check_order.s(order), charge_card.s(), reserve_stock.s(), invoice).apply_async()
        self.orders[order["number"]] = result
        self.errbacks[result.id] = app.AsyncResult(errback.options["task_id"])
        while result is not None:
            self.watched.append(result)
            result = result.parent

    def print_labels(self, orders):
        """A group."""
        self.labels = group(print_label.s(order["number"]) for order in orders[:7]).apply_async()
        self.watched += self.labels.results

    def total(self, orders):
        """A chord: when all sales are read, add them up."""
        self.sales = chord([read_sale.s(order["price"], order["pieces"]) for order in orders], add_up.s())()
        self.watched += [self.sales, *self.sales.parent.results]


def show(done, total, began):
    """A bar on a terminal, a line now and then elsewhere."""
    seconds = time.monotonic() - began
    if sys.stdout.isatty():
        filled = 30 * done // total
        print(f"\r\x1b[Kshop   │ {'█' * filled}{'░' * (30 - filled)} {done}/{total} tasks, {seconds:.1f} s", end="", flush=True)
    else:
        print(f"shop   │ {done}/{total} tasks done after {seconds:.1f} s", flush=True)


def watch(results, began):
    """Wait until all are done; False when they are not within PATIENCE."""
    pending = list(results)
    total, shown = len(pending), -1
    while pending and time.monotonic() - began < PATIENCE:
        pending = [result for result in pending if not result.ready()]
        done = total - len(pending)
        step = 1 if sys.stdout.isatty() else 10
        if done >= shown + step or (done == total and done != shown):
            show(done, total, began)
            shown = done
        time.sleep(0.05)
    if sys.stdout.isatty():
        print()
    return not pending


def summarise(morning, seconds):
    """Print what came of it all; True when it is what a shop expects."""
    succeeded = [result for result in morning.watched if result.successful()]
    failed = [result for result in morning.watched if result.failed()]
    orders = {number: result.result for number, result in morning.orders.items() if result.successful()}
    retried = {number: order["attempts"] for number, order in orders.items() if order["attempts"] > 1}
    told = [morning.errbacks[result.id].get(timeout=10) for result in failed if result.id in morning.errbacks]
    labels = [result.get(timeout=10) for result in morning.labels.results]
    sales = morning.sales.get(timeout=10)
    expected = round(sum(order["price"] * order["pieces"] for order in make_orders()), 2)

    print()
    print(f"  tasks succeeded   {len(succeeded)}")
    for number, attempts in retried.items():
        print(f"  retried           1 (order {number}: the card terminal was busy; charged at attempt {attempts})")
    for result, text in zip(failed, told, strict=False):
        print(f"  failed            1 ({type(result.result).__name__}: {result.result})")
        print(f"  its errback       {text}")
    print(f"  the group         {len(labels)} labels printed, {labels[0]} … {labels[-1]}")
    print(f"  the chord         sales of {sales:,.2f} (expected {expected:,.2f})")
    print(f"  seconds           {seconds:.2f}, {len(morning.watched) / seconds:.0f} tasks/s")
    return (
        len(succeeded) == len(morning.watched) - 1
        and list(retried.values()) == [2]
        and len(told) == 1
        and len(labels) == 7
        and sales == expected
    )


def main():
    """Place the orders, watch, summarise; the exit status."""
    orders = list(make_orders())
    morning = Morning()
    began = time.monotonic()
    for order in orders:
        morning.place(order)
    morning.print_labels(orders)
    morning.total(orders)
    if not watch(morning.watched, began):
        print(f"not all tasks were done within {PATIENCE:.0f} s. Is a worker running?", file=sys.stderr)
        return 1
    return 0 if summarise(morning, time.monotonic() - began) else 1


if __name__ == "__main__":
    sys.exit(main())
