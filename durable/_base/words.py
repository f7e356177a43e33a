"""Words for people: numbers of things.

Owns the plural, so that no message speaks of "1 runs". It knows nothing of what is counted.
"""

from __future__ import annotations


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun.

    Args:
        count: how many there are.
        one: the noun for one of them.
        many: for any other number. Default: `one` and an s.

    Example:
        >>> counted(1, "run"), counted(0, "run"), counted(2, "copy", "copies")
        ('1 run', '0 runs', '2 copies')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"
