"""Attempts that share a task of the host's loop: nobody can tell."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any

import pytest

from durable._engine.carriers import Carriers

pytestmark = pytest.mark.both_loops

colour: ContextVar[str] = ContextVar("colour", default="none")


class Owner:
    """Stands for an attempt; its outcome is a future."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


def over(owner: Owner, value: Any, error: BaseException | None) -> None:
    """Take an outcome in, as the executor does."""
    if error is None:
        owner.outcome.set_result(value)
    elif isinstance(error, asyncio.CancelledError):
        owner.outcome.cancel()
    else:
        owner.outcome.set_exception(error)


class World:
    """Carriers in the running loop."""

    def __init__(self) -> None:
        self.carriers: Carriers[Owner] = Carriers(asyncio.get_running_loop(), over)

    def begin(
        self,
        step: Callable[..., Coroutine[Any, Any, Any]],
        *args: Any,
        context: Context | None = None,
    ) -> Owner:
        """Begin a step from a callback of the loop; it has been begun a turn later."""
        owner = Owner()
        context = context or copy_context()
        asyncio.get_running_loop().call_soon(
            lambda: self.carriers.begin(owner, step(*args), context)
        )
        return owner

    async def result(self, step: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        """Return the result of a step."""
        return await self.begin(step, *args).outcome


async def task_id() -> int:
    """A step that tells its task apart, without keeping it."""
    return id(asyncio.current_task())


async def test_steps_that_never_wait_are_run_under_the_name_of_one_task() -> None:
    """What all this is for."""
    world = World()
    seen = {await world.result(task_id) for _ in range(5)}
    assert len(seen) == 1


async def test_step_keeps_its_task_when_it_waits() -> None:
    """The task before the first wait is the task after it."""

    async def waits() -> bool:
        before = asyncio.current_task()
        await asyncio.sleep(0)
        between = asyncio.current_task()
        await asyncio.to_thread(int)
        return before is between is asyncio.current_task() is not None

    world = World()
    owners = [world.begin(waits) for _ in range(3)]
    assert await asyncio.gather(*(owner.outcome for owner in owners)) == [True] * 3
    assert len({owner.task for owner in owners}) == 3


KEPT: list[Any] = []


async def _keeps() -> None:
    KEPT.append(asyncio.current_task())


async def _adds_callback() -> None:
    asyncio.current_task().add_done_callback(KEPT.append)  # type: ignore[union-attr]


async def _names() -> None:
    asyncio.current_task().set_name("mine")  # type: ignore[union-attr]


async def _cancels_itself() -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]


async def _fails_and_is_kept() -> None:
    task = asyncio.current_task()
    KEPT.append(lambda: task)


