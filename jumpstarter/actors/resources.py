"""Keepers: one task per resource, which acquires it, holds it, re-acquires it when it is lost, and releases it.

Told by: phases (acquire, release). Tells: the host (concerns, failures). Entering and leaving a context manager happens in the same
task, because cancel scopes, task groups and context variables inside it demand that.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, asynccontextmanager
from typing import Any

import anyio

from jumpstarter.actors.activities import unwrapped
from jumpstarter.actors.declare import Resource
from jumpstarter.actors.port import HostPort
from jumpstarter.actors.threads import DedicatedThread
from jumpstarter.errors import ActorError, ResourceFailed

logger = logging.getLogger(__name__)


class Keeper:
    """Keeps one resource through one life of the actor. ``run`` is its task; everything else is called from the host's loop."""

    def __init__(self, host: HostPort, resource: Resource[Any]) -> None:
        self._host = host
        self._resource = resource
        #: Set when the first acquisition came to something: it is held, or optional and missing, or it failed.
        self.settled = anyio.Event()
        self.ended = anyio.Event()
        #: Why it could not be acquired.
        self.failure: ResourceFailed | None = None
        # Shielded: only a release ends a keeper, not the cancellation of whoever runs the actor.
        self._shelter = anyio.CancelScope(shield=True)
        #: What a release cancels: acquiring, waiting to try again, or holding.
        self._interruptible: anyio.CancelScope | None = None
        self._is_released = False
        self._state = "missing"
        self._failures = 0
        self._held_since: float | None = None
        self._lost_to: BaseException | None = None

    async def run(self) -> None:
        """Acquire and hold it until it is released; again when it is lost."""
        try:
            with self._shelter:
                while not self._is_released:
                    error = await self._acquire_and_hold()
                    if error is None or not await self._try_again(error):
                        break
        finally:
            self._host.actor.__dict__.pop(self._resource.name, None)
            self.settled.set()
            self.ended.set()

    def release(self) -> None:
        """Give it back, or stop trying to get it. :attr:`ended` is set when that is done."""
        self._is_released = True
        if self._interruptible is not None:
            self._interruptible.cancel()

    def lose(self, error: BaseException | None) -> None:
        """Somebody found that it does not work any more: leave it and acquire it anew."""
        if self._state == "held" and self._interruptible is not None:
            self._lost_to = error or ActorError(f"{self._host.name}: resource {self._resource.name!r} was reported as lost")
            self._interruptible.cancel()

    def abandon(self) -> None:
        """There is no time left: cancel even the release."""
        self._is_released = True
        self._shelter.cancel()

    async def _acquire_and_hold(self) -> BaseException | None:
        """Once. None when it was released, else why it could not be acquired or was lost."""
        self._change("acquiring")
        self._lost_to = self._held_since = None
        error: BaseException | None = None
        # One scope around the whole life of the context manager: a scope of ours may not end between its entry and its exit,
        # because it may hold a scope of its own (a task group). Only the deadline changes: acquire, hold, release.
        with anyio.CancelScope() as life:
            try:
                await self._live(life)
            except Exception as raised:  # noqa: BLE001 - a user's context manager may raise anything when entered, held or left
                error = unwrapped(raised)
        return self._judge(error, was_cut_short=life.cancelled_caught)

    async def _live(self, life: anyio.CancelScope) -> None:
        began = anyio.current_time()
        if self._resource.timeout is not None:
            life.deadline = began + self._resource.timeout
        self._interruptible = life
        if self._host.faults is not None:
            self._host.faults("resource", self._resource.name)
        async with self._entered() as value:
            life.deadline = math.inf
            self._held_since = anyio.current_time()
            self._hold(value, self._held_since - began)
            with anyio.CancelScope() as self._interruptible:
                await anyio.sleep_forever()
            # Not reached when something inside the context manager failed: then it is lost, and is being left already.
            self._interruptible = None
            self._let_go("releasing")
            life.deadline = anyio.current_time() + self._release_timeout

    def _judge(self, error: BaseException | None, *, was_cut_short: bool) -> BaseException | None:
        """What one acquisition came to; see :meth:`_acquire_and_hold`."""
        self._interruptible = None
        phase = self._state
        name = self._resource.name
        if phase == "releasing":
            if error is not None or was_cut_short:
                error = error or TimeoutError(f"not released within {self._release_timeout:g} s")
                logger.error("%s: releasing %r failed", self._host.name, name, exc_info=error)
            self._change("released", error)
            return None if self._is_released else self._lost_to
        if phase == "held":
            self._let_go("lost")
            return None if self._is_released else error or ActorError(f"{self._host.name}: resource {name!r} ended by itself")
        if error is None and was_cut_short and not self._is_released:
            error = TimeoutError(f"not acquired within {self._resource.timeout} s")
        return None if self._is_released else error

    async def _try_again(self, error: BaseException) -> bool:
        """Wait before the next attempt. False when there is to be none."""
        resource, now = self._resource, anyio.current_time()
        if self._held_since is not None and now - self._held_since > resource.retry.cap:
            self._failures = 0  # it worked for a good while; what comes and goes faster than that is one failure after the other
        self._failures += 1
        if resource.retry.is_exhausted(self._failures) and not resource.optional:
            self._give_up(error)
            return False
        self._complain(error)
        self._change("backing_off", error)
        self._tell_start("resource_failed")
        with anyio.CancelScope() as self._interruptible:
            await anyio.sleep(resource.retry.delay(self._failures))
        self._interruptible = None
        self._tell_start("resource_retried")
        return not self._is_released

    def _give_up(self, error: BaseException) -> None:
        failure = ResourceFailed(self._host.name, self._resource.name, self._failures)
        failure.__cause__ = error
        self._change("failed", error)
        if self.settled.is_set():
            self._host.fail(failure)
        else:
            self.failure = failure

    def _complain(self, error: BaseException) -> None:
        if self._resource.optional:
            self._host.post("report_warning", source=self._concern, detail=error)
            self.settled.set()
        elif self.settled.is_set():  # it was held before
            self._host.post("report_problem", source=self._concern, detail=error)

    def _tell_start(self, event: str) -> None:
        if not self.settled.is_set():
            self._host.post(event, resource=self._resource.name)

    def _hold(self, value: Any, duration: float) -> None:
        self._host.actor.__dict__[self._resource.name] = value
        self._change("held", duration=duration)
        if self._failures:
            self._host.post("recover", source=self._concern)
        self.settled.set()

    def _let_go(self, state: str) -> None:
        self._host.actor.__dict__.pop(self._resource.name, None)
        self._change(state)

    def _change(self, state: str, error: BaseException | None = None, *, duration: float | None = None) -> None:
        before, self._state = self._state, state
        self._host.publisher.resource(self._resource.name, before, state, duration=duration, error=error)

    @property
    def _concern(self) -> str:
        return f"resource.{self._resource.name}"

    @property
    def _release_timeout(self) -> float:
        own = self._resource.release_timeout
        return float(self._host.actor.release_timeout if own is None else own)

    def _entered(self) -> AbstractAsyncContextManager[Any]:
        resource, actor = self._resource, self._host.actor
        if resource.thread == "own":
            return _on_thread(resource, actor, self._host.threads, f"{self._host.name}: {resource.name}")
        return _in_loop(resource, actor)


