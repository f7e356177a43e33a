"""Plays scenarios in forked children, so that a trial does not pay for the imports.

`durable` is imported once in a process without threads and without a running loop; each
trial is a fork of it, on a journal of its own, with a fault armed on its disk. The server
reads one JSON request per line and answers with how the child ended.

The child leaves by `os._exit`, so nothing tidies up behind it; it is killed, with the
stacks of its threads in the error file, when it hangs for `HANG_SECONDS`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.crash.faultfs import Op

ROOT = Path(__file__).resolve().parents[2]
HANG_SECONDS = 30
INTERRUPTED = 130
DEATHS_OF_A_KILLER = 3  # after so many a step is set aside, and somebody has to resume its run


@dataclass(frozen=True)
class Request:
    """Play `scenario` in `directory`.

    Attributes:
        phase: number of this process on the journal; its ledger is ``ledger.<phase>``.
        fault: fields of `faultfs.Fault`, or None for a good disk.
        known: ids of runs that must be seen finished.
        journal: directory of the journal, if it is another than that of the ledger.
        record: whether to write the recording of all operations to ``ops.<phase>``.
    """

    scenario: str
    directory: str
    phase: int = 1
    fault: dict[str, Any] | None = None
    known: list[str] = field(default_factory=list)
    record: bool = False
    journal: str | None = None

    @property
    def place(self) -> Path:
        """The trial's directory."""
        return Path(self.directory)


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        code: exit code; negative = killed by that signal, `INTERRUPTED` = ended by SIGINT.
        operations: operations since the fault was armed (0 when killed).
        fired: how often the fault happened (0 when killed).
        errors: what it wrote to stderr.
        met: what was hit by the fault, such as "sync of app.db-wal" (empty when killed).
    """

    code: int
    operations: int
    fired: int
    errors: str
    met: list[str] = field(default_factory=list)


class ForkServer:
    """Client side: ``with ForkServer() as server: server.play(Request(...))``."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-W", "error", "-m", "tests.crash.forkserver"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def play(self, request: Request) -> Outcome:
        """Run one child to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(request)) + "\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the fork server ended with {self._process.wait()}")
        return Outcome(**json.loads(answer))


# --- the server -------------------------------------------------------------------------


def serve() -> None:
    """Answer requests until stdin ends."""
    from tests.crash import faultfs, player, states  # noqa: F401 - before the first fork

    _warm_up()  # on the disk as it is: the other one knows the files of trials alone
    faultfs.install(default=True)
    gc.freeze()  # or a child's collector would write to all that it shares with us
    for line in sys.stdin:
        request = Request(**json.loads(line))
        print(json.dumps(asdict(_fork(request))), flush=True)


def _warm_up() -> None:
    """Do once what is slow the first time, or each child would do it for itself alone."""
    from tests.crash import player

    with tempfile.TemporaryDirectory() as place:
        for phase in (1, 2):  # a journal that is created, and one that is there
            ledger = Path(place) / f"ledger.{phase}"
            asyncio.run(player.play("sequential", f"{place}/app.db", ledger, []))


def _fork(request: Request) -> Outcome:
    report = request.place / f"report.{request.phase}"
    errors = request.place / f"errors.{request.phase}"
    child = os.fork()
    if child == 0:
        _live(request, report, errors)
    _, status = os.waitpid(child, 0)
    found = json.loads(report.read_text()) if report.exists() else {"operations": 0, "fired": 0}
    return Outcome(os.waitstatus_to_exitcode(status), errors=errors.read_text(), **found)


def _live(request: Request, report: Path, errors: Path) -> None:
    """Be the child: never returns."""
    code = 1
    try:
        descriptor = os.open(errors, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 2)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        _play(request, report)
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _play(request: Request, report: Path) -> None:
    from tests.crash import faultfs, player
    from tests.crash.states import dump

    disk = faultfs.install()
    ops = disk.record() if request.record else None
    if request.record:
        sys.addaudithook(partial(_note_sync, disk.note))
    fault = {"at": faultfs.FOREVER, "action": "kill", **(request.fault or {})}
    disk.arm(faultfs.Fault(**fault | {"only": frozenset(fault.get("only", faultfs.CHANGES))}))
    place = request.place
    ledger = place / f"ledger.{request.phase}"
    journal = str(Path(request.journal or place) / "app.db")
    mend = request.phase > DEATHS_OF_A_KILLER
    asyncio.run(
        player.play(request.scenario, journal, ledger, request.known, marks=disk.mark, mend=mend)
    )
    report.write_text(json.dumps({"operations": disk.count, "fired": disk.fired, "met": disk.met}))
    if ops is not None:
        dump(ops, place / f"ops.{request.phase}")


def _note_sync(note: Callable[[Op], object], event: str, details: tuple[Any, ...]) -> None:
    """Note what `durable` does to a -wal itself: it syncs it at once, or writes it again."""
    if event == "open" and str(details[0]).endswith("-wal"):
        path, mode, flags = details
        if mode and "+" in mode:
            note(Op("rewrite", str(path)))
        elif flags & os.O_RDWR:
            note(Op("sync", str(path)))


if __name__ == "__main__":
    serve()
