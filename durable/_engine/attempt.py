"""One attempt of a step, as the executor keeps it and as the code inside it sees it.

Owns no decision: the executor begins it and takes its outcome. It gives the code of the step
its metadata and its way to the run's streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from durable._authoring.context import StepMetadata
from durable._authoring.primitives import from_us
from durable._authoring.step import StepOptions
from durable._base.clock import Timer
from durable._engine.hot import HotRun
from durable._engine.live_stream import Author
from durable._engine.outlets import Channel, Outlet
from durable._engine.streams import Streams
from durable._engine.threads import Ticket
from durable._replay.opened import OpenStep
from durable.errors import RuntimeClosedError, WrongContextError

T = TypeVar("T")


class Attempt:
    """One running attempt. `forget` makes its outcome meaningless."""

    # In the class, because most attempts need nothing of this.
    outlet: Outlet | None = None
    forgotten = False
    task: asyncio.Task[None] | None = None
    ticket: Ticket | None = None
    timeout: Timer | None = None
    fences = began_us = 0  # known when it begins
    slot = 0  # see `Marks`
    yielded = 0

    def __init__(
        self, run: HotRun, step: OpenStep, settings: StepOptions, runtime: object, streams: Streams
    ) -> None:
        self.run = run
        self.streams = streams
        self.step = step
        self.settings = settings
        self.runtime = runtime
        self.number = step.failures + step.interruptions + step.parks + 1

    @property
    def metadata(self) -> StepMetadata:
        """What `get_step_metadata` answers inside the step."""
        step_id = f"{self.run.run_id}:{self.step.seq}"
        return StepMetadata(
            step_id=step_id,
            name=self.step.step.name,
            attempt=self.number,
            started_at=from_us(self.began_us),
            run_id=self.run.run_id,
            idempotency_key=step_id,
            yielded=self.yielded,
        )

    def channel(self, namespace: str, mode: str) -> Channel:
        """Return the attempt's channel to a stream of the run.

        Raises:
            WrongContextError: called in another event loop than the one that runs us.
        """
        if asyncio.get_running_loop() is not self.streams.loop:
            raise WrongContextError(
                "a step's streams belong to the event loop of its runtime: in a loop of your own, "
                "pass the values to a thread that uses get_sync_writable()"
            )
        if self.outlet is None:
            self.outlet = self.streams.outlet(self.run, Author(self.step.seq, self.number))
        return self.outlet.channel(namespace, mode)

    def wait_for(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `make()` on the loop that runs us; blocks the calling thread."""
        work = make()
        try:
            waiting = asyncio.run_coroutine_threadsafe(work, self.streams.loop)
        except RuntimeError as error:  # the loop is closed, and this thread is left over
            work.close()
            raise RuntimeClosedError("the runtime of this step is closed") from error
        return waiting.result()
