"""Selections: every combination of filters walks an index, and pages neither skip nor repeat."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable._journal import selection as selecting
from durable._journal.migrations import MIGRATIONS
from durable._journal.records import RunRow
from durable._journal.row_checksums import sums_of
from durable._journal.selection import PIECES, STATUSES, Portion, Position, Selection
from durable._journal.sql import QUERIES
from tests.journal.rig import open_journal, run_row, write


@contextmanager
def journal() -> Iterator[sqlite3.Connection]:
    """An empty journal in memory."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.executescript(MIGRATIONS[0].script)
        yield connection


def row_of(pk: int, **changes: object) -> RunRow:
    """A run; its attributes are given as a dictionary."""
    attributes = changes.pop("attributes", None)
    column = json.dumps(attributes) if attributes else None
    return run_row(pk, f"r{pk}", attributes=column, **changes)


def insert(connection: sqlite3.Connection, rows: list[RunRow]) -> None:
    """Record runs as a batch does."""
    connection.executemany(QUERIES["insert_run"], [(*row, *sums_of(row)) for row in rows])
    connection.executemany(QUERIES["index_attributes"], [(row.pk,) for row in rows])


def belongs(selection: Selection, row: RunRow) -> bool:
    """Tell what a selection means, in one plain expression."""
    attributes = json.loads(row.attributes or "{}")
    return (
        selection.workflow in {None, row.workflow}
        and (not selection.statuses or row.status in selection.statuses)
        and all(attributes.get(key) == value for key, value in selection.attributes)
        and (selection.created_from is None or row.created_at >= selection.created_from)
        and (selection.created_until is None or row.created_at < selection.created_until)
        and selection.parent_id in {None, row.parent_id}
        and selection.root_id in {None, row.root_id or row.run_id}
    )


# --- indexes ----------------------------------------------------------------------------

FILTERS = {
    "workflow": ["w"],
    "statuses": [("failed",), ("pending", "running", "blocked")],
    "attributes": [(("a", "1"),), (("a", "1"), ("b", "2"))],
    "created_from": [5],
    "created_until": [9],
    "parent_id": ["r1"],
    "root_id": ["r1"],
}


def combinations() -> Iterator[Selection]:
    """Every combination of filters, each given or not."""
    choices = [[None, *values] for values in FILTERS.values()]
    for values in itertools.product(*choices):
        given = dict(zip(FILTERS, values, strict=True))
        yield Selection(**{name: value for name, value in given.items() if value is not None})


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_every_combination_of_filters_walks_an_index(order: str) -> None:
    """No table is scanned; nothing is sorted but the entries of one bounded portion."""
    with journal() as connection:
        for selection in combinations():
            plan = selecting.plan(selection, order, connection)
            scans = [line for line in plan if line.startswith("SCAN")]
            allowed = {"SCAN found", "SCAN json_each VIRTUAL TABLE INDEX 1:"}
            assert set(scans) <= allowed, (selection, plan)
            searches = [line for line in plan if line.startswith("SEARCH")]
            assert all("INDEX" in line or "PRIMARY KEY" in line for line in searches)
            # The one sorting that there may be comes after the bounded walk, not in it.
            sorts = [at for at, line in enumerate(plan) if "TEMP B-TREE" in line]
            assert all(at > plan.index("SCAN found") for at in sorts), (selection, plan)


