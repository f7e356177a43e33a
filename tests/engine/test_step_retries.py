"""Attempts of steps: how many, when, for which errors, and how many at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import Backoff, FatalError, RetryableError, get_step_metadata, step, workflow
from durable.errors import StepFailedError, WorkflowRunFailedError
from durable.testing import VirtualClock
from tests.engine.rig import AT_ONCE, EVEN, kinds, messages, opened, quiet, result_of

START = datetime(2024, 1, 1, tzinfo=UTC)


class OutageError(Exception):
    """A step's own error."""


def failing(error: Any = OutageError, *, times: int = 99, **options: Any) -> Any:
    """Return a step that raises `error` so many times, and the list of its attempts."""
    attempts: list[float] = []

    async def body() -> str:
        attempts.append(get_step_metadata().started_at.timestamp() - START.timestamp())
        if len(attempts) <= times:
            raise error() if callable(error) else error
        return "done"

    return step(name="tests.failing", **{"backoff": AT_ONCE, **options})(body), attempts


def calling(chosen: Any) -> Any:
    """Return a workflow that calls one step and tells its error's type."""

    @workflow
    async def caller() -> str:
        try:
            return str(await chosen())
        except BaseException as error:
            return type(error).__name__

    return caller


# --- how many -------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_max_retries_counts_the_attempts_after_the_first(
    journal_path: Path, retries: int
) -> None:
    """0 means one attempt; the last error is what the body gets."""
    chosen, attempts = failing(max_retries=retries)
    assert await result_of(journal_path, calling(chosen)) == "OutageError"
    assert len(attempts) == retries + 1


async def test_step_that_recovers_within_its_retries_succeeds(journal_path: Path) -> None:
    """The failures are on record, the body sees only the result."""
    chosen, _ = failing(times=3)
    async with opened(journal_path) as rt:
        run = await rt.start(calling(chosen))
        assert await run.result() == "done"
        shown = [e for e in await run.events() if e.kind == "step_retrying"]
    assert [(e.name, e.ref) for e in shown] == [("failed", 3)] * 3
    assert "OutageError" in shown[0].value


# --- for which errors -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "expected"),
    [
        ({}, OutageError, 4),
        ({"retry_on": OutageError}, OutageError, 4),
        ({"retry_on": (KeyError, OutageError)}, OutageError, 4),
        ({"retry_on": KeyError}, OutageError, 1),
        ({"no_retry_on": Exception}, OutageError, 1),
        ({"no_retry_on": (KeyError,)}, OutageError, 4),
        ({"retry_on": lambda error: "no" in str(error)}, OutageError("no"), 4),
        ({"retry_on": lambda error: "no" in str(error)}, OutageError("yes"), 1),
        ({"no_retry_on": lambda error: bool(error.args)}, OutageError("yes"), 1),
        ({}, FatalError, 1),
        ({"retry_on": FatalError}, FatalError, 1),
        ({"retry_on": KeyError}, RetryableError, 4),
        ({}, KeyboardInterrupt, 1),
        ({"retry_on": BaseException}, SystemExit, 4),
    ],
)
async def test_options_decide_which_errors_are_retried(
    journal_path: Path, options: Any, error: Any, expected: int
) -> None:
    """Types and predicates; `FatalError` never, `RetryableError` always."""
    chosen, attempts = failing(error, **options)
    await result_of(journal_path, calling(chosen))
    assert len(attempts) == expected


