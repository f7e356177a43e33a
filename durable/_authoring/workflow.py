"""`@workflow`: an `async def` that survives crashes once it is given to `start`.

A `Workflow` owns its name and the options under which its runs are started. Inside a
workflow body, calling one inlines it into the caller's run.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, cast, overload

from durable._authoring import registry
from durable._authoring.attributes import check_attributes
from durable._authoring.context import current_body
from durable._base.clock import SystemClock
from durable._base.duration import parse_duration, parse_instant, when
from durable._base.ids import valid_run_id
from durable.errors import NotAWorkflowError, WorkflowNotRegisteredError, WrongContextError

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")

Duration = float | timedelta | str
OnConflict = Literal["return", "raise"]
OnParentClose = Literal["cancel", "abandon"]

DEPLOYMENT_CHARS_MAX = 256
KEEP_FOR_EVER = -1

_clock = SystemClock()


@dataclass(frozen=True, slots=True)
class StartOptions:
    """Under which conditions a run is started. Times are microseconds, `at` is UTC."""

    run_id: str | None = None
    on_conflict: OnConflict = "return"
    delay_us: int | None = None
    at_us: int | None = None
    timeout_us: int | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    deployment_id: str | None = None
    retention_us: int | None = None
    on_parent_close: OnParentClose = "abandon"


class Workflow(Generic[P, R]):
    """A durable function; made by the decorator `workflow`, run by `start`.

    Attributes:
        name: under which its runs are recorded.
        fn: the undecorated function.
        settings: its `StartOptions`.

    Example:
        ``run = await start(fulfil, "A-17")``; ``await fulfil("A-17")`` in another body
    """

    def __init__(
        self,
        fn: Callable[P, Coroutine[Any, Any, R]],
        name: str,
        settings: StartOptions,
        owner: object = None,
    ) -> None:
        self.fn = fn
        self.name = name
        self.settings = settings
        self.owner = owner
        functools.update_wrapper(self, fn)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[None, None, R]:
        """Inside a workflow body: run this workflow as a part of the caller's run.

        Raises:
            WrongContextError: called anywhere else; use `start`.
        """
        if current_body() is None:
            name = self.fn.__name__
            raise WrongContextError(
                f"{self.name} is a workflow: start a run with `await start({name}, ...)`, "
                f"or call {name}.fn(...) to run it as plain asyncio, without durability"
            )
        given = args if self.owner is None else (self.owner, *args)
        return cast(Any, self.fn)(*given, **kwargs)  # type: ignore[no-any-return]

    @overload
    def options(
        self,
        *,
        deployment_id: str,
        run_id: str | None = None,
        on_conflict: OnConflict | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        timeout: Duration | None = None,
        attributes: Mapping[str, str] | None = None,
        retention: Duration | Literal["forever"] | None = None,
        on_parent_close: OnParentClose | None = None,
    ) -> Workflow[..., Any]: ...
    @overload
    def options(
        self,
        *,
        run_id: str | None = None,
        on_conflict: OnConflict | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        timeout: Duration | None = None,
        attributes: Mapping[str, str] | None = None,
        retention: Duration | Literal["forever"] | None = None,
        on_parent_close: OnParentClose | None = None,
    ) -> Workflow[P, R]: ...
    def options(self, **given: Any) -> Any:
        """Return a copy whose runs start under other conditions; None leaves one as it is.

        Args:
            run_id: own id of the run, 1 to 256 characters. Starting twice under one id
                gives the same run, also long after it ended.
            on_conflict: ``"return"`` the existing run (default; workflow and arguments
                must agree) or ``"raise"`` `RunExistsError`.
            delay: start after this time. at: start at this aware datetime.
            timeout: deadline of the whole run, counted from `start`, or from `delay`/`at`.
            attributes: up to 64 text pairs of up to 256 characters.
            deployment_id: text kept with the run; ``"latest"`` is accepted.
            retention: keep the finished run this long; ``"forever"``, or default: the runtime's.
            on_parent_close: of a run that a workflow body starts: ``"abandon"`` (default), it
                goes on after the end of its parent; or ``"cancel"``, it is asked to end when
                its parent has completed, failed or been cancelled (not when that continues
                as a new run), with time to clean up, and so are its own children.

        Durations are seconds, a `timedelta` or text such as ``"1h30m"``.

        Raises:
            ValueError, TypeError: an option is unknown or not usable.

        Example:
            ``await start(fulfil.options(run_id="order-17", timeout="2h"), "A-17")``
        """
        return Workflow(self.fn, self.name, settle(self.settings, given), self.owner)

    @overload
    def __get__(self, instance: None, owner: object = None) -> Workflow[P, R]: ...
    @overload
    def __get__(
        self: Workflow[Concatenate[S, Q], R], instance: S, owner: object = None
    ) -> Workflow[Q, R]: ...
    def __get__(self, instance: object, owner: object = None) -> Any:
        """Bind a workflow defined in a class; the instance is recorded as first argument."""
        return self if instance is None else Workflow(self.fn, self.name, self.settings, instance)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Return the positional arguments, the bound instance included, after an arity check.

        Raises:
            TypeError: the arguments do not fit the signature.
        """
        given = args if self.owner is None else (self.owner, *args)
        if not kwargs and len(given) in self._positional:
            return given  # a count is all there is to check
        try:
            self._signature.bind(*given, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{self.name}{self._signature} cannot be started like this: {error}"
            ) from None
        return given

    @functools.cached_property
    def _positional(self) -> range:
        """How many arguments fit when they are all positional, as far as a range can tell."""
        named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = self._signature.parameters.values()
        if any(each.kind not in named for each in parameters):
            return range(0)
        required = sum(each.default is inspect.Parameter.empty for each in parameters)
        return range(required, len(parameters) + 1)

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.fn)

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (self.name, self.settings, self.owner))


