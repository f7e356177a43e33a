"""Mailboxes, dedupe keys, and what becomes of payloads for runs in every state."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from durable import (
    create_hook,
    get_run,
    receive,
    resume_hook,
    send,
    sleep,
    step,
    workflow,
)
from durable.errors import (
    HookNotFoundError,
    HookPayloadError,
    WorkflowRunBlockedError,
    WorkflowRunNotFoundError,
    WrongContextError,
)
from durable.testing import VirtualClock
from tests.engine.rig import (
    WAIT,
    assert_cancelled,
    crashing,
    elapse,
    kinds,
    messages,
    opened,
    quiet,
    without_workflow,
)

NAMES = ("run_created", "run_started", "hook_received", "run_completed")


@workflow(name="tests.mail.two")
async def two() -> list[object]:
    """Take two letters from one mailbox."""
    return [await receive("in"), await receive("in")]


@workflow(name="tests.mail.hooked")
async def hooked(count: int) -> list[object]:
    """Take payloads of a hook."""
    hook = create_hook(token="hooked")
    return [await hook for _ in range(count)]


# --- before the body asks -----------------------------------------------------------------


async def test_letters_are_accepted_before_the_body_asks(tmp_path: Path) -> None:
    """While it sleeps, while it is busy, in order."""

    @workflow(name="tests.mail.later")
    async def later() -> tuple[object, ...]:
        await sleep(60)
        return await receive("a"), await receive("b"), await receive("a")

    clock = VirtualClock()
    async with opened(tmp_path / "a.db", clock) as rt:
        run = await rt.start(later)
        await quiet(rt)
        for name, payload in (("a", 1), ("a", 2), ("b", 3)):
            await send(run, name, payload)
        await clock.advance(60)
        assert await run.result(WAIT) == (1, 3, 2)


async def test_letters_are_accepted_before_the_run_begins(tmp_path: Path) -> None:
    """A delayed run keeps them, and its delay, through a crash."""
    clock = VirtualClock()
    async with crashing(tmp_path / "a.db", clock) as rt:
        run = await rt.start(two.options(delay="1h"))
        await send(run, "in", "early")
        await send(run.run_id, "in", "bird")
        assert await run.status() == "pending"
    async with opened(tmp_path / "a.db", clock) as rt:
        run = get_run(run.run_id)
        await elapse(rt, clock, 3590, 1795)
        assert await run.status() == "pending"
        await elapse(rt, clock, 10)
        assert await run.result(WAIT) == ["early", "bird"]
        assert await kinds(run) == [
            "run_created", "hook_received", "hook_received", "run_started", "run_completed",
        ]  # fmt: skip


async def test_run_with_letters_that_has_not_begun_can_be_cancelled(tmp_path: Path) -> None:
    """Also together with a letter on its way."""
    async with opened(tmp_path / "a.db", VirtualClock()) as rt:
        run = await rt.start(two.options(delay="1h"))
        await send(run, "in", "early")
        told = await asyncio.gather(send(run, "in", 2), run.cancel("no"), return_exceptions=True)
        assert told[1] is None
        assert told[0] is None or isinstance(told[0], HookNotFoundError)
        await assert_cancelled(run, "no")
        recorded = (await kinds(run)).count("hook_received")
        assert recorded == (2 if told[0] is None else 1)


async def test_waiting_for_mail_is_shown_and_is_no_dead_end(tmp_path: Path, caplog: Any) -> None:
    """A body that waits for mail or a hook is not reported as stuck."""
    async with opened(tmp_path / "a.db") as rt:
        run, other = await rt.start(two), await rt.start(hooked, 1)
        await quiet(rt)
        assert (await run.status()).waiting_for == ("mailbox 'in'",)
        assert (await other.status()).waiting_for == ("hook 'hooked'",)
        assert messages(caplog) == []


async def test_receive_times_out_and_keeps_what_comes_later(tmp_path: Path) -> None:
    """The letter that came too late for one wait is there for the next."""

    @workflow(name="tests.mail.impatient")
    async def impatient() -> tuple[str, object]:
        try:
            await receive("in", timeout="1m")
        except TimeoutError as error:
            await sleep(60)
            return str(error), await receive("in", timeout="1m")
        return "", None

    clock = VirtualClock()
    async with opened(tmp_path / "a.db", clock) as rt:
        run = await rt.start(impatient)
        await quiet(rt)
        await clock.advance(61)
        await send(run, "in", "late")
        await clock.advance(60)
        assert await run.result(WAIT) == ("nothing came to mailbox 'in' within 60 s", "late")


async def test_letters_reach_a_run_that_is_a_row_only(tmp_path: Path) -> None:
    """Sent after a restart, when nothing has brought the run back."""
    async with crashing(tmp_path / "a.db") as rt:
        run = await rt.start(two)
        await quiet(rt)
    async with opened(tmp_path / "a.db") as rt:
        assert len(rt._engine.scheduler) == 0
        await send(run.run_id, "in", 1)
        await send(run.run_id, "in", 2)
        assert await get_run(run.run_id).result(WAIT) == [1, 2]


# --- types ---------------------------------------------------------------------------------


async def test_type_of_a_waiting_receiver_is_held_against_the_sender(tmp_path: Path) -> None:
    """The error is the sender's, the run does not notice; what fits arrives as that type."""

    @workflow(name="tests.mail.typed")
    async def typed() -> set[int]:
        return await receive("numbers", set[int])

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(typed)
        await quiet(rt)
        with pytest.raises(
            HookPayloadError, match=r"mailbox 'numbers': payload\[1\] is 'x'"
        ) as caught:
            await send(run, "numbers", [1, "x"])
        assert caught.value.path == "payload[1]"
        await send(run, "numbers", [1, 2, 1])
        assert await run.result(WAIT) == {1, 2}


