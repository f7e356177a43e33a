"""Whatever a step raises becomes its outcome, and never the end of the host."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from durable import FatalError, RetryableError, sleep, step, workflow
from durable.errors import (
    StepFailedError,
    StepWorkerDiedError,
    WorkflowRunBlockedError,
    WorkflowRunFailedError,
)
from durable.testing import VirtualClock, settle
from tests.engine.rig import AT_ONCE, kinds, opened, quiet, result_of, until

END_OF_PROGRAM = [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]


@step
async def healthy() -> str:
    """Return at once."""
    return "healthy"


@pytest.mark.both_loops
@pytest.mark.parametrize("executor", ["async", "thread", "process"])
async def test_exceptions_that_end_programs_become_the_steps_outcome(
    journal_path: Path, virtual_clock: VirtualClock, executor: str
) -> None:
    """The body gets a `StepFailedError` that names the type; the host and others go on."""

    async def on_loop(given: type[BaseException]) -> None:
        raise given("on purpose")

    def elsewhere(given: type[BaseException]) -> None:
        raise given("on purpose")

    made: Any = step(max_retries=0)(on_loop)
    if executor != "async":
        made = step(max_retries=0, executor=executor)(elsewhere)

    @workflow
    async def caller() -> list[str]:
        names = []
        for kind in END_OF_PROGRAM:
            try:
                await made(kind)
            except StepFailedError as error:
                names.append(error.error_type.rpartition(".")[2])
        return [*names, await healthy()]

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(caller)
        await until(lambda: _advance_until_ended(run, virtual_clock))
        assert await run.result() == [*[kind.__name__ for kind in END_OF_PROGRAM], "healthy"]


async def _advance_until_ended(run: Any, clock: VirtualClock) -> bool:
    await clock.advance(0.1)
    return await run.status() == "completed"


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_stop_iteration_of_a_sync_step_reaches_the_body(
    journal_path: Path, executor: str
) -> None:
    """As the `RuntimeError` that a coroutine would make of it: no future can hold the other."""

    @step(max_retries=1, backoff=AT_ONCE, executor=executor)
    def exhausted() -> Any:
        return next(iter([]))

    @workflow
    async def caller() -> str:
        try:
            await exhausted()
        except RuntimeError as error:
            return type(error.__cause__).__name__
        return "nothing"

    assert await result_of(journal_path, caller) in {"StopIteration", "RemoteError"}


async def test_exception_groups_keep_their_members(journal_path: Path) -> None:
    """`except*` works in the body, also for nested groups."""

    @step(max_retries=0)
    async def broken() -> None:
        raise ExceptionGroup("two", [ValueError("v"), ExceptionGroup("in", [KeyError("k")])])

    @workflow
    async def caller() -> list[str]:
        caught = []
        try:
            await broken()
        except* ValueError as group:
            caught.append(str(group.exceptions[0]))
        except* KeyError as group:
            caught.append(type(group.exceptions[0]).__name__)
        return caught

    assert await result_of(journal_path, caller) == ["v", "ExceptionGroup"]


@pytest.mark.parametrize("kind", [FatalError, RetryableError, OSError, UnicodeDecodeError])
async def test_body_gets_the_original_type(journal_path: Path, kind: type[Exception]) -> None:
    """Our own errors, errors with odd constructors: `except` clauses work as if it ran here."""
    given: dict[type[Exception], tuple[Any, ...]] = {
        OSError: (2, "No such file", "x"),
        UnicodeDecodeError: ("utf-8", b"\xff", 0, 1, "bad"),
    }
    args = given.get(kind, ("text",))

    @step(max_retries=0)
    async def broken() -> None:
        raise kind(*args)

    @workflow
    async def caller() -> bool:
        try:
            await broken()
        except kind as error:
            return type(error) is type(kind(*args)) and str(error) == str(kind(*args))
        return False

    assert await result_of(journal_path, caller) is True


class WithoutTextError(Exception):
    """An exception whose own code raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