@asynccontextmanager
async def _in_loop(resource: Resource[Any], actor: Any) -> AsyncIterator[Any]:
    """The context manager that the method returns, sync or async, perhaps after awaiting it."""
    made = resource.make(actor)
    if not hasattr(made, "__aenter__") and inspect.isawaitable(made):
        made = await made
    if hasattr(made, "__aenter__"):
        async with made as value:
            yield value
    else:
        with _sync_manager(resource, actor, made) as value:
            yield value


@asynccontextmanager
async def _on_thread(resource: Resource[Any], actor: Any, threads: dict[str, DedicatedThread], name: str) -> AsyncIterator[Any]:
    """A sync context manager made, entered and left on a new thread, which ends with it."""
    thread = threads[resource.name] = DedicatedThread(name)
    stack = ExitStack()

    def enter() -> Any:
        return stack.enter_context(_sync_manager(resource, actor, resource.make(actor)))

    try:
        # Nobody waits for it any more when the time is up: whatever was entered meanwhile is left again, in the same thread.
        value = await thread.run(enter, abandoned=lambda _: stack.close())
        try:
            yield value
        finally:
            await thread.run(stack.close, must_run=True)
            await thread.aclose()
    except Exception:
        await thread.aclose()
        raise
    finally:
        threads.pop(resource.name, None)
        thread.stop(timeout=0)  # when cancelled: it ends by itself once it has left what it entered


def _sync_manager(resource: Resource[Any], actor: Any, made: Any) -> AbstractContextManager[Any]:
    if hasattr(made, "__enter__"):
        return made  # type: ignore[no-any-return]  # what the user's method returned
    kind = "a synchronous context manager (thread='own')" if resource.thread else "a context manager"
    raise TypeError(f"{type(actor).__name__}.{resource.name} must return {kind}, not {type(made).__name__}")
