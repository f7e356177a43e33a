"""The headers of requests and responses: in order, with duplicates, in any case of letters.

Does not judge what is in them; see `messages` for what a response may carry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

HeaderPairs = Mapping[str, str] | Iterable[tuple[str, str]]


class Headers(Mapping[str, str]):
    """Headers in the order in which they came; names are compared without regard to case.

    As a mapping it holds the first value of each name, under the name in lower case.

    Attributes:
        pairs: every name and value, duplicates included, as they came.

    Example:
        ``Headers([("Content-Type", "text/plain")])["content-type"] == "text/plain"``
    """

    __slots__ = ("_first", "pairs")

    def __init__(self, given: HeaderPairs = ()) -> None:
        found = given.items() if isinstance(given, Mapping) else given
        if isinstance(given, Headers):
            found = given.pairs
        self.pairs: tuple[tuple[str, str], ...] = tuple((name, value) for name, value in found)
        self._first: dict[str, str] = {}
        for name, value in self.pairs:
            self._first.setdefault(name.lower(), value)

    def __getitem__(self, name: str) -> str:
        return self._first[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)

    def get_all(self, name: str) -> list[str]:
        """Return every value of a header, in order; an empty list if there is none."""
        wanted = name.lower()
        return [value for found, value in self.pairs if found.lower() == wanted]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return _lowered(self.pairs) == _lowered(other.pairs)

    def __hash__(self) -> int:
        return hash(tuple(_lowered(self.pairs)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Headers, (self.pairs,))

    def __repr__(self) -> str:
        # Values may be secrets: Authorization, signatures, cookies.
        return f"<Headers {', '.join(self._first)}>"


def _lowered(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in pairs]
