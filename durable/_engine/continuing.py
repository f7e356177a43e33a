"""The run that goes on in the place of one that has ended by `continue_as_new`.

Owns what the successor takes over: workflow and options, attributes, parent and root, the
deadline as it stands, the bond of a child to its parent. It begins with an empty history,
and is recorded in the same transaction as the end of the run before it.
"""

from __future__ import annotations

from durable._engine.hot import HotRun
from durable._journal.attributes import Origin, encode_origin
from durable._journal.records import PENDING, RunEvent, Write
from durable._replay.body import Body
from durable._replay.events import Event, EventKind


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
    write.runs = [*write.runs, successor]
    write.events = [*write.events, RunEvent(pk, successor.run_id, created)]
    run.successor = HotRun(successor, run.definition), created
