"""`durable runs` with filters; `export`, `import`, `backup`, `delete`, with an owner or without."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from durable import Runtime, sleep, start_many, workflow
from durable._surface.cli import main
from tests.surface.commands import commands

Command = Callable[..., tuple[int, str, str]]
WAIT = 30.0


@workflow(name="files.quick")
async def quick(value: int) -> int:
    return value


@workflow(name="files.nap")
async def nap() -> str:
    await sleep("1 day")
    return "awake"


@workflow(name="files.family")
async def family() -> None:
    for child in await start_many(quick, [(1,), (2,)]):
        await child.result()


@pytest.fixture
def command(journal_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Performs a command line: exit code, stdout, stderr."""

    def perform(*arguments: str, db: Path | None = None) -> tuple[int, str, str]:
        code = main([*arguments, "--db", str(db or journal_path)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return perform


@pytest.fixture
def journal(journal_path: Path) -> Path:
    """A journal with three finished runs, a family, and one run that sleeps."""

    async def fill() -> None:
        async with Runtime(journal_path, drain_seconds=0) as rt, asyncio.timeout(WAIT):
            for n in range(3):
                chosen = quick.options(run_id=f"q{n}", attributes={"n": str(n), "kind": "q"})
                await (await rt.start(chosen, n)).result()
            await (await rt.start(family.options(run_id="family"))).result()
            await rt.start(nap.options(run_id="nap"))
            while await rt.get_run("nap").status() != "running":
                await asyncio.sleep(0)

    asyncio.run(fill())
    return journal_path


def ids(out: str) -> list[str]:
    """Run ids of a listing as JSON."""
    return [row["run_id"] for row in json.loads(out)]


# --- runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (["--attribute", "kind=q"], ["q2", "q1", "q0"]),
        (["--attribute", "kind=q", "--attribute", "n=1"], ["q1"]),
        (["--attribute", "kind=q", "--oldest", "--limit", "2"], ["q0", "q1"]),
        (["--status", "running", "--status", "pending"], ["nap"]),
        (["--workflow", "files.family"], ["family"]),
        (["--parent", "family", "--workflow", "files.nap"], []),
        (["--since", "1h", "--status", "running"], ["nap"]),
        (["--until", "1h"], []),
        (["--until", "2024-01-01T00:00+00:00"], []),
    ],
)
def test_runs_are_told_apart_by_filters(
    journal: Path, command: Command, filters: list[str], wanted: list[str]
) -> None:
    """Those of `list_runs`, as options."""
    assert ids(command("runs", "--json", *filters)[1]) == wanted
    if "--limit" not in filters:
        assert command("runs", "--count", *filters)[1] == f"{len(wanted)}\n"


