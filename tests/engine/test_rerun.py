"""New runs with the workflow and the input of old ones."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from durable import Run, RunOrigin, step, workflow
from durable.errors import RunConflictError, WorkflowRunNotFoundError
from durable.testing import VirtualClock
from tests.engine.rig import WAIT, opened

LOADED: list[str] = []


class Picky:
    """An input that notes each time it is loaded."""

    def __init__(self) -> None:
        self.value = 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        LOADED.append("loaded")
        self.__dict__.update(state)


@step(name="rerun.count", max_retries=0)
async def count(value: int) -> int:
    """One more."""
    return value + 1


@workflow(name="rerun.flow")
async def flow(value: int, *, more: Any = None) -> int:
    """One step."""
    return await count(value)


async def test_rerun_is_a_new_run_with_the_same_input_and_options(
    journal_path: Path, virtual_clock: VirtualClock
) -> None:
    """It has an id of its own and says what it was made from; the old run stays as it is."""
    async with opened(journal_path, virtual_clock) as rt:
        options = flow.options(attributes={"who": "me"}, timeout="1h", run_id="r")
        run = await rt.start(options, 1, more={"x": 2})
        assert await run.result(WAIT) == 2
        before = await run.events()
        await virtual_clock.advance(7200)
        again = await run.rerun()
        assert again.run_id not in ("r", "")
        assert await again.result(WAIT) == 2
        assert await again.attributes() == {"who": "me"}
        assert await again.origin() == RunOrigin("rerun", "r")
        assert await again.replayed_from() == "r"
        assert await run.origin() is None and await run.replayed_from() is None
        assert (await again.events())[0].value == before[0].value
        assert await run.events() == before


async def test_rerun_uses_the_recorded_input_without_loading_it_first(journal_path: Path) -> None:
    """The bytes cross; the value is made when the new run begins, once."""
    async with opened(journal_path) as rt:
        run = await rt.start(flow, 1, more=Picky())
        await run.result(WAIT)
        LOADED.clear()
        again = await run.rerun()
        await again.result(WAIT)
        assert LOADED == ["loaded"]
        assert pickle.loads(pickle.dumps(again)) == again


async def test_rerun_under_an_own_id_is_made_once(journal_path: Path) -> None:
    """As with `start`: the same id gives the same run, another input is refused."""
    async with opened(journal_path) as rt:
        run, other = await rt.start(flow, 1), await rt.start(flow, 2)
        first = await run.rerun(run_id="again")
        assert await run.rerun(run_id="again") == first
        with pytest.raises(RunConflictError, match="again"):
            await other.rerun(run_id="again")
        with pytest.raises(ValueError, match="at least one character"):
            await run.rerun(run_id="")
        with pytest.raises(WorkflowRunNotFoundError):
            await rt.get_run("nobody").rerun()


@workflow(name="rerun.again")
async def again_and_again(run_id: str) -> list[Any]:
    """Rerun another run twice."""
    old: Run[int] = Run(run_id)
    runs = [await old.rerun(), await old.rerun()]
    origins = [await each.replayed_from() for each in runs]
    return [*(each.run_id for each in runs), *origins, *[await each.result() for each in runs]]


async def test_body_reruns_under_ids_of_its_own(journal_path: Path) -> None:
    """They are derived from its steps, so a repeated attempt makes no second run."""
    async with opened(journal_path) as rt:
        run = await rt.start(flow, 1)
        found = await (await rt.start(again_and_again.options(run_id="p"), run.run_id))
        first, second, *rest = found
        assert first != second
        assert first.startswith("p.") and second.startswith("p.")
        assert rest == [run.run_id, run.run_id, 2, 2]
