"""A second process on a journal works through its owner, and can do everything."""

from __future__ import annotations

import asyncio
import os
import pickle
from pathlib import Path

import pytest

from durable import Runtime, get_run, start, start_many, workflow
from durable._authoring.workflow import StartOptions
from durable._engine.ports import RunSpec
from durable._engine.remote import RemoteEngine
from durable._journal.frames import FRAME_BYTES_MAX
from durable.errors import (
    JournalLockedError,
    RunConflictError,
    RunExistsError,
    WorkflowRunBlockedError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    WorkflowRunNotFoundError,
)
from tests.ownership import flows
from tests.ownership.flows import Here, doomed, fickle, held, napping, sleeps, total
from tests.ownership.peers import PeerError, Peers, until


@pytest.mark.both_loops
async def test_client_starts_runs_that_the_owner_executes(peers: Peers, journal_path: Path) -> None:
    """The client names the owner's process as the one that ran the step."""
    owner = await peers.start()
    async with Runtime(journal_path) as client:
        assert not client.is_owner
        run = await start(held, "a")
        assert await owner.happens("began") == "a"
        waiting = asyncio.create_task(run.result())
        assert await run.status() == "running"
        assert (await run.status()).waiting_for == ("step tests.ownership.flows.hold (attempt 1)",)
        owner.tell("here.gates['a'].set()")
        assert await waiting == owner.pid
        assert await run.status() == "completed"
        assert [event.kind for event in await run.events()] == [
            "run_created", "run_started", "step_created", "step_completed", "run_completed",
        ]  # fmt: skip
        assert await run.workflow_name() == "tests.ownership.flows.held"
        assert await run.created_at() <= await run.started_at() <= await run.completed_at()
    assert await owner.leave() == 0


async def test_client_starts_idempotently_under_an_id_of_its_own(
    peers: Peers, journal_path: Path
) -> None:
    """Conflicts are those of the owner's, with their own errors; options cross whole."""
    await peers.start()
    async with Runtime(journal_path):
        named = total.options(run_id="mine", attributes={"who": "me"}, retention="1 day")
        run = await start(named, 1, 2)
        assert await start(named, 1, 2) == run
        assert await run == 3
        assert await run.attributes() == {"who": "me"}
        assert await start(named, 1, 2) == run
        with pytest.raises(RunConflictError, match="other arguments"):
            await start(named, 1, 3)
        with pytest.raises(RunExistsError, match="mine"):
            await start(named.options(on_conflict="raise"), 1, 2)
        with pytest.raises(RunConflictError, match=r"not .*napping"):
            await start(napping.options(run_id="mine"), 1.0)


async def test_both_processes_see_the_runs_of_each_other(peers: Peers, journal_path: Path) -> None:
    """There is one journal, whoever asked for a run."""
    owner = await peers.start()
    async with Runtime(journal_path):
        run = await start(total, 1, 2)
        assert await owner.ask(f"run({run.run_id!r}).result()") == 3
        theirs = await owner.ask("(await rt.start(total, 3, 4)).run_id")
        assert await get_run(theirs).result() == 7


async def test_batch_is_started_through_the_owner(peers: Peers, journal_path: Path) -> None:
    """All of it, in order, though it takes more than one message."""
    await peers.start()
    async with Runtime(journal_path):
        runs = await start_many(total, [(n, 1) for n in range(1500)])
        assert len(set(runs)) == 1500
        assert await runs[-1] == 1500


async def test_batch_of_any_size_is_sent_in_messages_of_a_bounded_one() -> None:
    """A message between processes has a limit, a batch has none."""
    sizes: list[int] = []

    class Connection:
        async def call(self, method: str, specs: list[dict[str, bytes]]) -> dict[str, object]:
            sizes.append(sum(len(spec["payload"]) for spec in specs))
            return {"existing": [None] * len(specs)}

    payload = b"x" * 1_500_000
    specs = [RunSpec(str(n), "large", payload, StartOptions()) for n in range(50)]
    created = await RemoteEngine(Connection()).create(specs)
    assert [one.run_id for one in created] == [str(n) for n in range(50)]
    assert sum(sizes) == 50 * len(payload)
    assert max(sizes) < FRAME_BYTES_MAX / 8


