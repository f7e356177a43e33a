"""Bugs to plant, each the breach of one promise, with the tests that must notice it.

A bug is a change of the text of one module. The text that is changed must be found there
exactly once, so that nobody plants nothing without noticing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """One bug.

    Attributes:
        name: what is wrong then.
        module: path below `durable`.
        right: the text as it is.
        wrong: the text as it is planted.
        tests: what to run: files, or tests in them.
    """

    name: str
    module: str
    right: str
    wrong: str
    tests: tuple[str, ...]


_CUTS = "tests/crash/test_power_cuts.py::test_no_power_cut_loses_what_was_acknowledged"
_KILLS = "tests/crash/test_kill_sweep.py::test_nothing_is_lost_or_repeated_after_a_kill"
_MOMENTS, _HOOKS = "tests/engine/test_disk_moments.py", "tests/hooks/test_hooks.py"

BUGS = (
    Bug(
        "a write is acknowledged before its COMMIT",
        "_journal/writer.py",
        "        self._busy = self._chore_is_next = True\n",
        "        self._busy = self._chore_is_next = True\n"
        "        self._deliver_all([(write, None) for write in batch])\n",
        ("tests/journal/test_writer.py::test_nothing_is_reported_before_commit",),
    ),
    Bug(
        "the disk is not made to write at durability full",
        "_journal/database.py",
        'SYNCHRONOUS = {"full": 2, "process": 1}',
        'SYNCHRONOUS = {"full": 1, "process": 1}',
        (f"{_CUTS}[sequential]",),
    ),
    Bug(
        "a COMMIT that raised counts as refused, though it may have landed",
        "_journal/writer.py",
        "        if not isinstance(error, UnknownOutcomeError):\n",
        "        if True:\n",
        ("tests/journal/test_faults.py::test_non_vital_write_that_did_land_succeeds",),
    ),
    Bug(
        "an error of the disk is taken for a failure of the step",
        "_engine/executor.py",
        "        if self._is_ours(attempt, error):\n",
        "        if False:\n",
        (f"{_MOMENTS}::test_journal_that_cannot_be_read_is_not_the_failure_of_the_step_that_asks",),
    ),
    Bug(
        "two runs may have the same id",
        "_journal/schema.sql",
        "    run_id       TEXT    NOT NULL UNIQUE,\n",
        "    run_id       TEXT    NOT NULL,\n",
        ("tests/journal/test_writer.py::test_existing_run_id_is_left_out_and_returned",),
    ),
    Bug(
        "nobody looks whether the owner lock is taken",
        "_journal/lock.py",
        "            flock.flock(descriptor, flock.LOCK_EX | flock.LOCK_NB)\n",
        "            pass\n",
        ("tests/ownership/test_lock.py",),
    ),
    Bug(
        "effects come before the COMMIT that decides them",
        "_engine/activation.py",
        "        run.unsaved += 1\n        self._submit(turn)\n",
        "        run.unsaved += 1\n        self.act(turn)\n        self._submit(turn)\n",
        (f"{_KILLS}[sequential]",),
    ),
    Bug(
        "events are applied in another order than they came",
        "_replay/body.py",
        "        for item in inbox:\n            at, ref = now, item.ref\n",
        "        for item in reversed(inbox):\n            at, ref = now, item.ref\n",
        (
            f"{_HOOKS}::test_payloads_come_in_the_order_in_which_they_were_acknowledged",
            "tests/hooks/test_mail.py",
            "tests/streams/test_generators.py",
        ),
    ),
    Bug(
        "sleeps end a second early",
        "_engine/timers.py",
        "        alarm = Alarm(deadline, next(self._order), callback, heap)\n",
        "        alarm = Alarm(deadline - 1, next(self._order), callback, heap)\n",
        ("tests/engine/test_timing.py::test_sleep_takes_any_form_and_wakes_at_its_time",),
    ),
    Bug(
        "a late result is recorded though the step has its outcome",
        "_replay/body.py",
        "            elif ref not in self.steps and self._is_stale(item):\n",
        "            elif False:\n",
        ("tests/replay/test_races.py", "tests/engine/test_cancellation.py"),
    ),
    Bug(
        "a waiter that is cancelled takes its payload with it",
        "_replay/mailbox.py",
        "                self._awake -= 1  # it was woken and cancelled: "
        "its turn goes to the next\n                self._wake()\n",
        "                pass\n",
        ("tests/hooks/test_mailbox.py",),
    ),
    Bug(
        "what was interrupted is not counted as an attempt",
        "_replay/opened.py",
        "            self.interruptions += 1\n",
        "            pass\n",
        ("tests/engine/test_poison.py", "tests/engine/test_interruptions.py"),
    ),
    Bug(
        "a recorded command need not be the same on replay",
        "_replay/script.py",
        "            if event.kind == kind and event.name == name and event.ref == ref:\n",
        "            if event.kind == kind:\n",
        ("tests/replay/test_divergence.py",),
    ),
    Bug(
        "a stopped runtime unwinds the bodies that it leaves",
        "_replay/body.py",
        "            freeze(alive)\n",
        "            [task.cancel() for task in alive]\n            self.loop.stopped = False\n"
        "            self.loop.drain()\n",
        ("tests/surface/test_exit.py", "tests/engine/test_memory.py"),
    ),
    Bug(
        "checksums are not looked at",
        "_journal/checksum.py",
        " != row[7] or seq != place:\n",
        " and False or seq != place:\n",
        ("tests/journal/test_reader.py",),
    ),
    Bug(
        "the files are for everybody to read",
        "_journal/files.py",
        "        try:\n            os.fchmod(descriptor, 0o600)\n        finally:\n",
        "        try:\n            os.fchmod(descriptor, 0o644)\n        finally:\n",
        ("tests/journal/test_database.py",),
    ),
)
