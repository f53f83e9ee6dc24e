"""Airflow's Celery executor: its app sends workloads, its task runs them, and the executor learns what came of them."""

import datetime as dt
import os
import time
import uuid

import pytest

URL = os.environ["LIBRARY_REDIS"]
os.environ |= {
    "AIRFLOW_HOME": os.path.join(os.environ["LIBRARY_FOLDER"], "airflow"),  # noqa: PTH118 - as Airflow wants it
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CELERY__BROKER_URL": f"{URL}/0",
    "AIRFLOW__CELERY__RESULT_BACKEND": f"{URL}/0",
    "AIRFLOW__CELERY__SYNC_PARALLELISM": "1",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////" + os.environ["LIBRARY_FOLDER"].lstrip("/") + "/airflow.db",
}


@pytest.fixture
def utils(url):
    from airflow.providers.celery.executors import celery_executor_utils

    celery_executor_utils.app.set_current()
    return celery_executor_utils


@pytest.fixture
def ran(monkeypatch):
    """What Airflow's task was told to run; running it takes a whole Airflow."""
    from airflow.executors.base_executor import BaseExecutor

    done = []

    def run_workload(workload, **_):
        done.append(workload.ti.task_id)
        if workload.ti.task_id == "broken":
            raise RuntimeError("the workload failed")

    monkeypatch.setattr(BaseExecutor, "run_workload", staticmethod(run_workload))
    return done


def workload(task_id):
    from airflow.executors import workloads

    ti = workloads.TaskInstance(
        id=uuid.uuid4(),
        dag_version_id=uuid.uuid4(),
        task_id=task_id,
        dag_id="a_dag",
        run_id="a_run",
        try_number=1,
        map_index=-1,
        pool_slots=1,
        queue="default",
        priority_weight=1,
        start_date=dt.datetime(2030, 1, 1, tzinfo=dt.UTC),
    )
    return workloads.ExecuteTask(
        ti=ti,
        dag_rel_path="a_dag.py",
        token="a token",
        log_path="a.log",
        bundle_info=workloads.BundleInfo(name="bundle", version=None),
        type="ExecuteTask",
    )


def states(fetcher, results, wanted):
    deadline = time.monotonic() + 30
    while True:
        found = [fetcher.get_many(results)[result.task_id][0] for result in results]
        if found == wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def test_the_app_is_configured_from_airflows_settings(utils):
    assert utils.app.conf.broker_url == f"{URL}/0"
    assert utils.app.conf.task_acks_late is True
    assert "execute_workload" in utils.app.tasks


def test_workloads_are_sent_run_and_their_states_fetched(utils, ran, working):
    sent = [utils.send_workload_to_executor((name, workload(name), "default", None)) for name in ("first", "second", "broken")]
    results = [result for _, _, result in sent]
    fetcher = utils.BulkStateFetcher(1)
    assert states(fetcher, results, ["PENDING"] * 3) == ["PENDING"] * 3
    utils.app.amqp.queues.select(["default"])
    with working(utils.app):
        assert states(fetcher, results, ["SUCCESS", "SUCCESS", "FAILURE"]) == ["SUCCESS", "SUCCESS", "FAILURE"]
    assert sorted(ran) == ["broken", "first", "second"]


def test_the_executor_starts_queues_and_syncs(utils, ran, working, monkeypatch):
    from airflow.providers.celery.executors.celery_executor import CeleryExecutor

    executor = CeleryExecutor()
    executor.start()
    events = set()  # an executor whose own success() and fail() are replaced says the same at every look
    monkeypatch.setattr(executor, "success", lambda key, info=None: events.add((key, "success")), raising=True)
    monkeypatch.setattr(executor, "fail", lambda key, info=None: events.add((key, "fail")), raising=True)
    for name in ("one", "broken"):
        key, _, result = utils.send_workload_to_executor((name, workload(name), "default", None))
        executor.workloads[key] = result
        executor.running.add(key)
    utils.app.amqp.queues.select(["default"])
    with working(utils.app):
        deadline = time.monotonic() + 30
        while len(events) < 2 and time.monotonic() < deadline:
            executor.update_all_workload_states()
            time.sleep(0.05)
    assert events == {("broken", "fail"), ("one", "success")}
