"""Exported runs that come in: whole, damaged, or made up with a right checksum.

A document is refused with an `InvalidExportError` (or an error about the run's id), or it is a
run like any other, though perhaps one that cannot go on. Importing loads nothing from it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from durable import Run
from durable._journal import portable
from durable._replay.events import EventKind
from durable.errors import DurableError, WorkflowRunNotFoundError
from durable.testing import VirtualRuntime
from tests.campaign.programme import FoundError
from tests.fuzz import flows, mutations
from tests.fuzz.aside import Await, open_runtime
from tests.fuzz.payloads import VALID, is_unknown
from tests.fuzz.target import Judge, Make, Target
from tests.fuzz.watch import acts

_ODD = (
    *mutations.ODD_VALUES, *(kind.label for kind in EventKind), "fuzz.sum", "fuzz.add", "completed",
    "running", '{"a": 1}', "[]", {"as": "pickle", "base64": "gAU="}, {"base64": "!"}, 2, 3, 5,
)  # fmt: skip


class Given(NamedTuple):
    """The bytes of a file, and whether something is wrong with them."""

    text: bytes
    whole: bool


class _Making:
    """Makes documents from those of a journal."""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self._documents = documents

    def __call__(self, draw: random.Random) -> Given:
        document = draw.choice(self._documents)
        kind = draw.random()
        if kind < 0.05:
            return Given(json.dumps(document).encode(), whole=True)
        if kind < 0.25:
            return Given(mutations.spoil_bytes(draw, json.dumps(document).encode()), whole=False)
        part = {key: document[key] for key in ("run", "events", "streams")}
        changed = mutations.spoil_data(draw, part, _ODD)
        if draw.random() < 0.2:
            self._change_payload(draw, changed)
        spoiled = document | changed if isinstance(changed, dict) else changed
        with suppress(Exception):  # not to be summed up, so it stays wrong
            spoiled["checksum"] = portable._checksum(spoiled)
        return Given(_written(spoiled), whole=False)

    def _change_payload(self, draw: random.Random, document: dict[str, Any]) -> None:
        with suppress(Exception):
            event = draw.choice([e for e in document["events"] if e.get("payload")])
            packed = mutations.spoil_bytes(draw, draw.choice(VALID))
            event["payload"] = portable._packed_payload(packed, "pickle")


def _written(document: Any) -> bytes:
    try:
        return json.dumps(document).encode()
    except (ValueError, RecursionError):
        return b"[" * 5000


# --- judging --------------------------------------------------------------------------------


async def judge_import(rt: VirtualRuntime, path: Path, given: Given) -> None:
    """Import a file, do with the run what can be done with one, and delete it."""
    path.write_bytes(given.text)
    before = await rt.count_runs()
    try:
        with acts() as done:
            run = await rt.import_run(path)
    except (DurableError, ValueError) as error:
        if given.whole:
            raise FoundError("lost", f"a good export was refused: {error}") from error
        if await rt.count_runs() != before:
            raise FoundError("corrupt", "refused, and recorded") from error
        return
    if done:
        raise FoundError("broken", f"importing did {done}")
    try:
        with acts(is_unknown):
            await _use(rt, run)
    except WorkflowRunNotFoundError:
        if b'"retention_us": null' in given.text:
            raise FoundError("lost", "the run is gone, and may be kept for ever") from None


async def _use(rt: VirtualRuntime, run: Run[Any]) -> None:
    events = len(await _history(rt, run.run_id))
    await rt.settled()
    await run.status()
    await run.events()
    await rt.list_runs()
    if len((await run.export())["events"]) < events:
        raise FoundError("lost", f"{events} events were imported, and fewer are exported")
    await _go_on(rt, run)
    await run.delete()


async def _history(rt: VirtualRuntime, run_id: str) -> list[Any]:
    row = await rt.reader.run_by_id(run_id)
    assert row is not None
    return await rt.reader.history(row.pk, run_id)


async def _go_on(rt: VirtualRuntime, run: Run[Any]) -> None:
    await rt.advance("2 days")
    with suppress(DurableError):
        await run.resume()
    await rt.settled()
    with suppress(DurableError):
        await run.cancel("enough")
    await rt.advance("1 minute")
    async with asyncio.timeout(5):
        with suppress(DurableError, LookupError, ValueError):
            await run.result()
    if await run.status() not in {"completed", "failed", "cancelled", "continued", "blocked"}:
        raise FoundError("hung", f"the run is {await run.status()}")
    if await run.status() == "blocked":
        await run.cancel()


@contextmanager
def _documents(place: Path) -> Iterator[tuple[Make, Judge]]:
    with open_runtime(place / "from.db") as (source, wait):
        wait(flows.fill(source))
        found = wait(_exported(source))
    with open_runtime(place / "app.db") as (rt, wait):
        yield _Making(found), _judge(rt, wait, place / "export.json")


def _judge(rt: VirtualRuntime, wait: Await[Any], path: Path) -> Judge:
    def judge(given: Given) -> None:
        wait(judge_import(rt, path, given))

    return judge


async def _exported(rt: VirtualRuntime) -> list[dict[str, Any]]:
    return [await rt.get_run(run_id).export() for run_id in flows.RUNS]


DOCUMENTS = Target("documents", 100, _documents, seconds_max=0.4)  # with all that follows