async def test_predicate_that_raises_ends_the_step_with_its_own_error(
    journal_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The mistake is logged; the run does not hang on it."""
    chosen, attempts = failing(retry_on=lambda error: error.no_such_attribute)
    assert await result_of(journal_path, calling(chosen)) == "OutageError"
    assert len(attempts) == 1
    assert "tests.failing" in messages(caplog, "ERROR")[0]


@pytest.mark.parametrize("executor", ["async", "thread", "process"])
async def test_wrong_arity_is_not_retried(journal_path: Path, executor: str) -> None:
    """Another attempt would be called the same way."""

    async def on_loop(one: int) -> None: ...

    def elsewhere(one: int) -> None: ...

    made = step()(on_loop) if executor == "async" else step(executor=executor)(elsewhere)
    async with opened(journal_path) as rt:
        run = await rt.start(calling(made))
        assert await run.result() == "TypeError"
        assert "step_retrying" not in await kinds(run)


@pytest.mark.parametrize("executor", ["async", "thread", "process"])
async def test_type_error_of_the_step_itself_is_retried(journal_path: Path, executor: str) -> None:
    """Only a call that does not fit the signature is hopeless."""

    async def on_loop() -> None:
        len(5)  # type: ignore[arg-type]

    def elsewhere() -> None:
        len(5)  # type: ignore[arg-type]

    options: Any = {"backoff": AT_ONCE, "max_retries": 1}
    made: Any = step(**options)(on_loop)
    if executor != "async":
        made = step(executor=executor, **options)(elsewhere)
    async with opened(journal_path) as rt:
        run = await rt.start(calling(made))
        assert await run.result() == "TypeError"
        assert (await kinds(run)).count("step_retrying") == 1


# --- when -----------------------------------------------------------------------------


async def test_backoff_sets_the_pauses_between_attempts(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Growing by the factor up to the longest, on the clock of the runtime."""
    chosen, attempts = failing(
        backoff=Backoff(initial=1, factor=3, max=5, jitter=0), max_retries=4, times=4
    )
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(calling(chosen))
        await quiet(rt)
        await virtual_clock.advance(60)
        assert await run.result() == "done"
    assert attempts == [0, 1, 4, 9, 14]


async def test_default_backoff_is_jittered_within_its_share(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A crowd that failed together does not come back together."""
    moments = []

    @step
    async def crowded() -> None:
        meta = get_step_metadata()
        if meta.attempt == 2:
            moments.append(meta.started_at.timestamp() - START.timestamp())
        elif meta.attempt == 1:
            raise OutageError

    @workflow
    async def crowd() -> None:
        await asyncio.gather(*[crowded() for _ in range(40)])

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(crowd)
        await quiet(rt)
        await virtual_clock.advance(2)
        await run.result()
    assert all(0.5 <= moment <= 1 for moment in moments)
    assert len(set(moments)) > 20


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        (7, 7.0),
        (0.25, 0.25),
        (timedelta(minutes=2), 120.0),
        ("1m", 60.0),
        (START + timedelta(seconds=90), 90.0),
        (START - timedelta(days=1), 0.0),
        (None, 10.0),
        (-1, 1.0),
        (float("nan"), 1.0),
        (datetime(2030, 1, 1), 1.0),  # noqa: DTZ001  # naive on purpose
    ],
)
async def test_retryable_error_says_when_to_try_again(
    journal_path: Path, virtual_clock: VirtualClock, after: Any, seconds: float
) -> None:
    """Any form of duration or an instant; what is not usable means in a second."""
    chosen, attempts = failing(RetryableError("later", retry_after=after), times=1, backoff=EVEN)
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(calling(chosen))
        await quiet(rt)
        await virtual_clock.advance(200)
        assert await run.result() == "done"
    assert attempts == [0, seconds]


@pytest.mark.parametrize("after", [-1, "soon", object()])
async def test_unusable_retry_after_is_told_in_one_line(
    journal_path: Path, virtual_clock: VirtualClock, caplog: Any, after: Any
) -> None:
    """It names the value and what is wrong with it; our own code is of no interest."""
    chosen, _ = failing(RetryableError("later", retry_after=after), times=1)
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(calling(chosen))
        await quiet(rt)
        await virtual_clock.advance(1)
        assert await run.result() == "done"
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert record.exc_info is None
    assert record.getMessage().startswith(f"retry_after: {after!r} ")
    assert record.getMessage().endswith("Trying again in a second")


async def test_retryable_error_obeys_max_retries(journal_path: Path) -> None:
    """It sets the time of an attempt, not their number."""
    chosen, attempts = failing(RetryableError("x", retry_after=0), max_retries=2)
    assert await result_of(journal_path, calling(chosen)) == "RetryableError"
    assert len(attempts) == 3


# --- failures as the body and the caller see them -------------------------------------


async def test_step_error_keeps_message_notes_cause_and_traceback(journal_path: Path) -> None:
    """In the body it is the original type with where it was raised; so for the caller."""
    seen: list[BaseException] = []

    @step(max_retries=0)
    async def broken() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            outer = OutageError("outer", 7)
            outer.add_note("remember")
            raise outer from error

    @workflow
    async def caller() -> None:
        try:
            await broken()
        except OutageError as error:
            seen.append(error)
            raise

    with pytest.raises(WorkflowRunFailedError) as failed:
        await result_of(journal_path, caller)
    cause = failed.value.__cause__
    assert isinstance(cause, OutageError)
    for error in (seen[0], cause):
        assert error.args == ("outer", 7)
        assert "remember" in error.__notes__
        assert isinstance(error.__cause__, KeyError)
        assert "in broken" in error.durable_traceback  # type: ignore[attr-defined]
    assert "OutageError" in failed.value.error_type
    assert "in broken" in failed.value.traceback_text


async def test_error_that_cannot_be_rebuilt_becomes_step_failed_error(journal_path: Path) -> None:
    """With the same facts: step, attempts, type, message, traceback, notes."""
    seen: list[StepFailedError] = []

    class LocalError(Exception):
        """Not importable by anybody."""

    @step(name="tests.local_error", max_retries=1, backoff=AT_ONCE)
    async def broken() -> None:
        error = LocalError("gone")
        error.add_note("remember")
        raise error

    @workflow
    async def caller() -> None:
        try:
            await broken()
        except StepFailedError as error:
            seen.append(error)

    await result_of(journal_path, caller)
    error = seen[0]
    assert (error.step, error.attempts, error.error_message) == ("tests.local_error", 2, "gone")
    assert error.error_type.endswith("LocalError")
    assert "in broken" in error.traceback_text
    assert "remember" in error.__notes__
