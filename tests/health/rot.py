"""Bit rot: flip one bit of a journal, let its runs go on, and hold what they do to the truth.

The truth is what the runs of the untouched journal come to: their results, attributes,
streams and histories, and which steps they execute on the way. With a bit flipped, each
run must come to the same by the same steps, or say that it cannot: it, or the whole file,
is refused. A run that is told wrong, lost, or does again what it had done is a finding.

Three journals are flipped, each with one of everything: a small one, closed or left by a crash,
which is checked whole at each opening, and a larger one, which is not. What goes unnoticed in
that one is counted and not held to be a finding: guarantees.md does not promise it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from durable import Run, Runtime
from durable.errors import (
    DurableError,
    JournalCorruptError,
    JournalError,
    WorkflowRunBlockedError,
    WorkflowRunFailedError,
    WorkflowRunNotFoundError,
)
from durable.testing import VirtualClock
from tests.campaign.programme import Counts, FoundError
from tests.engine.rig import crashing, elapse, make, quiet
from tests.health.rig import SECRET, bulk, executed, fill_open, flip

PAGE = 4096
REFUSED = "refused"  # stands for all that a run would have come to
SLOW = "no end in sight"
LIMIT_SECONDS = 12.0
HIDDEN = "not found"
TOLD_MAX = 60  # warnings and errors about one journal
FENCES_MAX = 5  # the disk is said to have failed so often, without it having done so
FILLER = b"\x5a"


@dataclass(frozen=True)
class Template:
    """A journal that is flipped, and what comes of it when it is not.

    Attributes:
        folder: where its files lie.
        files: the ends of their names.
        truth: what each run comes to.
        steps: which steps are executed until then.
        pages: of the database, without those that hold nothing but filler.
    """

    folder: Path
    files: tuple[str, ...]
    truth: dict[str, Any]
    steps: Counter[str]
    pages: list[int] = field(repr=False)

    @property
    def is_large(self) -> bool:
        """Whether it is too large to be checked whole at each opening."""
        return (self.folder / "app.db").stat().st_size > 8 << 20

    def copy_to(self, folder: Path) -> Path:
        """Copy the files and return the path of the journal."""
        folder.mkdir(parents=True, exist_ok=True)
        for end in self.files:
            shutil.copy(self.folder / f"app.db{end}", folder / f"app.db{end}")
        return folder / "app.db"


async def make_template(folder: Path, kind: str) -> Template:
    """Make a journal: "small" and closed, "large" and closed, or "crashed" with a -wal."""
    folder.mkdir(parents=True)
    source = folder / "source"
    source.mkdir()
    path = source / "app.db"
    async with crashing(path) if kind == "crashed" else make(path) as rt:
        if kind == "large":
            await (await rt.start(bulk.options(run_id="bulk"), FILLER * 9_000_000)).result()
        await fill_open(rt)
        await quiet(rt)
        if kind == "crashed":
            _copy(source, folder)
    if kind != "crashed":
        _copy(source, folder)
    ends = tuple(sorted(file.name.removeprefix("app.db") for file in folder.glob("app.db*")))
    data = (folder / "app.db").read_bytes()
    pages = [
        place
        for place in range(0, len(data), PAGE)
        if data[place : place + PAGE].count(FILLER) < PAGE // 2
    ]
    template = Template(folder, ends, {}, Counter(), pages)
    truth, steps = await what_comes_of(template.copy_to(folder / "truth"))
    assert REFUSED not in truth.values()
    return Template(folder, ends, truth, steps, pages)


def _copy(source: Path, folder: Path) -> None:
    for end in ("", "-wal", ".mark"):
        if (source / f"app.db{end}").exists() and (end != "-wal" or _size(source) > 0):
            shutil.copy(source / f"app.db{end}", folder / f"app.db{end}")


def _size(source: Path) -> int:
    return (source / "app.db-wal").stat().st_size


async def what_comes_of(path: Path) -> tuple[dict[str, Any], Counter[str]]:
    """Let the runs of a journal go on to their ends; return what they come to, and how."""
    clock = VirtualClock()
    executed.clear()
    errors = Errors()
    found = dict.fromkeys(IDS, REFUSED)
    try:
        async with make(path, clock) as rt:
            going = asyncio.create_task(_go_on(rt, clock, found))
            limit = asyncio.get_running_loop().time() + LIMIT_SECONDS
            while not going.done():
                await asyncio.sleep(0)
                if asyncio.get_running_loop().time() > limit:
                    going.cancel()
                    await asyncio.wait([going])
                    return dict.fromkeys(IDS, SLOW), Counter(executed)
                # Paused for good, or told again and again that nothing can be read.
                if rt.journal.disk.fences > FENCES_MAX or errors.count > TOLD_MAX:
                    going.cancel()
            if going.cancelled():
                return dict.fromkeys(IDS, REFUSED), Counter(executed)
            await going
    except JournalError:
        return dict.fromkeys(IDS, REFUSED), Counter(executed)
    finally:
        errors.close()
    return found, Counter(executed)


class Errors(logging.Handler):
    """Counts what is logged as a warning or worse, and keeps it from being printed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0
        self._logger = logging.getLogger("durable")
        self._before = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Count."""
        self.count += 1

    def close(self) -> None:
        """Let the others have it again."""
        self._logger.removeHandler(self)
        self._logger.propagate = self._before
        super().close()


async def _go_on(rt: Runtime, clock: VirtualClock, found: dict[str, Any]) -> None:
    await quiet(rt)
    told = await _answer(rt)
    await elapse(rt, clock, 3 * 86_400, 43_200)
    for run_id in IDS:
        found[run_id] = await _look(rt.get_run(run_id))
    await rt.list_runs()  # damage is no reason to show nothing
    if told and found["wait"][0] == "running":
        found["wait"] = REFUSED  # its sender was


IDS = ("sum", "talk", "fail", "nap", "wait", "family", "later")


async def _answer(rt: Runtime) -> bool:
    """Give the run that waits what it waits for; return whether that was refused."""
    refused = False
    for give in (
        lambda: rt.resume_hook(f"token-{SECRET}", "yes"),
        lambda: rt.send("wait", "more", " and more"),
    ):
        try:
            await give()
        except (DurableError, LookupError):
            refused = True
        await quiet(rt)
    return refused


async def _look(run: Run[Any]) -> Any:
    try:
        status = await run.status()
        if status == "blocked":
            return REFUSED
        return (
            str(status),
            await _result(run),
            await run.attributes(),
            [(e.seq, e.kind, e.name, repr(e.value)) for e in await run.events()],
            [[repr(each.value) async for each in run.stream(n).chunks()]
             for n in await run.list_streams()],
        )  # fmt: skip
    except (JournalCorruptError, WorkflowRunBlockedError):
        return REFUSED
    except WorkflowRunNotFoundError:
        return HIDDEN


async def _result(run: Run[Any]) -> Any:
    try:
        return await run.result(0.5)
    except WorkflowRunFailedError as error:
        return str(error)
    except TimeoutError:
        return "no end"


# --- one flip ---------------------------------------------------------------------------------


async def trial(template: Template, folder: Path, damage: Callable[[Path], str]) -> Counts:
    """Damage a copy of a journal and see what comes of it.

    Raises:
        FoundError: a run was told something else than the truth.
    """
    path = template.copy_to(folder)
    where = damage(path)
    found, steps = await what_comes_of(path)
    wrong = {each for each in found if found[each] not in (template.truth[each], REFUSED)}
    again = steps - template.steps
    if template.is_large and (wrong or again):
        return Counter({"flips": 1, "unnoticed": 1})
    if wrong:
        run_id = min(wrong)
        raise FoundError(
            "corrupt", f"{where}: {run_id} came to {found[run_id]!r:.600}, "
            f"and the truth is {template.truth[run_id]!r:.600}",
        )  # fmt: skip
    if again:
        raise FoundError("duplicated", f"{where}: executed once more: {dict(again)}")
    refused = sum(each == REFUSED for each in found.values())
    how = "whole" if refused == len(found) else "runs" if refused else "harmless"
    return Counter({"flips": 1, how: 1})


def flip_of(template: Template, draw: random.Random) -> Callable[[Path], str]:
    """Choose one bit of the database or of the -wal, page by page."""

    def damage(path: Path) -> str:
        page = draw.choice(template.pages)
        data = path.read_bytes()[page : page + PAGE]
        used = [place for place, byte in enumerate(data) if byte]
        place = draw.choice(used) if used and draw.random() < 0.9 else draw.randrange(PAGE)
        bit = (page + place) * 8 + draw.randrange(8)
        flip(path, bit)
        return f"bit {bit} of the database"

    def damage_wal(path: Path) -> str:
        wal = path.with_name("app.db-wal")
        bit = draw.randrange(wal.stat().st_size * 8)
        flip(wal, bit)
        return f"bit {bit} of the -wal"

    has_wal = "-wal" in template.files
    return damage_wal if has_wal and draw.random() < 0.8 else damage


def cuts_of(template: Template) -> Iterator[Callable[[Path], str]]:
    """Yield a truncation of the -wal at each of its frames."""
    size = (template.folder / "app.db-wal").stat().st_size

    def cut(length: int, path: Path) -> str:
        with path.with_name("app.db-wal").open("r+b") as file:
            file.truncate(length)
        return f"the -wal cut off at {length} of {size}"

    for length in range(32, size, PAGE + 24):
        yield lambda path, length=length: cut(length, path)  # type: ignore[misc]
