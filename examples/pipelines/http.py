"""A client of an HTTP API, out of the standard library: it posts rows as JSON and returns what comes back."""

import json
import urllib.request

import anyio.to_thread


class HttpApi:
    """``async with HttpApi(url) as api: results = await api(rows)``. Errors are urllib's, with their status and headers."""

    def __init__(self, url, timeout=30):
        self.url = url
        self.timeout = timeout

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    async def __call__(self, rows, **headers):
        return await anyio.to_thread.run_sync(self._post, rows, headers)

    def _post(self, rows, headers):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps(rows).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json", **names})  # noqa: S310 - the example's own
        with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310 - as above
            return json.load(answer)
