"""Hooks: what a body waits for, what answers it, and what both of them see."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Hook,
    Run,
    create_hook,
    define_hook,
    get_hook_by_token,
    get_run,
    resume_hook,
    send,
    sleep,
    start,
    step,
    workflow,
)
from durable.errors import (
    HookDisposedError,
    HookNotFoundError,
    SerializationError,
    WrongContextError,
)
from durable.testing import VirtualClock
from tests.engine.rig import WAIT, crashing, kinds, opened, quiet, result_of


async def token_of(run: Run[Any], number: int = 0) -> str:
    """Return the token of a run's open hook."""
    return (await run.hooks())[number].token


@step(name="tests.hooks.resume_at_once")
async def resume_at_once(token: str, payload: object) -> str:
    """Answer a hook from a step of the very run that waits."""
    return (await resume_hook(token, payload)).run_id


@workflow(name="tests.hooks.approval")
async def approval(order: str) -> object:
    """The main example: an approval that may come too late."""
    async with create_hook(bool, token=f"approve:{order}", metadata={"order": order}) as hook:
        try:
            return await hook.get(timeout="3 days")
        except TimeoutError:
            return "nobody answered"


@workflow(name="tests.hooks.gather")
async def collect(count: int) -> list[object]:
    """Take payloads until there are so many."""
    hook = create_hook()
    return [await hook for _ in range(count)]


@workflow(name="tests.hooks.iterate")
async def iterate() -> list[object]:
    """Take payloads until one is None."""
    found = []
    async with create_hook(token="line") as hook:
        await sleep(60)
        async for payload in hook:
            if payload is None:
                hook.dispose()
            found.append(payload)
    return found


# --- payloads arrive -------------------------------------------------------------------


async def test_payload_reaches_the_body_that_waits(tmp_path: Path) -> None:
    """The sender gets the run, the body the payload, the history both."""
    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(approval, "A-17")
        await quiet(rt)
        assert (await run.status()).waiting_for == ("hook 'approve:A-17'",)
        assert await resume_hook("approve:A-17", True) == run
        assert await run.result(WAIT) is True
        assert await kinds(run) == [
            "run_created", "run_started", "hook_created", "wait_created", "hook_received",
            "hook_disposed", "run_completed",
        ]  # fmt: skip


async def test_approval_that_does_not_come_times_out_durably(tmp_path: Path) -> None:
    """The timeout is a wait: it survives a crash and ends on time."""
    clock = VirtualClock()
    async with crashing(tmp_path / "a.db", clock) as rt:
        run = await rt.start(approval, "A-17")
        await quiet(rt)
    clock.suspend(2 * 86_400)
    async with opened(tmp_path / "a.db", clock) as rt:
        await quiet(rt)
        assert await get_run(run.run_id).status() == "running"
        await clock.advance(86_400)
        assert await get_run(run.run_id).result(WAIT) == "nobody answered"


async def test_payloads_come_in_the_order_in_which_they_were_acknowledged(tmp_path: Path) -> None:
    """Ten thousand, sent together: all there, none twice, in order."""
    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(collect, 10_000)
        await quiet(rt)
        token = await token_of(run)
        await asyncio.gather(*(resume_hook(token, n) for n in range(10_000)))
        assert await run.result(WAIT) == list(range(10_000))


async def test_payloads_that_nobody_waits_for_yet_are_kept(tmp_path: Path) -> None:
    """The body is busy elsewhere; what arrived meanwhile is there when it asks."""

    @workflow(name="tests.hooks.busy")
    async def busy() -> tuple[int, list[object], int]:
        hook = create_hook(token="busy")
        await sleep(60)
        pending = hook.pending
        return pending, [await hook, await hook], hook.pending

    clock = VirtualClock()
    async with opened(tmp_path / "a.db", clock) as rt:
        run = await rt.start(busy)
        await quiet(rt)
        for payload in ("one", "two", "three"):
            await resume_hook("busy", payload)
        await clock.advance(60)
        assert await run.result(WAIT) == (3, ["one", "two"], 1)


async def test_step_that_gives_away_the_token_can_be_answered_at_once(tmp_path: Path) -> None:
    """The hook is recorded before the step that follows it begins: nothing can race it."""

    @workflow(name="tests.hooks.race_free")
    async def race_free() -> object:
        hook = create_hook()
        await resume_at_once(hook.token, "early")
        return await hook

    assert await result_of(tmp_path / "a.db", race_free) == "early"


