"""`durable.verify`: the check of a whole journal, for programs.

Owns the public function alone; what is checked is `_journal.care.verifying`'s. It needs no
runtime, and works beside one.
"""

from __future__ import annotations

import asyncio
from os import PathLike

from durable._journal.care.verifying import Verification, verify_journal
from durable._journal.files import JournalFiles
from durable._journal.filesystem import canonical_journal_path


async def verify(path: str | PathLike[str]) -> Verification:
    """Read every row of a journal and report what is wrong with it.

    Checked are the file's structure, all checksums, that no event and no chunk is missing,
    that every history keeps the rules, and that the tables agree with each other. It works
    in a thread, beside the owner or without one, and sees one moment: meanwhile the -wal is
    not emptied. Nothing is changed, and nothing recorded is loaded.

    Args:
        path: the journal.

    Returns:
        A `Verification`, whose `findings` are empty for a sound journal.

    Raises:
        JournalError: there is no such file, or it is no journal of this version.
        JournalCorruptError: so much of it is damaged that nothing can be read.

    Example:
        ``assert not (await verify("app.db")).findings``
    """
    return await asyncio.to_thread(verify_journal, JournalFiles(canonical_journal_path(path)))
