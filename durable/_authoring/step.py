"""`@step`: a function whose outcome is journaled.

A `Step` called inside a workflow body issues a command and waits for its outcome;
called anywhere else it runs as written. It owns its options, and nothing about how
attempts are made: that is the engine's executor.
"""

from __future__ import annotations

import functools
import inspect
import sys
from asyncio import _get_running_loop
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

from durable._authoring.generator import StepItems
from durable._authoring.namespaces import check_namespace
from durable._authoring.registry import (
    check_name,
    default_name,
    refuse_misplaced,
    register_step,
)
from durable._base.backoff import Backoff
from durable._base.duration import parse_duration
from durable._replay.body import Body
from durable._replay.loop import BodyLoop

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

Duration = float | timedelta | str
ErrorTypes = type[BaseException] | tuple[type[BaseException], ...]
ErrorTest = ErrorTypes | Callable[[BaseException], bool]
Executor = Literal["thread", "process"]
OnItemsRetry = Literal["skip", "resume", "replace"]


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How attempts of a step are made. Times are in seconds.

    `max_retries` counts the attempts after the first. A failed attempt is retried when
    its error matches `retry_on` and does not match `no_retry_on`. `stream` and `on_retry`
    are for generators.
    """

    max_retries: int = 3
    backoff: Backoff = Backoff()
    timeout: float | None = None
    retry_on: ErrorTest = Exception
    no_retry_on: ErrorTest = ()
    concurrency: int | None = None
    executor: Executor = "thread"
    stream: str = ""
    on_retry: OnItemsRetry = "skip"
    waits_for_run: bool = False  # ours: its outcome is that of another run, and no attempt's

    def retries(self, error: BaseException) -> bool:
        """Tell whether `error` may be answered with another attempt."""
        return _matches(error, self.retry_on) and not _matches(error, self.no_retry_on)


def _matches(error: BaseException, test: ErrorTest) -> bool:
    if isinstance(test, (type, tuple)):
        return isinstance(error, test)
    return test(error)


class Step(Generic[P, R]):
    """A function whose outcome is journaled; made by the decorator `step`.

    Attributes:
        name: under which its outcomes are recorded.
        fn: the undecorated function.
        settings: its `StepOptions`.

    Example:
        ``receipt = await charge(order)`` in a body; ``await charge.fn(order)`` anywhere
    """

    yields = False

    def __init__(
        self, fn: Callable[P, Any], name: str, settings: StepOptions, owner: object = None
    ) -> None:
        self.fn = fn
        self.name = name
        self.settings = settings
        self.is_async = _is_async(fn) or _is_async(type(fn).__call__)
        self._owner = owner
        functools.update_wrapper(self, fn)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[None, None, R]:
        """Issue the step inside a workflow body; elsewhere run the function as written.

        A sync function called outside a body returns its plain value; for the type checker
        use `fn` there.
        """
        given = args if self._owner is None else (self._owner, *args)
        loop = _get_running_loop()
        if type(loop) is BodyLoop:
            issued = _issue(loop._timers, self, given, kwargs)
            # What Python names when it is never awaited.
            issued.__qualname__ = self.name  # type: ignore[attr-defined]
            return issued
        return cast("Coroutine[Any, Any, R]", cast(Any, self.fn)(*given, **kwargs))

    def options(
        self,
        *,
        max_retries: int | None = None,
        backoff: Backoff | None = None,
        timeout: Duration | None = None,
        retry_on: ErrorTest | None = None,
        no_retry_on: ErrorTest | None = None,
        concurrency: int | None = None,
        executor: Executor | None = None,
    ) -> Step[P, R]:
        """Return a copy with other options; what is None stays as it is.

        Example:
            ``await charge.options(max_retries=0, timeout="10s")(order)``
        """
        changed = {name: value for name, value in locals().items() if name != "self"}
        settings = _settle(self.settings, changed)
        _check_executor(self, settings)
        return Step(self.fn, self.name, settings, self._owner)

    @overload
    def __get__(self, instance: None, owner: object = None) -> Step[P, R]: ...
    @overload
    def __get__(
        self: Step[Concatenate[S, Q], R], instance: S, owner: object = None
    ) -> Step[Q, R]: ...
    def __get__(self, instance: object, owner: object = None) -> Any:
        """Bind a step defined in a class; the instance is recorded as first argument."""
        if instance is None:
            return self
        return type(self)(self.fn, self.name, self.settings, instance)

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By reference where another process can import it, else by value.
        module, qualname = self.__module__, str(self.fn.__qualname__)
        if module != "__main__" and _find_global(module, qualname) is self:
            return qualname
        return (type(self), (self.fn, self.name, self.settings, self._owner))


class GeneratorStep(Step[P, int], Generic[P, T]):
    """A generator whose items are journaled; made by the decorator `step`.

    In a body it is iterated or awaited (see `StepItems`). Each item is a chunk of the run's
    stream, too. Called anywhere else it is the plain generator.

    Example:
        ``async for token in complete(prompt): text += token``
    """

    yields = True

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> StepItems[T]:  # type: ignore[override]
        """Return the items, inside a workflow body; elsewhere the generator as written."""
        given = args if self._owner is None else (self._owner, *args)
        loop = _get_running_loop()
        if type(loop) is BodyLoop:
            body, replaces = cast(Body, loop._timers), self.settings.on_retry == "replace"
            return StepItems(body, self, given, kwargs, replaces=replaces)
        return cast("StepItems[T]", cast(Any, self.fn)(*given, **kwargs))

    def options(
        self,
        *,
        max_retries: int | None = None,
        backoff: Backoff | None = None,
        timeout: Duration | None = None,
        retry_on: ErrorTest | None = None,
        no_retry_on: ErrorTest | None = None,
        concurrency: int | None = None,
        executor: Executor | None = None,
        stream: str | None = None,
        on_retry: OnItemsRetry | None = None,
    ) -> GeneratorStep[P, T]:
        """Return a copy with other options; what is None stays as it is.

        Example:
            ``async for token in complete.options(stream="draft")(prompt): ...``
        """
        changed = {name: value for name, value in locals().items() if name != "self"}
        settings = _settle(self.settings, changed)
        _check_executor(self, settings)
        return GeneratorStep(self.fn, self.name, settings, self._owner)

    if TYPE_CHECKING:  # binding keeps the class

        @overload
        def __get__(self, instance: None, owner: object = None) -> GeneratorStep[P, T]: ...
        @overload
        def __get__(
            self: GeneratorStep[Concatenate[S, Q], T], instance: S, owner: object = None
        ) -> GeneratorStep[Q, T]: ...
        def __get__(self, instance: object, owner: object = None) -> Any: ...


def _is_async(fn: object) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)


def _find_global(module: str, qualname: str) -> object:
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


async def _issue(body: Any, step: Step[Any, R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    outcome: R = await body.create_step(step, args, kwargs)
    return outcome


def _settle(base: StepOptions, given: dict[str, Any]) -> StepOptions:
    """Return `base` with the options that are not None, checked."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if "timeout" in chosen:
        chosen["timeout"] = parse_duration(chosen["timeout"], what="timeout") / 1e6
    for name, least in (("max_retries", 0), ("concurrency", 1)):
        value = chosen.get(name, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r} is not usable: give a whole number from {least}")
    if chosen.get("executor", "thread") not in ("thread", "process"):
        raise ValueError(f"executor={chosen['executor']!r} is unknown: use 'thread' or 'process'")
    if "stream" in chosen:
        chosen["stream"] = check_namespace(chosen["stream"], what="stream")
    if chosen.get("on_retry", "skip") not in ("skip", "resume", "replace"):
        raise ValueError(
            f"on_retry={chosen['on_retry']!r} is unknown: use 'skip', 'resume' or 'replace'"
        )
    if not isinstance(chosen.get("backoff", base.backoff), Backoff):
        raise TypeError(f"backoff={chosen['backoff']!r} must be a durable.Backoff")
    for name in ("retry_on", "no_retry_on"):
        _check_error_test(name, chosen.get(name, ()))
    return replace(base, **chosen)