def find(name: str) -> Workflow[..., Any]:
    """Return the workflow registered under `name` in this process.

    Raises:
        WorkflowNotRegisteredError: there is none.
    """
    found = registry.find_workflow(name)
    if found is None:
        known = ", ".join(registry.workflow_names()) or "none"
        error = WorkflowNotRegisteredError(
            f"no workflow is named {name!r} in this process (known: {known}): "
            "import the module that defines it first"
        )
        error.name = name
        raise error
    assert isinstance(found, Workflow)
    return found


def _restore(name: str, settings: StartOptions, owner: object) -> Workflow[..., Any]:
    found = find(name)
    return Workflow(found.fn, name, settings, owner)


def settle(base: StartOptions, given: Mapping[str, Any]) -> StartOptions:
    """Return `base` with the user's options that are not None, checked."""
    chosen: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _CHECKS:
            known = ", ".join(sorted(_CHECKS))
            raise TypeError(f"unknown option {name!r}: workflow.options() takes {known}")
        if value is not None:
            field, check = _CHECKS[name]
            chosen[field] = check(value)
    settled = replace(base, **chosen)
    if settled.delay_us is not None and settled.at_us is not None:
        raise ValueError("give either delay or at, not both")
    return settled


def _check_run_id(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"run_id={value!r} must be a text")
    valid_run_id(value)
    return value


def _check_on_conflict(value: object) -> str:
    if value not in ("return", "raise"):
        raise ValueError(f"on_conflict={value!r} is unknown: use 'return' or 'raise'")
    return str(value)


def _check_parent_close(value: object) -> str:
    if value not in ("cancel", "abandon"):
        raise ValueError(f"on_parent_close={value!r} is unknown: use 'cancel' or 'abandon'")
    return str(value)


def _check_deployment(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= DEPLOYMENT_CHARS_MAX:
        raise TypeError(f"deployment_id={value!r} must be a text of 1 to 256 characters")
    return value


def _check_at(value: datetime) -> int:
    at_us = parse_instant(value, what="at")
    when(value, _clock.wall_us(), what="at")  # refuses what is 100 years ahead
    return at_us


def check_retention(value: object) -> int:
    """Return a retention in microseconds, `KEEP_FOR_EVER` for ``"forever"``."""
    if value == "forever":
        return KEEP_FOR_EVER
    return parse_duration(value, what="retention")  # type: ignore[arg-type]


_CHECKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "run_id": ("run_id", _check_run_id),
    "on_conflict": ("on_conflict", _check_on_conflict),
    "delay": ("delay_us", lambda value: parse_duration(value, what="delay")),
    "at": ("at_us", _check_at),
    "timeout": ("timeout_us", lambda value: parse_duration(value, what="timeout")),
    "attributes": ("attributes", check_attributes),
    "deployment_id": ("deployment_id", _check_deployment),
    "retention": ("retention_us", check_retention),
    "on_parent_close": ("on_parent_close", _check_parent_close),
}
assert {field for field, _ in _CHECKS.values()} == {field.name for field in fields(StartOptions)}


class WorkflowDecorator:
    """What ``@workflow(...)`` with options returns."""

    def __init__(self, name: str | None, settings: StartOptions) -> None:
        self._name = registry.check_name(name)
        self._settings = settings

    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]]) -> Workflow[P, R]:
        """Make `fn` a workflow."""
        registry.refuse_misplaced(fn, "workflow")
        if not inspect.iscoroutinefunction(fn):
            shown = getattr(fn, "__qualname__", repr(fn))
            raise NotAWorkflowError(f"@workflow needs an `async def` function, got {shown}")
        made = Workflow(fn, self._name or registry.default_name(fn), self._settings)
        registry.register_workflow(made)
        return made


@overload
def workflow(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *, name: str | None = None, retention: Duration | Literal["forever"] | None = None
) -> WorkflowDecorator: ...
def workflow(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retention: Duration | Literal["forever"] | None = None,
) -> Any:
    """Make an ``async def`` a workflow: `start` runs it durably, step by step.

    Args:
        fn: the function. Its body may await steps, sleeps and asyncio's primitives.
        name: recorded name, 1 to 256 characters; default ``module.qualname``. Give one
            if you may move or rename the function while runs are alive.
        retention: how long finished runs are kept; default: the runtime's.

    Raises:
        NotAWorkflowError: `fn` is no ``async def``.
        ValueError, TypeError: the name is not usable, or taken by another function.

    Example:
        >>> @workflow
        ... async def greet(name: str) -> str:
        ...     return f"Hello {name}"
    """
    decorator = WorkflowDecorator(name, settle(StartOptions(), {"retention": retention}))
    return decorator if fn is None else decorator(fn)
