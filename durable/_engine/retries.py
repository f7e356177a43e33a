"""Decides whether a failed attempt is answered with another one, and when.

Pure judgement from a step's options, its failures on record and the error. It makes no
attempts and records nothing. What the user's own predicate or `retry_after` gets wrong
is logged and never keeps the step from its outcome.
"""

from __future__ import annotations

import inspect
import logging
import random
from asyncio import CancelledError
from pathlib import Path
from typing import Any

from durable._authoring.step import Step
from durable._base.duration import when
from durable.errors import FatalError, RetryableError, SerializationError, StepTimeoutError

logger = logging.getLogger("durable")

_PACKAGE = str(Path(__file__).parents[1])


def next_attempt_at(
    step: Step[..., Any], failures: int, error: BaseException, now_us: int
) -> int | None:
    """Return when the next attempt is due (UTC microseconds), None when there is to be none.

    Args:
        step: the step with the options it was called with.
        failures: failed attempts so far, this one included.
        error: what the attempt failed with.
        now_us: the present.
    """
    settings = step.settings
    if failures > settings.max_retries or isinstance(error, FatalError):
        return None
    if isinstance(error, RetryableError):
        if error.retry_after is not None:
            return _after(error.retry_after, now_us)
    elif isinstance(error, CancelledError):
        pass  # not the step's own doing
    elif is_call_error(step, error) or not _is_worth_it(step, error):
        return None
    return now_us + int(settings.backoff.delay(failures, random.random()) * 1e6)


def _after(retry_after: Any, now_us: int) -> int:
    try:
        due, _ = when(retry_after, now_us, what="retry_after")
    except Exception as error:  # a subclass may have put anything there
        logger.error("%s. Trying again in a second", error)  # noqa: TRY400 - it says it all
        return now_us + 1_000_000
    return due


def _is_worth_it(step: Step[..., Any], error: BaseException) -> bool:
    try:
        return step.settings.retries(error)
    except Exception:  # the user's own predicate
        logger.exception("retry_on or no_retry_on of step %s raised: no more attempts", step.name)
        return False


def is_call_error(step: Step[..., Any], error: BaseException) -> bool:
    """Tell whether the step was called with arguments it does not take: never worth a retry.

    Of a step in a worker process, whether its result cannot be sent from there.
    """
    if step.settings.executor == "process":
        # Its traceback ends here in any case; `misfit` has looked at the arguments before.
        return isinstance(error, SerializationError) and error.path == "result"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    ours = trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE)
    return isinstance(error, TypeError) and ours  # raised before the step's first line


def misfit(step: Step[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> TypeError | None:
    """Return what is wrong with the arguments of a step, as far as its signature tells."""
    try:
        inspect.signature(step.fn).bind(*args, **kwargs)
    except TypeError as error:
        return TypeError(f"{step.name}: {error}")
    except ValueError:  # a function in C without a signature
        pass
    return None


def too_long(step: Step[..., Any]) -> StepTimeoutError:
    """Return the error of an attempt that was not done in time."""
    limit = step.settings.timeout
    return StepTimeoutError(
        f"an attempt of step {step.name} took longer than its timeout, {limit} s"
    )


def raisable(error: BaseException) -> BaseException:
    """Return `error`, or what stands for it where a future cannot hold it."""
    if not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError("step raised StopIteration")  # as a coroutine that raises it does
    wrapped.__cause__ = error
    return wrapped.with_traceback(error.__traceback__)


def origins(error: BaseException) -> list[BaseException]:
    """Return `error` and what led to it, its causes and contexts."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and not any(current is each for each in chain):
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain
