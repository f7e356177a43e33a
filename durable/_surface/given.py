"""Checks of what callers give to the methods of a run, before anything is recorded.

Owns the messages: they name the parameter, its value, and what to give instead.
"""

from __future__ import annotations

from collections.abc import Iterable

REASON_CHARS_MAX = 64 * 1024


def check_reason(reason: object) -> None:
    """Check why a run is cancelled or paused.

    Raises:
        TypeError: not a text.
        ValueError: a text that cannot be stored, or is a document rather than a reason.
    """
    if reason is None:
        return
    if not isinstance(reason, str):
        raise TypeError(f"reason={reason!r:.80} must be a text")
    if len(reason) > REASON_CHARS_MAX:
        raise ValueError(
            f"reason={reason[:20]!r}... has {len(reason):,} characters, the limit is "
            f"{REASON_CHARS_MAX:,}: keep long texts elsewhere"
        )
    try:
        reason.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"reason={reason!r} is no valid text ({error.reason}): decode it with errors='replace'"
        ) from error


def event_numbers(correlation_ids: Iterable[int] | None) -> list[int] | None:
    """Return the numbers of events, None for all.

    Raises:
        TypeError: not several numbers.
    """
    if correlation_ids is None:
        return None
    chosen = list(correlation_ids) if isinstance(correlation_ids, Iterable) else [None]
    if not all(type(each) is int for each in chosen):
        raise TypeError(
            f"correlation_ids={correlation_ids!r:.80} must be the numbers of wait_created events, "
            "such as [5]: see await run.events()"
        )
    return chosen
