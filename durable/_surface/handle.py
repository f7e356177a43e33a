"""What every handle of a run is built on: an id, and the way to a runtime.

Owns how a handle finds its runtime and its row, and the ids of what is asked for in a
body's step, which must be the same in each attempt. How a body's question is recorded is
`run.Run`'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from durable._base.clock import SystemClock
from durable._base.ids import new_run_id
from durable._engine.ports import EnginePort
from durable._journal.records import RunRow
from durable._surface.current import Access, current_runtime
from durable.errors import WorkflowRunNotFoundError

T = TypeVar("T")

_clock = SystemClock()


class RunHandle:
    """See the module's docstring.

    Attributes:
        run_id: the run's id.
    """

    def __init__(self, run_id: str, access: Access | None = None) -> None:
        if not isinstance(run_id, str):
            raise TypeError(f"run_id={run_id!r:.80} must be a text, the id of a run")
        self.run_id = run_id
        self._access = access
        self._step_id: str | None = None  # of the step in which a body asks the handle

    async def _asked(
        self, method: str, ask: Callable[[], Awaitable[T]], *args: object, **options: object
    ) -> T:
        """Return the answer of `ask`; in a body, of a step that calls `method` outside of it."""
        raise NotImplementedError

    async def _way(self) -> Access:
        return self._access if self._access is not None else await current_runtime()

    async def _port(self) -> EnginePort:
        return await (await self._way()).port()

    async def _row(self) -> RunRow:
        row = await (await self._way()).reader.run_by_id(self.run_id)
        if row is None:
            raise WorkflowRunNotFoundError(self.run_id)
        return row

    async def _column(self, column: Callable[[RunRow], T]) -> T:
        return column(await self._row())

    def _request(self) -> str:
        """Return a name for what is asked now; made again by a step, it is the same."""
        return self._step_id or new_run_id(_clock.wall_us())

    def _derived_id(self) -> str:
        """Return an id for a run that is made from this one; a step gets the same each time."""
        return self._request().replace(":", ".")

    def __hash__(self) -> int:
        return hash(self.run_id)
