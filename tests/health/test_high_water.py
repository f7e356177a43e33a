"""The mark of how far a journal had come: a lost end is noticed, and nothing else is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from durable import Runtime, backup
from durable._journal.high_water import HighWater
from durable._surface.bystander import command
from durable._surface.cli import main
from durable.errors import JournalRolledBackError
from durable.testing import VirtualClock
from tests.engine.rig import crashing, make, opened, quiet
from tests.health.rig import adding, fill_open, napping


def copy(path: Path, folder: Path, *ends: str) -> Path:
    """Copy some files of a journal into a new folder."""
    folder.mkdir()
    for end in ends:
        shutil.copy(f"{path}{end}", folder / f"app.db{end}")
    return folder / "app.db"


async def two_copies(path: Path, folder: Path, durability: str = "full") -> tuple[Path, Path]:
    """Return an old copy and the newest files of a journal that was worked on in between."""
    async with crashing(path, durability=durability) as rt:
        await (await rt.start(adding.options(run_id="first"), 2)).result()
        old = copy(path, folder / "old", "", "-wal")
        await (await rt.start(adding.options(run_id="second"), 2)).result()
        await quiet(rt)
        new = copy(path, folder / "new", "", "-wal", ".mark")
    return old, new


async def opens(path: Path, **options: str) -> bool:
    """Tell whether a journal opens, or is refused as rolled back."""
    try:
        async with make(path, **options):
            return True
    except JournalRolledBackError:
        return False


# --- what is noticed --------------------------------------------------------------------------


async def test_wal_that_was_cut_off_anywhere_is_noticed(journal_path: Path, tmp_path: Path) -> None:
    """At each frame; of all frames together nothing is missing."""
    _, new = await two_copies(journal_path, tmp_path)
    wal = Path(f"{new}-wal").read_bytes()
    assert len(wal) > 20 * 4120
    for place, length in enumerate(range(32, len(wal) - 4120, 4 * 4120)):
        cut = copy(new, tmp_path / str(place), "", "-wal", ".mark")
        os.truncate(f"{cut}-wal", length)
        assert not await opens(cut), length
    assert await opens(new)


async def test_bit_that_rots_in_the_wal_is_noticed(journal_path: Path, tmp_path: Path) -> None:
    """SQLite itself drops everything from there on, and says nothing."""
    _, new = await two_copies(journal_path, tmp_path)
    wal = bytearray(Path(f"{new}-wal").read_bytes())
    wal[len(wal) // 2] ^= 4
    Path(f"{new}-wal").write_bytes(wal)
    assert not await opens(new)


async def test_older_copy_in_its_place_is_noticed(journal_path: Path, tmp_path: Path) -> None:
    """Also one that has gone on differently since; the mark stays until the loss is accepted."""
    old, new = await two_copies(journal_path, tmp_path)
    async with make(old) as rt:
        await (await rt.start(adding.options(run_id="third"), 2)).result()
    shutil.copy(f"{new}.mark", f"{old}.mark")
    assert not await opens(old)
    with pytest.raises(JournalRolledBackError, match="repair --accept-loss"):
        await make(old).open()


async def test_loss_of_a_process_is_noticed_at_durability_process(
    journal_path: Path, tmp_path: Path
) -> None:
    """As long as the machine has not been down: then the last seconds may be gone."""
    _, new = await two_copies(journal_path, tmp_path, "process")
    os.truncate(f"{new}-wal", 32)
    assert not await opens(new)
    data = bytearray(Path(f"{new}.mark").read_bytes())
    data[50:54] = b"0000"  # of another boot
    Path(f"{new}.mark").write_bytes(data)
    assert await opens(new)


async def test_loss_that_was_no_loss_at_one_opening_is_none_at_the_next(
    journal_path: Path, tmp_path: Path
) -> None:
    """A power cut has taken the last seconds, and nothing was recorded since."""
    async with crashing(journal_path, durability="process") as rt:
        await rt.start(napping, "x")
        await quiet(rt)
        left = copy(journal_path, tmp_path / "left", "", "-wal")
        await rt.start(napping, "y")
        await quiet(rt)
        data = Path(f"{journal_path}.mark").read_bytes()
    Path(f"{left}.mark").write_bytes(data[:50] + b"0000" + data[54:])  # of another boot
    for _ in range(3):
        assert await opens(left)


# --- what is no loss --------------------------------------------------------------------------


async def test_crash_and_clean_end_leave_no_alarm(journal_path: Path) -> None:
    """Again and again, with commands in between that an absent owner's journal takes."""
    for number in range(3):
        async with crashing(journal_path, durability="full") as rt:
            await rt.start(napping.options(run_id=f"c{number}"), "x")
            await quiet(rt)
        await command(
            journal_path, lambda port, n=number: port.ask("pause", run_id=f"c{n}", reason=None)
        )  # type: ignore[misc]
        async with make(journal_path, durability="full") as rt:
            await (await rt.start(adding, 1)).result()


