"""The checksums of the rows beside events and chunks: runs, hooks, requests, meta.

SQLite notices almost no flipped bit, and each of these rows decides something: whose a
payload is, when a run gives up, which random numbers it draws. So each carries a CRC-32 of
its columns, computed in Python where the row is written and looked at where it is read.

Some columns are changed alone, by SQL that knows no CRC: the deadline of a run, its due
time, the place of a request. Their values are *added* to the CRC of the others, so that
such a statement moves the sum along (-1 stands for NULL). One flipped bit changes a sum as
surely as a CRC. Like all checksums here they guard against accidents, not against forgery.

A run's row has three: of what was said at its creation, with its deadline (`crc`); of its
state (`state_sum`); of its attributes (`attributes_crc`). Indexes carry none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple
from zlib import crc32

from durable._journal.attributes import Blocked, encode_blocked
from durable._journal.records import BLOCKED, RunRow, RunState
from durable.errors import JournalCorruptError

_COLUMNS = len(RunRow._fields)
_END_OF_TIME_US = 253_402_300_800_000_000  # the year 10,000, which no calendar here knows
_NULL = "\0"  # no text that is recorded has it alone

StoredRun = tuple[Any, ...]  # the columns of RunRow, then the three checksums


def fixed_sum(row: StoredRun) -> int:
    """Return the checksum of what is fixed when a run is created, its deadline added."""
    (
        pk, run_id, workflow, _, created_at, _, _, _, deadline, _, retention_us, parent_id,
        root_id, deployment_id, _, _, behaviour, first_id, bound_to, origin, *_,
    ) = row  # fmt: skip
    head = f"{pk}|{created_at}|{retention_us}|{behaviour}|"
    texts = [run_id, workflow, parent_id, root_id, deployment_id, first_id, bound_to, origin]
    # join() takes a text as it is, also one of a class that prints itself otherwise.
    text = "\n".join([_NULL if each is None else each for each in texts])
    return crc32(text.encode(), crc32(head.encode())) + (-1 if deadline is None else deadline)


def plain_sum(pk: int, run_id: str, workflow: str, created_at: int, behaviour: int) -> int:
    """Return the `fixed_sum` of a run of which nothing else is said."""
    head = f"{pk}|{created_at}|None|{behaviour}|"
    text = "\n".join([run_id, workflow, *[_NULL] * 6])
    return crc32(text.encode(), crc32(head.encode())) - 1


def state_sum(state: RunState) -> int:
    """Return the checksum of a run's state, its due time added."""
    status, started_at, completed_at, wake_at, expires_at, blocked, pk = state
    head = f"{pk}|{status}|{started_at}|{completed_at}|{expires_at}|{blocked}"
    return crc32(head.encode()) + (-1 if wake_at is None else wake_at)


def attributes_sum(column: str | None, pk: int) -> int | None:
    """Return the checksum of a run's attributes, None for none."""
    return None if column is None else crc32(f"{pk}|{column}".encode())


def sums_of(row: RunRow) -> tuple[int, int, int | None]:
    """Return the three checksums of a run's row."""
    state = RunState(
        row.status, row.started_at, row.completed_at, row.wake_at, row.expires_at, row.blocked,
        row.pk,
    )  # fmt: skip
    return fixed_sum(row), state_sum(state), attributes_sum(row.attributes, row.pk)


class Soundness(NamedTuple):
    """Which parts of a run's row match their checksums."""

    fixed: bool
    state: bool
    attributes: bool


def soundness(stored: StoredRun) -> Soundness:
    """Hold a stored row of a run against its checksums."""
    try:
        sums = sums_of(RunRow._make(stored[:_COLUMNS]))
    except (TypeError, ValueError):  # a flipped bit may change a column's type, too
        return Soundness(fixed=False, state=False, attributes=False)
    return Soundness._make(a == b for a, b in zip(sums, stored[_COLUMNS:], strict=True))


def run_row(stored: StoredRun) -> RunRow:
    """Return a stored row that is to be used.

    Raises:
        JournalCorruptError: it does not match its checksums.
    """
    if not all(soundness(stored)):
        raise JournalCorruptError(
            f"the row of run {stored[1]!r} (key {stored[0]}) does not match its checksums: the "
            "disk or another program changed it; see `durable verify`; `durable repair` sets "
            "the run aside"
        )
    return RunRow._make(stored[:_COLUMNS])


def shown_row(stored: StoredRun) -> RunRow:
    """Return a stored row as one of many; a damaged one as that of a blocked run."""
    if all(soundness(stored)):
        return RunRow._make(stored[:_COLUMNS])
    why = "its row in the journal is damaged: see `durable verify`; `durable repair` mends it"
    values = dict.fromkeys(RunRow._fields)
    values |= {
        "pk": stored[0], "run_id": str(stored[1]), "workflow": str(stored[2]), "status": BLOCKED,
        "created_at": stored[4] if _is_time(stored[4]) else 0, "behaviour": 0,
        "blocked": encode_blocked(Blocked("corrupt", why)),
    }  # fmt: skip
    return RunRow(**values)  # type: ignore[arg-type]


def _is_time(value: object) -> bool:
    """Tell whether a damaged column can still be shown as a time."""
    return isinstance(value, int) and 0 <= value < _END_OF_TIME_US


def hook_sum(token_hash: bytes, pk: int, seq: int) -> int:
    """Return the checksum of a row of `hooks`."""
    return crc32(f"{pk}|{seq}".encode(), crc32(token_hash))


def request_sum(pk: int, kind: str, seq: int, payload: bytes | None) -> int:
    """Return the checksum of a row of `requests`, its place added."""
    head = f"{pk}|{kind}|{payload is None}"
    return crc32(payload or b"", crc32(head.encode())) + seq


def meta_sum(key: str, value: object) -> int:
    """Return the checksum of a row of `meta`, whose values are texts and integers."""
    return crc32(f"{key}|{value}".encode())


def sound_meta(rows: Iterable[tuple[str, Any, int]]) -> tuple[dict[str, Any], list[str]]:
    """Return what `meta` holds, and the keys of rows that do not match their checksum."""
    found: dict[str, Any] = {}
    damaged: list[str] = []
    for key, value, crc in rows:
        try:
            sound = meta_sum(key, value) == crc and isinstance(value, (int, str))
        except (TypeError, ValueError):
            sound = False
        if sound:
            found[key] = value
        else:
            damaged.append(str(key))
    return found, damaged
