"""Django: the fix-up, shared tasks, autodiscovery, tasks after a commit, by the ways in that the documentation names."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import ROOT, Program, clean_environment

HERE = Path(__file__).parent
RUN = (sys.executable, "-m", "compat_celery")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("shop")
    return clean_environment(SHOP_FOLDER=str(folder), PYTHONPATH=f"{HERE}:{ROOT}")


@pytest.fixture(scope="module")
def worker(env: dict[str, str]) -> Iterator[Program]:
    subprocess.run([*RUN, "manage.py", "migrate", "-v", "0"], cwd=HERE, env=env, check=True, timeout=100)
    command = [*RUN, "-m", "celery", "-A", "shop", "worker", "-c", "1", "-l", "info"]
    with Program(command, folder=HERE, env=env, log=Path(env["SHOP_FOLDER"]) / "worker.log") as program:
        program.wait_for(" ready.", within=60)
        yield program
        program.send(signal.SIGTERM)
        assert program.wait(within=60) == 0


def test_a_project_runs_unmodified(worker: Program, env: dict[str, str]) -> None:
    ran = subprocess.run([*RUN, "manage.py", "buy"], cwd=HERE, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "none": None,
        "before": 0,
        "number": 9,
        "paid": 2,  # the third was rolled back, and so was its call
        "orders": 2,
        "is_django_task": True,
        "tasks": ["orders.count", "orders.tasks.pay"],
        "timezone": "Europe/Berlin",
        "track_started": True,
    }
    assert "orders.tasks.pay" in worker.text()


def test_a_worker_checks_the_project_before_it_starts(env: dict[str, str], tmp_path: Path) -> None:
    """The fix-up runs Django's system checks, as ``manage.py`` does."""
    broken = env | {"DJANGO_SETTINGS_MODULE": "broken_settings", "PYTHONPATH": f"{tmp_path}:{env['PYTHONPATH']}"}
    (tmp_path / "broken_settings.py").write_text("from shop.settings import *\nDEFAULT_AUTO_FIELD = 'django.db.models.TextField'\n")
    command = [*RUN, "-m", "celery", "-A", "shop", "worker", "-c", "1"]
    ran = subprocess.run(command, cwd=HERE, env=broken, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode != 0
    assert "DEFAULT_AUTO_FIELD" in ran.stderr