def test_two_rows_of_an_index_lead_where_two_thousand_of_another_would() -> None:
    """Of several ways the shortest is taken: the rare attribute, not the common one."""
    with journal() as connection:
        rows = [
            row_of(pk, attributes={"tenant": "acme", "order": str(pk // 2)})
            for pk in range(1, 2001)
        ]
        insert(connection, rows)
        selection = Selection(attributes=(("order", "17"), ("tenant", "acme")))
        swapped = Selection(attributes=(("tenant", "acme"), ("order", "17")))
        for each in (selection, swapped):
            portion = selecting.read_rows(each, "newest", None, 10, 5, connection)
            assert [row.pk for row in portion.rows] == [35, 34]
            assert portion.resume is None, "it was found within five entries"


# --- statements ----------------------------------------------------------------------------


@dataclass
class Watched:
    """A connection that notes what it is asked."""

    connection: sqlite3.Connection
    seen: list[str] = field(default_factory=list)

    @property
    def in_transaction(self) -> bool:
        """Tell whether one state of the file is being looked at."""
        return self.connection.in_transaction

    def execute(self, text: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Note a statement and run it."""
        self.seen.append(text)
        return self.connection.execute(text, values)


nasty = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
) | st.sampled_from(["' OR 1 --", '"; DROP TABLE runs', "%", "_", "?", "NULL"])


@given(
    st.builds(
        Selection,
        workflow=st.none() | nasty,
        statuses=st.lists(st.sampled_from(STATUSES), unique=True, max_size=6).map(tuple),
        attributes=st.dictionaries(nasty, nasty, max_size=3).map(lambda d: tuple(d.items())),
        parent_id=st.none() | nasty,
        root_id=st.none() | nasty,
    ),
    st.sampled_from(["newest", "oldest"]),
)
def test_statements_are_made_of_named_pieces_alone(selection: Selection, order: str) -> None:
    """Whatever the filters hold, it travels as a parameter."""
    with journal() as connection:
        watched = Watched(connection)
        selecting.read_rows(selection, order, None, 3, 3, watched)
        selecting.read_count(selection, None, 3, watched)
        for text in watched.seen:
            if text in {"BEGIN", "ROLLBACK"}:
                continue
            left = text
            for piece in sorted(PIECES.values(), key=len, reverse=True):
                left = left.replace(piece, "")
            assert not left.strip(), text


# --- paging ---------------------------------------------------------------------------------

facts = st.fixed_dictionaries(
    {
        "created_at": st.integers(0, 6),  # many at one instant, and not in the order of their keys
        "workflow": st.sampled_from(["w", "v"]),
        "status": st.sampled_from(STATUSES[:3]),
        "attributes": st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=2),
        "parent_id": st.sampled_from([None, "r1", "r2"]),
        "root_id": st.sampled_from([None, "r1"]),
    }
)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), facts),
        st.tuples(st.just("delete"), st.integers(1, 15)),
        st.tuples(st.just("status"), st.integers(1, 15), st.sampled_from(STATUSES[:3])),
        st.tuples(st.just("page")),
    ),
    max_size=25,
)
selections = st.builds(
    Selection,
    workflow=st.sampled_from([None, "w"]),
    statuses=st.sampled_from([(), ("pending",), ("pending", "blocked")]),
    attributes=st.sampled_from([(), (("a", "1"),), (("a", "1"), ("b", "2"))]),
    created_from=st.sampled_from([None, 2]),
    created_until=st.sampled_from([None, 5]),
    parent_id=st.sampled_from([None, "r1"]),
    root_id=st.sampled_from([None, "r1"]),
)


class Model:
    """A journal in memory, and the rows that it must hold."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.rows: dict[int, RunRow] = {}
        self.touched: set[int] = set()
        self._pk = 0

    def add(self, run: dict[str, object]) -> None:
        self._pk += 1
        self.rows[self._pk] = row_of(self._pk, **run)
        self.touched.add(self._pk)
        insert(self.connection, [self.rows[self._pk]])

    def delete(self, pk: int) -> None:
        self.rows.pop(pk, None)
        self.connection.execute("DELETE FROM runs WHERE pk = ?", (pk,))

    def status(self, pk: int, status: str) -> None:
        if pk in self.rows:
            self.rows[pk] = self.rows[pk]._replace(status=status)
            self.touched.add(pk)
            _, total, _ = sums_of(self.rows[pk])
            change = "UPDATE runs SET status = ?, state_sum = ? WHERE pk = ?"
            self.connection.execute(change, (status, total, pk))

    def fitting(self, selection: Selection) -> list[RunRow]:
        return [row for row in self.rows.values() if belongs(selection, row)]


def page_of(
    model: Model, selection: Selection, order: str, after: Position | None, limit: int
) -> Portion:
    """Read one page in portions of two entries, as the reader does in larger ones."""
    rows: list[RunRow] = []
    positions: list[Position] = []
    while True:
        portion = selecting.read_rows(
            selection, order, after, limit - len(rows), 2, model.connection
        )
        rows += portion.rows
        positions += portion.positions
        after = portion.resume
        if after is None or len(rows) == limit:
            return Portion(rows, positions, after)


@given(
    st.lists(facts, max_size=12),
    selections,
    st.sampled_from(["newest", "oldest"]),
    st.integers(1, 4),
    changes,
)
def test_paging_sees_each_run_once_whatever_happens_meanwhile(
    begun_with: list[dict[str, object]],
    selection: Selection,
    order: str,
    limit: int,
    happening: list[tuple[str, ...]],
) -> None:
    """Runs that fit from the first page to the last are seen, once; none is seen twice."""
    with journal() as connection:
        model = Model(connection)
        for run in begun_with:
            model.add(run)
        model.touched.clear()
        expected = {row.pk for row in model.fitting(selection)}
        seen: list[RunRow] = []
        after: Position | None = None
        for what, *arguments in [*happening, *[("page",)] * 40]:
            if what != "page":
                getattr(model, what)(*arguments)
                continue
            page = page_of(model, selection, order, after, limit)
            assert all(row in model.fitting(selection) for row in page.rows)
            seen += page.rows
            after = page.resume
            if after is None:
                break
        keys = [row.pk for row in seen]
        assert len(keys) == len(set(keys)), "a run was seen twice"
        stayed = {pk for pk in expected if pk in model.rows and pk not in model.touched}
        assert stayed <= set(keys), "a run was missed"
        places = [(row.created_at, row.pk) for row in seen]
        assert places == sorted(places, reverse=order == "newest")


@given(st.lists(facts, max_size=20), selections, st.integers(1, 5))
def test_counting_in_portions_counts_all(
    runs: list[dict[str, object]], selection: Selection, entries: int
) -> None:
    """However short the portions are, the sum is that of the model."""
    with journal() as connection:
        model = Model(connection)
        for run in runs:
            model.add(run)
        found, after = 0, None
        while True:
            count = selecting.read_count(selection, after, entries, connection)
            found += count.found
            after = count.resume
            if after is None:
                break
        assert found == len(model.fitting(selection))


# --- the index over attributes ------------------------------------------------------------


def indexed(connection: sqlite3.Connection) -> set[tuple[object, ...]]:
    """The rows of the index."""
    return set(connection.execute("SELECT run, key, value, created_at FROM attributes"))


@given(
    st.lists(
        st.tuples(
            st.integers(1, 4),
            st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
        ),
        max_size=12,
    )
)
def test_index_over_attributes_follows_the_rows(changes: list[tuple[int, object]]) -> None:
    """Inserted, changed, removed: the index holds what the columns hold."""
    with journal() as connection:
        held: dict[int, dict[str, str]] = {}
        for pk, raw in changes:
            attributes = _without_nul(raw)
            column = json.dumps(attributes) if attributes else None
            if pk not in held:
                insert(connection, [row_of(pk, attributes=attributes, created_at=pk * 10)])
            elif attributes is None:
                connection.execute("DELETE FROM runs WHERE pk = ?", (pk,))
                held.pop(pk)
                continue
            else:
                connection.execute("UPDATE runs SET attributes = ? WHERE pk = ?", (column, pk))
            held[pk] = attributes or {}
        wanted = {(pk, k, v, pk * 10) for pk, pairs in held.items() for k, v in pairs.items()}
        assert indexed(connection) == wanted


def _without_nul(raw: object) -> dict[str, str] | None:
    if not isinstance(raw, dict):
        return None
    return {key.replace("\0", "0"): value.replace("\0", "0") for key, value in raw.items()}


async def test_attributes_of_a_run_that_exists_already_are_not_indexed(journal_path) -> None:
    """A start under a taken id leaves nothing behind, in the index neither."""
    async with open_journal(journal_path) as opened:
        first = run_row(1, "a", attributes='{"k": "old"}')
        second = run_row(2, "a", attributes='{"k": "new"}')
        await opened.perform(write(runs=[first]))
        refused = write(runs=[second])
        await opened.perform(refused)
        assert refused.existing["a"].pk == 1
        count = opened.reader.count
        assert await count(Selection(attributes=(("k", "old"),))) == 1
        assert await count(Selection(attributes=(("k", "new"),))) == 0


# --- a large journal ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_listings_of_30_000_runs_touch_few_of_them(journal_path) -> None:
    """A page costs a bounded number of SQLite's steps, however many runs there are."""
    async with open_journal(journal_path, durability="process") as opened:
        await opened.writer.run(_fill)
        steps: list[int] = []
        measure = partial(_measure, steps)
        for selection, limit in [
            (Selection(), 20_000),
            (Selection(statuses=("failed",)), 20_000),
            (Selection(workflow="w3"), 20_000),
            (Selection(attributes=(("order", "77"), ("tenant", "acme"))), 10_000),
            (Selection(parent_id="r50"), 10_000),
            (Selection(workflow="w3", attributes=(("tenant", "acme"),)), 50_000),
        ]:
            await opened.reader._driver.call(partial(measure, selection))
            assert steps[-1] <= limit, (selection, steps[-1])
        assert await opened.reader.count(Selection()) == 30_000
        assert await opened.reader.count(Selection(attributes=(("tenant", "acme"),))) == 15_000
        page = await opened.reader.select(Selection(statuses=("failed",)), "oldest", None, 5000)
        assert [row.pk for row in page.rows] == [pk for pk in range(30_000) if pk % 100 == 7]


def _fill(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    insert(connection, list(map(_large_row, range(30_000))))
    connection.execute("COMMIT")


def _large_row(pk: int) -> RunRow:
    status = "failed" if pk % 100 == 7 else "completed"
    attributes = {"tenant": "acme" if pk % 2 else "other", "order": str(pk)}
    return row_of(
        pk, workflow=f"w{pk % 7}", status=status, attributes=attributes, created_at=pk * 50,
        parent_id=f"r{pk // 10}" if pk % 3 == 0 else None,
    )  # fmt: skip


def _measure(steps: list[int], selection: Selection, connection: sqlite3.Connection) -> None:
    ticks = itertools.count()
    connection.set_progress_handler(lambda: next(ticks) and None, 100)
    try:
        selecting.read_rows(selection, "newest", None, 100, selecting.SCAN_ENTRIES, connection)
    finally:
        connection.set_progress_handler(None, 0)
    steps.append(100 * next(ticks))
