"""Plays a scenario as one process would: opens the journal, goes on where it stands, closes it.

python -m tests.crash.player sequential /tmp/somewhere
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from durable import Runtime
from tests.crash.ledger import Ledger, Marks
from tests.crash.program import Program, insist, note, use_ledger
from tests.crash.scenarios import SCENARIOS


async def play(
    name: str,
    journal: str,
    ledger_path: Path,
    known: list[str],
    *,
    marks: Marks = str,
    mend: bool = False,
) -> None:
    """Play scenario `name` on `journal` to its end, and see the `known` runs finished.

    Args:
        mend: also resume what is parked, as its owner would once he has looked at it.
    """
    use_ledger(Ledger.write_to(ledger_path, marks), mend=mend)
    async with asyncio.timeout(20):
        runtime = await insist(lambda: Runtime(journal).__aenter__())
        mending = asyncio.create_task(resume_parked(runtime)) if mend else None
        try:
            await SCENARIOS[name].main(Program(runtime, known))
            for run_id in known:
                await Program(runtime, known).finish(runtime.get_run(run_id))
        finally:
            if mending is not None:
                mending.cancel()
            await runtime.__aexit__(None, None, None)


async def resume_parked(runtime: Runtime) -> None:
    """Resume every run that is parked, and note it, for as long as this is let run."""
    while True:
        for info in await insist(lambda: runtime.list_runs(status="blocked")):
            note("unparked", info.run_id)
            await insist(runtime.get_run(info.run_id).resume)
        await asyncio.sleep(0.01)  # sleeps: somebody who looks again


if __name__ == "__main__":
    place = Path(sys.argv[2])
    place.mkdir(parents=True, exist_ok=True)
    asyncio.run(play(sys.argv[1], str(place / "app.db"), place / "ledger", sys.argv[3:]))
    print((place / "ledger").read_text(), end="")
