"""``import celery`` finds this package: each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *arguments: str, cwd: Path | None = None, **environment: str) -> str:
    """Run code in a new Python; its output. The code's own failure fails the test, with its traceback."""
    command = [sys.executable, *(arguments or ("-c", textwrap.dedent(code)))]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd or ROOT, env=env, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_both_names_give_the_same_module_objects() -> None:
    run("""
        import compat_celery
        compat_celery.install_as_celery()
        import celery, celery.app.task, celery.utils.text, compat_celery.app.task, compat_celery.utils.text
        assert celery is compat_celery
        assert celery.app.task is compat_celery.app.task
        assert celery.utils.text is compat_celery.utils.text
        import compat_celery.schedules, celery.schedules
        assert celery.schedules is compat_celery.schedules
    """)


def test_modules_have_celerys_name_for_hooks_and_their_own_spec_and_loader() -> None:
    run("""
        import compat_celery
        compat_celery.install_as_celery()
        import celery.schedules as module
        assert module.__name__ == "celery.schedules"
        assert module.__spec__.name == "compat_celery.schedules" and module.__spec__.loader is module.__loader__
        assert type(module.__loader__).__name__ == "SourceFileLoader", module.__loader__
        import importlib, inspect
        assert "crontab" in inspect.getsource(module)
        assert importlib.reload(module) is module
    """)


def test_modules_that_were_there_before_are_put_under_both_names_and_keep_their_spec() -> None:
    run("""
        import compat_celery.utils.text as before
        spec = before.__spec__
        import compat_celery
        compat_celery.install_as_celery()
        import celery.utils.text as after
        assert after is before and before.__spec__ is spec and spec.name == "compat_celery.utils.text"
    """)


def test_import_hooks_are_told_of_complete_modules_under_celerys_names_whoever_imports_them() -> None:
    """As wrapt does it, and agents with it: a finder wraps the loader and looks at the loaded module's name."""
    told = run("""
        import compat_celery
        compat_celery.install_as_celery()
        import importlib.abc, importlib.util, sys

        class Loader(importlib.abc.Loader):
            def __init__(self, real):
                self.real = real

            def create_module(self, spec):
                return self.real.create_module(spec)

            def exec_module(self, module):
                self.real.exec_module(module)
                print(module.__name__, hasattr(module, "Celery") if module.__name__ in ("celery.app", "celery.app.base") else "")

        class Agent(importlib.abc.MetaPathFinder):
            busy = set()

            def find_spec(self, name, path=None, target=None):
                if not name.startswith("celery.app") or name in self.busy:
                    return None
                self.busy.add(name)
                spec = importlib.util.find_spec(name)
                self.busy.discard(name)
                spec.loader = Loader(spec.loader)
                return spec

        sys.meta_path.insert(0, Agent())
        from compat_celery import Celery
        import celery.app.trace
    """)
    lines = told.splitlines()
    assert {"celery.app True", "celery.app.base True"} <= set(lines)
    assert "celery.app.trace" in [line.strip() for line in lines]


def test_the_usual_imports_of_celery_programs_work() -> None:
    run("""
        import compat_celery
        compat_celery.install_as_celery()
        from celery import Celery, shared_task, Task, current_app, group, chain, current_task, chord, uuid, signals, states
        from celery import schedules, exceptions, __version__, VERSION, maybe_signature, subtask, maybe_patch_concurrency
        from celery.registry import tasks
        from celery.schedules import crontab, schedule, BaseSchedule, solar, schedstate
        from celery.utils.log import get_task_logger, get_logger
        from celery.exceptions import Retry, SoftTimeLimitExceeded, Ignore, TimeoutError, MaxRetriesExceededError, Reject
        from celery.exceptions import WorkerLostError
        from celery.app.task import Task, Context
        from celery.result import AsyncResult, allow_join_result, EagerResult, GroupResult, result_from_tuple
        from celery.app import app_or_default, default_app
        from celery.app.log import TaskFormatter
        from celery.app.registry import TaskRegistry
        from celery.local import PromiseProxy
        assert __version__ == "5.7.0" and VERSION[:3] == (5, 7, 0)
    """)


def test_a_module_that_celery_does_not_have_is_missing_under_both_names() -> None:
    run("""
        import compat_celery
        compat_celery.install_as_celery()
        import importlib, importlib.util
        for name in ("celery.no_such", "compat_celery.no_such"):
            assert importlib.util.find_spec(name) is None
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                assert error.name == name
            else:
                raise AssertionError(name)
    """)


def test_a_module_that_fails_to_load_is_under_neither_name() -> None:
    run("""
        import compat_celery, sys
        compat_celery.install_as_celery()
        sys.modules["compat_celery._state"] = None
        sys.modules["celery._state"] = None
        try:
            import compat_celery.registry
        except ImportError:
            pass
        assert "celery.registry" not in sys.modules and "compat_celery.registry" not in sys.modules
        del sys.modules["compat_celery._state"], sys.modules["celery._state"]
        import celery.registry
    """)


