"""What the engine's tests share: runtimes on a virtual clock, crashes, and patience.

The journal is a real file. Its SQL runs on the loop (`InlineDriver`), so that a test
which has let the loop settle knows what is durable, and time moves only when told to.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from durable import Backoff, Run, Runtime
from durable._authoring import registry
from durable._journal.driver import InlineDriver
from durable._surface import current
from durable.errors import WorkflowRunCancelledError
from durable.testing import VirtualClock, settle

WAIT = 30.0  # seconds until a test gives up
AT_ONCE = Backoff(initial=0, max=0)
ENDS = {"run_completed", "run_failed", "run_cancelled"}
EVEN = Backoff(initial=10, factor=1, max=10, jitter=0)


def make(path: Path, clock: VirtualClock | None = None, **options: Any) -> Runtime:
    """Return a runtime that is not open yet."""
    given = {"durability": "process", "driver": InlineDriver, "drain_seconds": 0, **options}
    return Runtime(path, clock=clock or VirtualClock(), **given)


@dataclass
class Request:
    """What the journal wants of its disk: perform it now or later, or let it fail."""

    reads: bool
    perform: Callable[[], None]
    fail: Callable[[BaseException], None]


class Disk:
    """Makes drivers that hand each request to `meddle`, which does with it what it likes.

    Example:
        ``opened(path, driver=disk); disk.meddle = held.append; ...; disk.let_go(held)``
    """

    def __init__(self) -> None:
        self.meddle: Callable[[Request], None] = perform

    def __call__(self, uri: str, read_only: bool) -> InlineDriver:
        return _Meddled(uri, read_only, self)

    def let_go(self, held: list[Request]) -> None:
        """Meddle no more, and perform what was held back."""
        self.meddle = perform
        for request in held:
            request.perform()


class _Meddled(InlineDriver):
    def __init__(self, uri: str, read_only: bool, disk: Disk) -> None:
        super().__init__(uri, read_only)
        self._reads = read_only
        self._disk = disk

    def submit(self, fn: Any, done: Any) -> None:
        fail = partial(asyncio.get_running_loop().call_soon, done, None)
        self._disk.meddle(Request(self._reads, partial(super().submit, fn, done), fail))


def perform(request: Request) -> None:
    """Do as the journal wishes."""
    request.perform()


def hold_writes(held: list[Request], request: Request) -> None:
    """Keep writes for later."""
    if request.reads:
        request.perform()
    else:
        held.append(request)


@asynccontextmanager
async def opened(
    path: Path, clock: VirtualClock | None = None, **options: Any
) -> AsyncIterator[Runtime]:
    """Open a runtime and close it in good order."""
    async with make(path, clock, **options) as rt:
        yield rt


@asynccontextmanager
async def crashing(
    path: Path, clock: VirtualClock | None = None, **options: Any
) -> AsyncIterator[Runtime]:
    """Open a runtime and let it die at the end of the block as its process would."""
    rt = make(path, clock, **options)
    await rt.open()
    try:
        yield rt
    finally:
        await crash(rt)


async def crash(rt: Runtime) -> None:
    """Let a runtime go like a dead process: nothing more is written, the lock is free."""
    running = [attempt.task for run in rt._engine.scheduler for attempt in run.attempts.values()]
    current.closed(rt, rt._loop)
    rt.abandon()
    await rt._place.server.close(rt._place.lock.release)
    rt._place.lock.release()
    for task in filter(None, running):
        task.cancel()
    await asyncio.gather(*filter(None, running), return_exceptions=True)


async def until(condition: Callable[[], Any]) -> None:
    """Yield to the loop and to threads until the condition (or its awaitable) holds."""
    async with asyncio.timeout(WAIT):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0)


async def quiet(rt: Runtime) -> None:
    """Yield until no run is being loaded, activated, recorded or attempted."""
    recovery = rt._engine._recovery

    def nothing_to_do() -> bool:
        busy = any(
            run.scheduled or run.unsaved or run.inbox or run.attempts or run.loading
            for run in rt._engine.scheduler
        )
        return not busy and (recovery._task is None or recovery._task.done())

    for _ in range(3):
        await until(nothing_to_do)
        await settle()


async def kinds(run: Run[Any]) -> list[str]:
    """Return the kinds of a run's events."""
    return [event.kind for event in await run.events()]


async def count_rows(rt: Runtime) -> int:
    """Return how many runs the journal holds."""
    return int(await rt.reader._driver.call(_count))


def _count(conn: Any) -> int:
    return int(conn.execute("SELECT count(*) FROM runs").fetchone()[0])


def messages(caplog: Any, level: str = "WARNING") -> Sequence[str]:
    """Return the logged messages of a level."""
    return [record.getMessage() for record in caplog.records if record.levelname == level]


async def result_of(path: Path, workflow: Any, *args: Any, **options: Any) -> Any:
    """Return the result of one run in a runtime of its own."""
    async with opened(path, **options) as rt:
        return await (await rt.start(workflow, *args)).result(WAIT)


async def elapse(rt: Runtime, clock: VirtualClock, seconds: float, stride: float = 10) -> None:
    """Advance in strides, and let what falls due be loaded and done after each.

    A run that is a row only is read from the journal first, which takes more turns of the
    loop than the clock gives to a callback.
    """
    while seconds > 0:
        await clock.advance(min(stride, seconds))
        seconds -= stride
        await quiet(rt)


@contextmanager
def without_workflow(definition: Any) -> Iterator[None]:
    """Let this process not know a workflow, as if its module had not been imported."""
    found = registry._workflows.pop(definition.name)
    try:
        yield
    finally:
        registry.register_workflow(found)


async def assert_cancelled(run: Run[Any], reason: str | None = None) -> None:
    """The run ended as cancelled, once, with this reason."""
    with pytest.raises(WorkflowRunCancelledError) as cancelled:
        await run.result(5)
    assert cancelled.value.reason == reason
    assert await run.status() == "cancelled"
    shown = await kinds(run)
    assert [kind for kind in shown if kind in ENDS] == ["run_cancelled"]
    assert shown[-1] == "run_cancelled"
