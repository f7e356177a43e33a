"""How the runs ended that ended last, for those who ask a moment later.

A short run may be over before the one who started it comes to ask for its result; that
question is then answered without a read of the journal. Only ends that are durable are
kept, few of them, and none with a large result. Forgetting one costs a read, no more.
"""

from __future__ import annotations

from durable._engine.ports import RunEnd

ENDS_MAX = 256
PAYLOAD_BYTES_MAX = 4096


class RecentEnds:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._ends: dict[str, RunEnd] = {}

    def get(self, run_id: str) -> RunEnd | None:
        """Return how a run ended, if it is known."""
        return self._ends.get(run_id)

    def keep(self, run_id: str, end: RunEnd) -> None:
        """Keep a durable end for a while."""
        if end.payload is None or len(end.payload) <= PAYLOAD_BYTES_MAX:
            self._ends[run_id] = end
            if len(self._ends) > ENDS_MAX:
                del self._ends[next(iter(self._ends))]  # the oldest

    def clear(self) -> None:
        """Forget all, because finished runs are about to be deleted."""
        self._ends.clear()
