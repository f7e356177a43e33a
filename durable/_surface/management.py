"""What can be asked about many runs at once, as functions and as methods of a runtime.

Owns the public signatures; what they do is in the modules about it. In a workflow body
each call is recorded as a step, so that replay sees the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack, cast

from durable._authoring.context import current_body
from durable._authoring.step import Step, StepOptions
from durable._surface.current import Access, current_runtime
from durable._surface.selecting import Order, RunFilters, RunInfo, RunPage, read_page, selection_of


class Managed:
    """The methods of a runtime that are about many runs."""

    async def list_runs(
        self: Access,
        *,
        order: Order = "newest",
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[RunFilters],
    ) -> RunPage[RunInfo]:
        """Return a page of this journal's runs; see `durable.list_runs`."""
        return await read_page(self, selection_of(filters), order, limit, cursor)

    async def count_runs(self: Access, **filters: Unpack[RunFilters]) -> int:
        """Return how many runs of this journal fit; see `durable.count_runs`."""
        return await self.reader.count(selection_of(filters))


async def list_runs(
    *,
    order: Order = "newest",
    limit: int = 100,
    cursor: str | None = None,
    **filters: Unpack[RunFilters],
) -> RunPage[RunInfo]:
    """Return a page of runs, newest first, of those of which all filters are true.

    Args:
        order: ``"newest"`` (default) or ``"oldest"`` first, by creation.
        limit: the page's length, up to 10,000. Default 100.
        cursor: `next_cursor` of the page before; None for the first page.
        filters: `workflow` (or its name), `status` (one or several), `attributes` (all of
            these pairs), `created_after` (included) and `created_before` (aware datetimes),
            `parent` (the run that started it), `root` (the run that began its family, which
            is part of it).

    Paging sees each run that is there all the time, and fits all the time, exactly once,
    whatever is started, ends or is deleted meanwhile. It reads the file only: no run's code
    or values are loaded, and every process can do it.

    Raises:
        TypeError, ValueError: a filter is unknown or not usable.
        InvalidCursorError: the cursor belongs to other filters or another order, or is none.

    In a workflow body the answer is recorded, like that of a step.

    Example:
        ``page = await list_runs(status="blocked", attributes={"customer": "acme"})``
    """
    asked = {**filters, "order": order, "limit": limit, "cursor": cursor}
    return cast("RunPage[RunInfo]", await _ask("list_runs", asked))


async def count_runs(**filters: Unpack[RunFilters]) -> int:
    """Return how many runs there are of which all filters are true; see `list_runs`.

    Example:
        ``waiting = await count_runs(workflow=fulfil, status=["pending", "running"])``
    """
    return cast(int, await _ask("count_runs", filters))


async def _ask(method: str, asked: Mapping[str, Any]) -> object:
    if current_body() is not None:
        return await _ask_in_body(method, dict(asked))
    return await getattr(await current_runtime(), method)(**asked)


async def _ask_in_step(method: str, asked: dict[str, Any]) -> object:
    return await getattr(await current_runtime(), method)(**asked)


_ask_in_body: Step[[str, dict[str, Any]], object] = Step(
    _ask_in_step, "durable.manage", StepOptions(max_retries=0)
)
