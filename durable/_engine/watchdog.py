"""Reports workflow bodies that block the host's event loop.

A body's code runs between two awaits on the host's loop; if it computes, or calls
something that blocks, everything else stands still. One daemon thread looks at the
activation that is under way and logs its stack once when it lasts over a second. The
thread sleeps without time-out while no activation has happened lately, so an idle
runtime costs nothing.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback

from durable._base.clock import Clock

logger = logging.getLogger("durable")

BLOCKED_SECONDS_MAX = 1.0
_LOOK_SECONDS = 0.25


class Watchdog:
    """See the module's docstring.

    Attributes:
        busy: id of the run whose body is running. Set, and taken back, for each activation,
            which is too often for a call.
        turns: counts activations; to be raised with each.
        asleep: `rouse` must be called at the next activation.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.busy: str | None = None
        self.turns = 0
        self.asleep = True
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched = 0
        self._closed = False

    def rouse(self) -> None:
        """Begin to watch this thread, or go on with it."""
        self.asleep = False
        if self._thread is None:
            self._watched = threading.get_ident()
            self._thread = threading.Thread(target=self._look, name="durable-watchdog", daemon=True)
            self._thread.start()
        self._wake.set()

    def _look(self) -> None:
        seen, since = -1, 0.0
        while not self._closed:
            busy, turns = self.busy, self.turns
            if busy is None and turns == seen:
                self.asleep = True
                self._wake.wait()
            self._wake.clear()
            now = self._clock.boot()
            if turns != seen:
                seen, since = turns, now
            elif busy is not None and now - since > BLOCKED_SECONDS_MAX:
                self._report(busy)
                since = float("inf")  # once
            self._wake.wait(_LOOK_SECONDS)

    def _report(self, run_id: str) -> None:
        frame = sys._current_frames().get(self._watched)
        if frame is not None and self.busy is not None:
            stack = "".join(traceback.format_stack(frame))
            logger.warning(
                "the body of run %s has been blocking its event loop for over %.0f s; "
                "move the work into a @step. It is here:\n%s",
                run_id,
                BLOCKED_SECONDS_MAX,
                stack,
            )

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wake.set()
