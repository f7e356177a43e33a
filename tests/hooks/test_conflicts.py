"""One token, one open hook: the second run to claim it is told, durably."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Run,
    Runtime,
    create_hook,
    get_hook_by_token,
    get_run,
    receive,
    resume_hook,
    sleep,
    step,
    workflow,
)
from durable._journal.driver import InlineDriver
from durable.errors import HookConflictError, HookNotFoundError, WorkflowRunFailedError
from durable.testing import VirtualClock, settle
from tests.engine.rig import (
    WAIT,
    Disk,
    Request,
    assert_cancelled,
    crashing,
    elapse,
    hold_writes,
    kinds,
    opened,
    quiet,
    until,
)


@workflow(name="tests.conflicts.holds")
async def holds(token: str) -> object:
    """Hold a token until a payload comes."""
    return await create_hook(token=token)


@workflow(name="tests.conflicts.asks")
async def asks(token: str) -> str | None:
    """Ask who holds the token."""
    async with create_hook(token=token) as hook:
        holder = await hook.get_conflict()
        assert await hook.get_conflict() == holder
        return None if holder is None else holder.run_id


@step(name="tests.conflicts.note")
async def note(text: str) -> str:
    """Return what came."""
    return text


class Silent(InlineDriver):
    """A disk that does its work and does not live to tell."""

    def submit(self, fn: Any, done: Any) -> None:
        super().submit(fn, _unheard if SILENCE else done)


SILENCE: list[bool] = []


def _unheard(*outcome: object) -> None:
    """Nobody hears the outcome."""


@contextmanager
def silence() -> Iterator[None]:
    """Let nobody hear what the disk has done from now on."""
    SILENCE.append(True)
    try:
        yield
    finally:
        SILENCE.clear()


async def cut_off(starting: asyncio.Task[Any]) -> None:
    """End a call that is not answered any more."""
    starting.cancel()
    await asyncio.wait([starting])


async def held_tokens(rt: Runtime) -> int:
    """Return how many tokens the journal knows to be held."""
    return int(
        await rt.reader._driver.call(
            lambda conn: conn.execute("SELECT count(*) FROM hooks").fetchone()[0]
        )
    )


async def wake_at(rt: Runtime, run: Run[Any]) -> int | None:
    """Return when a run is due, as the journal has it."""
    row = await rt.reader.run_by_id(run.run_id)
    return row.wake_at


async def test_second_claim_raises_at_the_await(tmp_path: Path) -> None:
    """The error names the token and the run that holds it; the first one never notices."""
    async with opened(tmp_path / "a.db") as rt:
        first = await rt.start(holds, "t")
        second = await rt.start(holds, "t")
        with pytest.raises(WorkflowRunFailedError) as failed:
            await second.result(WAIT)
        error = failed.value.__cause__
        assert isinstance(error, HookConflictError)
        assert (error.token, error.run_id) == ("t", first.run_id)
        assert "hook_conflict" in await kinds(second)
        assert await resume_hook("t", "x") == first
        assert await first.result(WAIT) == "x"


async def test_body_that_asks_is_told_who_holds_the_token(tmp_path: Path) -> None:
    """The holder as a `Run`, or None; asked twice, answered from memory."""
    async with opened(tmp_path / "a.db") as rt:
        first = await rt.start(holds, "t")
        assert await (await rt.start(asks, "t")).result(WAIT) == first.run_id
        alone = await rt.start(asks, "other")
        assert await alone.result(WAIT) is None
        assert (await kinds(alone)).count("hook_conflict") == 1


async def test_payload_answers_the_question_for_a_conflict(tmp_path: Path) -> None:
    """Whoever gets a payload holds the token: nothing more is recorded for that."""

    @workflow(name="tests.conflicts.paid")
    async def paid() -> tuple[object, object]:
        hook = create_hook(token="t")
        return await hook, await hook.get_conflict()

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(paid)
        await quiet(rt)
        await resume_hook("t", 1)
        assert await run.result(WAIT) == (1, None)
        assert "hook_conflict" not in await kinds(run)


async def test_conflict_within_one_run(tmp_path: Path) -> None:
    """The second hook of a run under one token loses to the first."""

    @workflow(name="tests.conflicts.own")
    async def own() -> object:
        first, second = create_hook(token="t"), create_hook(token="t")
        holder = await second.get_conflict()
        second.dispose()
        return holder == get_run(holder.run_id), await first

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(own)
        await quiet(rt)
        await resume_hook("t", "still there")
        assert await run.result(WAIT) == (True, "still there")


async def test_conflict_is_found_after_a_crash_that_came_before_it(tmp_path: Path) -> None:
    """The claim was refused in the commit that the crash came right after: nobody knew yet."""
    path = tmp_path / "a.db"
    async with crashing(path, driver=Silent) as rt:
        first = await rt.start(holds, "t")
        await quiet(rt)
        with silence():
            starting = asyncio.create_task(rt.start(asks.options(run_id="second"), "t"))
            await settle()
    await cut_off(starting)
    async with opened(path) as rt:
        await quiet(rt)
        second = get_run("second")
        assert (await kinds(second))[:4] == [
            "run_created", "run_started", "hook_created", "hook_conflict",
        ]  # fmt: skip
        assert await second.result(WAIT) == first.run_id


async def test_conflict_replays_as_it_was_recorded(tmp_path: Path) -> None:
    """After a restart the body is told the same, though the token is free by then."""

    @workflow(name="tests.conflicts.sleeps_on_it")
    async def sleeps_on_it() -> tuple[str, str]:
        hook = create_hook(token="t")
        holder = await hook.get_conflict()
        await sleep(3600)
        try:
            await hook
        except HookConflictError as error:
            return holder.run_id, error.run_id
        return "none", "none"

    path, clock = tmp_path / "a.db", VirtualClock()
    async with crashing(path, clock) as rt:
        first = await rt.start(holds, "t")
        await quiet(rt)
        second = await rt.start(sleeps_on_it)
        await quiet(rt)
        await resume_hook("t", 1)
        await first.result(WAIT)
    async with opened(path, clock) as rt:
        await elapse(rt, clock, 3600, 3600)
        assert await get_run(second.run_id).result(WAIT) == (first.run_id, first.run_id)


async def test_answer_that_was_asked_for_survives_a_crash(tmp_path: Path) -> None:
    """The body had asked, the claim had held, the answer was not recorded yet."""
    path = tmp_path / "a.db"
    async with crashing(path, driver=Silent) as rt:
        with silence():
            starting = asyncio.create_task(rt.start(asks.options(run_id="only"), "t"))
            await settle()
    await cut_off(starting)
    async with opened(path) as rt:
        await quiet(rt)
        assert await get_run("only").result(WAIT) is None


async def test_freed_token_is_given_to_the_one_who_asked_in_between(tmp_path: Path) -> None:
    """Refused in the commit, free when the holder is looked for: then the claim stands."""
    async with opened(tmp_path / "a.db") as rt:
        first = await rt.start(holds, "t")
        await quiet(rt)
        second = await rt.start(asks, "t")
        third = await rt.start(holds, "t")
        await first.cancel()
        told = await second.result(WAIT)
        assert told in (None, first.run_id)
        await quiet(rt)
        assert (await third.status()) in ("running", "failed")


@workflow(name="tests.conflicts.takes_mail")
async def takes_mail() -> list[object]:
    """Hold a token, and take mail meanwhile."""
    hook = create_hook(token="t")
    return [await receive("box"), await receive("box"), await hook]


def perform_some(left: list[int], request: Request) -> None:
    """Perform so many writes, and none after them; reads always."""
    if not request.reads:
        left[0] -= 1
    if request.reads or left[0] >= 0:
        request.perform()


@pytest.mark.parametrize("writes", range(2, 7))
@pytest.mark.parametrize("mailed", ["before", "after", "both", "never"])
async def test_fork_that_cannot_hold_a_token_hears_of_it_wherever_it_crashes(
    mailed: str, writes: int, tmp_path: Path
) -> None:
    """Found by simulation (T5 seed 702853): its own writes said that it was not due."""
    path, disk, left = tmp_path / "a.db", Disk(), [writes]
    async with crashing(path, driver=disk) as rt:
        first = await rt.start(takes_mail)
        await quiet(rt)
        await first.pause()
        if mailed in {"before", "both"}:
            await rt.send(first.run_id, "box", 1)
        await quiet(rt)
        disk.meddle = partial(perform_some, left)
        asked = [asyncio.create_task(first.fork(run_id="second"))]
        await until(lambda: left[0] < 0 or asked[0].done())
        if mailed in {"after", "both"}:
            asked.append(asyncio.create_task(rt.send("second", "box", 2)))
        await settle(50)
    for each in asked:
        await cut_off(each)
    async with opened(path) as rt:
        await quiet(rt)
        assert (await kinds(get_run("second"))).count("hook_conflict") == 1


def hold_reads(held: list[Request], left: list[int], request: Request) -> None:
    """Hold reads back, but for some."""
    left[0] -= request.reads
    if request.reads and left[0] < 0:
        held.append(request)
    else:
        request.perform()


@pytest.mark.parametrize("reads", range(1, 8))
async def test_fork_that_cannot_hold_a_token_stays_in_memory_until_it_has_heard(
    reads: int, tmp_path: Path
) -> None:
    """Found by simulation (T5 seed 750869): evicted before the look-up, it was forgotten."""
    disk, held = Disk(), list[Request]()
    async with opened(tmp_path / "a.db", driver=disk, idle_runs=0) as rt:
        first = await rt.start(takes_mail)
        await quiet(rt)
        disk.meddle = partial(hold_reads, held, [reads])
        forking = asyncio.create_task(first.fork(run_id="second"))
        await settle(50)
        starting = asyncio.create_task(rt.start(holds, "other"))
        await settle(50)
        disk.let_go(held)
        await asyncio.gather(forking, starting)
        await quiet(rt)
        assert (await kinds(get_run("second"))).count("hook_conflict") == 1
        await rt.start(holds, "another")
        await quiet(rt)
        assert len(list(rt._engine.scheduler)) == 1  # now it may leave, or has left


@workflow(name="tests.conflicts.one_by_one")
async def one_by_one() -> list[object]:
    """Create hooks in turns that follow each other at once."""
    hooks = []
    for number in range(3):
        hooks.append(create_hook(token=f"t{number}"))
        await asyncio.sleep(0)
        await receive("box")
    return [await hook.get_conflict() for hook in hooks]


async def test_claims_of_turns_that_wait_for_the_disk_together_all_hold(tmp_path: Path) -> None:
    """Found by simulation (T5 seed 740786), before it was ever released."""
    disk, held = Disk(), list[Request]()
    async with opened(tmp_path / "a.db", driver=disk) as rt:
        run = await rt.start(one_by_one)
        await quiet(rt)
        disk.meddle = partial(hold_writes, held)
        sending = []
        for _ in range(3):
            sending.append(asyncio.create_task(rt.send(run.run_id, "box")))
            await settle()
        disk.let_go(held)
        await asyncio.gather(*sending)
        assert await run.result(WAIT) == [None, None, None]
        assert await held_tokens(rt) == 0


@pytest.mark.parametrize("end", ["dispose", "complete", "fail", "cancel", "terminate"])
async def test_token_is_free_again_at_the_end(end: str, tmp_path: Path) -> None:
    """However the hook ends, the next claim of its token holds."""

    @workflow(name="tests.conflicts.ending")
    async def ending(how: str) -> None:
        hook = create_hook(token="t")
        await hook
        if how == "dispose":
            hook.dispose()
        elif how == "fail":
            raise ValueError("as planned")
        elif how != "complete":
            await sleep(60)
        await note("after")

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(ending, end)
        await quiet(rt)
        assert await held_tokens(rt) == 1
        await resume_hook("t", 1)
        if end in ("cancel", "terminate"):
            await quiet(rt)
            await run.cancel()
            await assert_cancelled(run)
        await until(lambda: _is_free(rt))
        again = await rt.start(holds, "t")
        await quiet(rt)
        assert (await get_hook_by_token("t")).run_id == again.run_id


async def _is_free(rt: Runtime) -> bool:
    return await held_tokens(rt) == 0


async def test_token_goes_from_one_hook_to_the_next_in_one_turn(tmp_path: Path) -> None:
    """Disposed and claimed again without anything in between."""

    @workflow(name="tests.conflicts.again")
    async def again() -> list[object]:
        found = []
        for _ in range(3):
            async with create_hook(token="t") as hook:
                found.append(await hook)
        return found

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(again)
        await quiet(rt)
        for n in range(3):
            assert await resume_hook("t", n) == run
        assert await run.result(WAIT) == [0, 1, 2]
        with pytest.raises(HookNotFoundError):
            await resume_hook("t", 3)


async def test_of_many_runs_one_gets_the_token(tmp_path: Path) -> None:
    """Started together, as for one order that comes in several times."""
    async with opened(tmp_path / "a.db") as rt:
        runs = await rt.start_many(asks, [("t",)] * 50)
        told = [await run.result(WAIT) for run in runs]
        # Each holder lets go as soon as it knows, so there may be several in turn.
        assert None in told
        assert {each for each in told if each is not None} <= {run.run_id for run in runs}
        assert await held_tokens(rt) == 0


async def test_run_that_lost_its_claim_is_not_left_due_for_ever(tmp_path: Path) -> None:
    """Once it has heard of the conflict the journal says when it is really due."""

    @workflow(name="tests.conflicts.goes_on")
    async def goes_on() -> str:
        hook = create_hook(token="t")
        await hook.get_conflict()
        return await create_hook(str, token="next")

    async with opened(tmp_path / "a.db") as rt:
        await rt.start(holds, "t")
        run = await rt.start(goes_on)
        await quiet(rt)
        assert await wake_at(rt, run) is None
        await resume_hook("next", "x")
        assert await run.result(WAIT) == "x"


@pytest.mark.parametrize("taken", [False, True])
async def test_run_whose_tokens_were_freed_claims_them_again(taken: bool, tmp_path: Path) -> None:
    """As one that had failed and goes on: it gets them back, or hears who has them now."""

    @workflow(name="tests.conflicts.comes_back")
    async def comes_back() -> tuple[object, object]:
        hook = create_hook(token="t")
        first = await hook
        try:
            return first, await hook
        except HookConflictError as error:
            return first, error.run_id

    path = tmp_path / "a.db"
    async with crashing(path) as rt:
        run = await rt.start(comes_back)
        await quiet(rt)
        await resume_hook("t", 1)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM hooks")
    async with opened(path) as rt:
        other = await rt.start(holds, "t") if taken else None
        await quiet(rt)
        await rt.send(run.run_id, "any")  # brings it into memory
        await quiet(rt)
        assert (await resume_hook("t", 2)) == (other or run)
        assert await get_run(run.run_id).result(WAIT) == (1, other.run_id if other else 2)


async def test_evicted_runs_keep_their_tokens_and_their_due_times(tmp_path: Path) -> None:
    """Loaded again and again, a run with an open hook stays evictable."""
    async with opened(tmp_path / "a.db", idle_runs=1) as rt:
        runs = [await rt.start(holds, str(n)) for n in range(5)]
        for _ in range(3):
            for run in runs:
                await rt.send(run, "any")
                await quiet(rt)
        assert len(rt._engine.scheduler) == 1
        assert [await wake_at(rt, run) for run in runs] == [None] * 5
        for n, run in enumerate(runs):
            await resume_hook(str(n), n)
            assert await run.result(WAIT) == n