async def test_letters_sent_together_are_held_each_against_its_own_receiver(
    tmp_path: Path,
) -> None:
    """The second one is not for the receiver that waits now: it is checked when it is taken."""

    @workflow(name="tests.mail.mixed")
    async def mixed() -> tuple[int, str]:
        return await receive("in", int), await receive("in", str)

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(mixed)
        await quiet(rt)
        await asyncio.gather(send(run, "in", 1), send(run, "in", "two"))
        assert await run.result(WAIT) == (1, "two")


async def test_letter_of_another_type_that_came_early_is_told_to_the_body(tmp_path: Path) -> None:
    """It is taken, and carried by the error, so that a loop goes on and nothing is lost."""

    @workflow(name="tests.mail.surprised")
    async def surprised() -> list[object]:
        await sleep(60)
        found: list[object] = []
        for _ in range(3):
            try:
                found.append(await receive("in", int))
            except HookPayloadError as error:
                found.append((error.path, error.payload))
        return found

    clock = VirtualClock()
    async with opened(tmp_path / "a.db", clock) as rt:
        run = await rt.start(surprised)
        await quiet(rt)
        for payload in (1, "two", 3):
            await send(run, "in", payload)
        await clock.advance(60)
        assert await run.result(WAIT) == [1, ("payload", "two"), 3]


# --- once --------------------------------------------------------------------------------------


async def test_same_key_is_recorded_once(tmp_path: Path) -> None:
    """For hooks and mailboxes, together and later; another key is another payload."""

    @workflow(name="tests.mail.both")
    async def both() -> list[object]:
        hook = create_hook(token="both")
        return [await hook, await receive("in"), await hook, await receive("in")]

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(both)
        await quiet(rt)
        await asyncio.gather(*(resume_hook("both", n, dedupe_key="k") for n in range(5)))
        await resume_hook("both", 5, dedupe_key="k")
        for n in (6, 7):
            await send(run, "in", n, dedupe_key="k")
        await resume_hook("both", 8, dedupe_key="l")
        await send(run, "in", 9, dedupe_key="l")
        assert await run.result(WAIT) == [0, 6, 8, 9]
        assert (await kinds(run)).count("hook_received") == 4
        # The run has ended; what it has got, it has got.
        await send(run, "in", 9, dedupe_key="l")
        with pytest.raises(HookNotFoundError):
            await send(run, "in", 9, dedupe_key="m")


