"""`list_runs` and `count_runs`: filters, pages and cursors as users meet them."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

import durable
from durable import RunPage, Runtime, SyncRun, SyncRuntime, count_runs, list_runs, start, workflow
from durable._journal.selection import Selection
from durable._surface.cursors import decode_cursor, encode_cursor
from durable.errors import DurationError, InvalidCursorError
from durable.testing import VirtualClock
from tests.engine.rig import elapse, opened, quiet

DAY = 86_400.0


@workflow(name="list.quick")
async def quick(value: int = 0) -> int:
    return value


@workflow(name="list.broken")
async def broken() -> None:
    raise ValueError("on purpose")


@workflow(name="list.napping")
async def napping() -> None:
    await durable.sleep("10 days")


@workflow(name="list.parent")
async def parent() -> list[str]:
    children = [await start(quick, n) for n in range(2)]
    return [child.run_id for child in children]


async def some(rt: Runtime, clock: VirtualClock) -> None:
    """Ten runs, one per day: a0 to a4 done, b0 to b2 failed, c0 and c1 asleep."""
    for place, (name, chosen) in enumerate(_kinds()):
        run = await rt.start(
            chosen.options(run_id=name, attributes={"letter": name[0], "n": name[1]})
        )
        if name[0] != "c":
            await run.status()
            with pytest.raises(Exception) if name[0] == "b" else _fine():
                await run.result(5)
        del place
        await clock.advance(DAY)


def _kinds() -> Iterator[tuple[str, Any]]:
    yield from ((f"a{n}", quick) for n in range(5))
    yield from ((f"b{n}", broken) for n in range(3))
    yield from ((f"c{n}", napping) for n in range(2))


class _fine:  # noqa: N801 - reads like contextlib's own
    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


def ids(page: RunPage[Any]) -> list[str]:
    """The run ids of a page."""
    return [info.run_id for info in page]


# --- filters --------------------------------------------------------------------------------


async def test_runs_are_listed_newest_first_by_any_filter(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Each filter alone, several together, the other order; counts agree."""
    begun = datetime(2024, 1, 1, tzinfo=UTC)
    async with opened(journal_path, virtual_clock) as rt:
        await some(rt, virtual_clock)
        asked: list[tuple[dict[str, Any], list[str]]] = [
            ({}, ["c1", "c0", "b2", "b1", "b0", "a4", "a3", "a2", "a1", "a0"]),
            ({"workflow": broken}, ["b2", "b1", "b0"]),
            ({"workflow": "list.napping"}, ["c1", "c0"]),
            ({"status": "running"}, ["c1", "c0"]),
            ({"status": ["failed", "running", "failed"]}, ["c1", "c0", "b2", "b1", "b0"]),
            ({"status": "pending"}, []),
            ({"attributes": {"letter": "b"}}, ["b2", "b1", "b0"]),
            ({"attributes": {"letter": "b", "n": "1"}}, ["b1"]),
            ({"attributes": {"letter": "b", "n": "4"}}, []),
            ({"created_after": begun + timedelta(days=8)}, ["c1", "c0"]),
            ({"created_before": begun + timedelta(days=2)}, ["a1", "a0"]),
            (
                {
                    "created_after": begun + timedelta(days=3),
                    "created_before": (begun + timedelta(days=6)).astimezone(
                        timezone(timedelta(hours=5))
                    ),
                    "status": "failed",
                },
                ["b0"],
            ),
            ({"workflow": quick, "status": "failed"}, []),
        ]
        for filters, wanted in asked:
            assert ids(await rt.list_runs(**filters)) == wanted, filters
            assert ids(await rt.list_runs(order="oldest", **filters)) == wanted[::-1], filters
            assert await rt.count_runs(**filters) == len(wanted), filters
            assert ids(await list_runs(**filters)) == wanted
            assert await count_runs(**filters) == len(wanted)


