"""celery-singleton: one call at a time exists for the same arguments; further ones get the result of the first."""

import pytest
from celery_singleton import DuplicateTaskError, Singleton


@pytest.fixture
def app(app, url):
    app.conf.singleton_backend_url = url
    return app


def test_a_second_call_is_the_first_one(app, working):
    @app.task(base=Singleton, shared=False)
    def add(a, b):
        return a + b

    first, second, other = add.delay(1, 2), add.delay(1, 2), add.delay(2, 2)
    assert first.id == second.id != other.id
    with working(app):
        assert (second.get(timeout=20), other.get(timeout=20)) == (3, 4)
    assert add.delay(1, 2).id != first.id


def test_it_may_be_an_error(app):
    @app.task(base=Singleton, raise_on_duplicate=True, shared=False)
    def add(a, b):
        return a + b

    add.delay(1, 2)
    with pytest.raises(DuplicateTaskError):
        add.delay(1, 2)


def test_only_some_arguments_may_count(app):
    @app.task(base=Singleton, unique_on=["a"], shared=False)
    def add(a, b):
        return a + b

    assert add.delay(1, 2).id == add.delay(1, 3).id


def test_a_failure_releases_it(app, working):
    @app.task(base=Singleton, shared=False)
    def fail(number):
        raise ValueError(number)

    with working(app):
        first = fail.delay(1)
        with pytest.raises(ValueError, match="1"):
            first.get(timeout=20)
        second = fail.delay(1)
        with pytest.raises(ValueError, match="1"):
            second.get(timeout=20)
    assert first.id != second.id


def test_a_lock_may_expire(app):
    @app.task(base=Singleton, lock_expiry=1, shared=False)
    def add(a, b):
        return a + b

    first = add.delay(1, 2)
    assert app.tasks[add.name].singleton_backend.redis.ttl(add.generate_lock(add.name, [1, 2], {})) <= 1
    assert add.delay(1, 2).id == first.id
