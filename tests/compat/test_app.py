"""The app: its tasks, when they are made, who is current."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from compat_celery import Celery, Task, _state, current_app, shared_task, signals
from compat_celery.app.utils import find_app
from compat_celery.exceptions import CDeprecationWarning, DuplicateTaskNameWarning, NotRegistered
from compat_celery.local import PromiseProxy, Proxy


def test_a_decorated_task_is_made_when_it_is_first_used(app: Celery) -> None:
    @app.task
    def lazy() -> str:
        """What it does."""
        return "run"

    assert type(lazy) is PromiseProxy
    assert not lazy.__evaluated__()
    assert lazy.__doc__ == "What it does."
    assert lazy() == "run"
    assert lazy.__evaluated__()
    assert isinstance(lazy, Task)


def test_finalizing_makes_all_tasks_and_tells_who_waits_for_it(app: Celery) -> None:
    told = []
    app.on_after_finalize.connect(lambda sender, **_: told.append(sorted(sender._tasks)), weak=False)

    @app.task(name="mine")
    def mine() -> None:
        pass

    assert "mine" in app.tasks
    assert "mine" in told[0]
    assert "celery.accumulate" in told[0]
    app.finalize()
    assert len(told) == 1


def test_an_app_that_must_be_finalized_by_hand_refuses_to_do_so_by_itself() -> None:
    app = Celery(autofinalize=False, set_as_current=False)
    with pytest.raises(RuntimeError, match="not finalized"):
        app.tasks  # noqa: B018 - the look-up is the test
    app.finalize()
    assert "celery.chord" in app.tasks


def test_names_come_from_the_module_and_the_function(app: Celery) -> None:
    @app.task
    def named() -> None:
        pass

    assert named.name == f"{__name__}.named"
    assert app.gen_task_name("f", "__main__") == "proj.f"


def test_unknown_options_become_attributes(app: Celery) -> None:
    @app.task(max_retries=9, my_own="thing")
    def configured() -> None:
        pass

    assert (configured.max_retries, configured.my_own) == (9, "thing")


def test_the_decorator_takes_one_function_only(app: Celery) -> None:
    with pytest.raises(TypeError, match="callable"):
        app.task("no function")
    with pytest.raises(TypeError, match="exactly 1 argument"):
        app.task(len, max)


def test_a_base_class_may_be_given(app: Celery) -> None:
    class Base(app.Task):
        def helper(self) -> str:
            return self.name

    @app.task(base=Base, name="with-base", bind=True)
    def based(self: Any) -> str:
        return self.helper()

    assert based() == "with-base"
    assert isinstance(based, Base)


def test_two_functions_under_one_name_are_warned_about_once_and_the_first_stays(app: Celery) -> None:
    @app.task(name="twice", lazy=False)
    def first() -> int:
        return 1

    with pytest.warns(DuplicateTaskNameWarning, match="twice"):

        @app.task(name="twice", lazy=False)
        def second() -> int:
            return 2

    assert app.tasks["twice"]() == 1


def test_the_same_function_registered_again_is_the_same_task(app: Celery) -> None:
    def again() -> None:
        pass

    assert app.task(lazy=False)(again) is app.task(lazy=False)(again)


def test_a_class_can_be_registered(app: Celery) -> None:
    class Adder(app.Task):
        name = "adder"

        def run(self, x: int, y: int) -> int:
            return x + y

    registered = app.register_task(Adder())
    assert app.tasks["adder"] is registered
    assert registered(1, 2) == 3
    assert registered.app is app


def test_a_class_without_a_name_gets_one(app: Celery) -> None:
    class Nameless(Task):
        def run(self) -> None:
            pass

    assert app.register_task(Nameless).name == f"{__name__}.Nameless"


def test_a_missing_task_is_not_registered(app: Celery) -> None:
    with pytest.raises(NotRegistered, match="nothing"):
        app.tasks["nothing"]
    with pytest.raises(NotRegistered):
        app.tasks.unregister("nothing")


def test_attributes_that_route_are_warned_about(app: Celery) -> None:
    with pytest.warns(CDeprecationWarning, match="'queue' task attribute"):

        @app.task(queue="elsewhere", lazy=False)
        def routed() -> None:
            pass


# Who is current.


def test_the_last_app_of_a_thread_is_its_current_one() -> None:
    first, second = Celery("first"), Celery("second")
    assert current_app.main == "second"
    first.set_current()
    assert current_app.main == "first"
    seen = []
    thread = threading.Thread(target=lambda: seen.append(current_app.main))
    thread.start()
    thread.join()
    assert seen == ["default"]
    assert second.main == "second"


def test_an_app_may_stay_out_of_it() -> None:
    first = Celery("first")
    Celery("second", set_as_current=False)
    assert _state.get_current_app() is first


def test_the_default_app_serves_threads_that_have_none() -> None:
    app = Celery("mine", set_as_current=False)
    app.set_default()
    assert current_app.main == "mine"


def test_a_shared_task_is_the_current_apps() -> None:
    @shared_task(name="shared.add")
    def add(x: int, y: int) -> int:
        return x + y

    assert type(add) is Proxy
    first, second = Celery("first"), Celery("second")
    assert add.app is second
    first.set_current()
    assert add.app is first
    assert add(1, 2) == 3
    assert first.tasks["shared.add"] is not second.tasks["shared.add"]


def test_a_shared_task_reaches_apps_that_are_finalized_already() -> None:
    app = Celery("early")
    app.finalize()

    @shared_task
    def late() -> None:
        pass

    assert f"{__name__}.late" in app.tasks


def test_sharing_twice_is_refused() -> None:
    @shared_task
    def once() -> None:
        pass

    with pytest.raises(TypeError, match="more than once"):
        shared_task(once)


def test_a_task_of_an_app_reaches_other_apps_unless_it_is_not_shared(app: Celery) -> None:
    @app.task(name="for-all")
    def for_all() -> None:
        pass

    @app.task(name="mine-alone", shared=False)
    def mine_alone() -> None:
        pass

    other = Celery("other", set_as_current=False)
    assert "for-all" in other.tasks
    assert "mine-alone" not in other.tasks


# Proxies.


def test_proxies_pass_for_what_they_stand_for() -> None:
    numbers = [3, 1]
    proxy = Proxy(lambda: numbers)
    assert isinstance(proxy, list)
    assert (len(proxy), proxy[0], 1 in proxy, list(proxy), [*proxy, 2], sorted(proxy)) == (2, 3, True, [3, 1], [3, 1, 2], [1, 3])
    assert proxy == [3, 1]
    assert repr(proxy) == "[3, 1]"
    proxy.append(5)
    proxy[0] = 4
    assert numbers == [4, 1, 5]
    assert Proxy(lambda: 5) * 2 == 10
    assert 2 - Proxy(lambda: 5) == -3
    assert type(Proxy.__doc__) is not property
    assert Proxy.__module__ == "celery.local"


def test_a_promise_is_kept_once_and_tells_who_waits() -> None:
    made, told = [], []
    promise = PromiseProxy(lambda: made.append(1) or "value")
    promise.__then__(told.append, "kept")
    assert (made, told) == ([], [])
    assert str(promise) == promise.upper().lower() == "value"
    assert (made, told) == ([1], ["kept"])
    promise.__then__(told.append, "at once")
    assert told == ["kept", "at once"]


# Discovery.


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "shop/__init__.py": "",
        "shop/celery.py": "from compat_celery import Celery\napp = Celery('shop', set_as_current=False)\n",
        "shop/tasks.py": "from compat_celery import shared_task\n@shared_task\ndef sell(): pass\n",
        "empty/__init__.py": "",
        "broken/__init__.py": "",
        "broken/tasks.py": "import no_such_module\n",
        "single.py": "from compat_celery import Celery\nwhatever = Celery('single', set_as_current=False)\n",
        "nothing.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in {"shop", "empty", "broken", "single", "nothing"}]:
        del sys.modules[name]


def test_task_modules_are_found_when_a_worker_imports_them(app: Celery, project: Path) -> None:
    app.autodiscover_tasks(["shop", "empty"])
    assert "shop.tasks.sell" not in app.tasks
    app.loader.import_default_modules()
    assert "shop.tasks.sell" in app.tasks
    assert app.loader.task_modules == {"shop.tasks"}
    signals.import_modules.receivers.clear()


def test_packages_may_come_from_a_function_and_at_once(app: Celery, project: Path) -> None:
    app.autodiscover_tasks(lambda: ["shop"], force=True)
    assert "shop.tasks.sell" in app.tasks


def test_a_task_module_that_cannot_be_imported_is_an_error(app: Celery, project: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        app.autodiscover_tasks(["broken"], force=True)


@pytest.mark.parametrize(
    ("name", "main"), [("shop.celery:app", "shop"), ("shop", "shop"), ("shop.celery", "shop"), ("single", "single")]
)
def test_an_app_is_found_by_the_name_on_the_command_line(project: Path, name: str, main: str) -> None:
    assert find_app(name).main == main


def test_a_module_without_an_app_says_so(project: Path) -> None:
    with pytest.raises(AttributeError, match="has no app"):
        find_app("nothing")
    with pytest.raises(ImportError):
        find_app("no_such_module")


def test_the_environment_is_not_touched_by_making_an_app() -> None:
    before = dict(os.environ)
    Celery("proj")
    assert dict(os.environ) == before


# Periodic tasks.


def test_periodic_tasks_wait_for_the_settings(app: Celery) -> None:
    key = app.add_periodic_task(10, app.signature("tick"), name="every-ten", queue="ticks")
    assert app.configured is False
    assert key == "every-ten"
    entry = app.conf.beat_schedule["every-ten"]
    assert (entry["schedule"], entry["task"], entry["options"]) == (10, "tick", {"queue": "ticks"})
    assert Celery("other").conf.beat_schedule == {}