async def test_same_key_is_recorded_once_across_a_crash(tmp_path: Path) -> None:
    """The key is part of the history."""
    async with crashing(tmp_path / "a.db") as rt:
        run = await rt.start(hooked, 2)
        await quiet(rt)
        await resume_hook("hooked", 1, dedupe_key="delivery-1")
    async with opened(tmp_path / "a.db"):
        await resume_hook("hooked", 1, dedupe_key="delivery-1")
        await resume_hook("hooked", 2, dedupe_key="delivery-2")
        run = get_run(run.run_id)
        assert await run.result(WAIT) == [1, 2]
        names = [event.name for event in await run.events() if event.kind == "hook_received"]
        assert names == ["delivery-1", "delivery-2"]


@pytest.mark.parametrize("bad", ["", "x" * 257, "a\tb", 3])
async def test_unusable_names_and_keys_are_refused(bad: Any, tmp_path: Path) -> None:
    """At the sender, before anything is recorded; in the body at its call."""

    @workflow(name="tests.mail.bad")
    async def bad_name() -> None:
        await receive(bad)

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(two)
        await quiet(rt)
        with pytest.raises(ValueError, match="mailbox name"):
            await send(run, bad, 1)
        with pytest.raises(ValueError, match="dedupe key"):
            await send(run, "in", 1, dedupe_key=bad)
        assert await kinds(run) == ["run_created", "run_started"]
        with pytest.raises(Exception, match="mailbox name"):
            await (await rt.start(bad_name)).result(WAIT)
    with pytest.raises(WrongContextError):
        await receive("in")


# --- runs in every state ---------------------------------------------------------------------


async def test_letters_for_ended_and_unknown_runs_are_refused(tmp_path: Path) -> None:
    """The error says in which state the run is."""
    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(two)
        await asyncio.gather(send(run, "in", 1), send(run, "in", 2))
        await run.result(WAIT)
        with pytest.raises(HookNotFoundError, match="is completed: its mailbox 'in'"):
            await send(run, "in", 3)
        with pytest.raises(WorkflowRunNotFoundError):
            await send("no-such-run", "in", 1)


async def test_letter_that_comes_with_the_end_is_recorded_or_refused(tmp_path: Path) -> None:
    """Each sender is told about its own."""
    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(two)
        await quiet(rt)
        told = await asyncio.gather(*(send(run, "in", n) for n in range(6)), return_exceptions=True)
        assert [type(each) for each in told] == [type(None)] * 2 + [HookNotFoundError] * 4
        assert await run.result(WAIT) == [0, 1]


async def test_blocked_run_gets_what_was_sent_meanwhile_once_it_goes_on(tmp_path: Path) -> None:
    """Recorded without its code, in order, once per key; a crash in between changes nothing."""

    @workflow(name="tests.mail.parked")
    async def parked() -> list[object]:
        hook = create_hook(token="parked")
        return [await hook, await receive("in"), await hook, await receive("in"), await hook]

    path = tmp_path / "a.db"
    async with crashing(path) as rt:
        run_id = (await rt.start(parked)).run_id
        await quiet(rt)
        await resume_hook("parked", 1, dedupe_key="one")
    with without_workflow(parked):
        async with crashing(path):
            for _ in range(2):
                await send(run_id, "in", "a", dedupe_key="a")
                await resume_hook("parked", 1, dedupe_key="one")
                await resume_hook("parked", 2, dedupe_key="two")
            assert await get_run(run_id).status() == "blocked"
        async with opened(path):
            await send(run_id, "in", "b")
            assert (await kinds(get_run(run_id)))[3:] == ["hook_received"] * 4
    async with opened(path) as rt:
        await quiet(rt)
        await resume_hook("parked", 3)
        assert await get_run(run_id).result(WAIT) == [1, "a", 2, "b", 3]


