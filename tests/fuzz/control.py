"""Frames of the control socket: spoiled ones, and right ones that ask for nonsense.

What cannot be read is a `FrameError`; what a peer says of an error is some `DurableError`.
The owner answers or drops the connection, and serves the next client and its runs as before.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from durable._authoring.workflow import StartOptions
from durable._journal.control import PROTOCOL
from durable._journal.control_client import ControlClient
from durable._journal.frames import (
    FrameError,
    decode_body,
    decode_error,
    encode_error,
    encode_frame,
)
from durable.errors import DurableError, StepTimeoutError, WorkflowRunBlockedError
from durable.testing import VirtualRuntime
from tests.campaign.programme import FoundError
from tests.fuzz import flows, mutations
from tests.fuzz.aside import open_runtime
from tests.fuzz.payloads import VALID, is_unknown
from tests.fuzz.target import Judge, Make, Target
from tests.fuzz.watch import acts

_LENGTH_BYTES = 4
_OPTIONS = asdict(StartOptions(attributes=(("a", "b"),)))
_SPEC = {
    "run_id": "from afar", "workflow": "fuzz.sum", "payload": VALID[0], "parent_id": None,
    "root_id": None, "bound_to": None, "made_from": None, "origin": 0, "options": _OPTIONS,
}  # fmt: skip
_HELD = "nap"  # the run that must come through all this
REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("hello", {}),
    ("create", {"specs": [_SPEC]}),
    ("wait_end", {"run_id": "sum", "parked": True}),
    ("cancel", {"run_id": "sum", "reason": "why"}),
    ("wake_up", {"run_id": "stopped", "waits": [1, 2]}),
    ("resume", {"run_id": "failing"}),
    ("ask", {"what": "resume_hook", "fields": {"token": flows.TOKEN, "payload": b"N", "key": "k",
                                               "run_id": "hooked"}}),
    ("ask", {"what": "send", "fields": {"run_id": "hooked", "name": "box", "payload": b"N",
                                        "key": "k"}}),
    ("ask", {"what": "set_attributes", "fields": {"run_id": "sum", "step": 3, "attempt": 1,
                                                  "changes": {"a": "b"}}}),
    ("ask", {"what": "delete_run", "fields": {"run_id": "sum"}}),
    ("ask", {"what": "import_run", "fields": {"document": b"{}", "run_id": None}}),
    ("ask", {"what": "cancel_runs", "fields": {"run_ids": ["sum"], "reason": None}}),
    ("ask", {"what": "retry", "fields": {"run_id": "failing", "request": "r"}}),
    ("ask", {"what": "fork", "fields": {"run_id": "sum", "new_id": "f", "at": 5, "results": []}}),
    ("ask", {"what": "pause", "fields": {"run_id": "web", "reason": None}}),
    ("ask", {"what": "webhook_give", "fields": {"key": "k", "answer": {"status": 200}}}),
)  # fmt: skip
_ERRORS = [
    encode_error(error)
    for error in (DurableError("x"), StepTimeoutError("late"), ValueError("y"),
                  WorkflowRunBlockedError("r", "poison_step", "why"))
]  # fmt: skip


def frame(draw: random.Random) -> bytes:
    """Return the bytes of a frame, its first length included."""
    method, fields = draw.choice(REQUESTS)
    whole = {"id": 1, "protocol": PROTOCOL, "method": method, "fields": fields}
    kind = draw.random()
    if kind < 0.5:
        whole["fields"] = _spared(mutations.spoil_data(draw, fields))
    elif kind < 0.6:
        whole = _spared(mutations.spoil_data(draw, whole))
    if not isinstance(whole, dict):
        whole = {"id": whole}
    try:
        written = b"".join(encode_frame(whole))
    except (TypeError, ValueError, RecursionError):
        written = b"\0\0\0\5nope"
    if kind < 0.6:
        return written
    spoiled = mutations.spoil_bytes(draw, written)
    if draw.random() < 0.7:  # else even the length is wrong
        spoiled = spoiled[_LENGTH_BYTES:]
        spoiled = len(spoiled).to_bytes(_LENGTH_BYTES, "big") + spoiled
    return spoiled


def _spared(data: Any) -> Any:
    """Return the data without a word about the run that must come through."""
    if isinstance(data, dict):
        return {key: _spared(item) for key, item in data.items()}
    if isinstance(data, list):
        return [_spared(item) for item in data]
    return "sum" if data == _HELD else data


# --- judging --------------------------------------------------------------------------------


def judge_frame(given: bytes) -> None:
    """Decode what is in a frame, and an error in it."""
    with acts() as done:
        try:
            found = decode_body(given[_LENGTH_BYTES:])
        except FrameError:
            return
        _judge_error(found)
        _judge_error(found.get("fields"))
    if done:
        raise FoundError("broken", f"decoding a frame did {done}")


def judge_error(given: Any) -> None:
    """Decode what a peer says of an error."""
    with acts() as done:
        _judge_error(given)
    if done:
        raise FoundError("broken", f"decoding an error did {done}")


def _judge_error(given: Any) -> None:
    error = decode_error(given)
    if not isinstance(error, DurableError):
        raise FoundError("broken", f"{error!r} is none of ours")
    str(error), repr(error)
    encode_error(error)


async def ask(rt: VirtualRuntime, given: bytes) -> None:
    """Send it to the owner, then ask it for something sensible."""
    assert rt._place is not None
    path = rt._place.server.socket_path
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.setblocking(False)
        await loop.sock_connect(peer, path)
        await loop.sock_sendall(peer, given)
        await rt.settled()
    client = ControlClient(path)
    await client.connect()
    try:
        async with asyncio.timeout(5):
            await client.call("hello")
    except TimeoutError:
        raise FoundError("hung", "the owner answers nobody any more") from None
    finally:
        await client.close()


def _loads_unknown(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "pickle.find_class" and is_unknown(event, arguments)


# --- targets --------------------------------------------------------------------------------


@contextmanager
def _frames(place: Path) -> Iterator[tuple[Make, Judge]]:
    def make(draw: random.Random) -> Any:
        if draw.random() < 0.7:
            return frame(draw)
        return mutations.spoil_data(draw, draw.choice(_ERRORS))

    def judge(given: Any) -> None:
        judge_frame(given) if isinstance(given, bytes) else judge_error(given)

    yield make, judge


@contextmanager
def _owner(place: Path) -> Iterator[tuple[Make, Judge]]:
    with open_runtime(place / "app.db") as (rt, wait):
        wait(flows.fill(rt))

        def judge(given: bytes) -> None:
            with acts(_loads_unknown):
                wait(ask(rt, given))

        yield frame, judge
        wait(_come_through(rt))


async def _come_through(rt: VirtualRuntime) -> None:
    await rt.advance("2 days")
    async with asyncio.timeout(5):
        result = await rt.get_run(_HELD).result()
    if result != flows.RESULTS[_HELD]:
        raise FoundError("corrupt", f"{_HELD} returned {result!r}")


FRAMES = Target("frames", 400, _frames)
OWNER = Target("owner", 150, _owner)
