"""Rows that were forged by somebody who can write the file and has no key.

Each row of a history and of a stream is changed in every way; reading it then names it and
gives nothing of it, and nothing is unpickled by name.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from durable import Encryption, Runtime
from durable._base.clock import SystemClock
from durable._base.ids import token_hash
from durable._journal.chunks import StreamKey, read_page
from durable._journal.journal import Journal
from durable._journal.keys import Key
from durable._journal.row_checksums import hook_sum
from durable._journal.seals import is_sealed, key_id_of
from durable._replay.events import EventKind
from durable.errors import (
    HookNotFoundError,
    JournalCorruptError,
    JournalError,
    WorkflowRunBlockedError,
    WorkflowRunFailedError,
)
from tests.security.rig import (
    KEY,
    OTHER_KEY,
    SENTINEL,
    WAIT,
    audit,
    chunks_of,
    evil,
    failing,
    history_of,
    put_chunk,
    put_event,
    put_run,
    rows,
    shop,
    shopped,
    tampered,
    waiting,
)

HIDE = pytest.mark.parametrize("hide", [True, False], ids=["encrypted", "signed"])


async def two_shopped(path: Path, *, hide: bool) -> None:
    """A sealed journal with two runs that did the same."""
    async with Runtime(path, encryption=Encryption(KEY, hide=hide)) as runtime:
        await shopped(runtime, "one")
        await shopped(runtime, "two")


async def opened(path: Path, *keys: bytes, hide: bool = True) -> Journal:
    """The journal, for reading, with its key or these ones."""
    ring = Encryption(*(keys or (KEY,)), hide=hide).ring()
    return await Journal.open(path, clock=SystemClock(), ring=ring, owner=False)


async def shopped_twice(path: Path, *, hide: bool = True) -> tuple[Journal, int]:
    """A journal in which two runs have ended, and the key of the row of run ``one``."""
    await two_shopped(path, hide=hide)
    ((pk,),) = rows(path, "SELECT pk FROM runs WHERE run_id = 'one'")
    return await opened(path, hide=hide), pk


@HIDE
async def test_a_forged_event_is_named_and_nothing_of_it_is_loaded(
    journal_path: Path, tmp_path: Path, hide: bool
) -> None:
    """Every event of a run with all kinds of events, forged in every way."""
    trap = tmp_path / "trap"
    journal, pk = await shopped_twice(journal_path, hide=hide)
    one, two = history_of(journal_path, "one"), history_of(journal_path, "two")
    assert len({event.kind for event in one}) >= 13
    with audit() as heard:
        for event in one:
            for how, forged in tampered(event, two[event.seq % len(two)], trap):
                put_event(journal_path, "one", forged)
                with pytest.raises(JournalCorruptError, match=f"event {event.seq} of run one"):
                    pytest.fail(f"{how}: {await journal.reader.history(pk, 'one')}")
            put_event(journal_path, "one", event)
        assert len(await journal.reader.history(pk, "one")) == len(one)
        unknown = bytearray(one[3].payload or b"")
        unknown[5] ^= 1
        put_event(journal_path, "one", one[3]._replace(payload=bytes(unknown)))
        assert is_sealed((await journal.reader.history(pk, "one"))[3].payload)
    await journal.close()
    assert heard == []


async def test_every_column_of_an_event_is_bound(journal_path: Path) -> None:
    """Another name, time, due time, reference or kind, with the right checksum, is refused."""
    await two_shopped(journal_path, hide=False)
    journal = await opened(journal_path)
    ((pk,),) = rows(journal_path, "SELECT pk FROM runs WHERE run_id = 'one'")
    for event in history_of(journal_path, "one"):
        changes = [{"name": event.name + "x"}, {"at": event.at + 1}, {"ref": event.ref + 1}]
        changes += [{"due": (event.due or 0) + 1}, {"kind": event.kind + 1}]
        for change in changes:
            put_event(journal_path, "one", event._replace(**change))
            with pytest.raises(JournalCorruptError, match=f"event {event.seq} of run one"):
                await journal.reader.history(pk, "one")
        put_event(journal_path, "one", event)
    assert await journal.reader.history(pk, "one")
    await journal.close()


async def test_swapped_events_are_refused(journal_path: Path) -> None:
    """Two events of one run that have changed their places, each with the right number."""
    await two_shopped(journal_path, hide=True)
    journal = await opened(journal_path)
    ((pk,),) = rows(journal_path, "SELECT pk FROM runs WHERE run_id = 'one'")
    one = history_of(journal_path, "one")
    kinds = {event.kind: [e for e in one if e.kind == event.kind] for event in one}
    pairs = [(same[0], same[-1]) for same in kinds.values() if len(same) > 1]
    assert len(pairs) >= 2
    for first, second in pairs:
        put_event(journal_path, "one", first._replace(seq=second.seq))
        put_event(journal_path, "one", second._replace(seq=first.seq))
        with pytest.raises(JournalCorruptError, match=f"event {first.seq} of run one"):
            await journal.reader.history(pk, "one")
        put_event(journal_path, "one", first)
        put_event(journal_path, "one", second)
    assert await journal.reader.history(pk, "one")
    await journal.close()


@HIDE
async def test_a_forged_chunk_is_named_and_nothing_of_it_is_loaded(
    journal_path: Path, tmp_path: Path, hide: bool
) -> None:
    """Values and resets of a stream."""
    trap = tmp_path / "trap"
    journal, pk = await shopped_twice(journal_path, hide=hide)
    key = StreamKey(pk, "one", "")
    one, two = chunks_of(journal_path, "one"), chunks_of(journal_path, "two")
    assert {chunk.kind for chunk in one} == {1, 2}
    with audit() as heard:
        for chunk, other in zip(one, two, strict=True):
            for how, forged in tampered(chunk, other, trap):
                put_chunk(journal_path, "one", forged)
                with pytest.raises(JournalCorruptError, match=f"chunk {chunk.place} of stream"):
                    pytest.fail(f"{how}: {await read_page(journal.reader, key, 0)}")
            for change in ({"step": 77}, {"attempt": 9}, {"kind": 4}):
                put_chunk(journal_path, "one", chunk._replace(**change))
                with pytest.raises(JournalCorruptError, match=f"chunk {chunk.place} of stream"):
                    await read_page(journal.reader, key, 0)
            put_chunk(journal_path, "one", chunk)
        assert (await read_page(journal.reader, key, 0)).found
    await journal.close()
    assert heard == []


# --- what becomes of a run -----------------------------------------------------------------


async def waiting_run(path: Path, *, hide: bool = True) -> None:
    """A sealed journal with a run that waits for a letter, nobody executing it."""
    async with Runtime(path, encryption=Encryption(KEY, hide=hide)) as runtime:
        run = await runtime.start(waiting.options(run_id="one"), f"{SENTINEL}-card")
        while "letters" not in str((await run.status()).waiting_for):
            await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["run_created", "step_created", "step_completed"])
async def test_a_run_with_a_forged_event_is_parked_and_others_go_on(
    journal_path: Path, tmp_path: Path, kind: str
) -> None:
    """Neither its arguments nor results of its steps are loaded; it runs nothing."""
    await waiting_run(journal_path)
    trap = tmp_path / "trap"
    event = next(e for e in history_of(journal_path, "one") if EventKind(e.kind).label == kind)
    put_event(journal_path, "one", event._replace(payload=evil(trap)))
    with audit() as heard:
        async with Runtime(journal_path, encryption=Encryption(KEY)) as runtime:
            run = runtime.get_run("one")
            with pytest.raises(WorkflowRunBlockedError, match="not authentic") as caught:
                await runtime.send(run, "letters", "hello")
            assert caught.value.kind == "corrupt"
            status = await run.status()
            assert (status, "not authentic" in str(status.reason)) == ("blocked", True)
            await shopped(runtime, "another")
    assert [name for name in heard if "mkdir" in name or str(trap) in name] == []
    assert not trap.exists()


async def test_a_forged_result_is_not_loaded_by_who_asks_for_it(
    journal_path: Path, tmp_path: Path
) -> None:
    """Of a run that has ended: its result, and its error."""
    async with Runtime(journal_path, encryption=Encryption(KEY)) as runtime:
        await shopped(runtime, "one")
        run = await runtime.start(failing.options(run_id="two"), "card")
        with pytest.raises(WorkflowRunFailedError):
            await run.result(WAIT)
    trap = tmp_path / "trap"
    for run_id in ("one", "two"):
        last = history_of(journal_path, run_id)[-1]
        put_event(journal_path, run_id, last._replace(payload=evil(trap)))
    with audit() as heard:
        async with Runtime(journal_path, encryption=Encryption(KEY)) as runtime:
            for run_id in ("one", "two"):
                with pytest.raises(JournalCorruptError, match="not authentic"):
                    await runtime.get_run(run_id).result(WAIT)
    assert heard == []


async def test_a_workflow_cannot_be_exchanged_for_another_one(journal_path: Path) -> None:
    """The row of a run is not sealed, so its workflow has to be the one of its history."""
    await waiting_run(journal_path)
    put_run(journal_path, "one", workflow=failing.name)
    async with Runtime(journal_path, encryption=Encryption(KEY)) as runtime:
        with pytest.raises(WorkflowRunBlockedError, match="another workflow"):
            await runtime.send("one", "letters", "hello")


async def test_a_token_that_was_put_into_the_index_opens_no_hook(journal_path: Path) -> None:
    """The index holds hashes that anybody can make; the hook tells which token is its own."""
    async with Runtime(journal_path, encryption=Encryption(KEY)) as runtime:
        run = await runtime.start(shop.options(run_id="one"), "card")
        await runtime.send(run, "letters", "hello")
        while not (hooks := await run.hooks()):
            await asyncio.sleep(0)
        token = hooks[0].token
    ((pk, seq),) = rows(journal_path, "SELECT run, seq FROM hooks")
    forged = token_hash("mine")
    values = forged, pk, seq, hook_sum(forged, pk, seq)
    rows(journal_path, "INSERT INTO hooks VALUES (?, ?, ?, ?)", *values)
    async with Runtime(journal_path, encryption=Encryption(KEY)) as runtime:
        with pytest.raises(HookNotFoundError):
            await runtime.resume_hook("mine", "from outside")
        await runtime.resume_hook(token, "from inside")
        assert (await runtime.get_run("one").result(WAIT)).endswith("hello from inside")


# --- keys that are missing, wrong or old ---------------------------------------------------


@HIDE
async def test_without_its_key_a_run_is_parked_and_goes_on_when_the_key_is_there(
    journal_path: Path, hide: bool
) -> None:
    """No key, then a wrong one, then the right one beside it."""
    await waiting_run(journal_path, hide=hide)
    with audit() as heard:
        async with Runtime(journal_path) as runtime:
            with pytest.raises(JournalError, match="no key is at hand"):
                await runtime.start(waiting, "card")
            with pytest.raises(JournalError, match="no key is at hand"):
                await runtime.send("one", "letters", "hello")
    assert heard == []
    async with Runtime(journal_path, encryption=Encryption(OTHER_KEY, hide=hide)) as runtime:
        run = runtime.get_run("one")
        await runtime.send(run, "letters", "from beyond")
        status = await run.status()
        assert status == "blocked"
        assert Key(KEY).id in str(status.reason)
        assert Key(OTHER_KEY).id not in str(status.reason)
        # It can be used all the same, under its own key.
        await shopped(runtime, "another")
    keys = Encryption(OTHER_KEY, KEY, hide=hide)
    async with Runtime(journal_path, encryption=keys) as runtime:
        while await runtime.get_run("one").status() == "blocked":
            await asyncio.sleep(0)
        assert await runtime.get_run("one").result(WAIT) == f"{SENTINEL}-from beyond"
        assert (await runtime.get_run("another").result(WAIT)).startswith(SENTINEL)


async def test_a_run_that_cannot_be_cancelled_without_its_key_is_not_called_damaged(
    journal_path: Path,
) -> None:
    """It waits for its key, and goes on by itself when that is there."""
    await waiting_run(journal_path)
    for _ in range(2):
        async with Runtime(journal_path) as runtime:
            with pytest.raises(JournalError, match="no key is at hand"):
                await runtime.get_run("one").cancel()
            with pytest.raises(WorkflowRunBlockedError, match=r"blocked \(sealed\)"):
                await runtime.get_run("one").result(WAIT)
    async with Runtime(journal_path, encryption=Encryption(KEY)) as runtime:
        await runtime.send("one", "letters", "from beyond")
        assert await runtime.get_run("one").result(WAIT) == f"{SENTINEL}-from beyond"


async def test_what_is_written_after_a_rotation_has_the_newest_key(journal_path: Path) -> None:
    """Old rows are readable as long as their key is given, and new ones need only the new."""
    await waiting_run(journal_path)
    async with Runtime(journal_path, encryption=Encryption(OTHER_KEY, KEY)) as runtime:
        await runtime.send("one", "letters", "hello")
        assert await runtime.get_run("one").result(WAIT) == f"{SENTINEL}-hello"
        await shopped(runtime, "two")
    used = [key_id_of(event.payload or b"") for event in history_of(journal_path, "one")]
    assert sorted(set(used), key=used.index) == [Key(KEY).id, Key(OTHER_KEY).id]
    async with Runtime(journal_path, encryption=Encryption(OTHER_KEY)) as runtime:
        assert (await runtime.get_run("two").result(WAIT)).startswith(SENTINEL)
        assert await runtime.get_run("one").result(WAIT) == f"{SENTINEL}-hello"  # its last event


async def test_a_sealed_journal_takes_nothing_plain_and_a_plain_one_no_keys(
    journal_path: Path, tmp_path: Path
) -> None:
    """Neither is the one turned into the other by opening it."""
    async with Runtime(journal_path) as runtime:
        await shopped(runtime, "one")
    with pytest.raises(JournalError, match="durable rekey --from-plain"):
        await Runtime(journal_path, encryption=Encryption(KEY)).open()
    await waiting_run(tmp_path / "sealed.db")
    rows(tmp_path / "sealed.db", "DELETE FROM meta WHERE key LIKE 'seal%'")
    with pytest.raises(JournalError, match="durable rekey --from-plain"):
        await Runtime(tmp_path / "sealed.db", encryption=Encryption(KEY)).open()


async def test_a_copy_of_a_whole_run_in_another_journal_is_refused(
    journal_path: Path, tmp_path: Path
) -> None:
    """The same key, the same run id: but each journal has seals of its own."""
    other = tmp_path / "other.db"
    await two_shopped(journal_path, hide=True)
    await two_shopped(other, hide=True)
    for event in history_of(other, "one"):
        put_event(journal_path, "one", event)
    journal = await opened(journal_path)
    with pytest.raises(JournalCorruptError, match="event 1 of run one"):
        await journal.reader.history(1, "one")
    await journal.close()
