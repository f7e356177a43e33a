"""Cancelling many runs: by their ids, or by filters, in portions.

Owns which runs are meant and the order of the portions: from the newest to the oldest, so
that runs which are started meanwhile, perhaps because of a cancellation, are never met.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from durable._base.ids import valid_run_id
from durable._journal.selection import UNFINISHED, Position, Selection
from durable._surface.current import Access
from durable._surface.handle import check_reason
from durable._surface.selecting import HasRunId, selection_of

PORTION_RUNS = 200


@dataclass(frozen=True, slots=True)
class CancelOutcome:
    """What came of one run's cancellation.

    Attributes:
        run_id: the run.
        outcome: ``"requested"``: the request is durable; ``"finished"``: it had ended;
            ``"not_found"``: there is no such run; ``"error"``: see `message`.
        message: why it was not requested, if so.

    Example:
        ``failed = [each for each in await cancel_runs(ids) if each.outcome == "error"]``
    """

    run_id: str
    outcome: Literal["requested", "finished", "not_found", "error"]
    message: str | None = None


async def cancel_named(
    access: Access,
    runs: Iterable[HasRunId | str],
    reason: str | None,
    filters: Mapping[str, Any],
) -> list[CancelOutcome]:
    """Cancel the runs with these ids, each once."""
    if any(value is not None for value in filters.values()):
        raise ValueError("give either runs or filters, not both: which runs are meant?")
    check_reason(reason)
    if isinstance(runs, str):
        raise TypeError(f"runs={runs!r} must be several runs: give [{runs!r}]")
    ids = list(dict.fromkeys(map(_id_of, runs)))
    outcomes: list[CancelOutcome] = []
    for start in range(0, len(ids), PORTION_RUNS):
        outcomes += await _cancel(access, ids[start : start + PORTION_RUNS], reason)
    return outcomes


async def cancel_chosen(
    access: Access, reason: str | None, filters: Mapping[str, Any]
) -> list[CancelOutcome]:
    """Cancel the runs of which all filters are true."""
    check_reason(reason)
    selection = selection_of(filters)
    if selection == Selection():
        raise ValueError(
            "cancel_runs() needs runs or a filter; to cancel all that are unfinished write "
            'cancel_runs(status=["pending", "running", "blocked"])'
        )
    if not selection.statuses:
        selection = replace(selection, statuses=UNFINISHED)
    outcomes: list[CancelOutcome] = []
    after: Position | None = None
    while True:
        rows, _, after = await access.reader.select(selection, "newest", after, PORTION_RUNS)
        outcomes += await _cancel(access, [row.run_id for row in rows], reason)
        if after is None:
            return outcomes


async def _cancel(access: Access, ids: Sequence[str], reason: str | None) -> list[CancelOutcome]:
    if not ids:
        return []
    port = await access.port()
    answers = await port.ask("cancel_runs", run_ids=list(ids), reason=reason)
    return [CancelOutcome(run_id, *answer) for run_id, answer in zip(ids, answers, strict=True)]


def _id_of(run: HasRunId | str) -> str:
    run_id = getattr(run, "run_id", run)
    if not isinstance(run_id, str):
        raise TypeError(f"{run!r} is neither a run nor the id of one")
    return valid_run_id(run_id)
