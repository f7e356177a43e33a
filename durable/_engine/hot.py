"""A run in memory: its row, its live body, what has reached it, what it is doing.

Owns no decision. `state` is what the journal holds (or is about to hold) for the run;
`attempts` are the running attempts by step; `alarms` its armed timers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from durable._engine.timers import Alarm
from durable._journal.records import FINISHED, RunRow, RunState, Write
from durable._replay.body import Body
from durable._replay.events import Event
from durable._replay.script import Inbound


class HotRun:
    """See the module's docstring."""

    __slots__ = (
        "acks", "alarms", "attempts", "awaiting", "begins_at", "birth", "body", "born",
        "definition", "doubts", "feeds", "gone", "grace_ends", "inbox", "loading", "paused", "row",
        "run_id", "scheduled", "state", "successor", "unsaved",
    )  # fmt: skip

    def __init__(self, row: RunRow, definition: object = None) -> None:
        self.row = row
        self.run_id = row.run_id
        self.state = state_of(row)
        self.definition = definition
        self.body: Body | None = None
        self.inbox: list[Inbound] = []
        self.acks: list[asyncio.Future[None]] = []  # resolved with the next activation's COMMIT
        self.alarms: dict[int, Alarm] = {}  # by the seq of their wait or step
        self.attempts: dict[int, Any] = {}
        self.feeds: dict[int, Any] = {}  # streams of iterated generator steps, by their step
        self.awaiting: dict[int, str] = {}  # runs that its steps wait for
        self.doubts = 0  # how many of these may have ended before
        self.birth: Write | None = None  # the write that creates the run, until it is submitted
        self.born = True  # False until the write that creates the run is durable
        self.grace_ends: float | None = None  # by the boot clock, if its end is asked for now
        self.begins_at = 0  # when it was asked to start (UTC microseconds), 0 = at once
        self.successor: tuple[HotRun, list[Event]] | None = None  # which goes on in its place
        self.unsaved = 0  # writes submitted and not yet durable
        self.scheduled = False
        self.loading = False
        self.gone = False  # finished, blocked or evicted: whoever still holds it must let go
        self.paused = False  # gone, yet what its running attempts come to is recorded

    @property
    def finished(self) -> bool:
        """Tell whether the run has reached a terminal state."""
        return self.state.status in FINISHED

    def current_row(self) -> RunRow:
        """Return the row as it stands, with the changing columns of `state`."""
        return with_state(self.row, self.state)

    def is_idle(self) -> bool:
        """Tell whether the run could leave memory: nothing is running, pending or unsaved."""
        if (
            self.scheduled or self.loading or self.unsaved or self.attempts or self.inbox
            or self.birth is not None
        ):  # fmt: skip
            return False
        if self.body is not None and (hooks := self.body.hooks) is not None and hooks.unsure:
            return False  # its row may not tell that it has to hear of a token
        if self.awaiting:
            return self._only_waits_for_runs()
        return self.state.wake_at != 0 and not self._has_queued_attempts()

    def _has_queued_attempts(self) -> bool:
        return self.body is not None and any(s.running for s in self.body.steps.values())

    def _only_waits_for_runs(self) -> bool:
        # One with alarms of its own stays: its row does not say when it is due. So does one that
        # is about to hear of an end: it would have to be brought back at once.
        body = self.body
        if self.alarms or self.doubts:
            return False
        return body is not None and len(body.steps) == len(self.awaiting)

    def drop(self, reason: Exception | None = None) -> None:
        """Let go of the body and everything armed for it; `reason` is told to who waits."""
        self.gone = True
        self.refuse(reason)
        for alarm in self.alarms.values():
            alarm.cancel()
        self.alarms.clear()
        for feed in self.feeds.values():
            feed.let_go()
        self.feeds.clear()
        if self.body is not None:
            self.body.abandon()
            self.body = None

    def refuse(self, reason: Exception | None) -> None:
        """Tell those who wait for the next COMMIT that it will not come, or not for them."""
        acks, self.acks = self.acks, []
        for ack in acks:
            settle(ack, reason)


def settle(ack: asyncio.Future[None], error: BaseException | None) -> None:
    """Answer one who waits for a run's next COMMIT."""
    if not ack.done() and not ack.get_loop().is_closed():
        if error is None:
            ack.set_result(None)
        else:
            ack.set_exception(error)


def state_of(row: RunRow) -> RunState:
    """Return the changing columns of a row."""
    return RunState(
        row.status, row.started_at, row.completed_at, row.wake_at, row.expires_at, row.blocked,
        row.pk,
    )  # fmt: skip


def with_state(row: RunRow, state: RunState) -> RunRow:
    """Return `row` with other changing columns."""
    changed = list(row)
    for place, value in zip(_CHANGING, state, strict=False):
        changed[place] = value
    return RunRow._make(changed)


_CHANGING = [RunRow._fields.index(name) for name in RunState._fields[:-1]]


Main = Callable[[], Coroutine[Any, Any, Any]]
