"""Every error that Jumpstarter raises, as one tree.

::

    JumpstarterError
    ├── ConfigurationError            an option or a setting that cannot be used
    │   └── DefinitionError           a chart or an actor class that contradicts itself
    ├── ChartError                    a chart that misbehaves while it runs
    │   ├── MacrostepLimit            eventless transitions that never come to rest
    │   ├── PostponeLimit             more postponed events than an instance may keep
    │   └── UnhandledEvent            an event without a transition, where the chart calls that an error
    ├── ActorError
    │   ├── ActorCrashed              the actor ended with a failure, which is the cause
    │   ├── ActorStopped              the actor is not there (any more) for whoever asks it
    │   ├── AskTimeout                no answer within the deadline; also a TimeoutError
    │   ├── ChildFailed               a child crashed too often, or one that its parent cannot do without
    │   ├── CircuitOpen               a handler's circuit breaker is open
    │   ├── HandlingCancelled         a handler was cancelled before it had an answer
    │   ├── LinkBroken                an actor that this one is linked to has crashed
    │   ├── MailboxFull               no room for a message
    │   ├── NotHandled                an actor has no handler for messages of this class
    │   ├── Rejected                  a handler does not take the message in this state
    │   ├── RemoteError               a handler in another process raised
    │   ├── ResourceFailed            a required resource could not be acquired
    │   ├── StopTimeout               an actor did not stop within its grace
    │   └── Unwell                    an actor was unhealthy, or a health check failed, for too long
    ├── BrokerError
    │   ├── BrokerUnavailable         the server does not answer; what is held stays held
    │   │   └── PublishUnconfirmed    messages were sent, and whether they arrived is unknown
    │   │       └── PublishTimeout    … when the deadline was reached
    │   └── QueueNotFound
    ├── ResultsError
    │   └── ResultsUnavailable        the server of the results does not answer
    ├── MessageError                  a message that cannot become a job; it goes to quarantine
    │   ├── Undecodable
    │   └── UnknownTask
    ├── PipelineError
    │   ├── LeaseLost                 rows are somebody else's by now; what was done with them counts for nothing here
    │   ├── StoreUnavailable          the store of a pipeline does not answer
    │   └── Throttled                 the other side wants to be left alone for a while
    └── WorkerError
        └── ChildStartFailed          a child process ended before it was ready

    JobCancelled (a BaseException)    raised inside a plain function whose job was cancelled

Errors carry facts as attributes; their sentence is made here and nowhere else.
"""

from __future__ import annotations


class JumpstarterError(Exception):
    """The root of the tree."""


class ConfigurationError(JumpstarterError):
    """An option or a setting that cannot be used. The message names it and what to do."""


class DefinitionError(ConfigurationError):
    """A chart or an actor class that contradicts itself, found when the class is created.

    :ivar owner: the class or chart that is wrong.
    :ivar state: the state that is wrong, where one can be named.
    """

    def __init__(self, owner: str, why: str, *, state: str | None = None) -> None:
        where = f"{owner}, state {state!r}" if state else owner
        super().__init__(f"{where}: {why}")
        self.owner = owner
        self.state = state


class ChartError(JumpstarterError):
    """A chart that misbehaves while it runs."""


class MacrostepLimit(ChartError):
    """Eventless transitions and raised events that never come to rest.

    :ivar chart: the name of the chart.
    :ivar limit: the number of microsteps after which it was ended.
    """

    def __init__(self, chart: str, limit: int, last: str) -> None:
        super().__init__(
            f"{chart}: no stable configuration after {limit} microsteps; the last transition was {last}. "
            "Give one of its eventless transitions a guard that becomes false."
        )
        self.chart = chart
        self.limit = limit


class PostponeLimit(ChartError):
    """More postponed events than an instance may keep; the event was not kept.

    :ivar chart: the name of the chart.
    :ivar event: the event that was one too many.
    :ivar limit: how many may wait.
    """

    def __init__(self, chart: str, event: str, limit: int) -> None:
        super().__init__(
            f"{chart}: event {event!r} cannot be postponed, {limit} events wait already. "
            "Let the state that postpones them be left, or raise the chart's `postpone_limit`."
        )
        self.chart = chart
        self.event = event
        self.limit = limit


