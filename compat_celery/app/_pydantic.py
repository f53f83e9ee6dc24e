"""Tasks whose arguments are pydantic models (``@app.task(pydantic=True)``). Comes from: app.base. Needs pydantic."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from compat_celery.exceptions import ImproperlyConfigured
from compat_celery.utils.annotations import annotation_is_class, annotation_issubclass, get_optional_arg
from compat_celery.utils.functional import is_coroutine_function

if TYPE_CHECKING:
    from compat_celery.app.base import Celery

__all__ = ("pydantic_wrapper",)


def pydantic_wrapper(
    app: Celery,
    task_fun: Callable[..., Any],
    task_name: str,
    strict: bool = True,
    context: dict[str, Any] | None = None,
    dump_kwargs: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """The function with its arguments validated by the models that annotate them, and a returned model dumped.

    What it gives has an attribute ``dump_arguments(args, kwargs, bound=False)``, for callers who pass models.

    :raises ImproperlyConfigured: pydantic is not installed.
    """
    models = _Models(app, task_fun, task_name, strict, context or {}, {"mode": "json", **(dump_kwargs or {})})
    if is_coroutine_function(task_fun):

        @functools.wraps(task_fun)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            bound = models.validated(args, kwargs)
            return models.dumped_result(await task_fun(*bound.args, **bound.kwargs))
    else:

        @functools.wraps(task_fun)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            bound = models.validated(args, kwargs)
            return models.dumped_result(task_fun(*bound.args, **bound.kwargs))

    wrapper.dump_arguments = models.dump_arguments  # type: ignore[attr-defined] # read where the task is made
    return wrapper


class _Models:
    """The models in one function's signature."""

    def __init__(
        self, app: Celery, fun: Callable[..., Any], name: str, strict: bool, context: dict[str, Any], dump: dict[str, Any]
    ) -> None:
        try:
            self.base: type = import_module("pydantic").BaseModel
        except ModuleNotFoundError as error:
            raise ImproperlyConfigured("You need to install pydantic to use pydantic model serialization.") from error
        self.signature = inspect.signature(fun)
        self.hints = _hints(fun)
        self.strict = strict
        self.dump = dump
        self.context = {**context, "celery_app": app, "celery_task_name": name}

    def model_of(self, parameter: str, value: Any) -> Any:
        """The model that the parameter is annotated with; None for other parameters, and for None in an optional one."""
        annotation = self.hints.get(parameter, self.signature.parameters[parameter].annotation)
        optional = get_optional_arg(annotation)
        if optional is not None and value is not None:
            annotation = optional
        return annotation if annotation_issubclass(annotation, self.base) else None

    def validate(self, model: Any, value: Any) -> Any:
        return model.model_validate(value, strict=self.strict, context=self.context)

    def validated(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        bound = self.signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            model = self.model_of(name, value)
            if model is not None:
                bound.arguments[name] = self.validate(model, value)
        return bound

    def dumped_result(self, value: Any) -> Any:
        if not isinstance(value, self.base):
            return value
        annotation = self.hints.get("return", self.signature.return_annotation)
        annotation = get_optional_arg(annotation) or annotation
        if annotation_is_class(annotation) and isinstance(value, annotation):
            return value.model_dump(**self.dump)
        return value

    def dump_arguments(self, args: Any, kwargs: Any, bound: bool = False) -> tuple[Any, Any]:
        """The arguments, with those models dumped that the wrapper makes equal models of again; unchanged when there are none.

        Others are left to the serializer, which refuses them as it does for tasks without pydantic.
        """
        positional, named = () if args is None else args, {} if kwargs is None else kwargs
        if not isinstance(positional, list | tuple) or not isinstance(named, Mapping):
            return args, kwargs
        if not any(isinstance(value, self.base) for value in (*positional, *named.values())):
            return args, kwargs
        try:
            self.signature.bind(*([None] if bound else []), *positional, **named)
        except TypeError:
            return args, kwargs  # the worker will say so
        names = [name for name, parameter in self.signature.parameters.items() if parameter.kind in POSITIONAL][int(bound) :]
        padded = [*names, *[None] * len(positional)]
        dumped = [self._dumped(name, value) for name, value in zip(padded, positional, strict=False)]
        by_name = {name: self._dumped(name if self._is_keyword(name) else None, value) for name, value in named.items()}
        # What was not dumped is given back itself, None too: publishing tells "no arguments" from an empty list.
        if any(new is not old for new, old in zip(dumped, positional, strict=True)):
            args = dumped if isinstance(positional, list) else tuple(dumped)
        if any(by_name[name] is not value for name, value in named.items()):
            kwargs = by_name
        return args, kwargs

    def _is_keyword(self, name: str) -> bool:
        parameter = self.signature.parameters.get(name)
        return parameter is not None and parameter.kind in KEYWORD

    def _dumped(self, name: str | None, value: Any) -> Any:
        if name is None or not isinstance(value, self.base) or hasattr(type(value), "__json__"):
            return value
        model = self.model_of(name, value)
        if model is None:
            return value
        try:
            dumped = value.model_dump(**self.dump)  # type: ignore[attr-defined] # BaseModel's
            again = self.validate(model, dumped)
        except Exception:  # noqa: BLE001 - a model's own validators, some of which work in the worker only
            return value
        # Equal includes the class: of a subclass the worker would make the base class.
        return dumped if again == value else value


POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _hints(fun: Callable[..., Any]) -> dict[str, Any]:
    """The annotations as types, or nothing where they cannot be resolved (names that exist for type checkers only)."""
    try:
        return typing.get_type_hints(fun)
    except (NameError, AttributeError, TypeError):
        return {}
