"""One process of the campaign: does trials of one programme, seed by seed, until told to stop.

    python -m tests.campaign.worker T2 /dev/shm/somewhere

It reads one seed per line, and writes one line of JSON per trial: what was counted, or what
was found. Each trial has an empty directory of its own, which is removed when all was well.
What trials print goes to stderr. Temporary files lie in the directory, too.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from tests.campaign.programme import FoundError, Trial
from tests.campaign.registry import load

LONGEST_TEXT = 20_000


def main() -> int:
    """Serve the programme and the directory of the command line."""
    key, place = sys.argv[1], Path(sys.argv[2])
    keep = "--keep" in sys.argv[3:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    place.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(place)  # goes with the directories of the trials
    with load(key).open() as trial:
        gc.freeze()  # or the collector would look at all that is imported, again and again
        print(json.dumps({"ready": key}), file=answers)
        for line in sys.stdin:
            seed = int(line)
            answer = attempt(trial, seed, place / str(seed), keep=keep)
            print(json.dumps({"seed": seed, **answer}), file=answers)
    return 0


def attempt(trial: Trial, seed: int, place: Path, *, keep: bool = False) -> dict[str, Any]:
    """Do one trial; return its counts, or its verdict and text."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        counts = trial(seed, place)
    except FoundError as error:
        return _finding(error.verdict, error)
    except Exception as error:
        return _finding("broken", error)
    if not keep:
        shutil.rmtree(place, ignore_errors=True)
    return {"counts": counts}


def _finding(verdict: str, error: Exception) -> dict[str, Any]:
    text = "".join(traceback.format_exception(error))
    if len(text) > LONGEST_TEXT:
        half = LONGEST_TEXT // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    return {"verdict": verdict, "text": text, "summary": str(error)[:300]}


if __name__ == "__main__":
    sys.exit(main())
