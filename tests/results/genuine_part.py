"""A genuine Celery worker's end of one chord header task, on demand. Runs in the peer's environment; answers lines of JSON.

A question is ``{"parts": [{"group", "task", "index", "result"} …]}``: each of these tasks has returned, and its result is counted
for the chord, whose body goes to the queue ``body``.
"""

from __future__ import annotations

import json
import os
import sys

from celery import Celery, signature
from celery.app.task import Context

app = Celery("genuine", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
BODY = signature("body", queue="body", app=app)

for line in sys.stdin:
    for part in json.loads(line)["parts"]:
        request = Context(id=part["task"], group=part["group"], group_index=part["index"], chord=BODY)
        app.backend.on_chord_part_return(request, "SUCCESS", part["result"])
    print("{}", flush=True)