def test_families_are_listed(journal: Path, command: Command) -> None:
    """By parent, and as a whole by root."""
    children = ids(command("runs", "--json", "--parent", "family")[1])
    assert len(children) == 2
    assert set(ids(command("runs", "--json", "--root", "family")[1])) == {"family", *children}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--attribute", "novalue"], "must be KEY=VALUE"),
        (["--since", "2024-01-01T00:00"], "has no time zone"),
        (["--since", "yesterday"], "neither a time"),
        (["--status", "done"], "invalid choice"),
        (["--limit", "0"], "whole number from 1"),
    ],
)
def test_unusable_filters_are_wrong_usage(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    """Exit code 2, and what to write instead."""
    with pytest.raises(SystemExit) as ended:
        command("runs", *arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_attribute_beyond_the_limits_is_told(journal: Path, command: Command) -> None:
    """One line on stderr."""
    code, out, err = command("runs", "--attribute", f"{'k' * 300}=v")
    assert (code, out) == (1, "")
    assert "300 characters" in err


# --- export and import ------------------------------------------------------------------------


def test_run_goes_from_one_journal_to_another(
    journal: Path, command: Command, tmp_path: Path
) -> None:
    """To a file, into a journal that is made for it; there it can be looked at."""
    file, other = tmp_path / "q1.json", tmp_path / "other.db"
    code, out, _ = command("export", "q1", str(file))
    assert (code, out) == (0, f"q1: 3 events in {file}\n")
    assert command("export", "q1", str(file))[0] == 1
    assert command("export", "q1", str(file), "--overwrite")[0] == 0
    code, out, _ = command("import", str(file), db=other)
    assert (code, out) == (0, "q1: imported; see `durable show q1`\n")
    assert command("import", str(file), db=other)[0] == 0
    assert command("import", str(file), "--as", "copy", db=other)[0] == 0
    assert ids(command("runs", "--json", db=other)[1]) == ["copy", "q1"]
    shown = json.loads(command("show", "q1", "--json", db=other)[1])
    assert shown["status"] == "completed"
    assert shown["attributes"] == {"n": "1", "kind": "q"}


def test_export_prints_without_a_file(journal: Path, command: Command) -> None:
    """For a pipe."""
    code, out, _ = command("export", "nap")
    assert code == 0
    assert json.loads(out)["about"]["status"] == "running"


def test_bad_files_are_told_in_one_line(journal: Path, command: Command, tmp_path: Path) -> None:
    """Nothing is imported."""
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    for arguments, told in [
        (("import", str(bad)), "no JSON"),
        (("import", str(tmp_path / "none.json")), "No such file"),
        (("export", "nobody"), "holds no run 'nobody'"),
        (("export", "q1", str(tmp_path / "no" / "f.json")), "No such file"),
    ]:
        code, out, err = command(*arguments)
        assert (code, out) == (1, ""), arguments
        assert err.startswith("durable: ")
        assert told in err
        assert err.count("\n") == 1
    assert command("runs", "--count")[1] == "7\n"


# --- backup and delete --------------------------------------------------------------------------


def test_backup_tells_what_it_holds(journal: Path, command: Command, tmp_path: Path) -> None:
    """And is a journal."""
    copy = tmp_path / "copy.db"
    code, out, _ = command("backup", str(copy))
    assert code == 0
    assert out.startswith(f"{copy}: 7 runs, ")
    assert out.endswith("all checked\n")
    told = f"durable: {copy} exists already: choose another path, or give --overwrite\n"
    assert command("backup", str(copy)) == (1, "", told)
    assert command("backup", str(copy), "--overwrite")[0] == 0
    assert command("runs", "--count", db=copy)[1] == "7\n"


def test_finished_run_is_deleted_and_no_other(journal: Path, command: Command) -> None:
    """Without an owner the command deletes the whole of it."""
    assert command("delete", "q1")[:2] == (0, "q1: deleted\n")
    assert command("show", "q1")[0] == 1
    code, _, err = command("delete", "nap")
    assert code == 1
    assert "nap is running: cancel it first" in err
    code, _, err = command("delete", "q1")
    assert code == 1
    assert "holds no run 'q1'" in err
    assert command("runs", "--count")[1] == "6\n"


def test_commands_work_beside_an_owner(journal: Path, command: Command, tmp_path: Path) -> None:
    """Export and backup read the file; import and delete are done by the owner."""

    async def beside() -> None:
        async with Runtime(journal, drain_seconds=0) as rt, commands(journal) as perform:
            file, copy = tmp_path / "nap.json", tmp_path / "copy.db"

            async def ask(*arguments: str) -> None:
                code, _, err = await perform(*arguments)
                assert code == 0, (arguments, err)

            await ask("export", "nap", str(file))
            await ask("import", str(file), "--as", "twin")
            assert await rt.get_run("twin").status() == "blocked"
            await ask("delete", "q0")
            assert not await rt.get_run("q0").exists()
            await ask("backup", str(copy))
            assert os.path.getsize(copy) > 0

    asyncio.run(beside())
    assert command("runs", "--count", db=tmp_path / "copy.db")[1] == "7\n"
