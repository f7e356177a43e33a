"""Attributes of a run that change: kept with its row, and set by its steps.

What the body sets is a command of its own. What a step sets reaches the run like
anything else from outside, is noted in the history, and is durable before the step goes
on. The row's column is written in the transaction of the events; an index over it follows
by itself (see schema.sql).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from durable._engine.attempt import Attempt
from durable._engine.hot import HotRun
from durable._engine.scheduler import Scheduler
from durable._journal.attributes import encode_attributes
from durable._journal.records import Write
from durable._journal.row_ops import set_attributes
from durable._replay.attributes import Changes, check_room, encode_change
from durable._replay.body import Body
from durable._replay.events import EventKind
from durable._replay.script import Inbound
from durable.errors import WrongContextError


class Activation(Protocol):
    """Takes a run's turns."""

    def activate(self, run: HotRun, *, all_items: bool = False) -> None:
        """Apply the run's inbox and submit the outcome."""


def keep_attributes(run: HotRun, body: Body, write: Write) -> None:
    """Have the attributes written together with the events that changed them."""
    body.attributes_changed = False
    column = encode_attributes(sorted(body.attributes.items()))
    run.row = run.row._replace(attributes=column)
    if run.birth is None:  # else the row itself is about to be written
        write.ops = (*write.ops, set_attributes(run.row.pk, column))


class Attributes:
    """See the module's docstring."""

    def __init__(self, scheduler: Scheduler, activation: Activation) -> None:
        self._scheduler = scheduler
        self._activation = activation

    async def note(self, run_id: str, step: int, attempt: int, changes: Changes) -> None:
        """Record what an attempt of a step sets; returns when it is durable.

        Raises:
            WrongContextError: the attempt is over: it was cancelled, or took too long.
            ValueError: the run would have too many attributes.
        """
        run, body = self._bearer(run_id, step, attempt)
        if run.inbox:  # first what came first, so that there is no doubt what there is
            self._activation.activate(run, all_items=True)
            run, body = self._bearer(run_id, step, attempt)
        check_room(body.attributes, changes)
        payload = encode_change(body.attributes, changes)
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run.acks.append(durable)
        run.inbox.append(Inbound(EventKind.ATTR_NOTED, step, payload=payload))
        self._activation.activate(run, all_items=True)
        await durable

    def _bearer(self, run_id: str, step: int, attempt: int) -> tuple[HotRun, Body]:
        run = self._scheduler.get(run_id)
        made: Attempt | None = None if run is None else run.attempts.get(step)
        if run is None or run.body is None or made is None or made.number != attempt:
            raise WrongContextError(
                f"attempt {attempt} of step {step} of run {run_id} is over (cancelled, or it took "
                "longer than its timeout), so it can set no attributes any more"
            )
        return run, run.body
