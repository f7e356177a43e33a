"""The campaign runner counts what is well, and notices everything that is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaign import registry, tally
from tests.campaign.crew import ROOT

COMMAND = [sys.executable, "-m", "tests.campaign"]


def run(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a campaign whose files go to `place`."""
    files = ["--out", str(place / "failures.json"), "--json", str(place / "totals.json")]
    return subprocess.run(
        [*COMMAND, *options, *files], check=False, capture_output=True, text=True, cwd=ROOT
    )


def test_every_kind_of_failure_is_found_and_the_others_are_still_tried(tmp_path: Path) -> None:
    """Findings, exceptions, hangs and deaths are counted, and written down with a command."""
    done = run(tmp_path, "T0", "--whole", "--seed", "1", "--workers", "2")
    assert done.returncode == 1, done.stderr
    (total,) = tally.load(tmp_path / "totals.json")
    assert (total.trials, total.counts["seeds"]) == (10, 6)
    assert total.found == {"lost": 1, "broken": 2, "hung": 1}
    failures = {row["seed"]: row for row in json.loads((tmp_path / "failures.json").read_text())}
    assert {seed: row["verdict"] for seed, row in failures.items()} == {
        1: "lost", 2: "broken", 3: "hung", 4: "broken",
    }  # fmt: skip
    assert "seed 2 raises" in failures[2]["text"]
    assert Path(failures[3]["directory"], "seed").read_text() == "3"
    assert failures[1]["command"] in done.stdout


def test_the_printed_command_does_the_same_trial_again(tmp_path: Path) -> None:
    """One seed, one trial, the same verdict."""
    run(tmp_path, "T0", "--seed", "21", "--trials", "1")
    (row,) = json.loads((tmp_path / "failures.json").read_text())
    again = run(tmp_path / "again", *row["command"].split()[3:])
    assert again.returncode == 1
    assert "seed 21 is lost" in again.stdout


def test_a_campaign_without_findings_ends_well_and_leaves_no_files(tmp_path: Path) -> None:
    """Exit code 0, no file of failures."""
    done = run(tmp_path, "T0", "--seed", "5", "--trials", "5")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["totals.json"]


def test_an_interrupted_campaign_prints_the_table_so_far(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a trial that hangs."""
    command = [*COMMAND, "T0", "--seed", "2", "--minutes", "1", "--workers", "1"]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "failures.json")],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert "seed 2" in process.stdout.readline()  # the next one hangs
        os.kill(process.pid, signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 1
    assert "lost acknowledged" in rest
    assert "T0 --seed 2 --trials 1" in rest


def test_totals_of_several_campaigns_add_up(tmp_path: Path) -> None:
    """Two files of totals, one table."""
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    for number, path in enumerate(files, 1):
        total = tally.Total("T2", 10 * number, 60.0, tally.Counter(kills=number))
        tally.dump([total, tally.Total("T10")], path)
    two, ten = tally.add_up(files)
    assert (two.key, two.trials, two.counts["kills"], two.seconds) == ("T2", 30, 3, 120.0)
    assert ten.key == "T10"


def test_totals_of_programmes_without_a_number_add_up_too(tmp_path: Path) -> None:
    """Bit rot and seals have their own names; the table has the order of the list."""
    totals = tmp_path / "totals.json"
    tally.dump([tally.Total("SEAL", 3), tally.Total("ROT", 2), tally.Total("T2", 1)], totals)
    added = [(total.key, total.trials) for total in tally.add_up([totals, totals])]
    assert added == [("ROT", 4), ("T2", 2), ("SEAL", 6)]


@pytest.mark.parametrize("mistake", [["--trials", "-1"], ["--workers", "0"], ["--minutes", "-2"]])
def test_a_campaign_that_could_try_nothing_is_wrong_usage(
    mistake: list[str], tmp_path: Path
) -> None:
    """Nothing would be tried and all would look well."""
    done = run(tmp_path, "T0", *mistake)
    assert done.returncode == 2
    assert f"{mistake[0]} {mistake[1]}: it has to be" in done.stderr


def test_every_programme_can_be_loaded_and_says_what_it_lacks() -> None:
    """What is registered is there, under its own key."""
    for key in registry.MODULES:
        programme = registry.load(key)
        assert programme.lacking() is None or isinstance(programme.lacking(), str)
        assert (programme.whole() or 1) > 0
