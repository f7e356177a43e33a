"""`durable doctor`: what it examines, how it ends, what it never does."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from durable import Runtime
from durable._journal.care.doctor import examine, worst
from durable._journal.care.sqlite_bugs import about_sqlite, has_wal_reset_bug
from durable._journal.checksum import checksum, checksum_of_run
from durable._journal.files import JournalFiles
from durable._surface.cli import main
from durable.testing import VirtualClock
from tests.engine.rig import crash, make, opened, quiet
from tests.health.rig import SECRET, change, fill_open, unknown

Command = Callable[..., tuple[int, str]]
ROOT = Path(__file__).parents[2]
NOW = 1_704_070_000_000_000  # a little after what the virtual clock says


@pytest.fixture
def command(journal_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Performs a command line about the journal: exit code, stdout."""

    def perform(*arguments: str) -> tuple[int, str]:
        code = main([arguments[0], str(journal_path), *arguments[1:]])
        return code, capsys.readouterr().out

    return perform


def levels(path: Path, now_us: int = NOW) -> dict[str, str]:
    """Each check with its level."""
    return {check.name: check.level for check in examine(JournalFiles(path), now_us)}


def about(path: Path, name: str, now_us: int = NOW) -> str:
    """All that one check says."""
    (check,) = [c for c in examine(JournalFiles(path), now_us) if c.name == name]
    return "\n".join([check.level, check.summary, *check.details])


# --- how it ends ------------------------------------------------------------------------------


def test_sound_journal_is_well(journal: Path, command: Command) -> None:
    """Exit code 0, and a line for each check."""
    code, out = command("doctor")
    assert code == 0, out
    for name in ("versions", "sqlite", "filesystem", "permissions", "owner", "rows", "clock"):
        assert f" {name} " in out
    assert "8 runs, " in out
    assert command("doctor", "--full")[0] == 0
    assert command("verify") == (0, f"{journal}: 8 runs, 48 events, 3 chunks: all sound\n")


def test_damage_ends_with_3_and_trouble_with_1(journal: Path, command: Command) -> None:
    """A person, and a program, can tell one from the other."""
    journal.chmod(0o644)
    code, out = command("doctor")
    assert (code, "mode 0644: chmod 600 it" in out) == (1, True)
    change(journal, "DELETE FROM events WHERE run = 1 AND seq = 4")
    code, out = command("doctor")
    assert (code, "run sum: event 4 is missing" in out) == (3, True)
    code, out = command("doctor", "--json")
    found = json.loads(out)
    assert (code, found["level"]) == (3, "damage")
    code, out = command("verify")
    assert (code, out.splitlines()[1]) == (3, "events      run sum: event 4 is missing")
    assert json.loads(command("verify", "--json")[1])["findings"][0]["seq"] == 4


def test_journal_that_cannot_be_read_is_damage(journal: Path, command: Command) -> None:
    """Its surroundings are examined all the same."""
    journal.write_bytes(b"\0" * 5000)
    code, out = command("doctor")
    assert (code, "file is not a database" in out) == (3, True)
    assert " permissions " in out
    assert command("verify")[0] == 3


def test_missing_journal_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told in one line."""
    assert main(["doctor", str(tmp_path / "none.db")]) == 1
    assert "there is no journal at" in capsys.readouterr().err


# --- what it sees -----------------------------------------------------------------------------


async def test_blocked_runs_are_told_with_their_reasons(journal_path: Path) -> None:
    """A pause is nobody's trouble."""
    clock = VirtualClock()
    async with make(journal_path, clock) as rt:
        await fill_open(rt)
        await rt.get_run("nap").pause()
        assert levels(journal_path)["blocked"] == "note"
        run = await rt.start(unknown.options(run_id="u"))
        await quiet(rt)
        assert await run.status() == "completed"
    change(journal_path, "UPDATE runs SET workflow = workflow WHERE pk = 1")
    text = about(journal_path, "blocked")
    assert "1 paused" in text


async def test_steps_that_were_cut_off_twice_are_suspects(journal_path: Path) -> None:
    """They are named with their run, until they have an outcome."""
    async with opened(journal_path) as rt:
        await fill_open(rt)
        pk, last = 4, 4  # "nap", whose step 4 is over, waits
        add = [(9, 10, 0, "health.kill"), (10, 11, 9, "interrupted"), (11, 11, 9, "interrupted")]
        assert last < add[0][0]
        rows = await rt.journal.reader.history(pk, "nap")
        place = len(rows)
        seed = checksum_of_run("nap")
        values = []
        for number, (_, kind, ref, name) in enumerate(add, 1):
            fields = (place + number, kind, ref and place + 1, name, rows[-1].at, None, b"N")
            values.append((pk, *fields, checksum(seed, fields)))
        await rt.journal.writer.run(
            lambda c: c.executemany("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?)", values)
        )
    text = about(journal_path, "suspects")
    assert text.startswith("warning")
    assert f"nap: step 'health.kill' (event {place + 1}) was cut off 2 times" in text


async def test_code_of_another_python_is_found_without_loading_it(journal_path: Path) -> None:
    """In runs that are still to go on; those that have ended need nothing."""
    stamp = b"cpython 3.2 cloudpickle 0.1"
    payload = b"c" + bytes([len(stamp)]) + stamp + b"junk"
    async with opened(journal_path) as rt:
        await fill_open(rt)
        for pk, run_id in ((1, "sum"), (4, "nap")):
            event = (await rt.journal.reader.history(pk, run_id))[2]._replace(payload=payload)
            crc = checksum(checksum_of_run(run_id), event)
            change(
                journal_path,
                f"UPDATE events SET payload = x'{payload.hex()}', crc = {crc} "
                f"WHERE run = {pk} AND seq = 3",
            )
    text = about(journal_path, "payloads")
    assert "nap: event 3 needs cpython 3.2" in text
    assert "sum" not in text


