"""``python -m tests.remote``: the program of tests.remote.parts, in a process of its own."""

import json
import sys

import anyio

from tests.remote.parts import main

anyio.run(main, *json.loads(sys.argv[1]))
