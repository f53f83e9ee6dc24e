"""Buys: what is ordered in a transaction is paid by a task after it."""

import json

from celery import current_app
from celery.contrib.django.task import DjangoTask
from django.core.management.base import BaseCommand
from django.db import transaction
from orders.models import Order
from orders.tasks import count, pay


class Command(BaseCommand):
    def handle(self, **options):
        results = []
        with transaction.atomic():
            order = Order.objects.create(number=7)
            none_yet = pay.delay_on_commit(order.pk)
            results_before = len(results)
            transaction.on_commit(lambda: results.append("committed"))
        try:
            with transaction.atomic():
                lost = Order.objects.create(number=8)
                pay.delay_on_commit(lost.pk)
                raise RuntimeError("rolled back")
        except RuntimeError:
            pass
        numbers = pay.delay(Order.objects.create(number=9).pk).get(timeout=60)
        said = {
            "none": none_yet,
            "before": results_before,
            "number": numbers,
            "paid": count.delay().get(timeout=60),
            "orders": Order.objects.count(),
            "is_django_task": isinstance(pay, DjangoTask),
            "tasks": sorted(name for name in current_app.tasks if name.startswith("orders")),
            "timezone": str(current_app.timezone),
            "track_started": current_app.conf.task_track_started,
        }
        self.stdout.write(json.dumps(said))