def _check_error_test(name: str, test: object) -> None:
    kinds = test if isinstance(test, tuple) else (test,) if isinstance(test, type) else None
    if kinds is None and callable(test):
        return
    if kinds is None or not all(_is_error_type(kind) for kind in kinds):
        raise TypeError(
            f"{name}={test!r} is not usable: give an exception type, a tuple of them, or a "
            "function from the exception to a bool"
        )


def _is_error_type(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


def _check_executor(step: Step[..., Any], settings: StepOptions) -> None:
    if settings.executor == "process" and step.is_async:
        raise ValueError(f'step {step.name} is async: executor="process" needs a plain "def"')
    if settings.executor == "process" and step.yields:
        raise ValueError(
            f'step {step.name} is a generator, whose items cannot come from executor="process"'
        )
    if not step.yields and (settings.stream or settings.on_retry != "skip"):
        raise ValueError(
            f"step {step.name} is no generator: stream and on_retry are for generators; in other "
            "steps use get_writable(namespace, on_retry=...)"
        )


class StepDecorator:
    """What ``@step(...)`` with options returns."""

    def __init__(self, name: str | None, settings: StepOptions) -> None:
        self._name = check_name(name)
        self._settings = settings

    @overload
    def __call__(self, fn: Callable[P, AsyncIterator[T]]) -> GeneratorStep[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, Iterator[T]]) -> GeneratorStep[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]]) -> Step[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> Step[P, R]: ...
    def __call__(self, fn: Callable[..., Any]) -> Step[..., Any]:
        """Make `fn` a step."""
        if isinstance(fn, (staticmethod, classmethod)) or not callable(fn):
            raise TypeError(
                f"@step needs a function, got {fn!r}: put @staticmethod or @classmethod above @step"
            )
        refuse_misplaced(fn, "step")
        is_generator = inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn)
        kind = GeneratorStep[..., Any] if is_generator else Step[..., Any]
        made: Step[..., Any] = kind(fn, self._name or default_name(fn), self._settings)
        _check_executor(made, self._settings)
        register_step(made)
        return made