async def test_iteration_ends_with_the_hook(tmp_path: Path) -> None:
    """What had arrived before it was disposed is still given out, what comes later refused."""
    clock = VirtualClock()
    async with opened(tmp_path / "a.db", clock) as rt:
        run = await rt.start(iterate)
        await quiet(rt)
        for payload in (1, None, 3):
            await resume_hook("line", payload)
        await clock.advance(60)
        assert await run.result(WAIT) == [1, None, 3]
        with pytest.raises(HookNotFoundError):
            await resume_hook("line", 4)


async def test_run_without_work_leaves_memory_and_comes_back_for_a_payload(tmp_path: Path) -> None:
    """Idle runs are rows; a payload loads the one it is for."""
    async with opened(tmp_path / "a.db", idle_runs=1) as rt:
        runs = [await rt.start(approval, str(n)) for n in range(20)]
        await quiet(rt)
        assert len(rt._engine.scheduler) == 1
        for n, run in enumerate(runs):
            await resume_hook(f"approve:{n}", n % 2 == 0)
            assert await run.result(WAIT) is (n % 2 == 0)


async def test_by_value_what_was_sent_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    """The body gets what was recorded, not the sender's object."""
    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(collect, 2)
        await quiet(rt)
        payload = {"items": [1]}
        token = await token_of(run)
        await resume_hook(token, payload)
        payload["items"].append(2)
        await resume_hook(token, payload)
        assert await run.result(WAIT) == [{"items": [1]}, {"items": [1, 2]}]


# --- who is answered ---------------------------------------------------------------------


async def test_unknown_disposed_and_ended_hooks_are_not_found(tmp_path: Path) -> None:
    """The error names the token; nothing is recorded."""

    @workflow(name="tests.hooks.disposing")
    async def disposing() -> str:
        hook = create_hook(token="gone")
        hook.dispose()
        hook.dispose()
        try:
            await hook
        except HookDisposedError:
            await sleep(60)
        return "done"

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(disposing)
        ended = await rt.start(collect, 1)
        await quiet(rt)
        token = await token_of(ended)
        await resume_hook(token, 1)
        await ended.result(WAIT)
        for unknown in ("gone", token, "never"):
            with pytest.raises(HookNotFoundError, match=unknown[:6]) as caught:
                await resume_hook(unknown, 1)
            assert caught.value.token == unknown
            with pytest.raises(HookNotFoundError):
                await get_hook_by_token(unknown)
        assert "hook_received" not in await kinds(run)
        assert await run.hooks() == []


async def test_payload_that_comes_with_the_end_is_recorded_or_refused(tmp_path: Path) -> None:
    """Of several sent together, the first ends the run: the others are told."""
    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(collect, 2)
        await quiet(rt)
        token = await token_of(run)
        sent = [resume_hook(token, n) for n in range(5)]
        told = await asyncio.gather(*sent, return_exceptions=True)
        assert told[:2] == [run, run]
        assert [type(each) for each in told[2:]] == [HookNotFoundError] * 3
        assert (await kinds(run)).count("hook_received") == 2


async def test_hook_can_be_looked_up_by_its_token(tmp_path: Path) -> None:
    """Whoever is to answer sees for whom, and what the body said about it."""
    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(approval, "A-17")
        await quiet(rt)
        hook = await get_hook_by_token("approve:A-17")
        assert (hook.token, hook.run_id) == ("approve:A-17", run.run_id)
        assert (hook.metadata, hook.type, hook.received) == ({"order": "A-17"}, "bool", 0)
        assert hook.created_at == (await run.events())[2].at
        assert await run.hooks() == [hook]
        await resume_hook(hook, False)
        assert await run.result(WAIT) is False


async def test_tokens_of_the_library_cannot_be_guessed(tmp_path: Path) -> None:
    """256 random bits each, the same again after a restart."""

    @workflow(name="tests.hooks.tokens")
    async def tokens() -> list[str]:
        hooks = [create_hook() for _ in range(3)]
        await hooks[0]
        return [hook.token for hook in hooks]

    async with crashing(tmp_path / "a.db") as rt:
        run = await rt.start(tokens)
        await quiet(rt)
        before = [hook.token for hook in await run.hooks()]
    assert len(set(before)) == 3
    assert {len(token) for token in before} == {43}
    async with opened(tmp_path / "a.db"):
        assert run.run_id not in "".join(before)
        run = await resume_hook(before[0], None)
        assert await run.result(WAIT) == before


