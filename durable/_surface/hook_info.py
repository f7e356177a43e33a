"""Open hooks as others see them: read from the journal, beside whoever executes the run.

Owns `HookInfo` and how it is found: the row that holds a token names the event that
created the hook, and that event says the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from durable._authoring.primitives import from_us
from durable._base.ids import token_hash, valid_text
from durable._journal.records import HookRow
from durable._replay.events import EventKind
from durable._replay.hooks import HOOK_RECEIVED, hook_facts
from durable._surface.current import Access
from durable.errors import HookNotFoundError, JournalCorruptError, shown_token


@dataclass(frozen=True, slots=True)
class HookInfo:
    """An open hook as others see it.

    Attributes:
        token: its token.
        run_id: the run that waits.
        metadata: what the body gave it.
        created_at: when it was created (UTC).
        type: what its payloads must be, in words; None for anything.
        received: how many payloads it has got so far.

    Example:
        ``who = (await get_hook_by_token(token)).metadata["approver"]``
    """

    token: str
    run_id: str
    metadata: Any
    created_at: datetime
    type: str | None
    received: int

    def __repr__(self) -> str:
        return f"<HookInfo {shown_token(self.token)} of run {self.run_id}>"


async def find(access: Access, token: str) -> HookInfo:
    """Return an open hook of one journal; see `get_hook_by_token`."""
    valid_text(token, "hook token")
    row = await access.reader.hook(token_hash(token))
    found = None if row is None else await _info(access, row)
    if found is None:
        raise HookNotFoundError(token)
    return found


async def hooks_of(access: Access, pk: int, run_id: str) -> list[HookInfo]:
    """Return the open hooks of a run, in the order of their creation."""
    rows = [HookRow(pk, run_id, seq) for seq in await access.reader.hooks_of(pk)]
    found = [await _info(access, row) for row in rows]
    return [info for info in found if info is not None]


async def find_facts(access: Access, row: HookRow) -> tuple[dict[str, Any], int] | None:
    """Return what was recorded with a hook, and when (UTC microseconds)."""
    if row.seq == 0:  # kept for a run that has not created it yet
        return None
    events = await access.reader.history(row.pk, row.run_id, row.seq - 1, 1)
    if not events:  # deleted since
        return None
    if events[0].kind != EventKind.HOOK_CREATED:
        raise JournalCorruptError(
            f"event {row.seq} of run {row.run_id} should have created a hook, and it is "
            f"{EventKind(events[0].kind).label}: restore the journal from a backup"
        )
    return hook_facts(access.payloads, events[0]), events[0].at


async def _info(access: Access, row: HookRow) -> HookInfo | None:
    found = await find_facts(access, row)
    if found is None:
        return None
    facts, at = found
    return HookInfo(
        token=facts["token"],
        run_id=row.run_id,
        metadata=facts["metadata"],
        created_at=from_us(at),
        type=facts["type"],
        received=await access.reader.count_answers(row.pk, HOOK_RECEIVED, row.seq),
    )
