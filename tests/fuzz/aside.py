"""Runtimes for targets: on virtual time, in a loop that is the target's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from durable.testing import VirtualRuntime
from tests.fuzz import flows

T = TypeVar("T")
Await = Callable[[Coroutine[Any, Any, T]], T]


@contextmanager
def quiet() -> Iterator[list[logging.LogRecord]]:
    """Keep what the library logs, and show none of it."""
    kept: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = kept.append  # type: ignore[method-assign]
    logger = logging.getLogger("durable")
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield kept
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextmanager
def open_runtime(path: Path, **options: Any) -> Iterator[tuple[VirtualRuntime, Await[Any]]]:
    """Give an open runtime, and what runs a coroutine in its loop."""
    with asyncio.Runner() as runner, quiet():
        rt = VirtualRuntime(path, **options)
        runner.run(rt.open())
        try:
            yield rt, runner.run
        finally:
            runner.run(rt.close())


def make_journal(path: Path) -> None:
    """Write a journal with one run of each kind in `flows`."""
    with open_runtime(path) as (rt, wait):
        wait(flows.fill(rt))
