from celery import shared_task

from .models import Order


@shared_task(bind=True)
def pay(self, order_id):
    order = Order.objects.get(pk=order_id)
    order.paid_by = self.request.id
    order.save()
    return order.number


@shared_task(name="orders.count")
def count():
    return Order.objects.exclude(paid_by="").count()
