"""Two or three real processes on one journal, in any order of deeds and mishaps.

A trial draws what happens: processes come, are asked for runs, are killed, stopped and let go
on, asked to end once or twice, fork children that outlive them, leave without closing, close
and open again. Then one more process has to bring every run to its end. Judged are: that no
two processes executed at once, that nothing acknowledged is lost, that no completed step ran
again, that nobody hangs, and that a child made by fork was let in nowhere.

The processes are forked from this one, which has everything loaded and no threads.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tests.campaign.programme import Counts, FoundError
from tests.crash.oracle import Journal, PromiseBrokenError
from tests.matrix import member
from tests.ownership.flows import Fact, overlaps

MEMBERS_MAX = 3
DEEDS = 16
LENGTH = 3  # steps of a run
WAIT = 40.0  # seconds until the matrix counts as hung
_BUSY_SECONDS = 0.02  # for which a deed is given time, at most


class Peer:
    """One process, as seen from here."""

    def __init__(self, place: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        errors = os.open(place / "errors", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        self.pid = os.fork()
        if self.pid == 0:
            _be_member(place, theirs_in, theirs_out, errors)
        for descriptor in (theirs_in, theirs_out, errors):
            os.close(descriptor)
        os.set_blocking(ours_in, False)
        self.incoming, self._outgoing = ours_in, ours_out
        self.is_open = self.is_stopped = self.is_ending = False
        self.asked: dict[int, tuple[Any, ...]] = {}
        self._rest = b""
        self._ended: int | None = None

    def tell(self, *what: Any) -> None:
        """Have it do something."""
        number = len(self.asked) + 1
        self.asked[number] = what
        try:
            os.write(self._outgoing, (json.dumps([number, *what]) + "\n").encode())
        except BrokenPipeError:
            pass

    def hear(self) -> list[list[Any]]:
        """Return what it has said since."""
        try:
            while data := os.read(self.incoming, 1 << 16):
                self._rest += data
        except BlockingIOError:
            pass
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.ended() is None:
            os.kill(self.pid, number)
        self.is_stopped = (self.is_stopped or number == signal.SIGSTOP) and number != signal.SIGCONT

    def leave(self) -> None:
        """Let it close its runtime and end."""
        os.close(self._outgoing)
        self._outgoing = -1
        self.is_ending = True

    def ended(self) -> int | None:
        """Return how it has ended, None while it lives."""
        if self._ended is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended = os.waitstatus_to_exitcode(status)
        return self._ended

    def clear(self) -> None:
        """Leave nothing of it or its children."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if self._ended is None:
            os.waitpid(self.pid, 0)
        os.close(self.incoming)
        if self._outgoing >= 0:
            os.close(self._outgoing)


