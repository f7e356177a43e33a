"""Threads on one runtime, a short version of the campaign's T13."""

from __future__ import annotations

from pathlib import Path

from tests.stress.threads import thread_trial

RUNS = 48


def test_threads_lose_repeat_and_mix_up_nothing(seed: int, tmp_path: Path) -> None:
    """Users, meddlers, readers and clients at once, with the interpreter switching all the time."""
    counts = thread_trial(seed, tmp_path, RUNS)
    assert counts["runs"] == RUNS
    assert counts["attempts"] > RUNS
