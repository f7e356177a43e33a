"""The run that goes on in the place of one that has ended by `continue_as_new`.

Owns what the successor takes over: workflow and options, attributes, parent and root, the
deadline as it stands, the bond of a child to its parent, the hook tokens asked for, and
what was sent to the run and not taken. It begins with a history of its own, and is recorded
in the same transaction as the end of the run before it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from durable._base.ids import token_hash
from durable._engine.hot import HotRun
from durable._journal.attributes import Origin, encode_origin
from durable._journal.records import PENDING, RunEvent, Write
from durable._journal.row_ops import keep_hook
from durable._replay.body import Body
from durable._replay.ending import Continuation
from durable._replay.events import Event, EventKind
from durable._replay.hooks import kept_box
from durable._replay.ports import Payloads
from durable.errors import SerializationError

logger = logging.getLogger("durable")


def add_successor(run: HotRun, body: Body, pk: int, write: Write) -> None:
    """Have the run that continues `run` recorded with its end, and remember it with it.

    Args:
        run: has just ended.
        body: says as what it goes on.
        pk: for the row of the successor.
        write: that of the end.
    """
    end, wanted, row = body.outcome, body.continuation, run.row
    assert end is not None
    assert end.payload is not None
    assert wanted is not None
    first = row.first_id or row.run_id
    successor = row._replace(
        pk=pk,
        run_id=end.payload.decode(),
        status=PENDING,
        created_at=end.at,
        started_at=None,
        completed_at=None,
        wake_at=end.at,
        expires_at=None,
        blocked=None,
        root_id=row.root_id or first,
        first_id=first,
        origin=encode_origin(Origin("continued", row.run_id)),
    )
    created = Event(1, EventKind.RUN_CREATED, 0, row.workflow, end.at, None, wanted.payload)
    mail = [
        Event(seq, EventKind.HOOK_RECEIVED, 0, name, end.at, None, payload)
        for seq, (name, payload) in enumerate(_not_taken(wanted, body.payloads), 2)
    ]
    begins = [RunEvent(pk, successor.run_id, event) for event in (created, *mail)]
    write.runs = [*write.runs, successor]
    write.events = [*write.events, *begins]
    # Before the others of its tokens are freed.
    keeps = [keep_hook(token_hash(hook.token), pk, row.pk) for hook in wanted.kept]
    write.ops = [*write.ops, *keeps]
    run.successor = HotRun(successor, run.definition), [created, *mail]


def _not_taken(wanted: Continuation, payloads: Payloads) -> Iterator[tuple[str, bytes]]:
    """Yield what waits in mailboxes and kept hooks, with the names of the new mailboxes."""
    boxes = [*wanted.boxes.items(), *((kept_box(hook.token), hook) for hook in wanted.kept)]
    for name, box in boxes:
        for value in box.payloads:
            try:
                yield name, payloads.encode(value, "payload")
            except SerializationError:
                logger.exception("a payload is lost at continue_as_new, which nobody has taken")
