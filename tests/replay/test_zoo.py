"""Whatever asyncio offers to a body, the body decides the same on every replay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.replay.rig import check_replays, perform, replay
from tests.replay.zoo import SEEDS, ZOO

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ZOO)
def test_primitive_replays_from_every_write_to_the_same_end(name: str) -> None:
    """Histories are equal live and replayed, wherever the process had ended."""
    for seed in SEEDS:
        check_replays(ZOO[name], perform(ZOO[name], seed))


@pytest.mark.parametrize("name", ZOO)
def test_cancelled_primitive_replays_from_every_write_to_the_same_end(name: str) -> None:
    """A cancellation is an event like others, at whatever point it arrives."""
    for turn in range(5):
        check_replays(ZOO[name], perform(ZOO[name], 1, cancel_at_turn=turn))


def test_histories_are_the_same_under_every_hash_seed_and_memory_layout() -> None:
    """No order depends on a set of strings or on addresses: three processes, one digest."""
    digests = set()
    for seed in ("0", "1", "4567"):
        ran = subprocess.run(
            [sys.executable, "-m", "tests.replay.zoo"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(ran.stdout.strip())
    assert len(digests) == 1, digests


def test_every_zoo_body_does_what_it_is_there_for() -> None:
    """The bodies end as their authors meant, so that the zoo shows something."""
    told = {name: str(perform(body, 1).result) for name, body in ZOO.items()}
    odd = {name for name, result in told.items() if not result.startswith("run_completed")}
    assert odd == {"fails", "waits_for_ever"}
    assert "ValueError(1)" in told["gather_returns_exceptions"]
    assert told["timeouts_nested"].count("time") + told["timeouts_nested"].count("late") == 3
    assert "'late'" in told["wait_for_in_time_and_late"]


def test_body_that_waits_for_itself_alone_is_told_apart() -> None:
    """A deadlock is visible: nothing recorded can wake the body, and its line is known."""
    recording = perform(ZOO["waits_for_ever"])
    body = replay(ZOO["waits_for_ever"], recording)
    assert body.is_stuck
    assert [line.rpartition(" in ")[2] for line in body.waiting_lines()] == ["waits_for_ever"]
    early = replay(ZOO["waits_for_ever"], recording, until=3)
    assert not early.is_stuck
    for each in (body, early):
        each.abandon()
