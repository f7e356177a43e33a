"""All targets of the fuzzing; a trial of the campaign is one of them, in turn."""

from __future__ import annotations

from pathlib import Path

from tests.campaign.programme import Counts
from tests.fuzz.aside import quiet
from tests.fuzz.commands import COMMAND_LINES
from tests.fuzz.control import FRAMES, OWNER
from tests.fuzz.documents import DOCUMENTS
from tests.fuzz.listings import LISTINGS
from tests.fuzz.payloads import DECODER, PREVIEW
from tests.fuzz.rows import ROWS
from tests.fuzz.target import run_target
from tests.fuzz.texts import CURSORS, DURATIONS
from tests.fuzz.web import WEB

TARGETS = (
    COMMAND_LINES, CURSORS, DECODER, DOCUMENTS, DURATIONS, FRAMES, LISTINGS, OWNER, PREVIEW, ROWS,
    WEB,
)  # fmt: skip


def trial(seed: int, place: Path) -> Counts:
    """Make and judge the inputs of one trial; see `run_target`."""
    with quiet():
        return run_target(TARGETS[seed % len(TARGETS)], seed, place)
