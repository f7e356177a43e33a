"""A disk that fails or is full delays work; it loses nothing and blames no step.

The error comes once, or for several operations in a row; then the disk works again and
the same process must come through by itself.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from durable import Runtime, workflow
from durable.errors import JournalError
from tests.campaign.t4_disk_errors import KINDS
from tests.crash import faultfs
from tests.crash.faultfs import FOREVER, Fault
from tests.crash.forkserver import ForkServer
from tests.crash.plan import OPERATIONS, sample
from tests.crash.scenarios import SCENARIOS
from tests.crash.trials import death_trial, error_trial

pytestmark = pytest.mark.slow
SEED = 2
MANY = {"family": 8}  # where bodies wait for writes, too


def trials(server: ForkServer, scenario: str, place: Path, kind: str, wanted: int = 3) -> int:
    """Fail at a sample of the operations; return how many failures were met."""
    fault = KINDS[kind].fault
    undisturbed = error_trial(server, scenario, place / "undisturbed", fault(FOREVER))
    met = 0
    for at in sample(undisturbed.operations, wanted, SEED):
        met += error_trial(server, scenario, place / str(at), fault(at)).fired
    return met


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_work_goes_on_after_an_error_of_the_disk(
    scenario: str, server: ForkServer, place: Path
) -> None:
    """EIO once, at any operation: no acknowledged loss, no failed step, no restart."""
    assert trials(server, scenario, place, "error", wanted=MANY.get(scenario, 3)) > 0


@pytest.mark.parametrize("scenario", ["fan", "family", "cancel"])
def test_work_goes_on_after_a_disk_was_broken_for_a_while(
    scenario: str, server: ForkServer, place: Path
) -> None:
    """EIO for six operations in a row, which outlasts a reopening."""
    assert trials(server, scenario, place, "errors") > 0


@pytest.mark.parametrize("scenario", ["sleeper", "family", "cancel"])
def test_work_goes_on_after_a_failed_read(scenario: str, server: ForkServer, place: Path) -> None:
    """EIO on reading, once: the caller may hear of it, no run does."""
    assert trials(server, scenario, place, "read error") > 0


@pytest.mark.parametrize("scenario", ["fan", "family", "cancel"])
def test_work_goes_on_after_a_full_disk(scenario: str, server: ForkServer, place: Path) -> None:
    """ENOSPC for three writes in a row, then there is space again."""
    assert trials(server, scenario, place, "full") > 0


@pytest.mark.parametrize("scenario", ["hooks"])
def test_work_goes_on_after_another_program_held_a_lock(
    scenario: str, server: ForkServer, place: Path
) -> None:
    """SQLITE_BUSY once, at any lock: nobody hears of it."""
    assert trials(server, scenario, place, "lock held") > 0


def test_nothing_is_lost_by_a_kill_while_the_disk_is_broken(
    server: ForkServer, place: Path
) -> None:
    """EIO at an operation and all that follow, then SIGKILL, then a restart on a good disk."""
    deaths = 0
    for at in sample(OPERATIONS["family"].changes, 3, SEED):
        fault = KINDS["errors until killed"].fault(at) | {"kill_then": True, "times": 3}
        deaths += death_trial(server, "family", place / str(at), [fault]).deaths
    assert deaths > 0


@workflow(name="crash.batched")
async def batched(value: int) -> int:
    """Nothing but a result."""
    return value


async def test_a_refused_batch_leaves_no_run_behind(place: Path) -> None:
    """`start_many` under EIO at any operation: it records all of its runs or none."""
    disk = faultfs.install()
    refused = 0
    for at in range(1, 31):
        journal = place / f"{at}.db"
        async with Runtime(f"file:{journal}?vfs=faultfs") as runtime:
            disk.arm(Fault(at, "ioerr"))
            wanted = 4
            try:
                await runtime.start_many(batched, [(n,) for n in range(wanted)])
            except JournalError:
                wanted, refused = 0, refused + 1
            finally:
                disk.disarm()
        with closing(sqlite3.connect(journal)) as connection:
            found = connection.execute("SELECT count(*) FROM runs").fetchone()
        assert found == (wanted,), f"EIO at operation {at}"
    assert refused > 0
