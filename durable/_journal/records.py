"""The rows that cross the journal's edge, as plain data.

Owns the shape of a run's row and of a `Write`, the unit that the engine submits:
everything in one `Write` becomes durable in one transaction, or not at all. Writes
are idempotent on purpose, so that after an ambiguous COMMIT the writer may simply
perform them again: rows are keyed, updates are absolute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from durable._replay.events import Event

PENDING, RUNNING, BLOCKED = "pending", "running", "blocked"
COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"
CONTINUED = "continued"  # ended, and another run goes on in its place
FINISHED = frozenset({COMPLETED, FAILED, CANCELLED, CONTINUED})


class RunRow(NamedTuple):
    """One row of `runs`: an index over the histories, rebuilt from nothing but events.

    Times are UTC microseconds. `wake_at` says when the run next needs the scheduler:
    0 = attempts were in flight (read at recovery only), a time = due then, None = never
    by itself. `retention_us` None = the runtime's default, -1 = for ever. `first_id` is the
    first run of the chain that this one continues; `bound_to` is set for a child that is
    cancelled at its parent's end, and names the first run of the parent's chain.
    """

    pk: int
    run_id: str
    workflow: str
    status: str
    created_at: int
    started_at: int | None
    completed_at: int | None
    wake_at: int | None
    deadline: int | None
    expires_at: int | None
    retention_us: int | None
    parent_id: str | None
    root_id: str | None
    deployment_id: str | None
    attributes: str | None  # a JSON object of strings
    blocked: str | None  # JSON {"kind":..., "reason":..., "missing":...}
    behaviour: int  # bit flags of engine behaviour, fixed at creation
    first_id: str | None = None
    bound_to: str | None = None
    origin: str | None = None  # JSON {"how":..., "run_id":..., "seed":...}


class RunState(NamedTuple):
    """The columns of a run that change, written whole each time."""

    status: str
    started_at: int | None
    completed_at: int | None
    wake_at: int | None
    expires_at: int | None
    blocked: str | None
    pk: int


class RunEvent(NamedTuple):
    """An event together with the run it belongs to."""

    pk: int
    run_id: str
    event: Event


# The events of one activation of a run, in order, with its key and its id.
RunTurn = tuple[int, str, Sequence[Event]]


class Request(NamedTuple):
    """What was asked of a run while no process executed it: "cancel" or "wake".

    `seq` was the run's newest event then; `payload` the reason of a cancellation.
    """

    run: int
    kind: str
    seq: int
    payload: bytes | None


class HookRow(NamedTuple):
    """Who holds a hook token: a run, by both names, with the hook's `hook_created`."""

    pk: int
    run_id: str
    seq: int


class RowOp(NamedTuple):
    """One statement of queries.sql on a table beside runs and events: hooks, chunks, attributes.

    It must say the same twice, because an ambiguous COMMIT is answered by performing it again.
    """

    query: str
    values: tuple[int | str | bytes | None, ...]


@dataclass(slots=True, eq=False)
class Write:
    """What one caller wants made durable in one transaction.

    `done(error)` is called on the loop after COMMIT (error None) or when the write was
    refused. A `vital` write is never refused because of the disk: it waits until the
    disk works again. The others fail with a `JournalError`, having recorded nothing.

    `runs` whose `run_id` exists already are left out together with their events, and
    the row found is then in `existing[run_id]`.

    `ops` are performed one by one, in the order of submission, after events and states;
    `changed` then holds how many rows each of them changed, which is 0 for one that is
    performed again. A write with `ops` and no events must be `vital`: whether they are
    recorded cannot be told by reading. Where that was told by its events, `changed` is empty.
    """

    done: Callable[[BaseException | None], None]
    runs: Sequence[RunRow] = ()
    events: Sequence[RunEvent] = ()
    turn: RunTurn | None = None  # recorded after `events`
    states: Sequence[RunState] = ()
    ops: Sequence[RowOp] = ()
    suspect: tuple[int, int] | None = None  # (pk, seq) of the step about to run alone
    clear_suspect: bool = False
    vital: bool = False
    existing: Mapping[str, RunRow] = field(default_factory=dict)
    changed: Sequence[int] = ()

    def __post_init__(self) -> None:
        assert self.vital or not self.ops or self.events or self.turn is not None

    def settle(self, error: BaseException | None) -> None:
        """Tell what became of the write; called once, by the writer."""
        # Dropped before it runs: it refers to the write, and only the garbage collector
        # would take the two apart again.
        done, self.done = self.done, _told
        done(error)


def _told(error: BaseException | None) -> None:
    """Stand in for a `done` that has been called."""