# --- in bodies ---------------------------------------------------------------------------


async def test_body_answers_the_hook_of_another_run_once(tmp_path: Path) -> None:
    """In a body the calls are recorded, so that replay does not send again."""

    @workflow(name="tests.hooks.answering")
    async def answering(token: str, waiting: str) -> tuple[object, str]:
        info = await get_hook_by_token(token)
        run = await resume_hook(info, "from a body")
        await send(waiting, "box", "mail")
        await create_hook(token="then")
        return info.metadata, run.run_id

    async with crashing(tmp_path / "a.db") as rt:
        waiting = await rt.start(collect, 2)
        await quiet(rt)
        run = await rt.start(answering, await token_of(waiting), waiting.run_id)
        await quiet(rt)
    async with opened(tmp_path / "a.db"):
        run = await resume_hook("then")
        assert await run.result(WAIT) == (None, waiting.run_id)
        told = await kinds(get_run(waiting.run_id))
        assert told.count("hook_received") == 2


async def test_defined_hook_creates_and_resumes(tmp_path: Path) -> None:
    """One object holds the type for both sides."""
    number = define_hook(int)

    @workflow(name="tests.hooks.defined")
    async def defined() -> int:
        return await number.create(token="number", metadata="m")

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(defined)
        await quiet(rt)
        with pytest.raises(ValueError, match="payload is 'x'"):
            await number.resume("number", "x")
        await number.resume("number", 7, dedupe_key="k")
        assert await run.result(WAIT) == 7


async def test_child_run_can_be_awaited_by_a_hook_of_its_parent(tmp_path: Path) -> None:
    """A hook's token is plain text: it can be given to a child."""

    @workflow(name="tests.hooks.child")
    async def child(token: str) -> None:
        await resume_hook(token, "child here")

    @workflow(name="tests.hooks.parent")
    async def parent() -> object:
        async with create_hook() as hook:
            await start(child, hook.token)
            return await hook

    assert await result_of(tmp_path / "a.db", parent) == "child here"


# --- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "x" * 257, "a\nb", 7, b"x"])
async def test_unusable_tokens_are_refused_before_anything_is_recorded(
    token: Any, tmp_path: Path
) -> None:
    """In the body at its call; at the sender likewise."""

    @workflow(name="tests.hooks.bad_token")
    async def bad_token() -> str:
        with pytest.raises(ValueError, match="hook token"):
            create_hook(token=token)
        return "told"

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(bad_token)
        assert await run.result(WAIT) == "told"
        assert "hook_created" not in await kinds(run)
        with pytest.raises(ValueError, match="hook token"):
            await resume_hook(token, 1)


async def test_values_that_cannot_be_stored_are_refused_with_their_path(tmp_path: Path) -> None:
    """Metadata at the body's call, payloads at the sender."""

    @workflow(name="tests.hooks.bad_metadata")
    async def bad_metadata() -> bool:
        with suppress(SerializationError):
            create_hook(metadata={"lock": (n for n in "x")})
        return await create_hook(bool, token="ok")

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(bad_metadata)
        await quiet(rt)
        with pytest.raises(SerializationError, match=r"payload\[0\]"):
            await resume_hook("ok", [(n for n in "x")])
        await resume_hook("ok", True)
        assert await run.result(WAIT) is True
        assert (await kinds(run)).count("hook_created") == 1


async def test_hooks_are_refused_where_they_make_no_sense(tmp_path: Path) -> None:
    """Outside bodies, in another body, in a pickle: the error says what to do."""
    kept: list[Hook[Any]] = []

    @workflow(name="tests.hooks.keeping")
    async def keeping() -> None:
        kept.append(create_hook(token="kept"))
        await kept[0]

    @workflow(name="tests.hooks.stealing")
    async def stealing() -> str:
        with pytest.raises(WrongContextError, match="belongs to the workflow body"):
            await kept[0]
        with pytest.raises(SerializationError, match=r"pass hook\.token instead"):
            await resume_at_once(create_hook(), 1)
        return "told"

    with pytest.raises(WrongContextError, match="workflow body"):
        create_hook()
    async with opened(tmp_path / "a.db") as rt:
        await rt.start(keeping)
        assert await (await rt.start(stealing)).result(WAIT) == "told"
        with pytest.raises(WrongContextError, match="resume_hook"):
            kept[0].dispose()
        with pytest.raises(TypeError, match=r"pass hook\.token"):
            pickle.dumps(kept[0])
