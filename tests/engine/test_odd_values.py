"""Values and errors with code of their own, and starts that wait while their code is missing."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import step, workflow
from durable._authoring import registry
from durable.errors import DurableError, SerializationError, WorkflowRunFailedError
from durable.testing import VirtualClock
from tests.engine.rig import AT_ONCE, opened, quiet, without_workflow


class NotEvenEqualError(Exception):
    """Refuses to be compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    __hash__ = Exception.__hash__


class Unpicklable:
    """Raises something that is no `Exception` when it is stored."""

    def __reduce__(self) -> Any:
        raise GeneratorExit("from __reduce__")


@step(max_retries=0, backoff=AT_ONCE)
async def fail_oddly() -> None:
    """Fail with a chain of errors that cannot be compared."""
    raise NotEvenEqualError("outer") from NotEvenEqualError("inner")


@step(max_retries=0)
async def return_oddly() -> Any:
    """Return what cannot be stored."""
    return Unpicklable()


class RefusedError(Exception):
    """Cannot be made of its message."""

    def __init__(self, *, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


@step(max_retries=0)
async def refuse(status: int) -> None:
    """Fail with an error that wants something else than its message."""
    raise RefusedError(status=status)


@step
async def told(error: RefusedError) -> str:
    """Look at an error that is an argument."""
    return f"{error}: {error.status}"


@workflow(name="odd.refused")
async def refused() -> list[Any]:
    """Errors of steps as a result, and as an argument."""
    results = await asyncio.gather(refuse(404), refuse(503), return_exceptions=True)
    return [*results, await told(results[1])]


async def test_errors_of_steps_are_values_like_others(journal_path: Path) -> None:
    """What `gather` gives as a result can be returned, and given to a step, whatever it is."""
    async with opened(journal_path) as rt:
        first, second, text = await (await rt.start(refused)).result(timeout=30)
    assert (type(first), str(first), first.status) == (RefusedError, "status 404", 404)
    assert (second.status, text) == (503, "status 503: 503")


def unstorable() -> object:
    """Return what no journal can hold, and no pipe can carry."""
    return threading.Lock()


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_result_that_cannot_be_stored_is_told_after_one_attempt(
    journal_path: Path, executor: Any
) -> None:
    """Another attempt would only do the work once more."""
    lock = step(name="odd.lock", backoff=AT_ONCE, executor=executor)(unstorable)

    @workflow(name=f"odd.lock.{executor}")
    async def keep() -> Any:
        return await lock()

    async with opened(journal_path) as rt:
        run = await rt.start(keep)
        with pytest.raises(WorkflowRunFailedError, match="SerializationError: result cannot be"):
            await run.result(timeout=30)
        assert "step_retrying" not in [event.kind for event in await run.events()]


@workflow(name="odd.flow")
async def flow(oddly: bool) -> None:
    """One step that ends oddly."""
    await (fail_oddly() if oddly else return_oddly())


@pytest.mark.parametrize("oddly", [True, False])
async def test_odd_values_fail_their_run_and_hang_nothing(journal_path: Path, oddly: bool) -> None:
    """The run ends, whatever the code of an error or a result does."""
    async with opened(journal_path) as rt:
        with pytest.raises(WorkflowRunFailedError):
            await (await rt.start(flow, oddly)).result(timeout=30)


class Ends:
    """Raises what ends programs, when it is stored or when it is loaded."""

    def __init__(self, kind: type[BaseException], when: str) -> None:
        self.kind = kind
        self.when = when

    def __reduce__(self) -> Any:
        if self.when == "stored":
            raise self.kind("on purpose")
        return (_raise, (self.kind,))


def _raise(kind: type[BaseException]) -> None:
    raise kind("on purpose")


@step(max_retries=0)
async def give(value: Any) -> Any:
    """Return what a body cannot hold."""
    return Ends(*value)


@workflow(name="odd.ends")
async def ends(place: str, kind: type[BaseException], when: str) -> Any:
    """Let a value raise as an argument, as a step's result, or as the run's."""
    if place == "argument":
        await give(Ends(kind, when))
    if place == "step":
        await give((kind, when))
    return Ends(kind, when)


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """Let Ctrl-C raise in whatever code it hits, as in a program without `asyncio.run`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["argument", "step", "result"])
@pytest.mark.parametrize("when", ["stored", "loaded"])
@pytest.mark.usefixtures("ctrl_c_raises")
async def test_value_that_raises_what_ends_programs_ends_or_parks_its_run_alone(
    journal_path: Path, kind: type[BaseException], place: str, when: str
) -> None:
    """The host's loop and other runs go on."""
    async with opened(journal_path) as rt:
        run = await rt.start(ends, place, kind, when)
        with pytest.raises(DurableError) as refused:
            await run.result(timeout=30)
        told = f"{refused.value} {refused.value.__cause__}"
        assert kind.__name__ in told
        assert "on purpose" in told
        expected = {"argument": "blocked", "step": "blocked", "result": "completed"}[place]
        assert await run.status() == ("failed" if when == "stored" else expected)
        with pytest.raises(SerializationError, match=r"args\[0\] cannot be stored"):
            await rt.start(flow, Ends(kind, "stored"))
        with pytest.raises(WorkflowRunFailedError):
            await (await rt.start(flow, oddly=True)).result(timeout=30)


@workflow(name="odd.later")
async def later() -> str:
    """Return at once, when it is time."""
    return "in time"


async def test_a_delayed_run_keeps_its_time_through_a_parking(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """A command finds its code missing; once it is there, the run still waits for its time."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(later.options(run_id="d", delay=timedelta(hours=1)))
    with without_workflow(later):
        async with opened(journal_path, virtual_clock) as rt:
            assert await rt.get_run("d").wake_up() == 0
            await quiet(rt)
            assert await rt.get_run("d").status() == "blocked"
            registry.register_workflow(later)
            await quiet(rt)
            await virtual_clock.advance(60)
            await quiet(rt)
            assert await rt.get_run("d").status() == "pending"
            await virtual_clock.advance(3600)
            assert await rt.get_run(run.run_id).result(timeout=30) == "in time"
