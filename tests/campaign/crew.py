"""The workers of a campaign: gives them seeds, takes their answers, ends those that hang.

A worker is a process and the leader of a session, so that it can be killed with everything
that it has started. One that dies, or does not answer within its programme's limit, is a
finding and is replaced.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.campaign.programme import Programme
from tests.campaign.tally import Finding, Total

ROOT = Path(__file__).resolve().parents[2]
OPENING_SECONDS = 120.0
LEAVING_SECONDS = 5.0
MOST_FINDINGS = 50  # of one programme: then something is wrong that more trials do not tell
MOST_FALSE_STARTS = 3
LINE_SECONDS = 60.0


class Worker:
    """One process, and the seed that it is at.

    Attributes:
        seed: of the present trial; None while the worker starts or waits.
        deadline: when the present trial, or the start, counts as hung; None while it waits.
    """

    def __init__(self, programme: Programme, place: Path, *, keep: bool) -> None:
        self.place = place
        self.seed: int | None = None
        self.ready = False
        self.deadline: float | None = time.monotonic() + OPENING_SECONDS
        self._limit = programme.limit_seconds
        place.mkdir(parents=True)
        self.errors = place / "stderr"
        command = [sys.executable, "-m", "tests.campaign.worker", programme.key, str(place)]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, *["--keep"] * keep],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                cwd=ROOT, start_new_session=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._unread = b""

    def give(self, seed: int) -> None:
        """Let it do the trial of `seed`."""
        assert self.process.stdin is not None
        self.seed, self.deadline = seed, time.monotonic() + self._limit
        with suppress(BrokenPipeError):  # its end is noticed at its other pipe
            self.process.stdin.write(f"{seed}\n".encode())
            self.process.stdin.flush()

    def answers(self) -> list[dict[str, Any]] | None:
        """Return what it has said meanwhile; None when it has ended."""
        assert self.process.stdout is not None
        read = self.process.stdout.read()
        if read == b"":
            return None
        *lines, self._unread = (self._unread + (read or b"")).split(b"\n")
        return [json.loads(line) for line in lines]

    def rest(self) -> None:
        """Its trial is over."""
        self.seed = self.deadline = None

    def leave(self) -> None:
        """Let it go home by itself, if it does so soon."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LEAVING_SECONDS)

    def kill(self) -> int:
        """End it with everything it has started; return its exit code."""
        for pid in _session(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]  # both are pipes
        return code

    def last_words(self) -> str:
        """Return the end of what it wrote to stderr."""
        return self.errors.read_text(errors="replace")[-6000:]


def _session(leader: int) -> list[int]:
    """Return the processes of the session that `leader` leads."""
    found = {leader}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                found.add(int(stat.parent.name))
    return sorted(found)


class Crew:
    """The workers of one programme.

    Args:
        seeds: what to try, in order; when it ends, the programme has ended.
        until: when to begin no more trials, by `time.monotonic`.
        place: an empty directory for their trials.
        kept: where directories of failed trials go.
        say: prints a line.
    """

    def __init__(
        self,
        programme: Programme,
        seeds: Iterator[int],
        *,
        until: float,
        place: Path,
        kept: Path,
        keep: bool = False,
        say: Callable[[str], object] = print,
    ) -> None:
        self.total = Total(programme.key, whole=programme.whole())
        self.findings: list[Finding] = []
        self._programme = programme
        self._seeds = seeds
        self._until = until
        self._place = place
        self._kept = kept
        self._keep = keep
        self._say = say
        self._false_starts = 0
        self._hired = 0
        self._workers: set[Worker] = set()
        self._selector = selectors.DefaultSelector()

    def run(self, workers: int) -> None:
        """Do trials until time or seeds are over."""
        began = last = time.monotonic()
        try:
            for _ in range(workers):
                self._hire()
            while self._workers:
                self._look()
                self.total.seconds = time.monotonic() - began
                if time.monotonic() - last >= LINE_SECONDS:
                    last += LINE_SECONDS
                    self._say(f"{self._programme.key:4}{self.total.seconds:6.0f} s  "
                              f"{self.total.line()}")  # fmt: skip
        finally:
            self.total.seconds = time.monotonic() - began
            for worker in list(self._workers):
                self._dismiss(worker)
            self._selector.close()

    # --- one worker -------------------------------------------------------------------

    def _hire(self) -> None:
        self._hired += 1
        place = self._place / f"{self._programme.key}-{self._hired}"
        worker = Worker(self._programme, place, keep=self._keep)
        self._workers.add(worker)
        assert worker.process.stdout is not None
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)

    def _dismiss(self, worker: Worker) -> int:
        self._workers.discard(worker)
        assert worker.process.stdout is not None
        self._selector.unregister(worker.process.stdout)
        code = worker.kill()
        if not self._keep:
            shutil.rmtree(worker.place, ignore_errors=True)
        return code

    def _look(self) -> None:
        """Wait for answers, at most until somebody's time is over."""
        now = time.monotonic()
        ends = [w.deadline for w in self._workers if w.deadline is not None]
        wait = max(0.0, min([*ends, now + 1.0]) - now)
        for key, _ in self._selector.select(wait):
            self._hear(key.data)
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.deadline is not None and worker.deadline <= now:
                self._lose(worker, "hung")

    def _hear(self, worker: Worker) -> None:
        answers = worker.answers()
        if answers is None:
            self._lose(worker, "broken")
            return
        for answer in answers:
            worker.ready = True
            if "counts" in answer:
                self.total.add(answer["counts"])
            elif "verdict" in answer:
                self.total.add({})
                self._found(worker, answer["verdict"], answer["summary"], answer["text"])
            self._next(worker)

    def _next(self, worker: Worker) -> None:
        """Give it the next seed, or let it go."""
        worker.rest()
        over = time.monotonic() >= self._until or len(self.findings) >= MOST_FINDINGS
        seed = None if over else next(self._seeds, None)
        if seed is None:
            worker.leave()
            self._dismiss(worker)
        else:
            worker.give(seed)

    def _lose(self, worker: Worker, verdict: str) -> None:
        """It has died, or takes too long: a finding; another one takes its place."""
        if worker.seed is not None:
            self.total.add({})
        self._false_starts = 0 if worker.ready else self._false_starts + 1
        words, code = worker.last_words(), worker.kill()
        limit = self._programme.limit_seconds if worker.ready else OPENING_SECONDS
        how = f"no answer in {limit:g} s" if verdict == "hung" else f"the worker ended with {code}"
        self._found(worker, verdict, how, words)
        self._dismiss(worker)
        if self._false_starts < MOST_FALSE_STARTS and len(self.findings) < MOST_FINDINGS:
            self._hire()
        else:
            self.total.note = "gave up"

    def _found(self, worker: Worker, verdict: str, summary: str, text: str) -> None:
        key, seed = self._programme.key, worker.seed
        directory: Path | None = worker.place / str(seed)
        if seed is not None and directory is not None and directory.exists():
            target = self._kept / f"{key}-{seed}"
            shutil.rmtree(target, ignore_errors=True)
            sockets = shutil.ignore_patterns("*.sock")  # they cannot be copied
            shutil.copytree(directory, target, symlinks=True, ignore=sockets)
            shutil.rmtree(directory, ignore_errors=True)
            directory = target
        else:
            directory = None
        finding = Finding(key, seed, verdict, summary, text, directory and str(directory))
        self.findings.append(finding)
        self.total.found[verdict] += 1
        self._say(f"{key} seed {seed}: {verdict}: {summary.splitlines()[0] if summary else ''}")
