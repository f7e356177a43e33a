"""Repairing a journal: what is sound goes on, what is not is set aside, nothing is dropped unsaid.

Owns the order of a repair. In a folder beside the journal, ``<journal>.repaired-<time>``:

    before.db, -wal     the damaged files as they were; nothing is begun before these are synced
    quarantine.jsonl    every row that could be read of the runs that are not whole
    report.txt          what was done, run by run

Then a new database is written from what could be read, verified whole, and put in the
journal's place (`swapping`). Until that moment the journal itself is not touched; a crash
before it leaves the folder and the journal as it was. The caller holds the owner lock.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from sqlite3 import Connection

from durable._base.ids import token_hash
from durable._base.words import counted
from durable._journal.care.looking import forget_looking, looking_at
from durable._journal.care.mending import Mended, mend
from durable._journal.care.salvage import Wreck, salvage
from durable._journal.care.straightening import is_read_only, readable
from durable._journal.care.verifying import QUERIES as EXAMINING
from durable._journal.care.verifying import verify_journal
from durable._journal.codec import Codec
from durable._journal.database import transact
from durable._journal.faults import translate
from durable._journal.files import (
    JournalFiles,
    sync_and_close,
    sync_directory,
    write_whole,
)
from durable._journal.high_water import Loss, lost_event
from durable._journal.migrations import LATEST, MIGRATIONS, migrate, others_tables, version_of
from durable._journal.records import FINISHED
from durable._journal.row_checksums import (
    hook_sum,
    meta_sum,
    request_sum,
    sound_meta,
    sums_of,
)
from durable._journal.sql import QUERIES
from durable._journal.swapping import exchange
from durable._replay.events import Event, EventKind
from durable._replay.rewound import effective, open_hooks
from durable.errors import JournalCorruptError, JournalError

Stage = Callable[[str], None]


@dataclass(slots=True)
class Repair:
    """What a repair has done, or would do.

    Attributes:
        path: the journal.
        runs: what became of each run.
        lines: of the report.
        folder: where the damaged files and what was not kept lie; None for a dry run.
    """

    path: str
    runs: list[Mended]
    lines: list[str] = field(default_factory=list)
    folder: str | None = None

    def counts(self) -> Counter[str]:
        """Return how many runs were kept, mended, set aside and lost."""
        return Counter(run.fate for run in self.runs)


def needs_repair(files: JournalFiles) -> bool:
    """Tell whether anything is wrong with a journal; there is nothing in one without tables.

    The caller holds the owner lock, and nothing has it open.
    """
    try:
        with looking_at(files) as conn:
            if version_of(conn, files.path, LATEST) == 0:
                return False
            if _loss(conn, files.path) is not None:
                return True
        return is_read_only(files) or bool(verify_journal(files).findings)
    except (JournalCorruptError, sqlite3.Error):
        return True


def lost_tail(files: JournalFiles) -> str | None:
    """Return what the journal is known to have held, if it has lost its end, in words.

    What one run alone has lost is a matter of the repair.
    """
    with suppress(sqlite3.Error, JournalCorruptError), looking_at(files) as conn:
        lost = _loss(conn, files.path)
        return None if lost is None or lost.key is not None else lost.what
    return None


def _loss(conn: sqlite3.Connection, path: str) -> Loss | None:
    if version_of(conn, path, LATEST) == 0:
        return lost_event(conn, path, {})
    return lost_event(conn, path, sound_meta(conn.execute(EXAMINING["meta"]))[0])


def plan_repair(files: JournalFiles) -> Repair:
    """Return what a repair would do, changing nothing.

    Raises:
        JournalCorruptError: nothing of it can be read.
    """
    return _decided(files.path, _wreck(files, files.path))


def _wreck(looked_at: JournalFiles, path: str, folder: str | None = None) -> Wreck:
    """Read what is left of the journal at `path`, or of its copy."""
    try:
        with readable(looked_at, folder) as conn:
            wreck = _read(conn, path)
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    if wreck.unreadable and not wreck.runs():
        raise _unreadable(path, next(iter(wreck.unreadable.values())))
    return wreck


def _unreadable(path: str, how: object) -> JournalCorruptError:
    what = (
        f"nothing of {path} can be read ({how}), so nothing can be saved, and nothing was changed"
    )
    return JournalCorruptError(f"{what}: restore it from a backup")


def _read(conn: Connection, path: str) -> Wreck:
    wreck = salvage(conn)
    wreck.foreign = others_tables(conn)
    with suppress(sqlite3.Error, JournalCorruptError):
        loss = _loss(conn, path)
        if loss is not None and loss.key is not None:
            wreck.short[loss.key] = f"{loss.what} was there and is not"
    return wreck


def repair_journal(files: JournalFiles, stamp: str, stage: Stage = lambda _: None) -> Repair:
    """Repair a journal; see the module's docstring.

    Args:
        files: the journal's; the caller holds the owner lock, and nothing has it open.
        stamp: names the folder, such as "20240101T000000Z".
        stage: called before each step with its name; tests crash there.

    Raises:
        JournalCorruptError: nothing of it can be read, and nothing was changed.
        JournalError, OSError: nothing was changed, and the folder is gone.
    """
    folder = f"{files.path}.repaired-{stamp}"
    stage("copy")
    os.mkdir(folder, 0o700)
    try:
        repair, draft = _prepared(files, folder, stage)
    except (JournalError, OSError, sqlite3.Error) as error:
        shutil.rmtree(folder, ignore_errors=True)  # copies of what is still there
        if isinstance(error, sqlite3.Error):
            raise translate(error, files.path, "repairing") from error
        raise
    stage("exchange")
    exchange(files, draft)
    stage("done")
    return repair


def _prepared(files: JournalFiles, folder: str, stage: Stage) -> tuple[Repair, str]:
    """Fill the folder; return what was done, and the path of the new database."""
    before = os.path.join(folder, "before.db")
    _copy(files, before)
    stage("read")
    wreck = _wreck(JournalFiles(before), files.path, folder)
    forget_looking(before)
    repair = _decided(files.path, wreck)
    repair.folder = folder
    stage("build")
    draft = os.path.join(folder, "after.db")
    repair.lines += _build(draft, wreck, repair.runs)
    _check(draft)
    stage("report")
    _write_quarantine(os.path.join(folder, "quarantine.jsonl"), wreck, repair.runs)
    text = "\n".join(repair.lines) + "\n"
    write_whole(os.path.join(folder, "report.txt"), text.encode("utf-8", "replace"), overwrite=True)
    sync_and_close(os.open(draft, os.O_RDWR | os.O_CLOEXEC))
    sync_directory(draft)
    sync_directory(folder)
    return repair, draft


def _copy(files: JournalFiles, before: str) -> None:
    for end in ("", "-wal"):
        if os.path.exists(files.path + end):
            target = os.open(
                before + end, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600
            )
            with open(files.path + end, "rb") as source, os.fdopen(target, "wb") as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
    sync_directory(before)


# --- deciding ------------------------------------------------------------------------------------


def _decided(path: str, wreck: Wreck) -> Repair:
    trash = {row[0] for row in wreck.others["trash"]} - wreck.rows.keys()
    runs = [mend(wreck, key) for key in wreck.runs() if key not in trash]
    repair = Repair(path, _without_twins(runs))
    counts = repair.counts()
    summary = (
        f"{path}: {counted(counts['kept'], 'run')} kept, {counts['mended']} mended, "
        f"{counts['set aside']} set aside, {counts['lost']} lost"
    )
    repair.lines = [
        summary,
        *(
            f"table {table} could not be read whole: {how}"
            for table, how in wreck.unreadable.items()
        ),
        *(
            f"table {name} is no part of a journal, and is not kept: copy it from before.db"
            for name in wreck.foreign
        ),
        *map(_line, (run for run in repair.runs if run.fate != "kept")),
    ]
    return repair


def _without_twins(runs: list[Mended]) -> list[Mended]:
    """Set aside the worse of two runs with one id: a damaged index may have let both in."""
    order = ("kept", "mended", "set aside", "lost")
    best: dict[str, Mended] = {}
    for run in runs:
        other = best.get(run.run_id or "")
        if run.row is None or run.run_id is None:
            continue
        if other is None:
            best[run.run_id] = run
            continue
        keep, drop = sorted((other, run), key=lambda each: (order.index(each.fate), each.key))
        best[run.run_id] = keep
        drop.why.append(f"there is another run with its id, of the key {keep.key}")
        drop.left_out += len(drop.events) + len(drop.chunks)
        drop.fate, drop.row, drop.events, drop.chunks = "lost", None, [], []
    return runs


def _line(run: Mended) -> str:
    kept = f"{counted(len(run.events), 'event')} and {counted(len(run.chunks), 'chunk')} kept"
    kept += f", {counted(run.left_out, 'row')} not"
    return f"{run.fate}: {_whose(run, run.key)}: {'; '.join(run.why)} ({kept})"


# --- the new database ----------------------------------------------------------------------------


def _build(draft: str, wreck: Wreck, runs: list[Mended]) -> list[str]:
    """Write the new database; return what of the small tables is not in it, or was remade."""
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    with closing(sqlite3.connect(draft, isolation_level=None)) as conn:
        conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
        conn.execute("PRAGMA journal_mode = OFF")
        conn.execute("PRAGMA synchronous = OFF")
        migrate(conn, draft, 0, MIGRATIONS)
        return transact(conn, lambda: _fill(conn, wreck, runs))


def _fill(conn: sqlite3.Connection, wreck: Wreck, runs: list[Mended]) -> list[str]:
    kept = {run.key: run for run in runs if run.row is not None}
    for run in kept.values():
        assert run.row is not None
        conn.execute(QUERIES["insert_run"], (*run.row, *sums_of(run.row)))
        conn.execute(QUERIES["index_attributes"], (run.key,))
        conn.executemany(QUERIES["restore_event"], [(run.key, *each) for each in run.events])
        conn.executemany(QUERIES["restore_chunk"], [(run.key, *each) for each in run.chunks])
    every = {run.key: run for run in runs}
    told = _fill_hooks(conn, wreck, every)
    for row in wreck.others["requests"]:
        at = kept.get(row[0])
        if at is not None and at.fate in {"kept", "mended"} and request_sum(*row[:4]) == row[4]:
            conn.execute(QUERIES["add_request"], row)
        else:
            whose = _whose(every.get(row[0]), row[0])
            told.append(f"a request to {row[1]} {whose} is not kept: repeat the command")
    return told + _fill_meta(conn, wreck)


def _fill_meta(conn: sqlite3.Connection, wreck: Wreck) -> list[str]:
    found, damaged = sound_meta(wreck.others["meta"])
    told = [f"row {key} of meta was damaged, and is made anew" for key in damaged]
    meta = {"journal_id": secrets.token_hex(16), "created_at": 0, **found}
    meta.setdefault("clean", 0)
    rows = [(key, value, meta_sum(key, value)) for key, value in meta.items()]
    conn.executemany(QUERIES["set_meta"], rows)
    return told


def _fill_hooks(conn: sqlite3.Connection, wreck: Wreck, runs: dict[int, Mended]) -> list[str]:
    """Enter who holds which token: as it stands, else as the histories tell."""
    dropped: list[tuple[bytes, int, int]] = []
    for hashed, key, seq, crc in wreck.others["hooks"]:
        run = runs.get(key)
        sound = isinstance(hashed, bytes) and hook_sum(hashed, key, seq) == crc
        if sound and run is not None and run.row is not None and _is_hook(run, seq):
            conn.execute(QUERIES["claim_hook"], (hashed, key, seq, crc))
        else:
            dropped.append((hashed, key, seq))
    told: list[str] = []
    again: set[object] = set()  # what a row that was dropped may be known by
    for run in runs.values():
        if run.row is None or run.row.status in FINISHED:
            continue
        for hook in open_hooks(effective([Event._make(each[:7]) for each in run.events]).events):
            if not (token := _token(hook)):
                told.append(f"run {run.run_id}: the token of event {hook.seq} cannot be read")
                continue
            hashed = token_hash(token)
            values = (hashed, run.key, hook.seq, hook_sum(hashed, run.key, hook.seq))
            if conn.execute(QUERIES["claim_hook"], values).rowcount > 0:
                again |= {hashed, (run.key, hook.seq)}
                told.append(f"run {run.run_id} holds the token of event {hook.seq} again, whose "
                            "row was missing or damaged: nothing is to be done")  # fmt: skip
    lost = [row for row in dropped if not again & {row[0], row[1:]}]
    return told + [_without_token(runs.get(key), key) for _, key, _ in lost]


def _without_token(run: Mended | None, key: int) -> str:
    """Tell what to do about a row that gives a run a token, and is not kept."""
    whose = _whose(run, key)
    if run is None or run.row is None:
        return f"a token held by {whose}, which is lost, is free: start it anew if you need it"
    if run.row.status in FINISHED:
        return f"a token held by {whose}, which has ended, is free: nothing is to be done"
    return (
        f"a token held by {whose} is free until the run goes on, or is resumed, and asks for it "
        "again: send again then what is refused meanwhile"
    )


def _whose(run: Mended | None, key: int) -> str:
    """Return a run by its id if that is known, else by its key."""
    return f"run {run.run_id}" if run is not None and run.run_id else f"the run of key {key}"


def _is_hook(run: Mended, seq: int) -> bool:
    if seq == 0:
        return True  # kept for a run that has yet to create the hook
    return 0 < seq <= len(run.events) and run.events[seq - 1][1] == EventKind.HOOK_CREATED


def _token(hook: Event) -> str:
    """Return the token of a hook, without loading anything."""
    if hook.name:
        return hook.name
    shown = Codec().preview(hook.payload or b"")
    return str(shown.get("token", "")) if isinstance(shown, dict) else ""


def _check(draft: str) -> None:
    found = verify_journal(JournalFiles(draft))
    forget_looking(draft)
    if found.findings:
        raise JournalError(
            f"the mended journal {draft} would not be sound ({found.findings[0].what}): nothing "
            "was changed; please report it"
        )


# --- what is not kept ----------------------------------------------------------------------------


def _write_quarantine(path: str, wreck: Wreck, runs: Iterable[Mended]) -> None:
    lines = [
        {
            "key": run.key, "run_id": run.run_id, "fate": run.fate, "why": run.why,
            "row": wreck.rows.get(run.key), "events": wreck.events.get(run.key, []),
            "chunks": wreck.chunks.get(run.key, []), "kept_events": len(run.events),
        }
        for run in runs
        if run.fate != "kept"
    ]  # fmt: skip
    lines += [{"table": table, "rows": rows} for table, rows in wreck.others.items()]
    text = "".join(json.dumps(line, default=_bytes) + "\n" for line in lines)
    write_whole(path, text.encode(), overwrite=True)


def _bytes(value: object) -> object:
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode("ascii")}
    return repr(value)
