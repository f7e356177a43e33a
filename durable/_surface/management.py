"""What can be asked about many runs at once, as functions and as methods of a runtime.

Owns the public signatures; what they do is in the modules about it. In a workflow body
each call is recorded as a step, so that replay sees the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any, Protocol, Unpack, cast

from durable._authoring.context import current_body
from durable._authoring.step import Step, StepOptions
from durable._journal.backup import Backup
from durable._journal.journal import Journal
from durable._surface.cancelling import CancelOutcome, cancel_chosen, cancel_named
from durable._surface.carrying import import_document
from durable._surface.current import Access, current_runtime
from durable._surface.run import Run
from durable._surface.selecting import (
    HasRunId,
    Order,
    RunFilters,
    RunInfo,
    RunPage,
    read_page,
    selection_of,
)

Source = str | PathLike[str] | Mapping[str, Any]


class _OpenRuntime(Access, Protocol):
    @property
    def journal(self) -> Journal:
        """The journal that it has open."""


class Managed:
    """The methods of a runtime that are about many runs, and about the journal as a whole."""

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

    async def cancel_runs(
        self: Access,
        runs: Iterable[HasRunId | str] | None = None,
        *,
        reason: str | None = None,
        **filters: Unpack[RunFilters],
    ) -> list[CancelOutcome]:
        """Cancel runs of this journal; see `durable.cancel_runs`."""
        if runs is not None:
            return await cancel_named(self, runs, reason, filters)
        return await cancel_chosen(self, reason, filters)

    async def import_run(self: Access, source: Source, *, run_id: str | None = None) -> Run[Any]:
        """Take an exported run into this journal; see `durable.import_run`."""
        return Run(await import_document(self, source, run_id), self)

    async def backup(
        self: _OpenRuntime, path: str | PathLike[str], *, overwrite: bool = False
    ) -> Backup:
        """Copy this journal while it is in use; see `durable.backup`."""
        self.reader  # noqa: B018 - raises unless the runtime is open here
        return await self.journal.back_up(path, overwrite=overwrite)


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
    return cast("RunPage[RunInfo]", await _ask("list_runs", (), asked))


async def count_runs(**filters: Unpack[RunFilters]) -> int:
    """Return how many runs there are of which all filters are true; see `list_runs`.

    Example:
        ``waiting = await count_runs(workflow=fulfil, status=["pending", "running"])``
    """
    return cast(int, await _ask("count_runs", (), filters))


async def cancel_runs(
    runs: Iterable[HasRunId | str] | None = None,
    *,
    reason: str | None = None,
    **filters: Unpack[RunFilters],
) -> list[CancelOutcome]:
    """Ask many runs to end, as `Run.cancel` does one; return what came of each.

    Args:
        runs: handles, ids or rows of a listing. Instead of them:
        filters: those of `list_runs`, one at least; without `status` all unfinished runs.
        reason: kept with each run and shown to those who wait for it.

    Returns:
        One `CancelOutcome` per run: ``"requested"`` (durable; a run that is being cancelled
        already is left to its clean-up), ``"finished"``, ``"not_found"`` or ``"error"``.

    A bounded number is cancelled at a time, in portions, the newest first. Runs that are
    started meanwhile are left alone.

    Raises:
        ValueError, TypeError: neither runs nor a filter were given, or both; nothing was done.

    Example:
        ``await cancel_runs(workflow=fulfil, attributes={"customer": "acme"}, reason="closed")``
    """
    chosen = None if runs is None else list(runs)
    asked = {**filters, "reason": reason}
    return cast("list[CancelOutcome]", await _ask("cancel_runs", (chosen,), asked))


async def import_run(source: Source, *, run_id: str | None = None) -> Run[Any]:
    """Take an exported run into the journal; nothing of it is executed or loaded.

    Args:
        source: path of a file that `Run.export` wrote, or what it returned.
        run_id: give the run another id. Default: its own.

    A run that had ended can be read: its result, its events. Any other is blocked, until
    `await run.resume()` lets it go on here; waits that are over then end at once. Importing
    a run again that is there already does nothing.

    Raises:
        InvalidExportError: damaged, of a newer `durable`, or no exported run.
        RunConflictError: there is another run under this id.
        OSError: the file cannot be read. In all cases nothing was recorded.

    Import from people you trust: reading a *value* of an imported run, such as its result,
    loads it like any other recorded value.

    Example:
        ``run = await import_run("order-17.json"); print(await run.events())``
    """
    return cast("Run[Any]", await _ask("import_run", (source,), {"run_id": run_id}))


async def backup(path: str | PathLike[str], *, overwrite: bool = False) -> Backup:
    """Copy the journal to a file while it is being worked on, and check the copy.

    The copy is the journal as it was when the copying began, with everything acknowledged
    until then. It is checked whole before it gets its name; opened as a journal it goes on
    like after a crash, so open it only in place of the original.

    Args:
        path: the new file, of mode 0600.
        overwrite: over an existing file, but never over a journal that is open.

    Raises:
        FileExistsError: there is such a file.
        BackupError: it could not be made, or is not good; nothing is left of it.

    Works in clients of the owner as well. Closing the runtime calls it off.

    Example:
        ``print((await backup("app-monday.db")).runs)``
    """
    return cast(Backup, await _ask("backup", (path,), {"overwrite": overwrite}))


async def _ask(method: str, given: tuple[Any, ...], asked: Mapping[str, Any]) -> object:
    if current_body() is not None:
        return await _ask_in_body(method, given, dict(asked))
    return await getattr(await current_runtime(), method)(*given, **asked)


async def _ask_in_step(method: str, given: tuple[Any, ...], asked: dict[str, Any]) -> object:
    return await getattr(await current_runtime(), method)(*given, **asked)


_ask_in_body: Step[[str, tuple[Any, ...], dict[str, Any]], object] = Step(
    _ask_in_step, "durable.manage", StepOptions(max_retries=0)
)
