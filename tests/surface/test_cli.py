"""The command `durable`: what it shows, what it changes, and that it executes nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from durable import Run, Runtime, Workflow, __version__, sleep, step, workflow
from durable._surface.cli import main
from tests.surface.programs import Program, spawn

WAIT = 30.0  # seconds until a test gives up

Command = Callable[..., tuple[int, str, str]]


@step
async def double(value: int) -> int:
    return 2 * value


@workflow(name="cli.double")
async def cli_double(value: int) -> int:
    return await double(value)


@workflow(name="cli.fail")
async def cli_fail() -> None:
    raise ValueError("on\npurpose \x1b[31m")


@workflow(name="cli.nap")
async def cli_nap() -> str:
    await sleep("1 day")
    return "awake"


@pytest.fixture
def command(journal_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Performs a command line on the test's journal: exit code, stdout, stderr."""

    def perform(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--db", str(journal_path)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return perform


def with_runtime(path: Path, use: Callable[[Runtime], Coroutine[Any, Any, None]]) -> None:
    """Open the journal, let `use` do something with it, close it."""

    async def open_and_use() -> None:
        async with Runtime(path, drain_seconds=0) as rt, asyncio.timeout(WAIT):
            await use(rt)

    asyncio.run(open_and_use())


async def some_runs(rt: Runtime) -> None:
    """One completed, one failed, one that sleeps, in this order."""
    await (await rt.start(cli_double.options(run_id="first", attributes={"who": "me"}), 21))
    failed = await rt.start(cli_fail.options(run_id="second"))
    await (await rt.port()).wait_end(failed.run_id)
    nap = await rt.start(cli_nap.options(run_id="third"))
    await until_asleep(nap)


async def until_asleep(run: Run[Any]) -> None:
    """Wait until the body of a run is in a sleep, and that is on record."""
    while True:
        kinds = [event.kind for event in await run.events()]
        if kinds.count("wait_created") > kinds.count("wait_completed"):
            return
        await asyncio.sleep(0)


async def command_line(path: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command in a process of its own, beside a runtime of this one."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "durable", *arguments, "--db", str(path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


# --- looking ----------------------------------------------------------------------------


def test_runs_lists_the_newest_first(journal_path: Path, command: Command) -> None:
    """One line for each run, with its workflow and status."""
    with_runtime(journal_path, some_runs)
    code, out, err = command("runs")
    assert (code, err) == (0, "")
    cells = [line.split()[:3] for line in out.splitlines()]
    assert cells == [
        ["RUN", "WORKFLOW", "STATUS"],
        ["third", "cli.nap", "running"],
        ["second", "cli.fail", "failed"],
        ["first", "cli.double", "completed"],
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--status", "failed"], ["second"]),
        (["--workflow", "cli.double"], ["first"]),
        (["--limit", "2"], ["third", "second"]),
        (["--workflow", "cli.double", "--status", "failed"], []),
    ],
)
def test_runs_can_be_chosen(
    journal_path: Path, command: Command, options: list[str], expected: list[str]
) -> None:
    """By status, by workflow, by number, and together."""
    with_runtime(journal_path, some_runs)
    _, out, _ = command("runs", "--json", *options)
    assert [run["run_id"] for run in json.loads(out)] == expected


def test_runs_of_an_empty_journal_says_so(journal_path: Path, command: Command) -> None:
    """A sentence for people, an empty array for programs."""

    async def nothing(rt: Runtime) -> None: ...

    with_runtime(journal_path, nothing)
    assert command("runs")[1] == "no runs\n"
    assert command("runs", "--json")[1] == "[]\n"


def test_show_tells_the_history_of_a_run(journal_path: Path, command: Command) -> None:
    """Facts above, then one line for each event, named after the step it is about."""
    with_runtime(journal_path, some_runs)
    code, out, _ = command("show", "first")
    head, _, timeline = out.partition("\n\n")
    assert code == 0
    assert ["attribute", "who", "me"] in [line.split() for line in head.splitlines()]
    kinds = [line.split()[3] for line in timeline.splitlines()[1:]]
    assert kinds == [
        "run_created", "run_started", "step_created", "step_completed", "run_completed"
    ]  # fmt: skip
    name = f"{__name__}.double"
    assert f"step_completed  {name} [3]" in timeline
    assert timeline.splitlines()[-1].endswith(" 42")


def test_show_tells_what_a_run_waits_for(journal_path: Path, command: Command) -> None:
    """A sleeping run names the end of its sleep."""
    with_runtime(journal_path, some_runs)
    assert "waits for  sleep until " in command("show", "third")[1]


def test_show_as_json_holds_row_and_events(journal_path: Path, command: Command) -> None:
    """Everything that the text shows, as data."""
    with_runtime(journal_path, some_runs)
    shown = json.loads(command("show", "first", "--json")[1])
    assert (shown["status"], shown["attributes"]) == ("completed", {"who": "me"})
    assert [event["seq"] for event in shown["events"]] == [1, 2, 3, 4, 5]
    assert shown["events"][-1]["value"] == 42


def test_what_was_recorded_cannot_control_the_terminal(
    journal_path: Path, command: Command
) -> None:
    """Escape sequences and line ends in recorded texts do not reach the terminal."""
    with_runtime(journal_path, some_runs)
    out = command("show", "second")[1]
    assert "\x1b" not in out
    assert " ValueError: on purpose  [31m" in out


class Trap:
    """An object that would create a file if anybody loaded it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@workflow(name="cli.trap")
async def cli_trap(marker: str) -> Trap:
    return Trap(Path(marker))


def test_looking_executes_nothing_from_the_journal(
    journal_path: Path, command: Command, tmp_path: Path
) -> None:
    """A recorded object that would act when it is loaded is only named."""
    marker = tmp_path / "executed"

    async def trap(rt: Runtime) -> None:
        run = await rt.start(cli_trap.options(run_id="trap"), str(marker))
        await (await rt.port()).wait_end(run.run_id)

    with_runtime(journal_path, trap)
    assert "touch" in command("show", "trap")[1]
    assert "touch" in command("show", "trap", "--json")[1]
    assert not marker.exists()


# --- errors -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["show", "cancel", "wake", "resume"])
def test_an_unknown_run_is_one_line_and_exit_code_1(
    journal_path: Path, command: Command, name: str
) -> None:
    """The line names the run; nothing goes to stdout."""
    with_runtime(journal_path, some_runs)
    code, out, err = command(name, "nobody")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "'nobody'" in err


@pytest.mark.parametrize("arguments", [["runs"], ["show", "x"], ["cancel", "x"], ["wake", "x"]])
def test_a_journal_that_is_not_there_is_not_made(
    journal_path: Path, command: Command, arguments: list[str]
) -> None:
    """A mistyped path is an error, and leaves no file."""
    code, out, err = command(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert str(journal_path) in err
    assert list(journal_path.parent.iterdir()) == []


def test_a_file_that_is_no_journal_is_one_line(journal_path: Path, command: Command) -> None:
    """A damaged or foreign file gives no traceback."""
    journal_path.write_bytes(b"not a database at all" * 100)
    code, _, err = command("runs")
    assert (code, err.count("\n")) == (1, 1)


@pytest.mark.parametrize("arguments", [[], ["runs", "--limit", "0"], ["runs", "--status", "odd"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As usual for commands, with the usage on stderr."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: durable" in capsys.readouterr().err


def test_version_is_the_packages() -> None:
    """`python -m durable` is the command."""
    said = subprocess.run(
        [sys.executable, "-m", "durable", "--version"], check=True, capture_output=True, text=True
    )
    assert said.stdout == f"durable {__version__}\n"


def test_the_journal_is_found_through_the_environment(
    journal_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`$DURABLE_JOURNAL` is the default, then ./durable.db."""
    with_runtime(journal_path, some_runs)
    monkeypatch.setenv("DURABLE_JOURNAL", str(journal_path))
    assert main(["show", "first"]) == 0
    monkeypatch.delenv("DURABLE_JOURNAL")
    monkeypatch.chdir(journal_path.parent)
    assert main(["show", "first"]) == 1
    assert "durable.db" in capsys.readouterr().err


def test_a_closed_pipe_is_no_error(journal_path: Path) -> None:
    """`durable runs | head -1` ends quietly."""
    with_runtime(journal_path, some_runs)
    listing = f"'{sys.executable}' -m durable runs --db '{journal_path}' --json"
    said = subprocess.run(["sh", "-c", f"{listing} | true"], capture_output=True, check=False)
    assert said.stderr == b""


# --- acting through the owner -------------------------------------------------------------


async def test_cancel_reaches_the_run_through_its_owner(journal_path: Path) -> None:
    """The body of a run that another process executes is cancelled, with the reason."""
    async with Runtime(journal_path) as rt, asyncio.timeout(WAIT):
        run = await rt.start(cli_nap.options(run_id="nap"))
        said = await command_line(journal_path, "cancel", "nap", "--reason", "not needed")
        assert said[0] == 0, said
        await (await rt.port()).wait_end("nap")
        assert await run.status() == "cancelled"
        assert (await run.events())[-1].value == "not needed"


async def test_wake_ends_a_sleep_through_the_owner(journal_path: Path) -> None:
    """A sleep of a day ends at once, and the count is told."""
    async with Runtime(journal_path) as rt, asyncio.timeout(WAIT):
        run = await rt.start(cli_nap.options(run_id="nap"))
        await until_asleep(run)
        code, out, _ = await command_line(journal_path, "wake", "nap")
        assert (code, out.partition(";")[0]) == (0, "nap: 1 sleep ended")
        assert await run.result() == "awake"


async def test_looking_works_beside_an_owner(journal_path: Path) -> None:
    """A listing shows what the owner has recorded so far."""
    async with Runtime(journal_path) as rt, asyncio.timeout(WAIT):
        await some_runs(rt)
        code, out, _ = await command_line(journal_path, "runs")
        assert (code, len(out.splitlines())) == (0, 4)


async def test_a_finished_run_stays_as_it_is(journal_path: Path) -> None:
    """Cancelling it says so and is no error."""
    async with Runtime(journal_path) as rt, asyncio.timeout(WAIT):
        await (await rt.start(cli_double.options(run_id="done"), 1))
        said = await command_line(journal_path, "cancel", "done")
    assert said == (0, "done is completed already: nothing to do\n", "")


# --- acting while no process has the journal open -------------------------------------------


def define_two_steps(order: str) -> Workflow[[], str]:
    """Define one workflow again, with its two steps in the given order."""

    @workflow(name="cli.turn")
    async def cli_turn() -> str:
        for name in order:
            await {"a": turn_a, "b": turn_b}[name]()
            await sleep("1 day")
        return order

    return cli_turn


@step
async def turn_a() -> None: ...


@step
async def turn_b() -> None: ...


def diverged_run(path: Path) -> None:
    """Leave the run "turn" behind, blocked because its code has changed."""

    async def begin(rt: Runtime) -> None:
        run = await rt.start(define_two_steps("ab").options(run_id="turn"))
        await until_asleep(run)

    async def go_on(rt: Runtime) -> None:
        define_two_steps("ba")
        run = rt.get_run("turn")
        await run.wake_up()
        await (await rt.port()).wait_end(run.run_id)
        assert await run.status() == "blocked"

    with_runtime(path, begin)
    with_runtime(path, go_on)


def test_resume_without_an_owner_lets_the_next_one_try(
    journal_path: Path, command: Command
) -> None:
    """The run stays as it is until a program opens the journal, and then goes on."""
    diverged_run(journal_path)
    code, out, _ = command("resume", "turn")
    assert (code, out) == (0, "turn: it may try again; it is running now\n")

    async def go_on(rt: Runtime) -> None:
        define_two_steps("ab")
        run = rt.get_run("turn")
        while await run.status() != "completed":
            await run.wake_up()
        assert await run.result() == "ab"

    with_runtime(journal_path, go_on)


def test_cancel_without_an_owner_ends_a_blocked_run(journal_path: Path, command: Command) -> None:
    """Its code cannot be asked anyway."""
    diverged_run(journal_path)
    code, out, _ = command("cancel", "turn", "--reason", "given up")
    assert (code, out.rpartition("; ")[2]) == (0, "it is cancelled now\n")

    async def look(rt: Runtime) -> None:
        assert (await rt.get_run("turn").events())[-1].value == "given up"

    with_runtime(journal_path, look)


def test_cancel_without_an_owner_ends_a_run_that_has_not_begun(
    journal_path: Path, command: Command
) -> None:
    """A delayed run never starts."""

    async def delayed(rt: Runtime) -> None:
        await rt.start(cli_double.options(run_id="later", delay="1 day"), 1)

    with_runtime(journal_path, delayed)
    assert command("cancel", "later")[0] == 0
    assert json.loads(command("show", "later", "--json")[1])["status"] == "cancelled"


@pytest.mark.parametrize(("name", "done"), [("cancel", "cancelled"), ("wake", "woken")])
def test_a_body_that_has_begun_hears_of_it_when_its_program_runs(
    journal_path: Path, command: Command, name: str, done: str
) -> None:
    """Without a process that has its code the command is kept, and changes nothing yet."""
    with_runtime(journal_path, some_runs)
    before = command("show", "third", "--json")
    code, out, _ = command(name, "third")
    later = "when a program that has its code opens the journal"
    assert (code, out) == (0, f"third: to be {done} {later}; it is running now\n")
    assert command("show", "third", "--json") == before

    async def look(rt: Runtime) -> None:
        run = rt.get_run("third")
        await (await rt.port()).wait_end(run.run_id)
        assert await run.status() == {"cancel": "cancelled", "wake": "completed"}[name]

    with_runtime(journal_path, look)


PENDING_AND_CRASH = """
import asyncio, os, sys
from durable import Runtime, step, workflow

@step
async def hang():
    print("hanging", flush=True)
    await asyncio.sleep(3600)

@workflow(name="crash.hang")
async def hang_body():
    await hang()

@workflow(name="crash.later")
async def later(): ...

async def main():
    async with Runtime("app.db") as rt:
        await rt.start(later.options(run_id="later", delay="1 hour"))
        run = await rt.start(hang_body.options(run_id="hang"))
        print([e.kind + e.name for e in await run.events()], flush=True)
        await run.result()

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_command_neither_runs_nor_blocks_what_it_does_not_know(
    tmp_path: Path, command: Command
) -> None:
    """After a crash a command leaves the interrupted runs as they are, noted as interrupted."""
    program = Program(tmp_path, PENDING_AND_CRASH)
    with spawn(program) as process:
        process.until("hanging")
        process.kill()
    assert command("cancel", "later")[0] == 0
    shown = json.loads(command("show", "hang", "--json")[1])
    assert shown["status"] == "running"
    assert "step_retrying" not in [event["kind"] for event in shown["events"]]
    with spawn(program) as process:
        process.until("hanging")
        process.kill()
    shown = json.loads(command("show", "hang", "--json")[1])
    assert [e["name"] for e in shown["events"] if e["kind"] == "step_retrying"] == ["interrupted"]
