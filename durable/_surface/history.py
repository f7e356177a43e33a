"""A run's history and status as people read them.

Recorded values are previewed, never loaded: looking at a journal executes no code
from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from durable._authoring.primitives import from_us
from durable._journal.failure import preview_failure
from durable._journal.records import FINISHED, PENDING, RunRow
from durable._journal.seals import is_sealed, without_signature
from durable._replay.attributes import ATTRIBUTE_KINDS, decode_change
from durable._replay.events import ANSWERS, Event, EventKind
from durable._replay.rewound import effective
from durable._surface.current import Access
from durable.errors import WorkflowRunNotFoundError, shown_token


class RunStatus(str):
    """The status of a run as text, with details.

    Attributes:
        reason: why the run is blocked, else None.
        waiting_for: what it waits for, such as ``"step app.charge (attempt 2)"``.

    Example:
        ``if (status := await run.status()) == "blocked": print(status.reason)``
    """

    __slots__ = ("reason", "waiting_for")
    reason: str | None
    waiting_for: tuple[str, ...]

    def __new__(
        cls, status: str, reason: str | None = None, waiting_for: tuple[str, ...] = ()
    ) -> Self:
        """Return `status` with its details."""
        made = super().__new__(cls, status)
        made.reason = reason
        made.waiting_for = waiting_for
        return made

    def __reduce__(self) -> tuple[object, ...]:
        return (RunStatus, (str(self), self.reason, self.waiting_for))


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One event of a run.

    Attributes:
        seq: its number in the run, from 1; also the correlation id of what it creates.
        kind: such as ``"step_completed"``.
        name: of the workflow or step; how a wait was made; why an attempt ended; the own
            token of a hook; the mailbox and dedupe key of a payload.
        at: when it happened (UTC).
        ref: number of the event it answers, None for none.
        due: when the wait or the next attempt is due (UTC), if it is about one.
        value: preview of the recorded value; of an error, its type and message.

    Example:
        ``steps = [e.name for e in await run.events() if e.kind == "step_completed"]``
    """

    seq: int
    kind: str
    name: str
    at: datetime
    ref: int | None
    due: datetime | None
    value: object


_ERRORS = frozenset({EventKind.RUN_FAILED, EventKind.STEP_FAILED, EventKind.STEP_RETRYING})
_TEXTS = frozenset(
    {
        EventKind.RUN_CANCELLED,
        EventKind.RUN_CONTINUED,
        EventKind.RUN_REWOUND,
        EventKind.CANCEL_REQUESTED,
    }
)


async def read_events(access: Access, row: RunRow) -> list[HistoryEvent]:
    """Return the history of a run, oldest event first."""
    history = await access.reader.history(row.pk, row.run_id)
    if not history:  # it was deleted after its row was read
        raise WorkflowRunNotFoundError(row.run_id)
    return [shown_event(access, event) for event in history]


def shown_event(access: Access, event: Event) -> HistoryEvent:
    """Return an event as people read it; nothing recorded in it is loaded."""
    event = without_signature(event)  # of a key that is not at hand
    kind = EventKind(event.kind)
    return HistoryEvent(
        seq=event.seq,
        kind=kind.label,
        name=event.name.replace("\n", " ").strip(),  # of a mailbox, and its dedupe key
        at=from_us(event.at),
        ref=event.ref if event.ref and kind != EventKind.RUN_CREATED else None,
        due=None if event.due is None else from_us(event.due),
        value=None if event.payload is None else _value(access, kind, event.payload),
    )


def _value(access: Access, kind: EventKind, payload: bytes) -> object:
    if is_sealed(payload):
        return access.payloads.preview(payload)
    if kind in _TEXTS:
        return payload.decode(errors="replace")
    if kind in ATTRIBUTE_KINDS:
        return decode_change(payload).set
    if kind in _ERRORS:
        return preview_failure(payload, access.payloads.codec)
    shown = access.payloads.preview(payload)
    if kind == EventKind.HOOK_CREATED and isinstance(shown, dict):
        # Who knows the token of a webhook can call it: `run.hooks()` tells those who must know.
        shown = shown | {"token": shown_token(str(shown.get("token", "")))}
    return shown


async def waiting_for(access: Access, row: RunRow) -> tuple[str, ...]:
    """Return what an unfinished run waits for, in the order in which it began to."""
    if row.status in FINISHED:
        return ()
    if row.status == PENDING:
        delayed = row.wake_at is not None and row.wake_at > row.created_at
        return (f"its start at {from_us(row.wake_at or 0).isoformat()}",) if delayed else ()
    body = access.live_body(row.run_id)
    if body is not None:
        opened = {seq: f"step {s.step.name} (attempt {s.attempt})" for seq, s in body.steps.items()}
        waits = {seq: wait for seq, wait in body.waits.items() if wait.name != "timer"}
        opened.update({seq: _wait(wait.due) for seq, wait in waits.items()})
        mail: list[str] = []
        if body.hooks is not None:
            opened.update(
                {
                    seq: _hook(seq, hook.name, hook.facts)
                    for seq, hook in body.hooks.open.items()
                    if hook.conflict is None
                }
            )
            mail = [f"mailbox {name!r}" for name, box in body.hooks.boxes.items() if box.awaited]
        return (*(opened[seq] for seq in sorted(opened)), *mail)
    history = await access.reader.history(row.pk, row.run_id)
    return _open_in(access, effective(list(map(without_signature, history))).events)


def _open_in(access: Access, history: Sequence[Event]) -> tuple[str, ...]:
    pending: dict[int, str] = {}
    attempts: dict[int, int] = {}
    for event in history:
        if event.kind == EventKind.STEP_CREATED:
            pending[event.seq] = f"step {event.name} (attempt 1)"
        elif event.kind == EventKind.STEP_RETRYING:
            attempts[event.ref] = attempts.get(event.ref, 1) + 1
            name = pending.get(event.ref, "").removesuffix(")").rpartition(" (")[0]
            pending[event.ref] = f"{name} (attempt {attempts[event.ref]})"
        elif event.kind == EventKind.WAIT_CREATED and event.name != "timer":
            pending[event.seq] = _wait(event.due or 0)
        elif event.kind == EventKind.HOOK_CREATED:
            facts = None if event.name else access.payloads.preview(event.payload or b"")
            pending[event.seq] = _hook(event.seq, event.name, facts)
        elif event.kind in ANSWERS and not _leaves_open(event):
            pending.pop(event.ref, None)
    return tuple(pending.values())


def _leaves_open(event: Event) -> bool:
    claimed = event.kind == EventKind.HOOK_CONFLICT and event.payload is None
    return claimed or event.kind in {EventKind.HOOK_RECEIVED, EventKind.STEP_YIELDED}


def _hook(seq: int, name: str, facts: object) -> str:
    # A token that nobody can guess is not shown to everybody who looks.
    if name:
        return f"hook {name!r}"
    is_webhook = isinstance(facts, dict) and "webhook" in facts
    return f"{'webhook' if is_webhook else 'hook'} of event {seq}"


def _wait(due_us: int) -> str:
    return f"sleep until {from_us(due_us).isoformat()}"
