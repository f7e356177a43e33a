"""How far the journal had come: a mark outside of SQLite, so that a lost tail is noticed.

A -wal whose bits rot, or that is cut off, loses everything behind the place, and SQLite
says nothing; an older copy put in the journal's place says nothing either. Runs would then
do again what they had done. So the file ``<journal>.mark`` names the newest event that is
recorded: its run, its number, its checksum. An opening that does not find this event in
the journal refuses it.

The mark is written through a memory map, *after* COMMIT has returned: it costs no system
call, and it is never ahead of the disk at durability "full". It may lag behind, then it
proves less; it may be missing or torn, then it proves nothing. At durability "process" a
power cut may undo the last seconds, so a mark of another boot of the machine is not held
against the journal. Before runs are deleted the mark is taken back, and that is flushed.

A journal that is closed in order notes the same event in itself. If that is there, and the
event is not, then nothing is old and no end was cut off: somebody has removed the last
events of one run, and it alone is set aside.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple
from zlib import crc32

from durable._journal.attributes import Blocked, decode_blocked, encode_blocked
from durable._journal.checksum import checksum_of_run, matches
from durable._journal.files import sync_directory
from durable._journal.records import BLOCKED, FINISHED, RunRow, RunState
from durable._journal.row_checksums import soundness, state_sum
from durable._journal.running import boot_id
from durable._journal.sql import QUERIES
from durable.errors import JournalRolledBackError

_MAGIC = b"durable mark 1\0\0"
_ID_BYTES, _BOOT_BYTES = 32, 36
_HEAD = struct.Struct(f"<{len(_MAGIC)}s{_ID_BYTES}s{_BOOT_BYTES}s?")
_AT, _SIZE = 96, 128
_EVENT = struct.Struct("<qqq")
_CHECK = struct.Struct("<I")
_NONE = bytes(_EVENT.size + _CHECK.size)

NEWEST = "newest_event"  # the row of meta in which a journal that was closed notes it
MISSING = (
    "was there and is not, and perhaps others before it: the disk or another program has removed "
    "them. Restore a backup; or resume it, and it does again what was recorded there; or cancel it"
)


class Mark(NamedTuple):
    """The newest event that a journal is known to have held: key of its run, number, CRC."""

    pk: int
    seq: int
    crc: int

    def __str__(self) -> str:
        return f"{self.pk}:{self.seq}:{self.crc}"


class Loss(NamedTuple):
    """What a journal has held and does not hold any more.

    `key` is that of the run which has lost its last events, if nothing else is missing.
    """

    what: str
    key: int | None = None


class _Kept(NamedTuple):
    """What the file holds: the mark, whether it is of this boot, and of durability "full"."""

    mark: Mark
    same_boot: bool
    is_full: bool


def _counts(kept: _Kept) -> bool:
    """Tell whether the event must be there: a power cut may take the last seconds, as agreed."""
    return kept.is_full or kept.same_boot


class HighWater:
    """See the module's docstring. Nothing about it ever keeps a journal from working."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._map: mmap.mmap | None = None
        self._salt = 0

    def open(self, journal_id: str, durability: str) -> None:
        """Begin to keep the mark; what was there stays until the next event."""
        with suppress(OSError, ValueError):
            kept = _read(self._path, journal_id)
            self._map = self._opened(journal_id, durability)
            self._salt = _salt(journal_id.encode())
            if kept is not None and _counts(kept):
                self.note(*kept.mark)

    def _opened(self, journal_id: str, durability: str) -> mmap.mmap:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            head = _HEAD.pack(_MAGIC, journal_id.encode(), boot_id(), durability == "full")
            # Written out, not left as a hole: a hole that the disk cannot fill would kill us.
            os.pwrite(descriptor, head.ljust(_SIZE, b"\0"), 0)
            os.ftruncate(descriptor, _SIZE)
            return mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    def note(self, pk: int, seq: int, crc: int) -> None:
        """Note that an event is recorded."""
        place = self._map
        if place is not None:
            event = _EVENT.pack(pk, seq, crc)
            try:
                place[_AT : _AT + len(_NONE)] = event + _CHECK.pack(crc32(event, self._salt))
            except ValueError:  # let go of meanwhile: the process is going down
                self._map = None

    def newest(self) -> str | None:
        """Return the event that was noted last, for the journal itself; None if none is known."""
        place = self._map
        if place is None:
            return None
        found = _mark_in(place[:], self._salt)
        return None if found is None else str(found)

    def take_back(self) -> None:
        """Forget the event, durably: it may be deleted from now on."""
        place = self._map
        if place is not None:
            place[_AT : _AT + len(_NONE)] = _NONE
            place.flush()

    def close(self) -> None:
        """Let go of the file, which stays."""
        place, self._map = self._map, None
        if place is not None:
            place.close()