async def test_hundred_results_are_awaited_over_one_connection(
    peers: Peers, journal_path: Path
) -> None:
    """Each wait is a request; none needs a connection or a descriptor of its own."""
    await peers.start()
    async with Runtime(journal_path):
        before = len(os.listdir("/proc/self/fd"))
        runs = await start_many(total, [(n, 1) for n in range(100)])
        waiting = [asyncio.create_task(run.result()) for run in runs]
        await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before
        assert await asyncio.gather(*waiting) == list(range(1, 101))


# --- ends ---------------------------------------------------------------------------


async def test_failed_run_raises_in_the_client_with_the_original_cause(
    peers: Peers, journal_path: Path
) -> None:
    """Type, arguments and the owner's traceback arrive."""
    await peers.start()
    async with Runtime(journal_path):
        run = await start(doomed, "nothing")
        with pytest.raises(WorkflowRunFailedError) as caught:
            await run.result()
        cause = caught.value.__cause__
        assert type(cause) is LookupError
        assert cause.args == ("nothing",)
        assert "in look_up" in caught.value.traceback_text
        assert await run.status() == "failed"


async def test_client_cancels_a_run(peers: Peers, journal_path: Path) -> None:
    """Its reason reaches whoever waits, in both processes."""
    owner = await peers.start()
    async with Runtime(journal_path):
        run = await start(held, "a")
        await owner.happens("began")
        theirs = owner.tell(f"run({run.run_id!r}).result()")
        await run.cancel("enough")
        with pytest.raises(WorkflowRunCancelledError, match="enough") as caught:
            await run.result()
        assert caught.value.reason == "enough"
        with pytest.raises(PeerError, match=r"WorkflowRunCancelledError: .* enough"):
            await theirs
        await run.cancel()  # of a finished run: no effect


async def test_client_wakes_sleepers(peers: Peers, journal_path: Path) -> None:
    """The count of ended sleeps comes back."""
    await peers.start()
    async with Runtime(journal_path):
        run = await start(napping, 86400.0)
        await until(lambda: sleeps(run))
        (wait,) = [event.seq for event in await run.events() if event.kind == "wait_created"]
        assert await run.wake_up([wait + 1]) == 0
        assert await run.wake_up([wait]) == 1
        assert await run == "slept"
        assert await run.wake_up() == 0


async def test_unknown_run_is_not_found_through_the_owner(peers: Peers, journal_path: Path) -> None:
    """Whatever it is asked, the error is the one that the owner would raise."""
    await peers.start()
    async with Runtime(journal_path) as client:
        run = client.get_run("nobody")
        assert not await run.exists()
        for asked in (run.result, run.status, run.events, run.cancel, run.wake_up, run.resume):
            with pytest.raises(WorkflowRunNotFoundError, match="nobody"):
                await asked()


async def test_giving_up_on_a_result_leaves_run_and_connection_alone(
    peers: Peers, journal_path: Path
) -> None:
    """A timeout or a cancellation ends one wait, not those of others."""
    owner = await peers.start()
    async with Runtime(journal_path):
        run = await start(held, "a")
        await owner.happens("began")
        staying, leaving = (asyncio.create_task(run.result()) for _ in range(2))
        with pytest.raises(TimeoutError):
            await run.result(timeout=0.01)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert leaving.cancelled()
        assert not staying.done()
        await owner.ask("here.gates['a'].set()")
        assert await staying == owner.pid


async def test_closing_a_client_ends_nothing_but_its_own_waits(
    peers: Peers, journal_path: Path
) -> None:
    """The run goes on at the owner, and other clients hear of its end."""
    owner, other = await peers.start(), await peers.start()
    async with Runtime(journal_path) as client:
        run = await client.start(held, "a")
        await owner.happens("began")
        theirs = other.tell(f"run({run.run_id!r}).result()")
        assert await other.ask("not rt.is_owner")
    assert await owner.ask("not here.gates['a'].set()")
    assert await theirs == owner.pid


# --- blocked ------------------------------------------------------------------------


