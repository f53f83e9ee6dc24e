from django.db import models


class Order(models.Model):
    number = models.IntegerField()
    paid_by = models.CharField(max_length=100, default="")