@overload
def step(fn: Callable[P, AsyncIterator[T]], /) -> GeneratorStep[P, T]: ...
@overload
def step(fn: Callable[P, Iterator[T]], /) -> GeneratorStep[P, T]: ...
@overload
def step(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
@overload
def step(fn: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    name: str | None = None,
    max_retries: int = 3,
    backoff: Backoff | None = None,
    timeout: Duration | None = None,
    retry_on: ErrorTest = Exception,
    no_retry_on: ErrorTest = (),
    concurrency: int | None = None,
    executor: Executor = "thread",
    stream: str | None = None,
    on_retry: OnItemsRetry | None = None,
) -> StepDecorator: ...
def step(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    max_retries: int = 3,
    backoff: Backoff | None = None,
    timeout: Duration | None = None,
    retry_on: ErrorTest = Exception,
    no_retry_on: ErrorTest = (),
    concurrency: int | None = None,
    executor: Executor = "thread",
    stream: str | None = None,
    on_retry: OnItemsRetry | None = None,
) -> Any:
    """Make a function a step: its outcome is journaled and it never runs again once completed.

    Args:
        fn: an ``async def`` (runs on the host's loop) or a ``def`` (runs in a thread). One that
            yields is a generator step: each item is recorded, streamed to the run, and given
            to the body, which iterates the call, or awaits it to have the number of items.
        name: recorded name, 1 to 256 characters; default ``module.qualname``.
        max_retries: attempts after the first; default 3, 0 for none.
        backoff: delay between attempts; default exponential from 1 s to 60 s with jitter.
        timeout: limit of one attempt once it runs: seconds, `timedelta`, ``"1m"``; default none.
        retry_on: exception types (or a predicate) worth another attempt; default `Exception`.
        no_retry_on: exception types (or a predicate) that end the step at once.
        concurrency: how many attempts of this step may run at once in this process.
        executor: where a ``def`` runs: ``"thread"``, or ``"process"`` for CPU work.
        stream: of a generator: the stream that its items go to; default: the run's default one.
        on_retry: of a generator whose attempt failed after some items. ``"skip"`` (default):
            it begins anew, and as many items as are on record are dropped, so it should yield
            the same ones again. ``"resume"``: nothing is dropped; it looks at
            ``get_step_metadata().yielded`` and goes on from there. ``"replace"``: what is on
            record is withdrawn from the stream; only for calls that are awaited.

    Raises:
        ValueError, TypeError: an option or the function is not usable; the name is taken.

    Example:
        >>> @step(max_retries=5)
        ... async def charge(order: str) -> str:
        ...     return f"receipt for {order}"
    """
    given = {key: value for key, value in locals().items() if key not in ("fn", "name")}
    decorator = StepDecorator(name, _settle(StepOptions(), given))
    return decorator if fn is None else decorator(fn)