class UnhandledEvent(ChartError):
    """An event without a transition in a state whose ``ignore_invalid_triggers`` is False.

    :ivar chart: the name of the chart.
    :ivar event: the event.
    :ivar active: the active states, as paths.
    """

    def __init__(self, chart: str, event: str, active: tuple[str, ...]) -> None:
        super().__init__(
            f"{chart}: event {event!r} means nothing in {', '.join(active)}. Ask `can` first, or let the state ignore it."
        )
        self.chart = chart
        self.event = event
        self.active = active


class ActorError(JumpstarterError):
    """Something about a running actor.

    :ivar actor: its name; empty where it is not one actor's matter.
    """

    def __init__(self, text: str, *, actor: str = "") -> None:
        super().__init__(text)
        self.actor = actor


class ActorCrashed(ActorError):
    """The actor ended with a failure, which is this error's ``__cause__``."""

    def __init__(self, actor: str) -> None:
        super().__init__(f"{actor} crashed", actor=actor)


class ActorStopped(ActorError):
    """The actor is not there (any more) for whoever asks it."""

    def __init__(self, actor: str, state: str) -> None:
        super().__init__(f"{actor} is {state} and answers nobody", actor=actor)


class AskTimeout(ActorError, TimeoutError):
    """No answer within the deadline.

    :ivar actor: who was asked.
    :ivar message: what was asked.
    :ivar seconds: the deadline.
    """

    def __init__(self, actor: str, message: object, seconds: float) -> None:
        super().__init__(f"{actor} did not answer {message!r} within {seconds:g} s", actor=actor)
        self.message = message
        self.seconds = seconds


class ChildFailed(ActorError):
    """A child crashed too often, or it is one that its parent cannot do without; its last error is the ``__cause__``.

    :ivar child: its name.
    """

    def __init__(self, actor: str, child: str, why: str) -> None:
        super().__init__(f"{actor}: child {child} {why}", actor=actor)
        self.child = child


class CircuitOpen(ActorError):
    """A handler failed too often; its circuit breaker lets nothing through for a while.

    :ivar handler: the name of the handler.
    """

    def __init__(self, actor: str, handler: str) -> None:
        super().__init__(f"{actor}: the circuit of {handler!r} is open; ask again later", actor=actor)
        self.handler = handler


class HandlingCancelled(ActorError):
    """A handler was cancelled before it had an answer: its states were left, or the grace of a stop was over.

    :ivar message: what was asked.
    """

    def __init__(self, actor: str, message: object) -> None:
        super().__init__(f"{actor}: the handling of {message!r} was cancelled", actor=actor)
        self.message = message


class LinkBroken(ActorError):
    """An actor that this one is linked to has crashed; its failure is the ``__cause__``.

    :ivar other: the name of the one that crashed.
    """

    def __init__(self, actor: str, other: str) -> None:
        super().__init__(f"{actor} is linked to {other}, which crashed", actor=actor)
        self.other = other


class MailboxFull(ActorError):
    """There is no room for a message.

    :ivar capacity: how many messages may wait.
    """

    def __init__(self, actor: str, capacity: int, why: str = "") -> None:
        super().__init__(
            f"{actor}: {capacity} messages wait already, which is the mailbox's capacity" + (f"; {why}" if why else ""),
            actor=actor,
        )
        self.capacity = capacity


class NotHandled(ActorError):
    """An actor has no handler for messages of this class.

    :ivar message: the name of the class.
    """

    def __init__(self, actor: str, message: str, handled: str) -> None:
        super().__init__(
            f"{actor} does not handle {message}; it handles {handled or 'no messages: decorate a method with @handles'}",
            actor=actor,
        )
        self.message = message


class Rejected(ActorError):
    """A handler does not take the message in this state.

    :ivar message: what was asked.
    """

    def __init__(self, actor: str, message: object, state: str) -> None:
        super().__init__(f"{actor} does not take {message!r} while it is {state}", actor=actor)
        self.message = message


