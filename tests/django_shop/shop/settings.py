import os

SECRET_KEY = "nothing to hide"
INSTALLED_APPS = ["orders"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SHOP_FOLDER"] + "/shop.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
CELERY_BROKER_URL = CELERY_RESULT_BACKEND = f"sqlite:///{os.environ['SHOP_FOLDER']}/queues.db"
CELERY_TASK_TRACK_STARTED = True
CELERY_TIMEZONE = TIME_ZONE
