"""Sentry's and OpenTelemetry's own instrumentation of Celery find in us what they patch, and see what they would see in Celery."""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.peers import ROOT, Program, clean_environment
from tests.redis_server import redis_server, shared_redis

__all__ = ("redis_server", "shared_redis")

HERE = Path(__file__).parent
#: What the command ``opentelemetry-instrument`` runs.
INSTRUMENT = ("-c", "from opentelemetry.instrumentation.auto_instrumentation import run; run()")


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python where the wheel's .pth file is installed; all else comes from the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("with-pth")
    venv.create(folder, symlinks=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "beside.pth").write_text("\n".join([*site.getsitepackages(), str(ROOT)]) + "\n")
    (packages / "zz_compat_celery.pth").write_text((ROOT / "compat_celery" / "compat_celery.pth").read_text())
    return folder / "bin" / "python"


class Shop:
    """The shop's environment, its worker and its client."""

    def __init__(self, url: str, python: Path, folder: Path) -> None:
        self.python = python
        self.folder = folder
        self.log = folder / "worker.log"
        path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
        self.env = clean_environment(SHOP_URL=url, PYTHONPATH=str(HERE), COMPAT_CELERY="1", PATH=path)

    @contextmanager
    def worker(self, *before: str, **more: str) -> Iterator[None]:
        command = [self.python, *before, *(["python"] if before else []), "-m", "celery", "-A", "shop", "worker", "-l", "info"]
        with Program([*command, "-c", "1"], folder=HERE, env=self.env | more, log=self.log) as program:
            program.wait_for(" ready.", within=60)
            yield
            program.send(signal.SIGTERM)
            assert program.wait(within=60) == 0

    def client(self, *before: str, **more: str) -> None:
        command = [str(self.python), *before, *(["python"] if before else []), str(HERE / "client.py")]
        ran = subprocess.run(command, env=self.env | more, cwd=HERE, capture_output=True, text=True, timeout=100, check=False)
        assert ran.returncode == 0, ran.stderr


@pytest.fixture
def shop(redis_server, python: Path, tmp_path: Path) -> Shop:
    return Shop(redis_server.url, python, tmp_path)


def test_sentry_sees_calls_tasks_and_errors_and_loses_none_when_a_child_ends(shop: Shop) -> None:
    file = shop.folder / "sentry.jsonl"
    with shop.worker(SENTRY_FILE=str(file)):
        shop.client(SENTRY_FILE=str(file))
    sent = [json.loads(line) for line in file.read_text().splitlines()]
    transactions = {item["transaction"]: item for item in sent if item.get("type") == "transaction"}
    (error,) = [item for item in sent if "exception" in item]

    def operations(name: str) -> list[tuple[str, str]]:
        return [(span["op"], span["description"]) for span in transactions[name]["spans"]]

    assert ("queue.submit.celery", "shop.add") in operations("client")
    assert ("queue.publish", "shop.add") in operations("client")
    assert transactions["shop.add"]["contexts"]["trace"]["op"] == "queue.task.celery"
    assert operations("shop.add") == [("queue.process", "shop.add")]
    # One trace, from the client to the worker.
    ids = {name: transactions[name]["contexts"]["trace"]["trace_id"] for name in ("client", "shop.add")}
    assert ids["client"] == ids["shop.add"]
    assert error["exception"]["values"][0]["value"] == "broken"
    assert error["tags"]["celery_task_id"]


def spans(text: str) -> list[dict[str, Any]]:
    """The spans that the console exporter has written among other lines."""
    found, decoder, at = [], json.JSONDecoder(), 0
    while (at := text.find("{\n", at)) >= 0:
        span, at = decoder.raw_decode(text, at)
        found.append(span)
    return found


def test_opentelemetry_instrument_sees_calls_and_tasks_although_it_looks_before_anybody_imports_celery(shop: Shop) -> None:
    file = shop.folder / "spans.json"
    switches = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    with shop.worker(*INSTRUMENT, **switches):
        shop.client(*INSTRUMENT, SPANS_FILE=str(file))
    published = {span["name"]: span for span in spans(file.read_text())}
    ran = {span["name"]: span for span in spans(shop.log.read_text()) if span["name"].startswith("run/")}
    assert {"apply_async/shop.add", "apply_async/shop.fail"} <= published.keys()
    assert ran.keys() == {"run/shop.add", "run/shop.fail"}
    assert published["apply_async/shop.add"]["kind"] == "SpanKind.PRODUCER"
    assert ran["run/shop.add"]["kind"] == "SpanKind.CONSUMER"
    assert ran["run/shop.add"]["context"]["trace_id"] == published["apply_async/shop.add"]["context"]["trace_id"]
    assert ran["run/shop.fail"]["status"]["status_code"] == "ERROR"


LATE = """
from opentelemetry.instrumentation import auto_instrumentation
from compat_celery.bin.celery import main
main(["--version"])
from opentelemetry.instrumentation.celery import CeleryInstrumentor
print(CeleryInstrumentor().is_instrumented_by_opentelemetry)
"""


@pytest.mark.parametrize(("disabled", "expected"), [("", "True"), ("django, celery", "False")])
def test_without_the_pth_file_the_command_line_instruments_what_opentelemetry_instrument_did_not_find(
    disabled: str, expected: str
) -> None:
    env = clean_environment(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=disabled)
    ran = subprocess.run([sys.executable, "-c", LATE], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split()[-1] == expected