async def test_code_that_only_the_client_has_blocks_the_run_until_it_takes_over(
    peers: Peers, journal_path: Path
) -> None:
    """The owner says what is missing; with the client as owner the run goes on by itself."""

    @workflow(name="only.here")
    async def only_here_body() -> int:
        return os.getpid()

    owner = await peers.start()
    async with Runtime(journal_path) as client:
        run = await start(only_here_body)
        with pytest.raises(WorkflowRunBlockedError, match=r"'only\.here' is registered") as caught:
            await run.result()
        assert caught.value.kind == "missing_code"
        assert await run.status() == "blocked"
        await run.resume()
        with pytest.raises(WorkflowRunBlockedError):
            await run.result()
        assert await owner.leave() == 0
        await until(lambda: client.is_owner)
        while await run.status() == "blocked":
            await asyncio.sleep(0)
        assert await run == os.getpid()
        assert client.is_owner


async def test_client_resumes_a_run_once_the_owner_has_the_right_code(
    peers: Peers, journal_path: Path
) -> None:
    """A diverged run is parked by the owner, and goes on at the client's word."""
    first = await peers.start()
    run_id = await first.ask("(await rt.start(fickle, 'a')).run_id")
    await first.happens("began")
    await first.kill()
    second = await peers.start(prelude="here.recipe = ['other', 'two']")
    async with Runtime(journal_path):
        run = get_run(run_id)
        with pytest.raises(WorkflowRunBlockedError) as caught:
            await run.result()
        assert caught.value.kind == "divergence"
        await second.ask("setattr(here, 'recipe', ['one', 'two'])")
        await run.resume()
        await second.happens("began")
        await second.ask("here.gates['a'].set()")
        assert await run == "one-two"
    assert fickle.name == "tests.ownership.flows.fickle"


async def test_resuming_is_done_to_its_end_though_who_asked_gives_up(
    journal_path: Path, here: Here
) -> None:
    """As a client does that leaves: the run goes on, or it is still blocked."""
    began = asyncio.Event()
    here.announce = lambda tag: began.set()
    async with Runtime(journal_path, drain_seconds=0):
        run_id = (await start(fickle, "a")).run_id
        await began.wait()
    here.recipe = ["other", "two"]
    async with Runtime(journal_path) as runtime:
        run = runtime.get_run(run_id)
        with pytest.raises(WorkflowRunBlockedError):
            await run.result()
        here.recipe = ["one", "two"]
        here.gates["a"].set()
        for turns in range(1, 100):
            asked = asyncio.create_task(run.resume())
            for _ in range(turns):
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
            if await run.status() != "blocked":
                break
        assert await run.result(timeout=10) == "one-two"


# --- refusals and hand-overs --------------------------------------------------------


async def test_runtime_that_may_not_be_a_client_names_the_owner(
    peers: Peers, journal_path: Path
) -> None:
    """The error tells the pid and the command, and what else can be done."""
    owner = await peers.start()
    with pytest.raises(JournalLockedError, match=r"process \d+ .*peer_program.*client=True") as e:
        async with Runtime(journal_path, client=False):
            pass
    assert e.value.pid == owner.pid
    await owner.leave()
    async with Runtime(journal_path, client=False) as runtime:
        assert runtime.is_owner


@pytest.mark.parametrize("client", [True, False])
async def test_second_runtime_of_one_process_on_a_journal_is_refused(
    client: bool, journal_path: Path
) -> None:
    """It would wait for itself; the error says that this process has it."""
    async with Runtime(journal_path) as first:
        with pytest.raises(JournalLockedError, match="open already in this process") as caught:
            async with Runtime(journal_path, client=client):
                pass
        assert caught.value.pid == os.getpid()
        assert await (await first.start(total, 1, 2)) == 3


async def test_pickled_run_works_in_another_process(peers: Peers, journal_path: Path) -> None:
    """A handle is its id; where it is loaded, the runtime of that place answers."""
    owner = await peers.start(prelude="import pickle")
    async with Runtime(journal_path):
        run = await start(total, 1, 2)
        theirs = f"pickle.loads({pickle.dumps(run)!r})"
        assert await owner.ask(f"{theirs}.result()") == 3
        back = await owner.ask(f"pickle.dumps({theirs}).hex()")
        assert pickle.loads(bytes.fromhex(back)) == run
        assert await pickle.loads(bytes.fromhex(back)).status() == "completed"
    assert flows.here.ledger is None