async def test_family_is_listed_by_parent_and_by_root(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Children have a parent; the family holds the root itself."""
    async with opened(journal_path, virtual_clock) as rt:
        run = await rt.start(parent)
        children = await run.result(5)
        assert sorted(ids(await rt.list_runs(parent=run))) == sorted(children)
        assert sorted(ids(await rt.list_runs(root=run.run_id))) == sorted([*children, run.run_id])
        family = await rt.list_runs(root=run)
        assert {info.root_id for info in family} == {run.run_id}
        assert ids(await rt.list_runs(parent=family[0].parent_id, workflow=quick)) == ids(
            await rt.list_runs(parent=run)
        )
        assert await rt.count_runs(root="nobody") == 0


async def test_listing_tells_about_each_run(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Status with its reason, times, attributes, and the handle."""
    async with opened(journal_path, virtual_clock) as rt:
        await some(rt, virtual_clock)
        [info] = await rt.list_runs(attributes={"letter": "b", "n": "0"})
        assert (info.workflow_name, info.status) == ("list.broken", "failed")
        assert info.created_at == datetime(2024, 1, 6, tzinfo=UTC)
        assert info.started_at is not None
        assert info.completed_at is not None
        assert info.created_at <= info.started_at <= info.completed_at
        assert info.attributes == {"letter": "b", "n": "0"}
        assert (info.parent_id, info.root_id, info.blocked_reason) == (None, "b0", None)
        assert await info.run.status() == "failed"
        assert "b0" in repr(info)
        [asleep, _] = await rt.list_runs(status="running")
        await asleep.run.cancel()
        assert ids(await rt.list_runs(status=["running", "cancelled"])) == ["c1", "c0"]


async def test_pages_follow_each_other_by_cursor(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The last page has no cursor, also when it is full; a page is a sequence."""
    async with opened(journal_path, virtual_clock) as rt:
        await some(rt, virtual_clock)
        first = await rt.list_runs(limit=4)
        second = await rt.list_runs(limit=4, cursor=first.next_cursor)
        third = await rt.list_runs(limit=4, cursor=second.next_cursor)
        assert ids(first) + ids(second) + ids(third) == ids(await rt.list_runs())
        assert (len(first), len(second), len(third)) == (4, 4, 2)
        assert third.next_cursor is None
        assert (await rt.list_runs(limit=10)).next_cursor is None
        assert first[0].run_id == "c1"
        assert [info.run_id for info in first[1:3]] == ["c0", "b2"]
        assert (repr(first), repr(third)) == (
            "<RunPage of 4 runs, more to come>", "<RunPage of 2 runs>",
        )  # fmt: skip
        assert (await rt.list_runs(limit=1, cursor=first.next_cursor))[0] == second[0]


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        ({"colour": "red"}, TypeError, "unknown filter 'colour'"),
        ({"workflow": 7}, TypeError, "workflow=7 must be a @workflow"),
        ({"workflow": "a\0b"}, ValueError, "holds a NUL"),
        ({"status": "done"}, ValueError, "status='done' is unknown"),
        ({"status": []}, ValueError, "names none"),
        ({"status": 3}, TypeError, "status=3 must be"),
        ({"status": ["failed", None]}, ValueError, "status=None is unknown"),
        ({"attributes": {"n": 1}}, TypeError, "'n'"),
        ({"attributes": ["n"]}, TypeError, "must be a mapping"),
        ({"attributes": {"k" * 257: "v"}}, ValueError, "257 characters"),
        ({"created_after": datetime(2024, 1, 1)}, DurationError, "no time zone"),  # noqa: DTZ001
        ({"created_before": "yesterday"}, DurationError, "created_before"),
        ({"parent": 1}, TypeError, "parent=1 must be a Run"),
        ({"root": "\ud800"}, ValueError, "surrogate"),
        ({"order": "random"}, ValueError, "order='random'"),
        ({"limit": 0}, ValueError, "limit=0"),
        ({"limit": 10_001}, ValueError, "1 to 10000"),
        ({"limit": True}, TypeError, "limit=True"),
        ({"limit": 2.5}, TypeError, "limit=2.5"),
        ({"cursor": 7}, InvalidCursorError, "7 is no cursor"),
        ({"cursor": ""}, InvalidCursorError, "is no cursor"),
        ({"cursor": "x" * 10_000}, InvalidCursorError, "is no cursor"),
    ],
)
async def test_unusable_filters_are_refused_by_name(
    journal_path: Path, asked: dict[str, Any], error: type[Exception], told: str
) -> None:
    """The message names the filter, its value, and what to give instead."""
    async with opened(journal_path) as rt:
        with pytest.raises(error, match=told):
            await rt.list_runs(**asked)


async def test_cursor_of_another_listing_is_refused(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """Other filters or another order would skip runs without a word."""
    async with opened(journal_path, virtual_clock) as rt:
        await some(rt, virtual_clock)
        page = await rt.list_runs(workflow=quick, limit=2)
        for other in [
            {"workflow": broken},
            {"workflow": quick, "order": "oldest"},
            {"workflow": quick, "status": "failed"},
            {"workflow": quick, "attributes": {"letter": "a"}},
            {},
        ]:
            with pytest.raises(InvalidCursorError, match="other filters or another order"):
                await rt.list_runs(cursor=page.next_cursor, **other)
        assert len(await rt.list_runs(workflow="list.quick", cursor=page.next_cursor)) == 3


positions = st.tuples(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, (1 << 63) - 1))


@given(positions, st.none() | st.text(max_size=5), st.sampled_from(["newest", "oldest"]))
def test_cursors_hold_every_position(
    position: tuple[int, int], name: str | None, order: str
) -> None:
    """What goes in comes out, in few URL-safe characters."""
    selection = Selection(workflow=name)
    cursor = encode_cursor(position, selection, order)
    assert decode_cursor(cursor, selection, order) == position
    assert len(cursor) < 50
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(st.text(max_size=70) | st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode()))
def test_garbage_is_no_cursor(garbage: str) -> None:
    """Nothing but `InvalidCursorError` comes of it."""
    with pytest.raises(InvalidCursorError):
        decode_cursor(garbage, Selection(), "newest")


@given(positions, st.integers(0, 200), st.integers(1, 255))
def test_cursor_with_a_flipped_bit_is_refused(
    position: tuple[int, int], place: int, mask: int
) -> None:
    """A typing error does not lead to another page."""
    cursor = encode_cursor(position, Selection(), "newest")
    data = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    data[place % len(data)] ^= mask
    flipped = base64.urlsafe_b64encode(bytes(data)).decode().rstrip("=")
    with pytest.raises(InvalidCursorError):
        decode_cursor(flipped, Selection(), "newest")


def test_cursor_of_a_later_version_says_so() -> None:
    """Its format may be another one."""
    cursor = encode_cursor((1, 2), Selection(), "newest")
    data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    later = b"\x02" + data[1:-4]
    text = base64.urlsafe_b64encode(later + struct.pack(">I", crc32(later))).decode()
    with pytest.raises(InvalidCursorError, match="version 2"):
        decode_cursor(text.rstrip("="), Selection(), "newest")


# --- other ways in ------------------------------------------------------------------------------


@workflow(name="list.looking")
async def looking() -> tuple[int, list[str]]:
    page = await list_runs(workflow=quick, order="oldest", limit=2)
    await durable.sleep(60)
    again = await list_runs(workflow=quick, order="oldest", cursor=page.next_cursor)
    return await count_runs(workflow=quick), [info.run_id for info in [*page, *again]]


async def test_body_lists_runs_as_a_recorded_step(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """The page survives a restart between two pages."""
    async with opened(journal_path, virtual_clock) as rt:
        for n in range(3):
            await (await rt.start(quick.options(run_id=f"q{n}"), n)).result(5)
        run = await rt.start(looking.options(run_id="looker"))
        await quiet(rt)
        assert await run.status() == "running"
    async with opened(journal_path, virtual_clock) as rt:
        await elapse(rt, virtual_clock, 100)
        assert await rt.get_run("looker").result(5) == (3, ["q0", "q1", "q2"])
        names = [e.name for e in await rt.get_run("looker").events() if e.kind == "step_created"]
        assert names == ["durable.manage"] * 3


def test_sync_runtime_lists_runs_with_blocking_handles(journal_path: Path) -> None:
    """Each row has a `SyncRun`."""
    with SyncRuntime(journal_path) as rt:
        for n in range(3):
            rt.start(quick.options(attributes={"n": str(n)}), n).result()
        page = rt.list_runs(order="oldest", limit=2)
        assert [info.run.result() for info in page] == [0, 1]
        assert isinstance(page[0].run, SyncRun)
        [last] = rt.list_runs(order="oldest", limit=2, cursor=page.next_cursor)
        assert last.run.result() == 2
        assert rt.count_runs(attributes={"n": "1"}) == 1
        with pytest.raises(TypeError, match="unknown filter"):
            rt.list_runs(colour="red")


def test_pages_pickle_as_plain_rows(journal_path: Path) -> None:
    """A page can be sent to another process; its handles find their way there."""
    import pickle

    with SyncRuntime(journal_path) as rt:
        rt.start(quick, 1).result()
        host = rt._host
        page = host.call(host.runtime.list_runs)
        copy = pickle.loads(pickle.dumps(page))
    assert list(copy) == list(page)
    assert copy.next_cursor is None
    assert json.dumps(copy[0].attributes) == "{}"