async def test_paused_run_takes_payloads_in(tmp_path: Path) -> None:
    """Whoever sends need not know that somebody has paused the run."""
    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(hooked, 3)
        await quiet(rt)
        await resume_hook("hooked", 0)
        await run.pause("stocktaking")
        await asyncio.gather(*(resume_hook("hooked", n) for n in (1, 2)))
        await quiet(rt)
        assert await run.status() == "blocked"
        await run.resume()
        assert await run.result(WAIT) == [0, 1, 2]


async def test_blocked_run_refuses_payloads_of_typed_hooks(tmp_path: Path) -> None:
    """The code that knows the type cannot be asked; the sender is told, nothing is recorded."""

    @workflow(name="tests.mail.typed_hook")
    async def typed_hook() -> int:
        return await create_hook(int, token="typed")

    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(typed_hook)
        await quiet(rt)
        await run.pause()
        with pytest.raises(WorkflowRunBlockedError, match="send it again") as caught:
            await resume_hook("typed", 1)
        assert caught.value.kind == "paused"
        assert "hook_received" not in await kinds(run)
        await run.resume()
        await resume_hook("typed", 1)
        assert await run.result(WAIT) == 1


async def test_run_that_has_not_begun_and_is_blocked_takes_letters(tmp_path: Path) -> None:
    """Its code is missing from the start."""
    path = tmp_path / "a.db"
    async with crashing(path, VirtualClock()) as rt:
        run_id = (await rt.start(two.options(delay="1h"))).run_id
    clock = VirtualClock()
    with without_workflow(two):
        async with crashing(path, clock) as rt:
            await elapse(rt, clock, 3600, 3600)
            assert await get_run(run_id).status() == "blocked"
            for n in (1, 2):
                await send(run_id, "in", n)
    async with opened(path, clock) as rt:
        await quiet(rt)
        assert await get_run(run_id).result(WAIT) == [1, 2]


async def test_cancelled_blocked_run_frees_its_tokens(tmp_path: Path) -> None:
    """Though nobody can ask its code which they are."""
    async with crashing(tmp_path / "a.db") as rt:
        run = await rt.start(hooked, 1)
        await quiet(rt)
    with without_workflow(hooked):
        async with opened(tmp_path / "a.db"):
            await resume_hook("hooked", 1)
            await get_run(run.run_id).cancel()
            with pytest.raises(HookNotFoundError):
                await resume_hook("hooked", 1)


async def test_cancelled_waiter_leaves_the_payload_to_the_clean_up(tmp_path: Path) -> None:
    """The run is cancelled while it waits; a payload that comes then is for its `finally`."""

    @step(name="tests.mail.undo")
    async def undo(what: object) -> object:
        return what

    @workflow(name="tests.mail.cleans_up")
    async def cleans_up() -> None:
        hook = create_hook(token="cleans")
        try:
            await hook
        finally:
            await undo(await hook.get(timeout=20))

    async with opened(tmp_path / "a.db", VirtualClock()) as rt:
        run = await rt.start(cleans_up)
        await quiet(rt)
        await run.cancel()
        await quiet(rt)
        await resume_hook("cleans", "last words")
        await assert_cancelled(run)
        outcome = [e.value for e in await run.events() if e.kind == "step_completed"]
        assert outcome == ["last words"]


async def test_runs_with_hooks_leave_no_cyclic_garbage(tmp_path: Path) -> None:
    """Ended runs are freed at once, with their hooks and mailboxes."""
    async with opened(tmp_path / "a.db") as rt:
        gc.collect()
        gc.disable()
        try:
            for n in range(20):
                run = await rt.start(hooked, 1)
                await resume_hook("hooked", n)
                assert await run.result(WAIT) == [n]
            await quiet(rt)
            assert gc.collect() < 10
        finally:
            gc.enable()