@pytest.mark.parametrize(
    "nosy", [_keeps, _adds_callback, _names, _cancels_itself, _fails_and_is_kept]
)
async def test_task_that_a_step_took_hold_of_is_not_given_to_another(
    nosy: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """And it ends soon after its step, as its own task would."""
    KEPT.clear()
    world = World()
    seen: list[asyncio.Task[Any] | None] = []

    async def look() -> None:
        seen.append(asyncio.current_task())
        await nosy()

    await world.result(look)
    for _ in range(4):
        await asyncio.sleep(0)
    (task,) = seen
    assert task is not None and task.done()
    assert nosy is not _adds_callback or [task] == KEPT
    assert await world.result(task_id) != id(task)


async def test_context_variables_are_each_steps_own() -> None:
    """From beginning to end, over waits, and never the next one's."""

    async def paints(own: str, *, wait: bool) -> tuple[str, str]:
        before = colour.get()
        colour.set(own)
        if wait:
            await asyncio.sleep(0)
            await asyncio.create_task(asyncio.sleep(0))
        return before, colour.get()

    world = World()
    for wait in (False, True):
        paint = partial(paints, wait=wait)
        owners = [world.begin(paint, own, context=Context()) for own in "abc"]
        found = await asyncio.gather(*(owner.outcome for owner in owners))
        assert found == [("none", "a"), ("none", "b"), ("none", "c")]
    assert colour.get() == "none"


async def test_several_steps_may_wait_for_one_future() -> None:
    """Those that begin in one turn of the loop, together with ordinary tasks."""
    world = World()
    shared: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def waits() -> int:
        return await shared

    async def plain() -> int:
        return await shared

    owners = [world.begin(waits) for _ in range(3)]
    tasks = [asyncio.create_task(plain()) for _ in range(3)]
    owners.append(world.begin(waits))
    await asyncio.sleep(0)
    shared.set_result(7)
    assert await asyncio.gather(*(owner.outcome for owner in owners), *tasks) == [7] * 7


@pytest.mark.parametrize("turns", range(4))
async def test_cancelled_step_gets_the_cancellation_at_its_wait(turns: int) -> None:
    """Also when it is cancelled in the very turn in which it began to wait."""
    world = World()
    awaited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cleaned: list[str] = []

    async def waits() -> str:
        try:
            await awaited
        except asyncio.CancelledError as error:
            cleaned.append(str(error))
            await asyncio.sleep(0)
            return "cleaned up"
        return "not cancelled"

    owner = Owner()

    def begin_and_perhaps_cancel() -> None:
        world.carriers.begin(owner, waits(), copy_context())
        if turns == 0:
            owner.task.cancel("enough")  # type: ignore[union-attr]

    asyncio.get_running_loop().call_soon(begin_and_perhaps_cancel)
    for _ in range(turns):
        await asyncio.sleep(0)
    if turns:
        assert owner.task is not None
        owner.task.cancel("enough")
    assert await owner.outcome == "cleaned up"
    assert cleaned == ["enough"]
    assert awaited.cancelled(), "a task cancels what it waits for"


async def test_step_that_cancels_itself_is_cancelled_at_its_next_wait() -> None:
    """As in a task of its own."""

    async def waits() -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.Event().wait()

    world = World()
    owner = world.begin(waits)
    with pytest.raises(asyncio.CancelledError):
        await owner.outcome


async def test_timeouts_and_groups_work_in_steps_that_wait_and_in_those_that_do_not() -> None:
    """Both ask for the current task and cancel it later."""

    async def quick() -> str:
        async with asyncio.timeout(60):  # noqa: ASYNC100 - which is the point
            return "quick"

    async def slow() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "late"
        return "in time"

    async def grouped() -> str:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, each)) for each in "ab"]
        return "".join(task.result() for task in tasks)

    async def broken_group() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_fail())
                await asyncio.Event().wait()
        except* ValueError:
            pass
        return "broken"

    async def _fail() -> None:
        raise ValueError

    world = World()
    for _ in range(2):
        assert await world.result(quick) == "quick"
        assert await world.result(slow) == "late"
        assert await world.result(grouped) == "ab"
        assert await world.result(broken_group) == "broken"


async def test_errors_reach_the_owner_at_once_and_after_a_wait() -> None:
    """The step's own exception, with its traceback."""

    async def fails(*, wait: bool) -> None:
        if wait:
            await asyncio.sleep(0)
        raise LookupError("no such order")

    world = World()
    for wait in (False, True):
        owner = world.begin(partial(fails, wait=wait))
        with pytest.raises(LookupError, match="no such order"):
            await owner.outcome


async def test_stack_of_a_waiting_step_can_be_printed() -> None:
    """`Task.print_stack` names the step's line."""

    async def waits_here() -> None:
        await asyncio.Event().wait()

    world = World()
    owner = world.begin(waits_here)
    await asyncio.sleep(0)
    assert owner.task is not None
    text = io.StringIO()
    owner.task.print_stack(file=text)
    assert "waits_here" in text.getvalue()
    owner.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await owner.outcome


async def test_no_task_is_left_behind_when_all_is_closed() -> None:
    """The one that has nothing to do ends, too."""
    world = World()
    before = asyncio.all_tasks()
    await world.result(task_id)
    world.carriers.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


def test_loop_that_is_closed_without_us_stays_silent(caplog: pytest.LogCaptureFixture) -> None:
    """A task that has nothing to do is not reported as lost."""

    async def main() -> None:
        await World().result(task_id)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    gc.collect()
    assert caplog.records == []
