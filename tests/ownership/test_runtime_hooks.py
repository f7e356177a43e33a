"""Payloads from other processes: recorded by the owner, once, whatever becomes of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from durable import Runtime, get_hook_by_token, get_run, resume_hook, send, start
from durable.errors import (
    HookNotFoundError,
    HookPayloadError,
    WorkflowRunNotFoundError,
)
from tests.ownership.flows import Answer, listening
from tests.ownership.peers import Peer, Peers, until


def only_in(pid: int) -> None:
    """Raise in other processes than this."""
    if os.getpid() != pid:
        raise LookupError("not in this process")


class Homely:
    """An object that can only be loaded where it was made."""

    def __reduce__(self) -> tuple[object, ...]:
        return only_in, (os.getpid(),)


async def is_open(token: str) -> bool:
    """Whether the hook is there."""
    try:
        return (await get_hook_by_token(token)).received >= 0
    except HookNotFoundError:
        return False


async def test_client_answers_a_hook_of_the_owners_run(peers: Peers, journal_path: Path) -> None:
    """Both ways: what is acknowledged here is recorded there, and the other way round."""
    owner = await peers.start()
    async with Runtime(journal_path) as client:
        assert not client.is_owner
        run = await start(listening, "t", 2)
        await until(lambda: is_open("t"))
        info = await get_hook_by_token("t")
        assert (info.run_id, info.metadata, info.type) == (run.run_id, {"count": 2}, "Answer")
        assert await resume_hook("t", {"number": 1}) == run
        assert (
            await owner.ask("(await rt.resume_hook('t', Answer(2, 'owner'))).run_id") == run.run_id
        )
        await send(run, "last", {"number": 3, "who": "me"})
        assert await run == [Answer(1), Answer(2, "owner"), Answer(3, "me")]
        with pytest.raises(HookNotFoundError):
            await resume_hook("t", {"number": 4})
        with pytest.raises(HookNotFoundError, match="is completed"):
            await send(run, "last", 5)
        with pytest.raises(WorkflowRunNotFoundError):
            await send("nobody", "last", 5)
    assert await owner.leave() == 0


async def test_what_does_not_fit_is_told_to_the_client(peers: Peers, journal_path: Path) -> None:
    """The owner knows the type; its error crosses with its path, and nothing is recorded."""
    await peers.start()
    async with Runtime(journal_path):
        run = await start(listening, "t", 1)
        await until(lambda: is_open("t"))
        with pytest.raises(HookPayloadError, match="number") as caught:
            await resume_hook("t", {"number": "one"})
        assert caught.value.path == 'payload["number"]'
        with pytest.raises(HookPayloadError, match="cannot be loaded by the process that runs"):
            await resume_hook("t", Homely())
        assert "hook_received" not in [event.kind for event in await run.events()]


async def test_payload_is_recorded_once_when_its_owner_is_killed(
    peers: Peers, journal_path: Path
) -> None:
    """The call goes on with the next owner: nothing is lost, nothing comes twice, in order."""
    first = await peers.start()
    async with Runtime(journal_path) as client:
        count = 40
        run = await start(listening, "t", count)
        await until(lambda: is_open("t"))
        second = await peers.start()
        owners = [first, second]
        sending = asyncio.create_task(answer_all(count))
        for owner in owners:
            await until(lambda owner=owner: _has_received(owner, count))  # type: ignore[misc]
            await owner.kill()
        await sending
        await send(run, "last", Answer(count))
        answers = await get_run(run.run_id).result()
        assert [answer.number for answer in answers] == list(range(count + 1))
        assert client.is_owner


async def _has_received(owner: Peer, count: int) -> bool:
    # A third of them by the first owner, another third by the second.
    try:
        received = (await get_hook_by_token("t")).received
    except HookNotFoundError:
        return True
    _MARKS.setdefault(owner.pid, received + count // 3)
    return received >= _MARKS[owner.pid]


_MARKS: dict[int, int] = {}


async def answer_all(count: int) -> None:
    """Send so many answers, one after the other."""
    for number in range(count):
        await resume_hook("t", Answer(number))
