"""`durable keygen` and `durable rekey`: keys of sealed journals.

Owns the arguments and what is printed, which is never more of a key than its id. A journal
is given another seal while no program has it open: its owner's lock is held meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable

from durable._base.clock import SystemClock
from durable._base.words import counted
from durable._journal.care.rekey import Resealed, reseal
from durable._journal.driver import ThreadDriver
from durable._journal.files import JournalFiles
from durable._journal.filesystem import canonical_journal_path, check_filesystem
from durable._journal.keys import Encryption, KeyRing, add_key, create_key_file
from durable._journal.lock import OwnerLock
from durable._journal.swapping import refuse_unfinished
from durable._surface.cli_runs import add_journal
from durable.errors import JournalError


def add_keys(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the two commands."""
    keygen = add_parser("keygen", help="make a key file for a sealed journal")
    keygen.add_argument("file", metavar="FILE", help="new, of mode 0600")
    keygen.add_argument(
        "--add", action="store_true", help="put a new key in front of those of an existing file"
    )
    keygen.set_defaults(perform=_keygen)
    rekey = add_parser("rekey", help="seal all of a journal with the newest key")
    add_journal(rekey, lambda arguments: asyncio.run(_rekey(arguments)))
    rekey.add_argument(
        "--from-plain", action="store_true", help="take what is not sealed yet, as it is"
    )
    rekey.add_argument(
        "--sign-only", action="store_true", help="authenticate only: values remain legible"
    )


def _keygen(arguments: argparse.Namespace) -> int:
    key = add_key(arguments.file) if arguments.add else create_key_file(arguments.file)
    print(f"{arguments.file}: key {key.id}. Keep a copy of this file in another place")
    return 0


async def _rekey(arguments: argparse.Namespace) -> int:
    if arguments.key_file is None:
        raise JournalError("rekey needs the keys: give --key-file FILE")
    keys = Encryption(arguments.key_file, hide=not arguments.sign_only)
    done = await rekey_file(arguments.db, keys.ring(), takes_plain=arguments.from_plain)
    sealed = counted(done.sealed, "row")
    print(f"{arguments.db}: {sealed} sealed, {done.kept} left as they should be")
    return 0


async def rekey_file(path: str, ring: KeyRing, *, takes_plain: bool) -> Resealed:
    """Seal all of a journal with the newest key; see `_journal.care.rekey.reseal`.

    Raises:
        JournalLockedError: a program has it open.
    """
    path = canonical_journal_path(path)
    check_filesystem(path)
    files = JournalFiles(path)
    refuse_unfinished(files)
    if not os.path.exists(files.path):
        raise JournalError(f"there is no journal at {path}: check the path")
    lock, clock = OwnerLock(path), SystemClock()
    if not lock.acquire({"since": clock.wall_us(), "command": "durable rekey"}):
        raise lock.locked_error()
    try:
        now = clock.wall_us()
        return await reseal(files, ThreadDriver, ring, now, takes_plain=takes_plain)
    finally:
        lock.release()
