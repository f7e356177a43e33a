"""T5: the whole runtime in a simulated world, by seed; see tests/simulation."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from durable import Runtime
from durable._journal.driver import InlineDriver
from durable.errors import JournalError
from tests.campaign.programme import Counts, FoundError, Programme, Trial
from tests.simulation.plan import draw
from tests.simulation.simulate import counts_of, fingerprint, play, tell

# One seed in so many is simulated twice, to see whether it is the same world again.
TWICE = 50


class _Errors(logging.Handler):
    """Keeps what the library logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and isinstance(record.exc_info[1], JournalError):
            return  # of a disk that fails, which is said and tried again
        self.lines.append(self.format(record))


@contextmanager
def opened() -> Iterator[Trial]:
    """Yield the trial; a journal without runs is made once for all of them."""
    logger, errors = logging.getLogger("durable"), _Errors()
    logger.addHandler(errors)
    before, logger.propagate = logger.propagate, False
    hook, sys.unraisablehook = sys.unraisablehook, _ignore  # of lives that were cut off
    place = Path(tempfile.mkdtemp(prefix="durable-t5-", dir=_fast_place()))
    try:
        template = make_template(place)
        yield lambda seed, _: trial(seed, place, template, errors)
    finally:
        logger.removeHandler(errors)
        logger.propagate = before
        sys.unraisablehook = hook
        shutil.rmtree(place, ignore_errors=True)


def _ignore(trouble: object) -> None:
    """Do nothing."""


def _fast_place() -> str | None:
    # Nothing is asked of the disk itself here: its faults are the simulation's own.
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def make_template(place: Path) -> bytes:
    """Return the file of a journal without runs."""
    path = place / "template.db"

    async def main() -> None:
        async with Runtime(path, driver=InlineDriver, durability="process"):
            pass

    asyncio.run(main())
    return path.read_bytes()


def trial(seed: int, place: Path, template: bytes, errors: _Errors) -> Counts:
    """Simulate one seed; raise a `FoundError` that tells the whole story."""
    world = _once(seed, place, template, errors)
    if seed % TWICE == 0:
        again = _once(seed, place, template, errors)
        if fingerprint(world) != fingerprint(again):
            raise FoundError("broken", f"seed {seed} gives two different worlds")
        world.counts["simulated twice"] += 1
    return counts_of(world)


def _once(seed: int, place: Path, template: bytes, errors: _Errors):  # type: ignore[no-untyped-def]
    home = place / "world"
    home.mkdir()
    errors.lines.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of lives that ended
            world = play(draw(seed), home, template)
    except FoundError as error:
        world = getattr(error, "world", None)
        story = "" if world is None else tell(world)
        raise FoundError(
            error.verdict,
            f"{error}\nagain: python -m tests.campaign T5 --seed {seed} --trials 1\n{story}",
        ) from error
    finally:
        shutil.rmtree(home)
    if errors.lines:
        raise FoundError("broken", f"seed {seed}: {errors.lines}\n{tell(world)}")
    return world


PROGRAMME = Programme(
    key="T5",
    title="the whole runtime in a simulated world",
    open=opened,
    limit_seconds=60.0,
)
