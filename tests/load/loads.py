"""Loads far above the ordinary, and what they cost: each in a process of its own.

A load returns figures by name; `LIMITS` says which of them have a limit whatever the machine
does: memory, descriptors, statements. Times are for people: the campaign prints them.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from durable import Runtime, create_hook, list_runs, sleep, step, workflow
from durable._journal.driver import ThreadDriver
from durable.errors import PayloadTooLargeError
from tests.crash.oracle import Journal

Figures = dict[str, float]
MB = 1 << 20
_OPTIONS: dict[str, Any] = {"durability": "process", "drain_seconds": 0}
_LARGE = 16 * MB - 4096


class CountingDriver(ThreadDriver):
    """Counts the statements of the writing connection, and those of the reading one."""

    writes = reads = 0

    def __init__(self, uri: str, read_only: bool) -> None:
        super().__init__(uri, read_only)
        self._count = _count_read if read_only else _count_write

    def submit(self, fn: Any, done: Any) -> None:
        """Run `fn`, and count."""
        super().submit(partial(_counted, self._count, fn), done)

    async def call(self, fn: Any) -> Any:
        """Run `fn`, and count."""
        return await super().call(partial(_counted, self._count, fn))


def _counted(count: Callable[[str], None], fn: Any, conn: Any) -> Any:
    conn.set_trace_callback(count)
    return fn(conn)


def _count_write(_statement: str) -> None:
    CountingDriver.writes += 1


def _count_read(_statement: str) -> None:
    CountingDriver.reads += 1


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    """Return how many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


class _Watch:
    """Figures of a stretch of work: seconds, memory, descriptors, statements. (What waits for
    the end of it reads again and again, so reads are judged where nobody waits.)"""

    def __init__(self, figures: Figures, name: str) -> None:
        self._figures, self._name = figures, name

    def __enter__(self) -> None:
        counted = CountingDriver.writes, CountingDriver.reads
        self._before = resident(), descriptors(), *counted, time.perf_counter()

    def __exit__(self, *_: object) -> None:
        memory, files, writes, reads, began = self._before
        took = time.perf_counter() - began
        self._figures |= {
            f"{self._name}: seconds": took,
            f"{self._name}: MB": (resident() - memory) / MB,
            f"{self._name}: files": descriptors() - files,
            f"{self._name}: writes": CountingDriver.writes - writes,
            f"{self._name}: reads": CountingDriver.reads - reads,
        }


# --- workflows ------------------------------------------------------------------------------


@step(name="load.echo")
async def echo(value: Any) -> Any:
    return value


@step(name="load.large")
async def large(size: int) -> bytes:
    return b"x" * size


@workflow(name="load.nap")
async def nap() -> int:
    await sleep("10 days")
    return 1


@workflow(name="load.quick")
async def quick(value: int) -> int:
    return value


@workflow(name="load.steps")
async def steps(count: int) -> int:
    total = 0
    for _ in range(count):
        total += await echo(1)
    await sleep("1 hour")
    return total


@workflow(name="load.carrying")
async def carrying(size: int) -> int:
    return len(await large(size))


@workflow(name="load.taking")
async def taking(count: int) -> list[int]:
    async with create_hook(token="the one") as hook:
        return [await hook for _ in range(count)]


# --- loads ----------------------------------------------------------------------------------


async def suspended(path: Path, count: int) -> Figures:
    """Many runs that sleep: in memory, at the next opening, and when all are due."""
    figures: Figures = {}
    async with Runtime(path, driver=CountingDriver, **_OPTIONS) as rt:
        with _Watch(figures, "start"):
            for first in range(0, count, 1000):
                await rt.start_many(nap, [()] * min(1000, count - first))
            await _until(lambda: _all(rt, "load.nap", "running", count))
    with _Watch(figures, "open"):
        rt = Runtime(path, driver=CountingDriver, **_OPTIONS)
        await rt.open()
        assert await (await rt.start(quick, 7)).result() == 7
    with _Watch(figures, "wake"):
        for page in range(0, count, 1000):
            infos = await rt.list_runs(status="running", workflow="load.nap", limit=1000)
            for info in infos:
                await info.run.wake_up()
            figures["woken"] = page + len(infos)
        await _until(lambda: _all(rt, "load.nap", "completed", count))
    await rt.close()
    return figures


async def finished(path: Path, count: int) -> Figures:
    """Many runs that have ended: pages of their listing, from anywhere in it."""
    figures: Figures = {}
    async with Runtime(path, driver=CountingDriver, **_OPTIONS) as rt:
        for first in range(0, count, 1000):
            last = min(count, first + 1000)
            await rt.start_many(quick, [(n,) for n in range(first, last)])
            await _until(partial(_all, rt, "load.quick", "completed", last))
        took, cursor = [], None
        with _Watch(figures, "pages"):
            for _ in range(min(200, count // 50)):
                began = time.perf_counter()
                page = await list_runs(status="completed", limit=50, cursor=cursor)
                took.append(time.perf_counter() - began)
                assert len(page) == 50
                cursor = page.next_cursor
        figures["pages read"] = len(took)
        figures["page p99: ms"] = sorted(took)[int(0.99 * len(took))] * 1000
    return figures


async def long_run(path: Path, count: int) -> Figures:
    """One run of many steps, replayed at the next opening."""
    figures: Figures = {}
    async with Runtime(path, driver=CountingDriver, **_OPTIONS) as rt:
        with _Watch(figures, "steps"):
            run = await rt.start(steps, count)
            await _until(partial(_waits, run))
    async with Runtime(path, driver=CountingDriver, **_OPTIONS) as rt:
        with _Watch(figures, "replay"):
            await rt.get_run(run.run_id).wake_up()
            assert await rt.get_run(run.run_id).result() == count
    return figures


async def payloads(path: Path, count: int) -> Figures:
    """Values of nearly 16 MB, which is the limit; and one above it."""
    figures: Figures = {}
    async with Runtime(path, driver=CountingDriver, **_OPTIONS) as rt:
        with _Watch(figures, "payloads"):
            for _ in range(count):
                assert await (await rt.start(carrying, _LARGE)).result() == _LARGE
        try:
            await rt.start(quick, "x" * (17 * MB))
        except PayloadTooLargeError:
            figures["refused"] = 1
    return figures


async def hooks(path: Path, count: int) -> Figures:
    """Many payloads for one hook, as fast as they are taken."""
    figures: Figures = {}
    async with Runtime(path, driver=CountingDriver, **_OPTIONS) as rt:
        run = await rt.start(taking, count)
        await _until(partial(_has_hook, run))
        with _Watch(figures, "payloads"):
            for number in range(count):
                await rt.resume_hook("the one", number)
            assert await run.result() == list(range(count))
    return figures


async def _until(condition: Callable[[], Awaitable[object]]) -> None:
    while not await condition():
        pass


async def _all(rt: Runtime, name: str, status: str, count: int) -> bool:
    return await rt.count_runs(workflow=name, status=status) >= count


async def _waits(run: Any) -> bool:
    return any("sleep" in what for what in (await run.status()).waiting_for)


async def _has_hook(run: Any) -> bool:
    return bool(await run.hooks())


LOADS = {f.__name__: f for f in (suspended, finished, long_run, payloads, hooks)}


def check_journal(place: Path) -> int:
    """Judge the journal that a load has left; return how many runs it holds."""
    return len(Journal.read(place).status)