def test_events_of_the_future_are_told(journal: Path) -> None:
    """The clock was ahead then, or is behind now."""
    assert levels(journal)["clock"] == "ok"
    assert levels(journal, NOW - 10**12)["clock"] == "warning"


async def test_owner_is_told_alive_or_dead(journal_path: Path) -> None:
    """Without touching the lock."""
    rt = make(journal_path)
    await rt.open()
    assert about(journal_path, "owner").startswith(f"ok\nprocess {os.getpid()} (")
    assert about(journal_path, "owner").endswith("owns it")
    await crash(rt)
    async with Runtime(journal_path, durability="process", drain_seconds=0):
        assert "owns it" in about(journal_path, "owner")
    assert about(journal_path, "owner") == "ok\nno process has it open"


def test_one_finding_is_no_plural(journal: Path, command: Command) -> None:
    """Of `doctor`, and of `verify`; what belongs to no run is not counted as one."""
    change(journal, "DELETE FROM events WHERE run = 1 AND seq = 4")
    assert "1 finding about 1 run, of 8 runs, " in command("doctor")[1]
    assert command("verify")[1].splitlines()[0].endswith(", 3 chunks: 1 finding")
    change(journal, "UPDATE meta SET value = 'x' WHERE key = 'created_at'")
    assert "2 findings about 1 run, of 8 runs, " in command("doctor")[1]


def test_leftovers_are_listed(journal: Path) -> None:
    """Drafts of killed backups are to be deleted; older copies are just told."""
    assert levels(journal)["leftovers"] == "ok"
    Path(f"{journal}.bak-v0").write_bytes(b"1")
    assert levels(journal)["leftovers"] == "note"
    (journal.parent / "monday.db.0a1b2c3d.part").write_bytes(b"12")
    text = about(journal, "leftovers")
    assert text.startswith("warning\n1 unfinished copy")
    assert "monday.db.0a1b2c3d.part: a draft, 2 bytes" in text


def test_sqlite_versions_with_the_wal_reset_bug_are_known() -> None:
    """Every border of the ranges."""
    affected = [(3, 7, 0), (3, 40, 1), (3, 44, 5), (3, 45, 0), (3, 50, 6), (3, 51, 2)]
    good = [(3, 6, 23), (3, 44, 6), (3, 44, 9), (3, 50, 7), (3, 51, 3), (3, 52, 0), (4, 0, 0)]
    assert [version for version in affected if not has_wal_reset_bug(version)] == []
    assert [version for version in good if has_wal_reset_bug(version)] == []
    assert "a journal has one" in about_sqlite((3, 40, 1))


# --- what it never does -------------------------------------------------------------------------

READ_ONLY = """
import os, sys
from durable._surface.cli import main
seen = []
def hook(event, arguments):
    if event in {"pickle.find_class", "os.system", "exec", "compile", "marshal.loads"}:
        seen.append((event, *map(str, arguments)))
path, other = sys.argv[1:]
assert main(["doctor", other, "--full", "--json"]) + main(["verify", other]) == 0  # imports all
sys.addaudithook(hook)
if os.geteuid() == 0:
    os.setuid(65534)
codes = [main(["doctor", path, "--full", "--json"]), main(["verify", path])]
print("codes", codes, "executed", seen)
"""


@pytest.mark.parametrize("with_wal", [False, True])
def test_examining_executes_nothing_and_needs_no_room(template: Path, with_wal: bool) -> None:
    """By a user who may only read, in a folder that cannot be written; nothing is looked up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "app.db"
        shutil.copy(template, path)
        if with_wal:
            leave_wal(path)
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        before = {file: file.read_bytes() for file in folder.iterdir()}
        program = [sys.executable, "-c", READ_ONLY, str(path), str(template)]
        run = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
        assert {file: file.read_bytes() for file in folder.iterdir()} == before
        folder.chmod(0o755)
    codes = [3, 3] if with_wal else [1, 0]  # 1: the folder cannot be written
    assert f"codes {codes} executed []" in run.stdout, run.stdout + run.stderr


def leave_wal(path: Path) -> None:
    """Leave damage in the -wal, as if after a crash; there is no -shm."""
    conn = sqlite3.connect(path)
    conn.execute("DELETE FROM events WHERE run = 1 AND seq = 4")
    conn.commit()
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{path}.new{end}")
    conn.close()
    for end in ("", "-wal"):
        os.replace(f"{path}.new{end}", f"{path}{end}")


def test_bundle_holds_nothing_of_the_user(journal: Path, command: Command, tmp_path: Path) -> None:
    """No payload, no token, no name, no text; S22 of the security requirements."""
    change(journal, "UPDATE events SET payload = x'00' WHERE run = 2 AND seq = 4")
    file = tmp_path / "bundle.json"
    assert command("doctor", "--bundle", str(file))[0] == 3
    text = file.read_text()
    found = json.loads(text)
    assert {check["name"] for check in found["checks"]} >= {"versions", "rows", "blocked"}
    for secret in (SECRET, "customer", "talk", "health", str(journal.parent), "token-"):
        assert secret not in text
    assert file.stat().st_mode & 0o777 == 0o600
    assert main(["doctor", str(journal), "--bundle", str(file)]) == 1  # it exists


def test_worst_level_decides() -> None:
    """An examination without checks is well."""
    assert worst([]) == "ok"
