"""Runs and histories as text for people and as JSON for programs.

Owns the columns, the times and the widths. Everything shown was recorded by somebody
else's program, so it is shortened and stripped of control characters, and values are
previews: nothing from the journal is executed or sent to the terminal as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime

from durable._authoring.primitives import from_us
from durable._journal.attributes import decode_attributes, decode_blocked
from durable._journal.records import BLOCKED, FINISHED, RunRow
from durable._surface.history import HistoryEvent

VALUE_CHARS_MAX = 60
REASON_CHARS_MAX = 100


def plain(text: str, chars_max: int | None = None) -> str:
    """Return `text` on one line without control characters, shortened if need be."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    if chars_max is not None and len(shown) > chars_max:
        return f"{shown[: chars_max - 3]}..."
    return shown


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return aligned lines; the last column is as long as it is."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def took(start_us: int, end_us: int) -> str:
    """Return a span as text: ``0.214 s``, ``3 min 12 s``, ``2 d 4 h``."""
    seconds = max(0, end_us - start_us) / 1e6
    if seconds < 60:
        return f"{seconds:.3f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if hours < 1:
        return f"{minutes} min {int(seconds) % 60} s"
    return f"{hours} h {minutes % 60} min" if days < 1 else f"{days} d {hours % 24} h"


def moment(us: int) -> str:
    """Return an instant (UTC microseconds) as people read it."""
    return from_us(us).strftime("%Y-%m-%d %H:%M:%S")


# --- runs -----------------------------------------------------------------------------


def run_lines(rows: Sequence[RunRow]) -> list[str]:
    """Return the listing of runs, one line each below a head."""
    if not rows:
        return ["no runs"]
    head = ("RUN", "WORKFLOW", "STATUS", "CREATED (UTC)", "TOOK", "NOTE")
    return table(head, map(_run_cells, rows))


def _run_cells(row: RunRow) -> tuple[str, ...]:
    span = took(row.created_at, row.completed_at) if row.completed_at else ""
    note = decode_blocked(row.blocked).reason if row.status == BLOCKED else ""
    if not note and row.status not in FINISHED and row.wake_at:
        note = f"due {moment(row.wake_at)}"
    name = plain(row.workflow)
    return (
        plain(row.run_id), name, row.status, moment(row.created_at), span,
        plain(note, REASON_CHARS_MAX),
    )  # fmt: skip


def run_facts(row: RunRow) -> dict[str, object]:
    """Return a run's row as JSON data; times are ISO 8601 in UTC, absent ones None."""
    blocked = decode_blocked(row.blocked)._asdict() if row.status == BLOCKED else None
    return {
        "run_id": row.run_id,
        "workflow": row.workflow,
        "status": row.status,
        "created_at": _iso(row.created_at),
        "started_at": _iso(row.started_at),
        "completed_at": _iso(row.completed_at),
        "due_at": _iso(row.wake_at or None),
        "deadline": _iso(row.deadline),
        "parent_id": row.parent_id,
        "deployment_id": row.deployment_id,
        "attributes": decode_attributes(row.attributes),
        "blocked": blocked,
    }


def _iso(us: int | None) -> str | None:
    return None if us is None else from_us(us).isoformat()


# --- one run ----------------------------------------------------------------------------


def history_lines(
    row: RunRow, events: Sequence[HistoryEvent], waiting_for: Sequence[str]
) -> list[str]:
    """Return a run with its history as a timeline, times counted from its creation."""
    return [*_head_lines(row, waiting_for), "", *_timeline(row, events)]


def _head_lines(row: RunRow, waiting_for: Sequence[str]) -> list[str]:
    facts = [("run", row.run_id), ("workflow", row.workflow), ("status", row.status)]
    facts += [(label, f"{moment(us)} UTC") for label, us in _instants(row) if us is not None]
    if row.completed_at is not None:
        facts.append(("took", took(row.created_at, row.completed_at)))
    facts += [(f"attribute {k}", v) for k, v in decode_attributes(row.attributes).items()]
    facts += [("parent", row.parent_id)] if row.parent_id else []
    facts += [("waits for", what) for what in waiting_for]
    if row.status == BLOCKED:
        facts.append(("blocked", decode_blocked(row.blocked).reason))
    width = max(len(label) for label, _ in facts)
    return [f"{plain(label).ljust(width)}  {plain(text)}" for label, text in facts]


def _instants(row: RunRow) -> tuple[tuple[str, int | None], ...]:
    return (
        ("created", row.created_at), ("started", row.started_at),
        ("ended", row.completed_at), ("deadline", row.deadline),
    )  # fmt: skip


def _timeline(row: RunRow, events: Sequence[HistoryEvent]) -> list[str]:
    names = {event.seq: event.name for event in events}
    start = from_us(row.created_at)
    cells = [
        (
            f"{(event.at - start).total_seconds():.3f} s",
            str(event.seq),
            event.kind,
            plain(subject(event, names)),
            plain(_detail(event, start), VALUE_CHARS_MAX),
        )
        for event in events
    ]
    return table(("AFTER", "SEQ", "EVENT", "OF", "VALUE"), cells)


def subject(event: HistoryEvent, names: dict[int, str]) -> str:
    """Return what an event is about: its name, or that of the event it answers."""
    if event.ref is None:
        return event.name
    about = f"{names.get(event.ref, '?')} [{event.ref}]"
    return f"{about} ({event.name})" if event.name and not _is_echo(event, names) else about


def _is_echo(event: HistoryEvent, names: dict[int, str]) -> bool:
    return event.ref is not None and names.get(event.ref) == event.name


def _detail(event: HistoryEvent, start: datetime) -> str:
    due = "" if event.due is None else f"due at {(event.due - start).total_seconds():.3f} s"
    value = "" if event.value is None else _value_text(event)
    return ", ".join(part for part in (due, value) if part)


def _value_text(event: HistoryEvent) -> str:
    return event.value if isinstance(event.value, str) and _is_error(event) else repr(event.value)


def _is_error(event: HistoryEvent) -> bool:
    return event.kind in {"run_failed", "step_failed", "step_retrying"}


def event_facts(event: HistoryEvent) -> dict[str, object]:
    """Return one event as JSON data; what JSON cannot hold is shown as text."""
    return {
        "seq": event.seq,
        "kind": event.kind,
        "name": event.name,
        "ref": event.ref,
        "at": event.at.isoformat(),
        "due": None if event.due is None else event.due.isoformat(),
        "value": json_value(event.value),
    }


def json_value(value: object) -> object:
    """Return a preview as JSON data; what JSON cannot hold, as text."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return value
