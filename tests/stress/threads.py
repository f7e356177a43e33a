"""Real threads on one runtime: users of the blocking interface, readers, clients of the socket.

The interpreter switches threads as often as it can. Owners of plans start runs and use their
handles; meddlers cancel, list, read and export; clients come through the control socket as
another process would. When all are done the journal is judged from the outside: every run is
over, every result is the one planned, every step that is on record happened, once.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from durable import SyncRun, SyncRuntime
from durable._engine.remote import RemoteEngine
from durable._journal.control_client import ControlClient
from durable._journal.sockets import socket_path_of
from durable._surface.bystander import Bystander
from durable.errors import DurableError, WorkflowRunCancelledError
from tests.campaign.programme import Counts, FoundError
from tests.crash.oracle import STEP_COMPLETED, Journal, PromiseBrokenError
from tests.stress import thread_flows
from tests.stress.thread_flows import Ledger, draw_plan, expected, follow, letters_to

WAIT = 60.0  # seconds until a run counts as hung
OWNERS, MEDDLERS = 6, 2
_SWITCH_SECONDS = 1e-6


@contextmanager
def often_switching() -> Iterator[None]:
    """Let the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class _Crowd:
    """The threads of a trial, and the first thing that went wrong in any of them."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []
        self.done = threading.Event()

    def add(self, work: Callable[[], object]) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self.errors.append(error)

        self._threads.append(threading.Thread(target=guarded, daemon=True))
        self._threads[-1].start()

    def join(self, first: int, count: int) -> None:
        for thread in self._threads[first : first + count]:
            thread.join(WAIT)
            if thread.is_alive():
                raise FoundError("hung", f"{thread.name} is still at it")
        if self.errors:
            raise self.errors[0]


class _Trial:
    """One runtime and everybody around it."""

    def __init__(self, seed: int, path: Path, runs: int) -> None:
        self.seed = seed
        self.path = path
        self.plans: dict[str, list[str]] = {}
        self.cancelled: set[str] = set()
        self._runs = runs
        self._crowd = _Crowd()

    def play(self) -> None:
        """Let everybody in, and return when all runs are over and everybody has left."""
        options = {"durability": "process", "threads": 16, "idle_runs": 20, "drain_seconds": 20}
        with SyncRuntime(self.path, **options) as rt:  # type: ignore[arg-type]
            for number in range(OWNERS):
                self._crowd.add(lambda number=number: self._own(rt, number))  # type: ignore[misc]
            for number in range(MEDDLERS):
                self._crowd.add(lambda number=number: self._meddle(rt, number))  # type: ignore[misc]
            self._crowd.add(lambda: asyncio.run(self._look()))
            self._crowd.add(lambda: asyncio.run(self._ask()))
            self._crowd.join(0, OWNERS)
            self._crowd.done.set()
            self._crowd.join(OWNERS, MEDDLERS + 2)

    def _own(self, rt: SyncRuntime, number: int) -> None:
        draw = random.Random(f"{self.seed} owner {number}")
        mine = []
        for count in range(self._runs // OWNERS):
            run_id = f"run {number}.{count}"
            plan = self.plans[run_id] = draw_plan(draw)
            attributes = {"owner": str(number)}
            run = rt.start(follow.options(run_id=run_id, attributes=attributes), plan)
            for letter in letters_to(run_id, plan):
                with suppress(DurableError):  # it has been cancelled meanwhile
                    rt.send(run, "box", letter, dedupe_key=letter)
            mine.append(run)
            if draw.random() < 0.2:
                self._await(mine.pop(draw.randrange(len(mine))))
        for run in mine:
            self._await(run)

    def _await(self, run: SyncRun[list[object]]) -> None:
        try:
            found = run.result(timeout=WAIT)
        except TimeoutError:
            raise FoundError("hung", f"{run.run_id}: {[str(e) for e in run.events()]}") from None
        except WorkflowRunCancelledError:
            if run.run_id not in self.cancelled:
                raise FoundError("corrupt", f"{run.run_id} was cancelled by nobody") from None
            return
        if found != expected(run.run_id, self.plans[run.run_id]):
            raise FoundError("corrupt", f"{run.run_id} {self.plans[run.run_id]} returned {found}")

    def _meddle(self, rt: SyncRuntime, number: int) -> None:
        draw = random.Random(f"{self.seed} meddler {number}")
        while not self._crowd.done.is_set():
            page = rt.list_runs(limit=50, status=draw.choice((None, "running", "completed")))
            if not page:
                continue
            run = draw.choice(page).run
            if draw.random() < 0.1:
                self.cancelled.add(run.run_id)
                run.cancel("meddling")
            draw.choice((run.events, run.export, run.hooks, run.status, run.tail_index))()
            rt.count_runs(attributes={"owner": str(draw.randrange(OWNERS))})

    async def _look(self) -> None:
        """Read the file, as the command line does in another process."""
        while not self._crowd.done.is_set():
            async with Bystander(self.path) as access:
                for info in await access.reader.interrupted_runs(0, 20):
                    await access.reader.history(info.pk, info.run_id)
            await asyncio.sleep(0)

    async def _ask(self) -> None:
        """Ask through the control socket, as another process does."""
        draw = random.Random(f"{self.seed} client")
        client = ControlClient(socket_path_of(str(self.path)))
        await client.connect()
        port = RemoteEngine(client)
        while not self._crowd.done.is_set():
            run_id = f"run {draw.randrange(OWNERS)}.{draw.randrange(max(1, self._runs // OWNERS))}"
            with suppress(DurableError, TimeoutError):
                if draw.random() < 0.05:
                    self.cancelled.add(run_id)
                    await port.cancel(run_id, "from afar")
                elif draw.random() < 0.3:
                    await port.wake_up(run_id, None)
                else:
                    await asyncio.wait_for(port.wait_end(run_id), 0.01)
            await asyncio.sleep(0)
        await client.close()


def judge(place: Path, trial: _Trial, ledger: Ledger) -> None:
    """Judge the journal from the outside, and hold it against what the steps did."""
    journal = Journal.read(place)
    if set(journal.status) != set(trial.plans):
        raise FoundError("lost", f"{set(trial.plans) ^ set(journal.status)}")
    for run_id, status in journal.status.items():
        if status != "completed" and (status != "cancelled" or run_id not in trial.cancelled):
            raise FoundError("lost", f"{run_id} is {status}")
    completed = len(
        [row for rows in journal.events.values() for row in rows if row.kind == STEP_COMPLETED]
    )
    if sum(ledger.ended.values()) < completed:
        raise FoundError("corrupt", "more steps are recorded than have ended")
    repeated = [key for key, count in ledger.begun.items() if count > 1]
    repeated += [key for key, count in ledger.ended.items() if count > 1]  # type: ignore[misc]
    if repeated:
        raise FoundError("duplicated", f"attempts that were made twice: {repeated}")


def thread_trial(seed: int, place: Path, runs: int = 200) -> Counts:
    """Let threads at a runtime, and judge what is left.

    Raises:
        FoundError: something was lost, repeated, wrong, or hangs.
    """
    thread_flows.ledger = Ledger()
    trial = _Trial(seed, place / "app.db", runs)
    with often_switching():
        trial.play()
    try:
        judge(place, trial, thread_flows.ledger)
    except PromiseBrokenError as error:
        raise FoundError("corrupt", str(error)) from error
    attempts = sum(thread_flows.ledger.begun.values())
    return Counter(runs=len(trial.plans), attempts=attempts, cancels=len(trial.cancelled))
