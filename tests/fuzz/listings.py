"""Filters of listings: the runs that are asked for, all of them, and no others.

Runs have names, ids and attributes that mean something to SQL, LIKE, JSON or Unicode. What a
listing gives is held against the same choice made in Python; a filter that is not usable is a
`TypeError` or a `ValueError`, and never an error of the database.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from durable import RunInfo, Workflow, count_runs, list_runs, sleep, start, workflow
from durable._authoring.attributes import is_text
from durable.testing import VirtualRuntime
from tests.campaign.programme import FoundError
from tests.fuzz import mutations
from tests.fuzz.aside import open_runtime
from tests.fuzz.target import Judge, Make, Target

RUNS = 60
_NAIVE = datetime(9999, 12, 31)  # noqa: DTZ001 - to be refused
STATUSES = ("pending", "running", "blocked", "completed", "failed", "cancelled", "continued")
_NAMES = (
    "fuzz.%",
    "fuzz._",
    "fuzz.a'b",
    'fuzz."',
    "fuzz.\u00e9",
    "fuzz.e\u0301",
    "fuzz.A",
    "fuzz.a",
)
_TEXTS = [text for text in mutations.TEXTS if 0 < len(text) <= 256 and is_text(text)]
_KEYS = [text for text in _TEXTS if not text.startswith("$")]


async def _behave(how: str, child: str | None = None) -> None:
    if child is not None:
        await start(FLOWS[0].options(run_id=child), "end")
    if how == "fail":
        raise ValueError(how)
    if how == "wait":
        await sleep("1 year")


def _defined(name: str) -> Workflow[..., Any]:
    async def body(how: str, child: str | None = None) -> None:
        await _behave(how, child)

    body.__qualname__ = name
    return workflow(name=name)(body)


FLOWS = [_defined(name) for name in _NAMES]


async def fill(rt: VirtualRuntime) -> None:
    """Start the runs, always the same ones, at different times."""
    draw = random.Random(7)
    for number in range(RUNS):
        pairs = {draw.choice(_KEYS): draw.choice(_TEXTS) for _ in range(draw.randrange(4))}
        how = draw.choice(("end", "end", "fail", "wait", "wait"))
        child = f"child {number}" if draw.random() < 0.2 else None
        run_id = f"{number} {draw.choice([t for t in _TEXTS if t.isprintable()])}"[:200]
        options = draw.choice(FLOWS).options(run_id=run_id, attributes=pairs)
        run = await rt.start(options, how, child)
        await rt.advance(draw.choice((0, 0, 1, 3600)))
        if how == "wait" and draw.random() < 0.3:
            await run.cancel("no more")
    await rt.advance(1)


# --- inputs ---------------------------------------------------------------------------------


class _Making:
    """Makes filters, knowing the runs that there are."""

    def __init__(self, infos: list[RunInfo]) -> None:
        self._infos = infos

    def __call__(self, draw: random.Random) -> dict[str, Any]:
        info = draw.choice(self._infos)
        chosen = {name: value for name, value in self._all(draw, info) if draw.random() < 0.35}
        if draw.random() < 0.03:
            chosen[mutations.text(draw)] = 1
        chosen["order"] = draw.choice(("newest", "oldest"))
        chosen["limit"] = draw.choice((1, 2, 5, 100))
        if draw.random() < 0.05:
            chosen[draw.choice(("order", "limit", "cursor"))] = draw.choice(mutations.ODD_VALUES)
        return chosen

    def _all(self, draw: random.Random, info: RunInfo) -> Iterator[tuple[str, Any]]:
        odd = mutations.ODD_VALUES
        sure = draw.random() < 0.6  # else anything goes
        text = mutations.text(draw, info.run_id, info.workflow_name, *info.attributes)
        yield "workflow", draw.choice((info.workflow_name, *FLOWS)) if sure else text
        few = [status for status in STATUSES if draw.random() < 0.3]
        yield "status", draw.choice((str(info.status), few)) if sure else draw.choice((text, *odd))
        pairs = dict(draw.sample(sorted(info.attributes.items()), min(1, len(info.attributes))))
        spoiled = draw.choice(
            ({text: text}, {text: None}, *odd, dict.fromkeys(map(str, range(200)), ""))
        )
        yield "attributes", pairs if sure else spoiled
        moment = info.created_at + timedelta(microseconds=draw.choice((-1, 0, 1)))
        naive = moment.replace(tzinfo=None)
        yield "created_after", moment if sure else draw.choice((naive, text, *odd))
        yield (
            "created_before",
            moment + timedelta(hours=5) if sure else draw.choice((_NAIVE, *odd)),
        )
        yield "parent", draw.choice((info.run, info.run_id)) if sure else text
        yield "root", info.root_id if sure else text


# --- judging --------------------------------------------------------------------------------


def expected(infos: list[RunInfo], given: dict[str, Any]) -> list[str]:
    """Return the ids of the runs that filters mean, the newest first; chosen without SQL."""
    name = getattr(given.get("workflow"), "name", given.get("workflow"))
    status = given.get("status")
    statuses = None if status is None else [status] if isinstance(status, str) else list(status)
    pairs = set((given.get("attributes") or {}).items())
    parent, root = (getattr(given.get(k), "run_id", given.get(k)) for k in ("parent", "root"))
    after, before = given.get("created_after"), given.get("created_before")
    return [
        info.run_id
        for info in infos
        if (name is None or info.workflow_name == name)
        and (statuses is None or info.status in statuses)
        and pairs <= set(info.attributes.items())
        and (parent is None or info.parent_id == parent)
        and (root is None or info.root_id == root)
        and (after is None or info.created_at >= after)
        and (before is None or info.created_at < before)
    ]


async def judge_filters(infos: list[RunInfo], given: dict[str, Any]) -> None:
    """List and count by these filters, and hold both against our own choice."""
    options = {k: v for k, v in given.items() if k in {"order", "limit", "cursor"}}
    filters = {k: v for k, v in given.items() if k not in options}
    try:
        found = [info.run_id for info in await _all_pages(filters, options)]
    except (TypeError, ValueError):  # as documented
        return
    wanted = expected(infos, filters)
    wanted = wanted if options["order"] == "newest" else wanted[::-1]
    if found != wanted:
        raise FoundError("corrupt", f"listed {found}, and these are meant: {wanted}")
    if await count_runs(**filters) != len(wanted):
        raise FoundError("corrupt", f"{await count_runs(**filters)} counted of {len(wanted)}")


async def _all_pages(filters: dict[str, Any], options: dict[str, Any]) -> list[RunInfo]:
    page = await list_runs(**filters, **options)
    found = list(page)
    while page.next_cursor is not None:
        options = options | {"cursor": page.next_cursor}
        page = await list_runs(**filters, **options)
        found += page
    return found


@contextmanager
def _listings(place: Path) -> Iterator[tuple[Make, Judge]]:
    with open_runtime(place / "app.db") as (rt, wait):
        wait(fill(rt))
        infos = list(wait(rt.list_runs(limit=10_000)))

        def judge(given: dict[str, Any]) -> None:
            wait(judge_filters(infos, given))

        yield _Making(infos), judge


LISTINGS = Target("listings", 200, _listings)
