"""The same work on Huey's SQLite queue: a queue of tasks, no histories, nothing replayed.

A lower bound for what a library over SQLite does: a task that dies with its process is
lost, and "5 steps" are five tasks that the caller chains. With and without fsync, which
are compared at "full" and at "process"; consumed by Huey's own threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any

from benchmarks.floors import Samples
from benchmarks.workload import Figure, Settings, Workload

LATENCIES = 100
RUNS, STEPS_EACH = 200, 5
STARTS = 1000
WORKERS = 4
POLL_SECONDS = 0.001


def one_step(add: Any) -> Samples:
    """Seconds from enqueueing to the result, one task at a time."""
    samples = []
    for _ in range(LATENCIES):
        begun = perf_counter()
        _result(add(1, 1))
        samples.append(perf_counter() - begun)
    return {"latency": samples}


def concurrent(add: Any) -> Samples:
    """Seconds per task of many chains of five, each driven by a caller's thread."""

    def chain() -> None:
        number = 0
        for other in range(STEPS_EACH):
            number = _result(add(number, other))

    threads = [threading.Thread(target=chain) for _ in range(RUNS)]
    begun = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"step": [(perf_counter() - begun) / (RUNS * STEPS_EACH)]}


def starts(add: Any) -> Samples:
    """Seconds of each enqueueing."""
    samples = []
    tasks = []
    for number in range(STARTS):
        begun = perf_counter()
        tasks.append(add(number, 1))
        samples.append(perf_counter() - begun)
    each = sum(samples) / STARTS
    for task in tasks:
        _result(task)
    return {"start": samples, "gathered": [each]}


def _result(task: Any) -> Any:
    return task.get(blocking=True, backoff=1.0, max_delay=POLL_SECONDS, timeout=60)


def consumed(settings: Settings, measure: Callable[[Any], Samples]) -> Samples:
    """Perform one measurement with consumers running in this process."""
    from huey import SqliteHuey

    huey = SqliteHuey(filename=str(settings.journal()), fsync=settings.durability == "full")

    def sum_of(number: int, other: int) -> int:
        return number + other

    add = huey.task()(sum_of)
    consumer = huey.create_consumer(
        workers=WORKERS, periodic=False, initial_delay=POLL_SECONDS, max_delay=POLL_SECONDS
    )
    consumer.start()
    try:
        _result(add(1, 1))
        return measure(add)
    finally:
        consumer.stop(graceful=False)


WORK = {
    "W1": ("one task", one_step, (Figure("latency", "enqueue to result", "F1"),)),
    "W3": (f"{RUNS} x 5 tasks", concurrent, (Figure("step", "per task", "T", "mean"),)),
    "W5": (
        f"{STARTS} tasks enqueued",
        starts,
        (
            Figure("start", "enqueueing", "F1"),
            Figure("gathered", f"each of {STARTS}", "T", "mean"),
        ),
    ),
}


def workload(name: str) -> Workload:
    """One of `WORK` as Huey does it."""
    title, measure, figures = WORK[name]
    return Workload(
        name=name,
        title=title,
        perform=lambda settings: consumed(settings, measure),
        figures=figures,
        subject="huey",
        requires="huey",
        once=True,
    )


WORKLOADS = tuple(workload(name) for name in WORK)