def _be_member(place: Path, incoming: int, outgoing: int, errors: int) -> NoReturn:
    """Be the child of a fork: a member, and nothing of what this process was."""
    code = 1
    try:
        atexit._clear()  # what the parent is to do at its own end
        os.setpgid(0, 0)
        os.dup2(incoming, 0)
        os.dup2(outgoing, 1)
        os.dup2(errors, 2)
        os.closerange(3, 1024)
        sys.stdin, sys.stderr = os.fdopen(0), os.fdopen(2, "w", buffering=1)
        member.live(place / "app.db", place / "ledger")
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    """End as interpreters end, though not through the frames of who has forked us."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(code)


class Matrix:
    """The processes of a trial, and what is known of their runs."""

    def __init__(self, seed: int, place: Path) -> None:
        self._draw = random.Random(seed)
        self._place = place
        self.peers: list[Peer] = []
        self.gone: list[Peer] = []
        self.wanted: list[str] = []
        self.acknowledged: set[str] = set()
        self.finished: set[str] = set()
        self.deeds: list[str] = []

    # --- what happens ---------------------------------------------------------------------

    def play(self) -> None:
        """Let things happen, then let one more process finish."""
        try:
            self._begin()
            if self._draw.random() < 0.7:
                self._pump(self._any_open, WAIT)
            for _ in range(DEEDS):
                self._deed()
                self._pump(lambda: False, self._draw.uniform(0, _BUSY_SECONDS))
            self._finish()
        finally:
            for peer in [*self.peers, *self.gone]:
                peer.clear()
            (self._place / "app.db.sock").unlink(missing_ok=True)  # so that all can be copied

    def _deed(self) -> None:
        if len(self.peers) < MEMBERS_MAX and self._draw.random() < 0.5:
            return self._begin()
        able = [peer for peer in self.peers if peer.is_open and not peer.is_ending]
        if not able:
            self._pump(self._is_room, WAIT)
            return self._begin() if len(self.peers) < MEMBERS_MAX else None
        peer = self._draw.choice(able)
        deeds = (self._ask, self._kill, self._end, self._stop, self._fork, self._reopen, self._exit)
        deed = self._draw.choices(deeds, weights=(8, 3, 2, 2, 1, 1, 1))[0]
        self.deeds.append(f"{deed.__name__} {peer.pid}")
        return deed(peer)

    def _begin(self) -> None:
        self.peers.append(Peer(self._place))
        self.deeds.append(f"begin {self.peers[-1].pid}")

    def _ask(self, peer: Peer) -> None:
        if not self.wanted or self._draw.random() < 0.6:
            self.wanted.append(f"run-{len(self.wanted)}")
            peer.tell("start", self.wanted[-1], LENGTH)
        else:
            peer.tell("result", self._draw.choice(self.wanted))

    def _kill(self, peer: Peer) -> None:
        peer.is_ending = True
        peer.signal(signal.SIGKILL)

    def _end(self, peer: Peer) -> None:
        peer.is_ending = True
        number = self._draw.choice((signal.SIGTERM, signal.SIGINT))
        peer.signal(number)
        if self._draw.random() < 0.4:
            self._pump(lambda: False, self._draw.uniform(0, _BUSY_SECONDS))
            if peer.ended() is None:
                peer.signal(number)

    def _stop(self, peer: Peer) -> None:
        """Stop it while the others go on, as far as they can without it."""
        peer.signal(signal.SIGSTOP)
        others = [p for p in self.peers if p.is_open and not p.is_ending and not p.is_stopped]
        if others:
            self._ask(self._draw.choice(others))
        self._pump(lambda: False, self._draw.uniform(0, 3 * _BUSY_SECONDS))
        peer.is_ending = self._draw.random() < 0.3
        peer.signal(signal.SIGKILL if peer.is_ending else signal.SIGCONT)

    def _fork(self, peer: Peer) -> None:
        peer.tell("fork")

    def _reopen(self, peer: Peer) -> None:
        peer.tell("reopen")

    def _exit(self, peer: Peer) -> None:
        peer.is_ending = True
        peer.tell("exit")

    # --- the end of it ----------------------------------------------------------------------

    def _finish(self) -> None:
        ending = [peer for peer in self.peers if peer.is_ending]
        self._pump(lambda: all(peer.ended() is not None for peer in ending), WAIT)
        if any(peer.ended() is None for peer in ending):
            raise FoundError("hung", f"asked to end, and did not: {self._shown()}")
        self._begin()
        last = self.peers[-1]
        self._pump(lambda: last.is_open, WAIT)
        for run_id in self.wanted:
            last.tell("finish", run_id, LENGTH)
        self._pump(lambda: self.finished.issuperset(self.wanted), WAIT)
        if missing := set(self.wanted) - self.finished:
            raise FoundError("hung", f"{missing} never ended: {self._shown()}")
        leaving = [peer for peer in self.peers if peer.ended() is None]
        for peer in leaving:
            peer.leave()
        self._pump(lambda: all(peer.ended() is not None for peer in leaving), WAIT)
        codes = [peer.ended() for peer in leaving]
        if any(codes):
            raise FoundError("hung" if None in codes else "broken", f"{codes}: {self._shown()}")

    def _shown(self) -> str:
        errors = (self._place / "errors").read_text()[-3000:]
        return f"{self.deeds}\n{errors}"

    # --- listening --------------------------------------------------------------------------

    def _is_room(self) -> bool:
        return self._any_open() or len(self.peers) < MEMBERS_MAX

    def _any_open(self) -> bool:
        return any(peer.is_open and not peer.is_ending for peer in self.peers)

    def _pump(self, enough: Callable[[], bool], seconds: float) -> None:
        """Hear what they say until it is enough, or the time is over."""
        until = time.monotonic() + seconds
        while True:
            for peer in list(self.peers):
                self._hear(peer)
            left = until - time.monotonic()
            if enough() or left <= 0:
                return
            ready = [peer.incoming for peer in self.peers]
            select.select(ready, [], [], min(left, 0.01))

    def _hear(self, peer: Peer) -> None:
        gone = peer.ended() is not None  # before its last words are read
        for number, *answer in peer.hear():
            if number is None:
                if answer != ["open"]:
                    raise FoundError("duplicated", f"{answer}: {self._shown()}")
                peer.is_open = True
            elif len(answer) == 1:
                self._note(peer.asked[number], answer[0])
            elif peer.asked[number][0] == "finish":
                raise FoundError("broken", f"{peer.asked[number]}: {answer}: {self._shown()}")
        if gone:
            self.peers.remove(peer)
            self.gone.append(peer)
            if peer.ended() not in {
                0,
                3,
                130,
                143,
                -signal.SIGKILL,
                -signal.SIGTERM,
                -signal.SIGINT,
            }:
                raise FoundError("broken", f"ended with {peer.ended()}: {self._shown()}")

    def _note(self, asked: tuple[Any, ...], value: Any) -> None:
        verb, *given = asked
        if verb == "start":
            self.acknowledged.add(given[0])
        elif verb in {"result", "finish"}:
            if value != given[0]:
                raise FoundError("corrupt", f"{given[0]} returned {value!r}: {self._shown()}")
            if verb == "finish":
                self.finished.add(given[0])


def matrix_trial(seed: int, place: Path) -> Counts:
    """Let processes meet on one journal, and judge what is left.

    Raises:
        FoundError: a promise was broken, or somebody hangs.
    """
    matrix = Matrix(seed, place)
    (place / "errors").touch()
    matrix.play()
    lines = (place / "ledger").read_text().splitlines()
    facts = [Fact(*json.loads(line)) for line in lines]
    if found := list(overlaps(facts)):
        raise FoundError("duplicated", f"{found}\n{matrix.deeds}\n{lines}")
    try:
        journal = Journal.read(place)
    except PromiseBrokenError as error:
        raise FoundError("corrupt", f"{error}\n{matrix.deeds}") from error
    lost = {run for run in matrix.acknowledged if journal.status.get(run) != "completed"}
    if lost:
        raise FoundError("lost", f"{lost}\n{matrix.deeds}")
    deeds = Counter(deed.partition(" ")[0].removeprefix("_") for deed in matrix.deeds)
    kills = sum(peer.ended() == -signal.SIGKILL for peer in matrix.gone)
    return Counter(processes=deeds["begin"], kills=kills, runs=len(matrix.wanted))