class RemoteError(ActorError):
    """A handler in another process raised.

    :ivar kind: the name of the error's class there.
    """

    def __init__(self, actor: str, kind: str, text: str) -> None:
        super().__init__(f"{actor}: {kind}: {text}", actor=actor)
        self.kind = kind


class Unwell(ActorError):
    """An actor was unhealthy, or a health check failed, for longer than ``unhealthy_for``.

    :ivar seconds: for how long.
    """

    def __init__(self, actor: str, what: str, seconds: float) -> None:
        super().__init__(f"{actor}: {what} for {seconds:g} s", actor=actor)
        self.seconds = seconds


class ResourceFailed(ActorError):
    """A required resource could not be acquired; the last error is the ``__cause__``."""

    def __init__(self, actor: str, resource: str, attempts: int) -> None:
        super().__init__(f"{actor}: resource {resource!r} could not be acquired in {attempts} attempt(s)", actor=actor)
        self.resource = resource
        self.attempts = attempts


class StopTimeout(ActorError):
    """An actor did not stop within its grace (seconds)."""

    def __init__(self, actor: str, grace: float) -> None:
        super().__init__(f"{actor} did not stop within {grace:g} s", actor=actor)
        self.grace = grace


class BrokerError(JumpstarterError):
    """Something about a broker."""


class BrokerUnavailable(BrokerError):
    """The broker does not answer.

    :ivar url: its address, without the password.
    """

    def __init__(self, url: str, why: object) -> None:
        super().__init__(f"the broker at {url} cannot be reached: {why}")
        self.url = url


class PublishUnconfirmed(BrokerUnavailable):
    """The connection broke after messages were sent and before the broker said that it has them: whether it has is unknown.

    Whoever publishes them again may publish them twice.
    """


class PublishTimeout(PublishUnconfirmed):
    """A publish did not finish within its deadline; whether the messages arrived is unknown."""


class QueueNotFound(BrokerError):
    """A queue that does not exist and may not be created."""

    def __init__(self, queue: str, why: str = "it is not declared") -> None:
        super().__init__(f"queue {queue!r} cannot be used: {why}")
        self.queue = queue


class ResultsError(JumpstarterError):
    """Something about the store of results."""


class ResultsUnavailable(ResultsError):
    """The store of results does not answer.

    :ivar url: its address, without the password.
    """

    def __init__(self, url: str, why: object) -> None:
        super().__init__(f"the results at {url} cannot be reached: {why}")
        self.url = url


class MessageError(JumpstarterError):
    """A message that cannot become a job."""


class Undecodable(MessageError):
    """Bytes that are no message, or a content type that is unknown or not accepted."""


class UnknownTask(MessageError):
    """A message for a task that this application does not have.

    :ivar name: the name of the task.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"no task is registered under the name {name!r}")
        self.name = name


class PipelineError(JumpstarterError):
    """Something about a pipeline."""


class LeaseLost(PipelineError):
    """The lease of these rows ran out, and they were given to somebody else.

    :ivar queue: where they come from.
    """

    def __init__(self, queue: str, fence: int) -> None:
        super().__init__(f"the lease of claim {fence} in {queue!r} has run out; its rows are somebody else's")
        self.queue = queue
        self.fence = fence


class StoreUnavailable(PipelineError):
    """The store of budgets and rows does not answer.

    :ivar url: its address, without the password.
    """

    def __init__(self, url: str, why: object) -> None:
        super().__init__(f"the store at {url} cannot be used: {why}")
        self.url = url


class Throttled(PipelineError):
    """Raised by a step: the other side wants to be left alone for so many seconds (429, Retry-After).

    :ivar after: seconds; nobody takes anything of the budget meanwhile.
    """

    def __init__(self, after: float) -> None:
        super().__init__(f"the other side wants to be left alone for {after:g} s")
        self.after = after


class WorkerError(JumpstarterError):
    """Something about a worker's processes."""


class ChildStartFailed(WorkerError):
    """A child process ended before it was ready."""


class JobCancelled(BaseException):
    """Raised inside a job that was cancelled or ran out of time. Not an :class:`Exception`: a function that handles its own errors
    must still end."""
