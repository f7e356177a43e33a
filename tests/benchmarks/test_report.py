"""The report of the benchmarks, made from figures that are told to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import outcome, report, results
from benchmarks.runner import Pass
from benchmarks.workload import Bar, Figure, Settings, Workload

ROOT = Path(__file__).parents[2]


def unused(settings: Settings) -> dict[str, list[float]]:
    """Stand in for work that nobody performs here."""
    raise AssertionError(settings)


def work(subject: str, *bars: Bar, name: str = "W4", key: str = "step") -> Workload:
    """Return a workload that is measured in T."""
    figures = (Figure(key, "per step", "T", "mean"), Figure("size", "so many", unit="count"))
    return Workload(name, "gather of steps", unused, figures, bars, subject=subject)


def passed(workload: Workload, seconds: float, size: float = 1000.0) -> Pass:
    """Return a pass between floors of 10 us."""
    floors = {"F1": [1e-3], "F1t": [2e-3], "F1g": [1e-5], "T": [1e-5], "S": [1.5e-5]}
    samples = {workload.figures[0].key: [seconds], "size": [size]}
    return Pass(workload, "full", floors, floors, samples, None)


def told(*passes: Pass) -> str:
    """Return the report."""
    rows = outcome.rows(passes)
    return report.markdown({"python": "3.11"}, outcome.floor_rows(passes), rows, "the command")


def lines(text: str, start: str) -> list[list[str]]:
    """Return the cells of the table lines that begin so."""
    found = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def test_missed_goal_is_told_with_its_reason() -> None:
    """It stays in the table, and why it is missed stands below."""
    goal = Bar("step", 2.0, stage="goal", why="Python forbids it.")
    text = told(passed(work("durable", goal), 30e-6))
    assert lines(text, "W4") == [
        ["W4 gather of steps: per step", "full", "30 us", "3.00 T", "2 T", "**missed**"]
    ]
    assert "- W4, per step: Python forbids it." in text


def test_goal_that_is_met_needs_no_reason() -> None:
    """There is no list of misses where none was missed."""
    goal = Bar("step", 2.0, stage="goal", why="Python forbids it.")
    text = told(passed(work("durable", goal), 15e-6))
    assert lines(text, "W4")[0][-1] == "met"
    assert "missed" not in text and "Python forbids it" not in text


@pytest.mark.parametrize(("seconds", "ahead"), [(10e-3, "500 x"), (1e-6, "0.05 x")])
def test_peer_stands_beside_us_whoever_is_faster(seconds: float, ahead: str) -> None:
    """Rows that we lose stay in."""
    text = told(passed(work("durable"), 20e-6), passed(work("other"), seconds, 40))
    beside = lines(text, "W4 gather")[-1]
    assert beside[2] == "other" and beside[4] == "40" and beside[-1] == ahead


def test_lead_that_is_missed_has_its_reason_below() -> None:
    """One line for all works that share it."""
    names = ("W3", "W4")
    text = told(
        *(passed(work("durable", name=name), 20e-6) for name in names),
        *(passed(work("dbos", name=name), 1e-3) for name in names),
    )
    assert [line[-1] for name in names for line in lines(text, f"{name} |")] == ["**missed**"] * 2
    assert f"- W3, W4: {report.LEADS['W3', 'step'].why}." in text.splitlines()


def test_queue_without_histories_is_no_rival_engine() -> None:
    """It is in the list of all others, and not what the goals are about."""
    text = told(
        passed(work("durable"), 20e-6), passed(work("huey"), 1e-6), passed(work("dbos"), 8e-3)
    )
    (against,) = (line for line in lines(text, "W4 |"))
    assert against == ["W4", "full", "dbos, full", "400 x", "200 x", "met"]


def test_numbers_of_the_readme_keep_their_number_of_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a limit; and the short table is found and replaced as often as one likes."""
    readme = tmp_path / "README.md"
    readme.write_text(results.README.read_text())
    monkeypatch.setattr(results, "README", readme)
    passes = [
        passed(work(subject, name=name, key=key), seconds)
        for subject, seconds in (("durable", 20e-6), ("dbos", 8e-3))
        for name, key in results.SHORT
    ]
    facts = {"processor": "2 x Some", "date": "2026-01-02 03:04 UTC"}
    for _ in range(2):
        results.tell_readme(facts, outcome.floor_rows(passes), outcome.rows(passes))
    after = readme.read_text()
    assert len(after.splitlines()) == len((ROOT / "README.md").read_text().splitlines())
    (gathered,) = lines(after, "gather of 1000")
    assert gathered[1:] == ["20 us", "2.0 T", "1.5 T", "dbos: 8 ms", "400 x"]
