"""What simulated worlds ought to reach sooner or later, as marks of the campaign (T17).

A world counts by word what happens in it. The words here are those without which T5 would prove
less than it says: each fault, and each way of coming back from one.
"""

from __future__ import annotations

_WORDS = (
    # the machine
    "crash before commit", "crash after commit", "crash at any time", "restart", "lose loop",
    "suspend", "wall back", "wall forward", "slow disk",
    # its disk
    "io error", "disk full", "busy", "unknown commit", "lost commit", "short read",
    # attempts
    "another attempt", "attempt interrupted", "attempt parked", "step timeout",
    # clients
    "payload", "duplicate payload", "late payload", "mail", "woken", "retried", "forked",
    "outside chunk", "chunks read",
    # how runs fare
    "completed", "failed", "cancelled", "continued", "gone", "set back", "blocked paused",
    "blocked missing_code", "blocked divergence", "unblocked", "simulated twice",
)  # fmt: skip
MARKED = {word: f"simulation: {word}" for word in _WORDS}
