"""Journals of earlier versions, and of other Pythons, open, lose nothing, and go on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from durable import verify
from durable._replay.events import EventKind
from durable.errors import JournalRolledBackError, WorkflowRunNotFoundError
from durable.testing import VirtualClock
from tests.golden.finishing import check_ends, check_kept, finish, runtime_of
from tests.golden.make import JOURNALS, names, unpack

NAMES = names()


@pytest.mark.parametrize("name", NAMES)
async def test_golden_journal_opens_keeps_all_and_comes_to_its_end(
    tmp_path: Path, name: str
) -> None:
    """Histories, streams, attributes, hooks, mail: what was there is there, and goes on."""
    facts = unpack(name, tmp_path)
    clock = VirtualClock(facts["now"])
    async with runtime_of(tmp_path, clock) as runtime:
        await runtime.settled()
        await check_kept(runtime, facts)
        await finish(runtime)
        await check_ends(runtime, facts)
        await check_kept(runtime, facts)
    assert (await verify(tmp_path / "app.db")).findings == []


def test_golden_journals_hold_every_kind_of_event(tmp_path: Path) -> None:
    """A kind that is new needs a workflow in the golden journals, and new ones of them."""
    seen = set()
    for name in NAMES:
        runs = unpack(name, tmp_path)["runs"].values()
        seen |= {kind for run in runs for _, kind, *_ in run["history"]}
    assert seen == {kind.label for kind in EventKind}


def test_golden_journals_are_small_and_tell_nothing_of_where_they_were_made(
    tmp_path: Path,
) -> None:
    """They are part of the repository for ever."""
    assert len(NAMES) >= 2
    for name in NAMES:
        assert (JOURNALS / f"{name}.tar.xz").stat().st_size < 60_000
        unpack(name, tmp_path)
        for file in tmp_path.iterdir():
            assert re.search(rb"/(tmp|home|root|Users)/", file.read_bytes()) is None, file.name


@pytest.mark.parametrize("missing", [["app.db-wal"], ["app.db-wal", "app.db.mark"]])
async def test_golden_journal_that_lost_its_wal_is_not_taken_for_whole(
    tmp_path: Path, missing: list[str]
) -> None:
    """The mark tells, and so do the facts: these tests would notice a loss."""
    name = next(name for name in NAMES if name.endswith("unclean"))
    facts = unpack(name, tmp_path)
    for file in missing:
        (tmp_path / file).unlink()
    with pytest.raises((JournalRolledBackError, WorkflowRunNotFoundError)):
        async with runtime_of(tmp_path, VirtualClock(facts["now"])) as runtime:
            await check_kept(runtime, facts)