async def test_exception_whose_own_code_raises_is_recorded_all_the_same(
    journal_path: Path,
) -> None:
    """The envelope never depends on the exception's cooperation."""

    @step(max_retries=0)
    async def broken() -> None:
        raise WithoutTextError

    @workflow
    async def caller() -> str:
        try:
            await broken()
        except StepFailedError as error:
            return error.error_type
        return "nothing"

    assert (await result_of(journal_path, caller)).endswith("WithoutTextError")


async def test_death_of_a_worker_process_fails_the_attempt_only(journal_path: Path) -> None:
    """It is retried like any error and does not touch the host."""

    @step(max_retries=1, backoff=AT_ONCE, executor="process")
    def deadly() -> None:
        import os

        os._exit(3)

    @workflow
    async def caller() -> str:
        try:
            await deadly()
        except StepWorkerDiedError as error:
            return str(error)
        return "nothing"

    async with opened(journal_path) as rt:
        run = await rt.start(caller)
        assert "exit code 3" in await run.result(20)
        assert (await kinds(run)).count("step_retrying") == 1


async def test_result_that_pickles_but_does_not_load_parks_the_run_and_no_other(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The step is not run again and nothing is lost: the bytes are kept."""
    ran = []

    @step(name="tests.one_way")
    async def one_way() -> Any:
        ran.append(1)
        return OneWay()

    @workflow
    async def caller() -> Any:
        return await one_way()

    @workflow
    async def other() -> str:
        await sleep(5)
        return await healthy()

    async with opened(journal_path, virtual_clock) as rt:
        run, second = await rt.start(caller), await rt.start(other)
        with pytest.raises(WorkflowRunBlockedError) as blocked:
            await run.result()
        assert blocked.value.kind == "payload"
        await quiet(rt)
        await virtual_clock.advance(6)
        assert await second.result() == "healthy"
        assert (await kinds(run))[-1] == "step_completed"
    assert ran == [1]


def _refuse() -> Any:
    raise RuntimeError("does not load")


class OneWay:
    """Pickles, but does not load."""

    def __reduce__(self) -> Any:
        return _refuse, ()


async def test_failure_of_the_body_reaches_the_caller_with_its_type(journal_path: Path) -> None:
    """Also after the process that ran it is gone."""

    @workflow
    async def broken() -> None:
        error = KeyError("missing")
        error.add_note("remember")
        raise error

    async with opened(journal_path) as rt:
        run = await rt.start(broken)
        with pytest.raises(WorkflowRunFailedError):
            await run.result()
    async with opened(journal_path) as rt:
        with pytest.raises(WorkflowRunFailedError) as failed:
            await rt.get_run(run.run_id).result()
    cause = failed.value.__cause__
    assert isinstance(cause, KeyError)
    assert cause.args == ("missing",)
    assert "remember" in cause.__notes__
    assert "in broken" in failed.value.traceback_text


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, KeyboardInterrupt])
async def test_body_that_raises_what_ends_programs_fails_alone(
    journal_path: Path, kind: type[BaseException]
) -> None:
    """The host lives on, and so do other runs."""

    @workflow
    async def broken() -> None:
        await healthy()
        raise kind

    @workflow
    async def other() -> str:
        return await healthy()

    async with opened(journal_path) as rt:
        run = await rt.start(broken)
        with pytest.raises(WorkflowRunFailedError) as failed:
            await run.result()
        assert failed.value.error_type.endswith(kind.__name__)
        assert await (await rt.start(other)).result() == "healthy"


async def test_unserialisable_result_of_a_body_fails_its_run(journal_path: Path) -> None:
    """The path inside the value is named."""

    @workflow
    async def odd() -> Any:
        return {"k": [lambda: 0, (n for n in ())]}

    async with opened(journal_path) as rt:
        run = await rt.start(odd)
        with pytest.raises(WorkflowRunFailedError, match="result"):
            await run.result()


async def test_step_cancelled_by_its_own_hand_is_tried_again(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A stray cancellation says nothing about the step, so it counts as a failed attempt."""
    ran = []

    @step(backoff=AT_ONCE)
    async def cancelled_once() -> str:
        ran.append(1)
        if len(ran) == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        return "second"

    @workflow
    async def caller() -> str:
        return await cancelled_once()

    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(caller)
        await until(lambda: ran)
        await settle()
        await virtual_clock.advance(2)
        assert await run.result() == "second"
