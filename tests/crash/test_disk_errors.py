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
from tests.campaign.t4_disk_errors import FAULTS
from tests.crash import faultfs
from tests.crash.faultfs import FOREVER, Fault
from tests.crash.forkserver import ForkServer
from tests.crash.plan import sample
from tests.crash.scenarios import SCENARIOS
from tests.crash.trials import error_trial

pytestmark = pytest.mark.slow
SEED = 2
MANY = {"family": 8}  # where bodies wait for writes, too


def trials(server: ForkServer, scenario: str, place: Path, kind: str, wanted: int = 3) -> int:
    """Fail at a sample of the operations; return how many failures were met."""
    fault = FAULTS[kind]
    undisturbed = error_trial(server, scenario, place / "undisturbed", FOREVER, fault)
    met = 0
    for at in sample(undisturbed.operations, wanted, SEED):
        met += error_trial(server, scenario, place / str(at), at, fault).fired
    return met


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_work_goes_on_after_an_error_of_the_disk(
    scenario: str, server: ForkServer, place: Path
) -> None:
    """EIO once, at any operation: no acknowledged loss, no failed step, no restart."""
    assert trials(server, scenario, place, "ioerr", wanted=MANY.get(scenario, 3)) > 0


@pytest.mark.parametrize("scenario", ["fan", "family", "cancel"])
def test_work_goes_on_after_a_disk_was_broken_for_a_while(
    scenario: str, server: ForkServer, place: Path
) -> None:
    """EIO for six operations in a row, which outlasts a reopening."""
    assert trials(server, scenario, place, "ioerr-long") > 0


@pytest.mark.parametrize("scenario", ["sleeper", "family", "cancel"])
def test_work_goes_on_after_a_failed_read(scenario: str, server: ForkServer, place: Path) -> None:
    """EIO on reading, once: the caller may hear of it, no run does."""
    assert trials(server, scenario, place, "ioerr-read") > 0


@pytest.mark.parametrize("scenario", ["fan", "family", "cancel"])
def test_work_goes_on_after_a_full_disk(scenario: str, server: ForkServer, place: Path) -> None:
    """ENOSPC for three writes in a row, then there is space again."""
    assert trials(server, scenario, place, "full") > 0


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
