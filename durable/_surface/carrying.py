"""Runs as files: `Run.export` and `import_run`.

Owns the file's life: written whole or not at all, readable by its owner alone, never over
another file unless asked. What is in it is `_journal.portable`'s. Exporting reads the
journal and executes nothing from it, and neither does importing.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from durable._journal.chunks import Chunk
from durable._journal.files import write_whole
from durable._journal.portable import pack
from durable._journal.whole import read_whole
from durable._replay.events import Event
from durable._surface.current import Access
from durable._surface.history import shown_event
from durable._surface.listing import json_value, run_facts
from durable.errors import InvalidExportError, WorkflowRunNotFoundError

DOCUMENT_BYTES_MAX = 256 << 20
# What can be sent to another process at once.
SENT_BYTES_MAX = 48 << 20


async def export_run(
    access: Access, run_id: str, path: str | os.PathLike[str] | None, *, overwrite: bool
) -> dict[str, Any]:
    """Return the document of a run, and write it to a file if one is named."""
    whole = await read_whole(access.reader, run_id)
    if whole is None:
        raise WorkflowRunNotFoundError(run_id)

    seals = access.reader.seals
    sealed_in = None if seals is None else seals.journal_id

    def shown(each: Event | Chunk) -> object:
        if isinstance(each, Event):
            value = shown_event(access, each).value
        else:
            value = access.payloads.preview(each.payload or b"")
        return json.loads(json.dumps(json_value(value)))  # as it will be in the file

    def work() -> dict[str, Any]:
        document = pack(whole, run_facts(whole.row), shown, sealed_in)
        if path is not None:
            text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
            write_whole(path, text.encode(), overwrite=overwrite)
        return document

    return await asyncio.to_thread(work)


async def import_document(
    access: Access,
    source: str | os.PathLike[str] | Mapping[str, Any],
    run_id: str | None,
) -> str:
    """Record the run of a file or a document; return its id."""
    document = await asyncio.to_thread(_bytes_of, source)
    return await send_document(await access.port(), document, run_id, near=access.is_owner)


class Importer(Protocol):
    """What takes an import: an engine, or a journal that nobody executes."""

    async def ask(self, what: str, **fields: Any) -> Any:
        """See `EnginePort`."""


async def send_document(port: Importer, document: bytes, run_id: str | None, *, near: bool) -> str:
    """Have a document imported by whoever owns the journal; return the run's id."""
    if not near and len(document) > SENT_BYTES_MAX:
        raise ValueError(
            f"the export has {len(document):,} bytes, and {SENT_BYTES_MAX:,} can be sent to the "
            "process that owns the journal: import it there, or while no process has it open"
        )
    answer = await port.ask("import_run", document=document, run_id=run_id)
    return str(answer["run_id"])


def read_document(path: str | os.PathLike[str]) -> bytes:
    """Return the content of an exported file.

    Raises:
        InvalidExportError: it is far too large to be one. OSError: it cannot be read.
    """
    file = Path(path)
    if (size := file.stat().st_size) > DOCUMENT_BYTES_MAX:
        raise InvalidExportError(f"{file} has {size:,} bytes: it is no exported run")
    return file.read_bytes()


def _bytes_of(source: str | os.PathLike[str] | Mapping[str, Any]) -> bytes:
    if isinstance(source, str | os.PathLike):
        return read_document(source)
    if not isinstance(source, Mapping):
        raise TypeError(
            f"{source!r:.80} cannot be imported: give the path of an exported file, or what "
            "`await run.export()` returned"
        )
    try:
        return json.dumps(dict(source)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidExportError(f"the document is no JSON data: {error}") from None
