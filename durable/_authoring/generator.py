"""What calling a generator step in a workflow body returns.

Owns the two ways of using it: iterated, the body gets the items as they are recorded;
awaited, it gets their number once all are there. Like a coroutine it does nothing before
that, and like an asynchronous generator it can be used up once; leaving the iteration
early gives the step up. It knows nothing about attempts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, Generic, TypeVar, cast

from durable._replay.body import Body
from durable._replay.items import END, ItemQueue
from durable._replay.ports import Named
from durable.errors import WrongContextError

T = TypeVar("T")


class StepItems(Generic[T]):
    """The items of a generator step, in a workflow body.

    Iterate it to have the items, or await it to have their number; either once.

    Example:
        ``async for token in complete(prompt): ...`` or ``count = await complete(prompt)``
    """

    def __init__(
        self,
        body: Body,
        step: Named,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        replaces: bool,
    ) -> None:
        self._body = body
        self._step = step
        self._call = (args, kwargs)
        self._replaces = replaces
        self._items: AsyncGenerator[T, None] | None = None
        self._awaited = False

    def __aiter__(self) -> AsyncGenerator[T, None]:
        if self._awaited:
            raise WrongContextError(
                f"step {self._step.name} was awaited already, which gives the number of its items: "
                "iterate another call of it"
            )
        if self._replaces:
            raise ValueError(
                f"step {self._step.name} has on_retry='replace' and cannot be iterated, because "
                "what a body has taken cannot be taken back: await it, or use 'skip' or 'resume'"
            )
        if self._items is None:
            # The generator itself, not this object: dropped at a `break`, it closes itself.
            self._items = cast("AsyncGenerator[T, None]", _taken(self._issue))
        return self._items

    async def __anext__(self) -> T:
        """Return the next item."""
        return await anext(self.__aiter__())

    async def aclose(self) -> None:
        """Give the step up, unless it has ended."""
        await self.__aiter__().aclose()

    def __await__(self) -> Generator[Any, None, int]:
        if self._items is not None or self._awaited:
            raise WrongContextError(
                f"step {self._step.name} was iterated or awaited already: call it again"
            )
        self._awaited = True
        future = self._body.create_step(self._step, *self._call)
        return cast("Generator[Any, None, int]", future.__await__())

    def _issue(self) -> ItemQueue:
        return self._body.create_items(self._step, *self._call)

    def __repr__(self) -> str:
        return f"<items of step {self._step.name}>"


async def _taken(issue: Any) -> AsyncGenerator[object, None]:
    queue: ItemQueue = issue()
    try:
        while (item := await queue.take()) is not END:
            yield item
    finally:
        queue.give_up()
