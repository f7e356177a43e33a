"""One cell of the matrix, a process: this Python, this hash seed, this loop, this debug mode.

    python -m tests.determinism.cell LOOP DEBUG FIRST COUNT write FILE replay FILE ...

`write` performs COUNT workflows and keeps what happened to them in a file; `replay` holds
fresh bodies against a file of another cell: all decisions, and for some of them those from
the middle on. Each prints a digest of all decisions, with the arguments of steps. Memory is
moved about first, so that addresses differ, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import pickle
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from durable._replay.script import UNDECODED
from tests.determinism.generator import body_of, crosses, draw
from tests.replay.rig import Recording, comparable, continue_from, perform, replay

CANCELLED_EVERY, CONTINUED_EVERY = 5, 10


def cancel_turn(seed: int) -> int | None:
    """Return in which turn the run of this seed is cancelled, None for never."""
    return seed // CANCELLED_EVERY % 6 if seed % CANCELLED_EVERY == 0 else None


def written(seeds: range) -> list[Recording]:
    """Perform the workflows of these seeds."""
    return [perform(body_of(draw(seed)), seed, cancel_at_turn=cancel_turn(seed)) for seed in seeds]


def check(seed: int, recording: Recording) -> None:
    """Replay one history.

    Raises:
        AssertionError: the body decides something else.
    """
    main = body_of(draw(seed))
    body = replay(main, recording)
    assert body.script.divergence is None, f"seed {seed}: {body.script.divergence}"
    assert body.script.out == [], f"seed {seed}: replay decides more: {body.script.out}"
    assert body.outcome == recording.outcome, f"seed {seed}: {body.outcome}"
    body.abandon()
    if seed % CONTINUED_EVERY == 0:
        half = len(recording.turns) // 2
        continue_from(main, recording, half, recording.turns[half - 1].ends_at if half else 1)


def digest(recordings: list[Recording]) -> str:
    """Return what stands for all decisions in all histories."""
    found = hashlib.sha256()
    for recording in recordings:
        found.update(repr([comparable(event) for event in recording.history]).encode())
    return found.hexdigest()


async def _play(what: str, file: Path, seeds: range) -> str:
    if what == "write":
        recordings = written(seeds)
        file.write_bytes(pickle.dumps((sys.version_info[:2], recordings), protocol=5))
        return digest(recordings)
    written_by, recordings = pickle.loads(file.read_bytes())
    for seed, recording in zip(seeds, recordings, strict=True):
        if crosses(draw(seed), written_by, sys.version_info[:2]):
            check(seed, _as_it_came(recording))
    return digest(recordings)


def _as_it_came(recording: Recording) -> Recording:
    # "Not decoded yet" is a mark of its process.
    for turn in recording.turns:
        turn.inbox = [item._replace(value=UNDECODED) for item in turn.inbox]
    return recording


def _loop(name: str) -> Any:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


def _shuffled() -> Iterator[bytearray]:
    chance = random.SystemRandom()
    for _ in range(2000):
        yield bytearray(chance.randrange(1, 5000))


def main(loop: str, debug: str, first: str, count: str, *actions: str) -> None:
    """Do what the command line says."""
    junk = list(_shuffled())
    del junk[:: random.SystemRandom().randrange(2, 5)]
    seeds = range(int(first), int(first) + int(count))
    with asyncio.Runner(debug=debug == "debug", loop_factory=_loop(loop)) as runner:
        for what, file in zip(actions[::2], actions[1::2], strict=True):
            print(runner.run(_play(what, Path(file), seeds)))


if __name__ == "__main__":
    logging.disable()
    main(*sys.argv[1:])
