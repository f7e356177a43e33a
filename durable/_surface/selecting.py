"""Listing and counting runs: filters of users, rows for users.

Owns what a filter may be, and the errors for what it may not; a page of runs and what a
page tells about each. Reading is done from the file, so it works in every process, and
executes nothing from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, Protocol, TypedDict, TypeVar, overload

from durable._authoring.attributes import check_attributes, is_text
from durable._authoring.primitives import from_us
from durable._authoring.workflow import Workflow
from durable._base.duration import parse_instant
from durable._journal.attributes import decode_attributes, decode_blocked
from durable._journal.records import BLOCKED, RunRow
from durable._journal.selection import STATUSES, Selection
from durable._surface.current import Access
from durable._surface.cursors import decode_cursor, encode_cursor
from durable._surface.history import RunStatus
from durable._surface.run import Run

Order = Literal["newest", "oldest"]
I_co = TypeVar("I_co", covariant=True)

ORDERS = ("newest", "oldest")
LIMIT_MAX = 10_000


class HasRunId(Protocol):
    """A handle of a run, or a row about it."""

    @property
    def run_id(self) -> str:
        """The run's id."""


class RunFilters(TypedDict, total=False):
    """Which runs are meant: those of which all that is given is true; None gives nothing.

    Keys:
        workflow: what `@workflow` made, or its name.
        status: ``"pending"``, ``"running"``, ``"blocked"``, ``"completed"``, ``"failed"``,
            ``"cancelled"``, ``"continued"``, or several of them.
        attributes: a run has all of these pairs.
        created_after: created at this aware datetime or later.
        created_before: created before this aware datetime.
        parent: the run (or its id) that started it.
        root: the run (or its id) that began its family; it is part of it.
    """

    workflow: Workflow[..., Any] | str | None
    status: str | Iterable[str] | None
    attributes: Mapping[str, str] | None
    created_after: datetime | None
    created_before: datetime | None
    parent: HasRunId | str | None
    root: HasRunId | str | None


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a listing tells about one run, as it was when the page was read.

    Attributes:
        run_id, workflow_name: which run, of which workflow.
        status: text such as ``"running"``; `status.reason` tells why a run is blocked.
        created_at, started_at, completed_at: UTC; None for what has not happened.
        attributes: its attributes.
        parent_id: the run that started it, if one did.
        root_id: the run that began its family; its own id if it was not started by a run.
        run: its handle.

    Example:
        ``for info in await list_runs(status="failed"): print(info.run_id, info.attributes)``
    """

    run_id: str
    workflow_name: str
    status: RunStatus
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    attributes: dict[str, str]
    parent_id: str | None
    root_id: str
    run: Run[Any] = field(repr=False, compare=False)

    @property
    def blocked_reason(self) -> str | None:
        """Why the run is blocked, with the cure; None if it is not."""
        return self.status.reason


class RunPage(Sequence[I_co], Generic[I_co]):
    """A page of a listing: a sequence of `RunInfo`.

    Attributes:
        next_cursor: give it to the same listing to get the next page; None on the last one.

    Example:
        >>> page = await list_runs(workflow="billing.invoice", limit=50)
        >>> while page.next_cursor is not None:
        ...     page = await list_runs(
        ...         workflow="billing.invoice", limit=50, cursor=page.next_cursor
        ...     )
    """

    __slots__ = ("_infos", "next_cursor")

    def __init__(self, infos: Iterable[I_co], next_cursor: str | None = None) -> None:
        self._infos = tuple(infos)
        self.next_cursor = next_cursor

    @overload
    def __getitem__(self, index: int) -> I_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[I_co]: ...
    def __getitem__(self, index: int | slice) -> I_co | Sequence[I_co]:
        """Return a run of the page, or several."""
        return self._infos[index]

    def __len__(self) -> int:
        return len(self._infos)

    def __iter__(self) -> Iterator[I_co]:
        return iter(self._infos)

    def __repr__(self) -> str:
        more = "" if self.next_cursor is None else ", more to come"
        return f"<RunPage of {len(self)} runs{more}>"


async def read_page(
    access: Access,
    selection: Selection,
    order: Order = "newest",
    limit: int = 100,
    cursor: str | None = None,
) -> RunPage[RunInfo]:
    """Return one page of a listing."""
    rows, next_cursor = await read_rows(access, selection, order, limit, cursor)
    return RunPage((info_of(row, access) for row in rows), next_cursor)


async def read_rows(
    access: Access, selection: Selection, order: Order, limit: int, cursor: str | None
) -> tuple[list[RunRow], str | None]:
    """Return the rows of one page, and the cursor of the next one.

    Raises:
        TypeError, ValueError, InvalidCursorError: an argument is not usable.
    """
    if order not in ORDERS:
        raise ValueError(f"order={order!r} is unknown: give 'newest' or 'oldest' (first)")
    _check_limit(limit)
    after = None if cursor is None else decode_cursor(cursor, selection, order)
    # One more than wanted tells whether there is another page.
    found = await access.reader.select(selection, order, after, limit + 1)
    if len(found.rows) <= limit:
        return found.rows, None
    return found.rows[:limit], encode_cursor(found.positions[limit - 1], selection, order)


def info_of(row: RunRow, access: Access) -> RunInfo:
    """Return what a listing tells about a run."""
    reason = decode_blocked(row.blocked).reason if row.status == BLOCKED else None
    return RunInfo(
        run_id=row.run_id,
        workflow_name=row.workflow,
        status=RunStatus(row.status, reason),
        created_at=from_us(row.created_at),
        started_at=None if row.started_at is None else from_us(row.started_at),
        completed_at=None if row.completed_at is None else from_us(row.completed_at),
        attributes=decode_attributes(row.attributes),
        parent_id=row.parent_id,
        root_id=row.root_id or row.run_id,
        run=Run(row.run_id, access),
    )


# --- filters --------------------------------------------------------------------------------


def selection_of(filters: Mapping[str, Any]) -> Selection:
    """Return the selection that a user's filters stand for.

    Raises:
        TypeError, ValueError: a filter is unknown, or its value not usable.
    """
    if unknown := sorted(set(filters) - set(RunFilters.__annotations__)):
        known = ", ".join(RunFilters.__annotations__)
        raise TypeError(f"unknown filter {unknown[0]!r}: runs are told apart by {known}")
    given = {name: value for name, value in filters.items() if value is not None}
    return Selection(
        workflow=_workflow(given.get("workflow")),
        statuses=_statuses(given.get("status")),
        attributes=check_attributes(given.get("attributes", {})),
        created_from=_instant(given, "created_after"),
        created_until=_instant(given, "created_before"),
        parent_id=_run_id(given, "parent"),
        root_id=_run_id(given, "root"),
    )


def _workflow(value: object) -> str | None:
    if isinstance(value, Workflow):
        return value.name
    return _text("workflow", value, "a @workflow function or the name of one")


def _statuses(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    known = ", ".join(STATUSES)
    if not isinstance(value, Iterable):
        raise TypeError(f"status={value!r} must be one or several of: {known}")
    chosen = [value] if isinstance(value, str) else list(value)
    for each in chosen:
        if each not in STATUSES:
            raise ValueError(f"status={each!r} is unknown: give one or several of {known}")
    if not chosen:
        raise ValueError(f"status={value!r} names none, so no run has it: give some of {known}")
    return tuple(status for status in STATUSES if status in chosen)


def _instant(given: Mapping[str, Any], name: str) -> int | None:
    return parse_instant(given[name], what=name) if name in given else None


def _run_id(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    return _text(name, getattr(value, "run_id", value), "a Run or the id of one")


def _text(name: str, value: object, wanted: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r} must be {wanted}")
    if not is_text(value):
        raise ValueError(f"{name}={value!r} holds a NUL or half of a surrogate pair: leave it out")
    return value


def _check_limit(limit: object) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit={limit!r} must be a whole number of runs")
    if not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"limit={limit}: a page has 1 to {LIMIT_MAX} runs")