async def test_deleted_runs_leave_no_alarm(journal_path: Path, tmp_path: Path) -> None:
    """Not even with the mark that was on the disk before them."""
    async with opened(journal_path) as rt:
        run = await rt.start(adding.options(run_id="gone"), 1)
        await run.result()
        before = Path(f"{journal_path}.mark").read_bytes()
        await run.delete()
        assert Path(f"{journal_path}.mark").read_bytes() != before
    async with opened(journal_path) as rt:
        await fill_open(rt)
    clock = VirtualClock()
    async with make(journal_path, clock) as rt:
        await clock.advance(400 * 86_400)
        await quiet(rt)
        assert await rt.count_runs(status="completed") == 0
    assert await opens(journal_path)


async def test_backup_and_new_journal_leave_no_alarm(journal_path: Path, tmp_path: Path) -> None:
    """The mark of what had lain there before counts for neither."""
    target = tmp_path / "copy.db"
    async with Runtime(journal_path, durability="process") as rt:
        await (await rt.start(adding, 1)).result()
        await backup(target)
        async with make(target) as other:
            await (await other.start(adding, 3)).result()
        await backup(target, overwrite=True)
    assert await opens(target)
    os.unlink(target)
    assert await opens(target)


DAMAGED_MARKS: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "cut": lambda data: data[:100],
    "zeros": lambda data: bytes(len(data)),
    "torn": lambda data: data[:100] + b"\1" + data[101:],
    "of another journal": lambda data: data[:20] + b"0000" + data[24:],
}


@pytest.mark.parametrize("damage", DAMAGED_MARKS)
async def test_damaged_mark_proves_nothing(journal_path: Path, tmp_path: Path, damage: str) -> None:
    """A power cut may tear it; then the journal is opened as if there were none."""
    _, new = await two_copies(journal_path, tmp_path)
    os.truncate(f"{new}-wal", 32 + 3 * 4120)
    data = DAMAGED_MARKS[damage](Path(f"{new}.mark").read_bytes())
    os.unlink(f"{new}.mark")
    if data is not None:
        Path(f"{new}.mark").write_bytes(data)
    assert await opens(new)


def test_mark_that_cannot_be_made_hinders_nobody(tmp_path: Path) -> None:
    """Nor one that was let go of."""
    water = HighWater(str(tmp_path / "no" / "a.mark"))
    water.open("0" * 32, "full")
    water.note(1, 2, 3)
    water.take_back()
    water.close()
    water.note(1, 2, 3)


# --- the cure ---------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.2, 0.8])
async def test_loss_is_told_and_can_be_accepted(
    journal_path: Path, tmp_path: Path, part: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without being asked to, repair changes nothing; doctor tells, too."""
    _, new = await two_copies(journal_path, tmp_path)
    os.truncate(f"{new}-wal", int(os.path.getsize(f"{new}-wal") * part))

    def perform(*arguments: str) -> tuple[int, str]:
        code = main([*arguments, "--db", str(new)])
        return code, capsys.readouterr().out

    code, out = perform("doctor")
    assert (code, "of run second was there and is not" in out or "key 2" in out) == (3, True)
    code, out = perform("repair")
    assert (code, "repeat this with --accept-loss" in out) == (3, True)
    assert not await opens(new)
    code, out = perform("repair", "--accept-loss")
    assert (code, out.splitlines()[-1]) == (0, f"{new}: it may go on")
    assert await opens(new)
