"""A scenario whose bodies and steps set attributes; `tags` judges what became of them."""

from __future__ import annotations

import asyncio

from durable import (
    Run,
    Step,
    get_step_metadata,
    get_workflow_metadata,
    set_attributes,
    step,
    workflow,
)
from tests.crash.program import FAST, BrokenError, Program, attempt, insist, note


def make_tag(value: int) -> Step[[], None]:
    """Return a step that sets two attributes in each attempt."""

    async def body() -> None:
        finish = attempt(fails=0)
        meta = get_step_metadata()
        changes = {"last": str(value), f"step{value}": str(meta.attempt)}
        await insist(lambda: set_attributes(changes))
        note("tagged", meta.run_id, f"step{value}", str(meta.attempt))
        if meta.attempt == 1 and value == 2:
            raise BrokenError(meta.name)
        finish()

    return step(name=f"crash.tag{value}", backoff=FAST)(body)


TAGS = [make_tag(value) for value in range(6)]


@workflow(name="crash.tagged")
async def tagged(count: int) -> str:
    """Set and remove attributes between steps, some of them at the same time."""
    await set_attributes({"stage": "begun"})
    for value in range(count):
        await TAGS[value]()
        await set_attributes({"stage": f"did {value}", "gone": str(value)})
    await set_attributes({"gone": None, "first": None})
    await asyncio.gather(*(tag() for tag in TAGS[count:]))
    await set_attributes({"stage": "done"})
    return ",".join(sorted(get_workflow_metadata().attributes))


async def main_tagging(program: Program) -> None:
    """Two runs, and a look at what listings say of them."""
    runs: list[Run[str]] = []
    for name in ("tags-1", "tags-2"):
        chosen = tagged.options(run_id=name, attributes={"first": "one", "name": name})
        runs.append(await program.start(chosen, 3))
    for run in runs:
        await program.finish(run)
    found = await insist(lambda: program.runtime.list_runs(attributes={"stage": "done"}))
    assert {info.run_id for info in found} == {run.run_id for run in runs}