def test_installing_over_a_genuine_celery_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "celery.py").write_text("genuine = True\n")
    run(
        """
        import celery
        assert celery.genuine
        import compat_celery
        from jumpstarter.errors import ConfigurationError
        try:
            compat_celery.install_as_celery()
        except ConfigurationError as error:
            assert "python -m compat_celery" in str(error) and "celery.py" in str(error), error
        else:
            raise AssertionError("it was installed")
        """,
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
    )


def test_a_genuine_celery_that_is_only_installed_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "celery").mkdir()
    (tmp_path / "celery" / "__init__.py").write_text("raise AssertionError('the genuine one was imported')\n")
    run(
        "import compat_celery; compat_celery.install_as_celery(); import celery; assert celery is compat_celery",
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
    )


def test_the_package_metadata_answers_for_celery() -> None:
    run("""
        import compat_celery
        compat_celery.install_as_celery()
        from importlib import metadata
        assert metadata.version("celery") == "5.7.0"
        scripts = [entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "celery"]
        assert [entry.value for entry in scripts] == ["celery.__main__:main"], scripts
        assert callable(scripts[0].load())
    """)


def test_pickles_name_celery_and_come_back_by_either_name() -> None:
    run("""
        import compat_celery
        compat_celery.install_as_celery()
        import pickle
        from celery import Celery
        from celery.exceptions import Retry, NotRegistered
        from celery.schedules import crontab
        import celery.exceptions, compat_celery.exceptions
        for value in (Retry("again"), NotRegistered("x"), crontab(minute="*/5")):
            data = pickle.dumps(value)
            assert b"celery." in data and b"compat_celery" not in data, data
            assert type(pickle.loads(data)) is type(value)
        assert pickle.loads(b"ccompat_celery.exceptions\\nRetry\\n.") is Retry
        assert pickle.loads(b"ccelery.exceptions\\nRetry\\n.") is Retry
        app = Celery("proj", broker="memory://")
        app.conf.task_default_queue = "mine"
        again = pickle.loads(pickle.dumps(app))
        assert (again.main, again.conf.task_default_queue) == ("proj", "mine")

        @app.task(name="pickled")
        def pickled(): pass

        data = pickle.dumps(pickled)
        assert b"celery.app.registry" in data and b"compat_celery" not in data
        assert pickle.loads(data) is app.tasks["pickled"]
    """)


def test_exceptions_name_celery_without_the_alias_too() -> None:
    run("from compat_celery.exceptions import Retry; assert Retry.__module__ == 'celery.exceptions'")


def test_python_m_compat_celery_runs_a_program_with_the_alias(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("import celery\n")
    program = tmp_path / "prog.py"
    program.write_text("import sys, helper, celery\nprint(celery.__version__, __name__, sys.argv[1:], celery.__file__)\n")
    out = run("", "-m", "compat_celery", str(program), "--flag", "x", cwd=tmp_path)
    assert out.startswith("5.7.0 __main__ ['--flag', 'x']")
    assert "compat_celery" in out


def test_python_m_compat_celery_m_runs_a_module(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("import sys, celery\nprint('tool', sys.argv[1:], celery.__version__)\n")
    assert run("", "-m", "compat_celery", "-m", "tool", "a", cwd=tmp_path) == "tool ['a'] 5.7.0"


@pytest.mark.parametrize("arguments", [("-m", "compat_celery"), ("-m", "compat_celery", "-m")])
def test_python_m_compat_celery_without_a_program_says_how_it_is_used(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 2
    assert "usage: python -m compat_celery" in done.stdout


def test_the_pth_file_installs_the_alias_where_the_environment_asks_for_it() -> None:
    line = (ROOT / "compat_celery" / "compat_celery.pth").read_text().strip()
    assert line.startswith("import ")  # other lines of a .pth file are paths
    check = f"{line}\nimport sys\nprint(any(type(finder).__name__ == '_Finder' for finder in sys.meta_path))"
    assert run("", "-c", check, COMPAT_CELERY="1") == "True"
    assert run("", "-c", check, COMPAT_CELERY="") == "False"


def test_threads_that_import_by_both_names_at_once_get_the_same_modules() -> None:
    """What is imported first has cycles of its own (kombu.utils and its modules), on which Python 3.11 fails without us too."""
    run("""
        import anyio.to_thread, billiard.einfo, click, kombu.clocks, kombu.common, kombu.pools, kombu.utils, vine
        import compat_celery
        compat_celery.install_as_celery()
        import importlib, threading
        names = ["celery.app.base", "compat_celery.app.base", "celery.canvas", "compat_celery.app.task", "compat_celery.canvas"]
        found, start = {}, threading.Barrier(len(names))

        def load(name):
            start.wait()
            found[name] = importlib.import_module(name)

        threads = [threading.Thread(target=load, args=(name,)) for name in names]
        for thread in threads: thread.start()
        for thread in threads: thread.join(30)
        assert found["celery.app.base"] is found["compat_celery.app.base"]
        assert found["celery.canvas"] is found["compat_celery.canvas"]
    """)
