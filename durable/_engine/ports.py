"""What the surface asks of an engine, wherever that engine lives.

`EnginePort` is implemented by the local `Engine` (this process owns the journal) and by
the remote client (another process does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from durable._authoring.workflow import StartOptions
from durable._journal.records import RunRow

START_STEP = "durable.start"  # in which a body starts children


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A run to be created. `payload` holds its encoded arguments."""

    run_id: str
    workflow: str
    payload: bytes
    options: StartOptions
    parent_id: str | None = None
    root_id: str | None = None
    # Tells this creation from others of the same run id, 0 = does not matter. It is the same
    # when the creation is repeated, because nobody knows whether it was recorded.
    origin: int = 0
    bound_to: str | None = None  # see `RunRow`
    made_from: str | None = None  # `RunRow.origin`
    # The very object given to `start`: a closure works until the process ends even when
    # its name has been registered again since. None in a client.
    definition: object = None


class Created(NamedTuple):
    """The answer to a `RunSpec`; `existing` is the older run found under its id."""

    run_id: str
    existing: RunRow | None


class RunEnd(NamedTuple):
    """How a run came to rest: finished (with its recorded result or error) or blocked."""

    row: RunRow
    payload: bytes | None


class EnginePort(Protocol):
    """See the module's docstring."""

    async def create(self, specs: Sequence[RunSpec]) -> list[Created]:
        """Record runs; returns when they are durable."""

    async def wait_end(self, run_id: str, parked: bool = True) -> RunEnd:
        """Return the run's row and outcome once it is finished, or blocked if `parked`."""

    async def cancel(self, run_id: str, reason: str | None) -> None:
        """Record a request to cancel."""

    async def wake_up(self, run_id: str, waits: Sequence[int] | None) -> int:
        """End pending sleeps (all, or these events); return how many."""

    async def resume(self, run_id: str) -> None:
        """Let a blocked run try again."""

    async def ask(self, what: str, **fields: Any) -> Any:
        """Ask a part of the engine, by the name under which it has offered to answer.

        Fields and answers are plain data, so that they cross to another process: None, bool,
        int, float, str, bytes, lists and dicts of them. Asking twice must say the same.
        """
