"""What is opened and closed around a block of code.

Owns the rule of leaving: at the end of the block, and when it fails, running attempts get
their time; Ctrl-C and its kin end the program, which is not kept waiting for them.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Scoped:
    """Something for `async with`; a subclass says what `open` and `close` do."""

    async def open(self) -> None:
        """Begin."""
        raise NotImplementedError

    async def close(self, *, drain: bool = True) -> None:
        """End; without `drain`, running attempts get no more time."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close(drain=may_drain(kind))


def may_drain(kind: type[BaseException] | None) -> bool:
    """Tell whether a block that was left by `kind` may wait for running attempts."""
    return kind is None or issubclass(kind, Exception)
