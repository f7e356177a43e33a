"""Writes one golden journal, in a process of one Python: ``... PLACE END``.

Runs are brought into every state that there is; then the journal is closed, or left as by a
process that is killed. Beside it come the facts: what everybody could see at that moment.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle

from durable import Run
from durable._surface.cli import main as command
from durable.testing import VirtualRuntime
from tests.golden import flows

# What a process leaves behind; neither the lock, which names it, nor the empty reserve.
FILES = ("app.db", "app.db-wal", "app.db.running", "app.db.mark")
PYTHON = ".".join(map(str, sys.version_info[:2]))
CLOUDPICKLE = ".".join(cloudpickle.__version__.split(".")[:2])  # what its code depends on


async def write(place: Path, end: str) -> None:
    """Write one journal into `place`, with its facts."""
    runtime = VirtualRuntime(place / "app.db", durability="full", patience=0.02)
    await runtime.open()
    await _fill(runtime)
    facts = await facts_of(runtime)
    if end == "unclean":
        left = place / "left"
        left.mkdir()
        for name in FILES:
            with suppress(FileNotFoundError):  # some come and go
                shutil.copy(place / name, left / name)
    await runtime.close()
    if end == "unclean":
        for name in FILES:
            (place / name).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                (place / "left" / name).rename(place / name)
    (place / "facts.json").write_text(json.dumps({"end": end, **facts}, indent=1))


async def _fill(runtime: VirtualRuntime) -> None:
    """Bring runs into every state that there is."""
    start, run_of = runtime.start, runtime.get_run

    def named(definition: Any, run_id: str, **options: Any) -> Any:
        return definition.options(run_id=run_id, **options)

    await start(named(flows.plain, "plain", attributes={"customer": "7"}), "A-17")
    await start(named(flows.failing, "failed"), "failed")
    await start(named(flows.failing, "retried"), "retried")
    await start(named(flows.cancelled, "cancelled"))
    await start(named(flows.racing, "racing"))
    await runtime.advance("5 minutes")
    await run_of("cancelled").cancel("a change of mind")
    await run_of("racing").wake_up()
    flows.OUTSIDE.add("retried")
    await run_of("retried").retry()
    await runtime.settled()
    flows.OUTSIDE.clear()

    await start(named(flows.sleeping, "sleeping"), "S")
    await start(named(flows.sleeping, "doomed"), "D")
    await start(named(flows.sleeping, "delayed", delay="3 days"), "later")
    await start(named(flows.sleeping, "paused"), "P")
    await start(named(flows.late, "late", timeout="10 days"))
    await start(named(flows.ruled, "ruled"), 14)
    await start(named(flows.asking, "asking"), "golden:1")
    await start(named(flows.asking, "mailed"), "golden:2")
    await start(named(flows.stepping, "stepping"), "gate")
    await start(named(flows.listening, "listening"), "gate")
    await start(named(flows.parent, "parent"))
    await start(named(flows.chain, "chain"), 0, [])
    await runtime.settled()
    await start(named(flows.second, "second"), "golden:1")
    await runtime.resume_hook("golden:1", {"first": 1}, dedupe_key="k")
    await runtime.resume_hook("golden:1", {"first": 1}, dedupe_key="k")
    await run_of("mailed").pause("for a look")
    await runtime.send("mailed", "notes", "while it was paused")
    await runtime.send("asking", "notes", "a note")
    await runtime.send("chain", "letters", "a")
    await runtime.settled()
    await runtime.send("chain", "letters", "b")
    await run_of("paused").pause()
    await run_of("plain").rerun(run_id="again")
    await run_of("plain").fork("golden.charge", run_id="forked")
    await run_of("sleeping").get_writable("guests").write("from outside")
    await runtime.advance("5 minutes")
    await run_of("doomed").cancel()
    await runtime.settled()


async def facts_of(runtime: VirtualRuntime) -> dict[str, Any]:
    """Return what everybody can see of all runs."""
    runs = {info.run_id: await _facts(info.run) for info in await runtime.list_runs(limit=1000)}
    return {
        "python": PYTHON,
        "cloudpickle": CLOUDPICKLE,
        "now": runtime.clock.wall_us(),
        "runs": runs,
    }


async def _facts(run: Run[Any]) -> dict[str, Any]:
    events = await run.events()
    return {
        "status": str(await run.status()),
        "attributes": await run.attributes(),
        "parent": await run.parent_id(),
        "history": [[e.seq, e.kind, e.name, e.ref, e.at.isoformat()] for e in events],
        "hooks": [hook.token for hook in await run.hooks()],
        "streams": {
            name: [repr(chunk) async for chunk in run.stream(name, follow=False)]
            for name in await run.list_streams()
        },
    }


def _ask_from_outside(journal: Path) -> None:
    """Leave a request in a journal that nobody executes."""
    if command(["cancel", "sleeping", "--reason", "from outside", "--db", str(journal)]):
        raise RuntimeError("the command has failed")


def main() -> None:
    """Do what the command line says."""
    place, end = Path(sys.argv[1]), sys.argv[2]
    flows.__file__ = "tests/golden/flows.py"  # code that goes by value takes it along
    asyncio.run(write(place, end))
    if end == "clean":
        _ask_from_outside(place / "app.db")
