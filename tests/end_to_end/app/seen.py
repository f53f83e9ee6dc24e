"""The application of the end-to-end tests, as a Celery user writes it."""

import os
import time

from celery import Celery

URL = os.environ["SEEN_URL"]

app = Celery("seen", broker=URL, backend=URL)


@app.task
def work(seconds):
    """Take some time; long enough for whoever looks on to see it."""
    time.sleep(seconds)
    return "done"
