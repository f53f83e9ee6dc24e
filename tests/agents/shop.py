"""An application that an agent watches. What Sentry would send goes to the file $SENTRY_FILE, each time that it is flushed."""

import json
import os
from pathlib import Path

from celery import Celery

app = Celery("shop", broker=os.environ["SHOP_URL"], backend=os.environ["SHOP_URL"])


@app.task
def add(x, y):
    return x + y


@app.task
def fail():
    raise ValueError("broken")


if "SENTRY_FILE" in os.environ:
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.transport import Transport

    class Kept(Transport):
        """Keeps everything until it is flushed: a child that ends without a flush loses it."""

        def __init__(self, options=None):
            super().__init__(options)
            self.kept = []

        def capture_envelope(self, envelope):
            self.kept += [item.payload.json for item in envelope.items]

        def flush(self, timeout, callback=None):
            with Path(os.environ["SENTRY_FILE"]).open("a") as file:
                file.writelines(json.dumps(item) + "\n" for item in self.kept)
            self.kept.clear()

    sentry_sdk.init(dsn="http://key@localhost:1/1", transport=Kept, traces_sample_rate=1.0, integrations=[CeleryIntegration()])