def forget_mark(path: str) -> None:
    """Delete the mark of the journal at `path`: what is there now owes it nothing."""
    with suppress(OSError):
        os.unlink(f"{path}.mark")
        sync_directory(path)  # it must not come back with a power cut


def check_mark(conn: sqlite3.Connection, path: str, meta: Mapping[str, object]) -> Loss | None:
    """Raise unless the event that the mark names is in the journal, or only its run lost it.

    Args:
        conn: reads the journal.
        path: the journal's.
        meta: what it notes about itself; nothing for one that does not tell, such as a file
            whose -wal was lost whole.

    Returns:
        The run that is to be set aside, None for none.

    Raises:
        JournalRolledBackError: the journal has lost its end.
    """
    lost = lost_event(conn, path, meta)
    if lost is not None and lost.key is None:
        raise JournalRolledBackError(
            f"the journal {path} has held {lost.what} and does not hold it any more: its end was "
            "lost (with a damaged -wal), or an older copy was put in its place. Runs would do "
            "again what they have done. Put the right files back; or accept the loss: "
            "`durable repair --accept-loss`"
        )
    return lost


def lost_event(conn: sqlite3.Connection, path: str, meta: Mapping[str, object]) -> Loss | None:
    """Return which event is missing that the mark names; see `check_mark`."""
    journal_id = meta.get("journal_id")
    found = _read(f"{path}.mark", None if journal_id is None else str(journal_id))
    if found is None or not _counts(found):
        return None
    mark = found.mark
    if journal_id is None:
        return Loss(f"event {mark.seq} of a run (key {mark.pk})")
    row = conn.execute(QUERIES["history"], (mark.pk, mark.seq - 1, 1)).fetchone()
    run = conn.execute(QUERIES["run_by_pk"], (mark.pk,)).fetchone()
    whose = f"run {run[1]}" if run is not None else f"a run (key {mark.pk})"
    if row is None or row[0] != mark.seq:
        alone = run is not None and meta.get(NEWEST) == str(mark)
        return Loss(f"event {mark.seq} of {whose}", mark.pk if alone else None)
    if row[-1] != mark.crc and run is not None and matches(checksum_of_run(run[1]), row):
        return Loss(f"another event {mark.seq} of {whose}")  # the run has gone on differently
    return None


def set_aside(conn: sqlite3.Connection, loss: Loss) -> None:
    """Park the run that has lost its end, within a transaction; leave one that has ended.

    One whose row is damaged cannot go on anyway.
    """
    stored = conn.execute(QUERIES["run_by_pk"], (loss.key,)).fetchone()
    if stored is None or not all(soundness(stored)):
        return
    row = RunRow._make(stored[: len(RunRow._fields)])
    if row.status in FINISHED:
        return
    last = conn.execute(QUERIES["last_event"], (row.pk,)).fetchone()
    seen = decode_blocked(row.blocked).seq if row.status == BLOCKED else None
    if seen is not None and (last is None or seen >= last[0]):
        seen = None
    column = encode_blocked(Blocked("corrupt", f"{loss.what} {MISSING}", None, seen))
    state = RunState(BLOCKED, row.started_at, None, None, None, column, row.pk)
    conn.execute(QUERIES["update_state"], (*state[:-1], state_sum(state), row.pk))


def _read(path: str, journal_id: str | None) -> _Kept | None:
    """Return the mark of this journal, or of any; None if there is none, or it is torn."""
    try:
        with open(path, "rb") as file:
            data = file.read(_SIZE + 1)
    except OSError:
        return None
    if len(data) != _SIZE:
        return None
    magic, of, boot, is_full = _HEAD.unpack_from(data)
    wanted = of if journal_id is None else journal_id.encode()
    mark = _mark_in(data, _salt(of))
    if magic != _MAGIC or of != wanted or mark is None:
        return None
    here = boot_id()
    return _Kept(mark, bool(here) and boot.rstrip(b"\0") == here, is_full)


def _mark_in(data: bytes, salt: int) -> Mark | None:
    event = data[_AT : _AT + _EVENT.size]
    (check,) = _CHECK.unpack_from(data, _AT + _EVENT.size)
    return Mark(*_EVENT.unpack(event)) if check == crc32(event, salt) else None


def _salt(journal_id: bytes) -> int:
    # So that a place full of zeros is no mark.
    return crc32(_MAGIC + journal_id)
