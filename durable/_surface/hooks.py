"""Hooks and mailboxes in a workflow body: how a run waits for the world.

`create_hook` opens a hook, whose token anybody may answer; `receive` waits for what is sent
to the run by name. What may happen in which order is decided in `_replay.hooks`; how the
world answers is in `mail`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar, cast, overload

from durable._authoring.context import current_body
from durable._base.duration import parse_duration
from durable._base.ids import new_token, valid_text
from durable._replay.body import Body
from durable._replay.hooks import Hooks
from durable._replay.mailbox import OpenHook
from durable._surface.run import Duration, Run
from durable.errors import HookDisposedError, WrongContextError, shown_token

T = TypeVar("T")


# --- in a body ------------------------------------------------------------------------------


class Hook(Generic[T]):
    """A place in a workflow body where payloads arrive from outside; made by `create_hook`.

    Awaiting it gives the next payload; so does each turn of ``async for``, until the hook
    is disposed. Payloads are kept in the order in which they were recorded, also while
    nobody waits. A waiter that is cancelled or timed out takes none. Several waiters
    are served in the order in which they began to wait. ``async with`` disposes it.

    Attributes:
        token: give this to whoever is to answer.
        metadata: what it was created with.

    Example:
        ``async with create_hook(bool, token=f"approve:{order}") as hook: approved = await hook``
    """

    def __init__(self, hooks: Hooks, opened: OpenHook, metadata: object) -> None:
        self._hooks = hooks
        self._opened = opened
        self.metadata = metadata

    @property
    def token(self) -> str:
        """What a sender needs to know."""
        return self._opened.token

    @property
    def pending(self) -> int:
        """How many payloads have arrived that nobody has taken yet."""
        return self._opened.pending

    async def get(self, timeout: Duration | None = None) -> T:
        """Wait for the next payload and return it.

        Args:
            timeout: give up after this time: seconds, a `timedelta` or text such as
                ``"3 days"``. The wait is durable. Default: wait for ever.

        Raises:
            TimeoutError: nothing arrived in time; what arrives later is kept.
            HookConflictError: the token is held by another run.
            HookDisposedError: the hook is disposed, and has no payload left.
            DurationError: `timeout` is not usable.

        Example:
            ``answer = await hook.get(timeout="2h")``
        """
        hooks, opened = self._mine(), self._opened
        if timeout is None or opened.pending > 0:
            return cast(T, await hooks.next(opened))
        seconds = parse_duration(timeout, what="timeout") / 1e6
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return cast(T, await hooks.next(opened))
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"{self!r} got no payload within {seconds:g} s") from None

    def __await__(self) -> Generator[Any, None, T]:
        return self.get().__await__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.get()
        except HookDisposedError:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.dispose()

    def dispose(self) -> None:
        """Take nothing more in, and free the token; twice is fine.

        What has arrived before can still be taken. The end of the run does it, too.
        """
        self._mine().dispose(self._opened)

    async def get_conflict(self) -> Run[Any] | None:
        """Return the run that holds the token, None if this one does.

        The answer is recorded. Ask before doing work that only one run may do.

        Example:
            >>> async with create_hook(token=f"order:{order}") as hook:
            ...     if (owner := await hook.get_conflict()) is not None:
            ...         return f"{owner.run_id} sees to this order"
        """
        holder = await self._mine().find_conflict(self._opened)
        return None if holder is None else Run(holder)

    def _mine(self) -> Hooks:
        body = current_body()
        if body is None or body.hooks is not self._hooks:
            raise WrongContextError(
                f"{self!r} belongs to the workflow body that created it; elsewhere give its "
                "token to resume_hook()"
            )
        return self._hooks

    def __repr__(self) -> str:
        return f"<Hook {shown_token(self.token)}>"

    def __getstate__(self) -> NoReturn:
        raise TypeError(f"{self!r} stays in its workflow body: pass hook.token instead")


@overload
def create_hook(type: type[T], *, token: str | None = None, metadata: object = None) -> Hook[T]: ...
@overload
def create_hook(
    type: Any = None, *, token: str | None = None, metadata: object = None
) -> Hook[Any]: ...
def create_hook(type: Any = None, *, token: str | None = None, metadata: object = None) -> Any:
    """In a workflow body: open a hook, so that the run can be answered from outside.

    It is recorded together with, and before, whatever the body does next: a step that
    gives away its token can be answered at once.

    Args:
        type: what payloads must be: a class (dataclass, TypedDict, pydantic model, enum,
            int ...) or an annotation such as ``list[int] | None``. Senders get
            `HookPayloadError` for anything else. Default: any value.
        token: own token, 1 to 256 printable characters, for senders who can work it out;
            unique among all open hooks. Default: one that nobody can guess.
        metadata: anything that senders may read by `get_hook_by_token`.

    Raises:
        WrongContextError: not called in a workflow body.
        ValueError: the token is not usable. TypeError: the type cannot be checked.
        SerializationError: the metadata cannot be stored.

    Example:
        >>> @workflow
        ... async def order(order_id: str) -> str:
        ...     async with create_hook(bool, token=f"approve:{order_id}") as hook:
        ...         try:
        ...             return "approved" if await hook.get(timeout="3 days") else "refused"
        ...         except TimeoutError:
        ...             return "nobody answered"
    """
    return open_hook(type, token=token, metadata=metadata)


def open_hook(type: Any, *, token: str | None, metadata: object, **facts: object) -> Hook[Any]:
    """Open a hook of any kind; `facts` are recorded with it, readable by `find_hook`."""
    body = _body("create_hook()")
    if token is not None:
        valid_text(token, "hook token", "leave it out to get one that nobody can guess")
    from durable._authoring.fitting import fitter, type_text

    fit = fitter(type)
    hooks = body.use_hooks()
    told = None if fit is None else type_text(type)
    opened = hooks.create(token, new_token, {"metadata": metadata, "type": told, **facts}, fit)
    return Hook(hooks, opened, metadata)


def _body(what: str) -> Body:
    body = current_body()
    if body is None:
        raise WrongContextError(
            f"{what} works in a workflow body, where a run can wait; a step gives its result "
            "to the body instead"
        )
    return body


@overload
async def receive(name: str, type: type[T], timeout: Duration | None = None) -> T: ...
@overload
async def receive(name: str, type: Any = None, timeout: Duration | None = None) -> Any: ...
async def receive(name: str, type: Any = None, timeout: Duration | None = None) -> Any:
    """In a workflow body: wait for the next payload that is sent to this run under `name`.

    Each name is a mailbox of its own, which exists without being opened: what is sent before
    the body asks, even before the run has begun, is kept in order.

    Args:
        name: 1 to 256 printable characters.
        type: what the payload must be, as for `create_hook`. While the body waits, the
            sender of another one gets the error; one that was sent before is taken and
            raises here, with the error's `payload` holding it.
        timeout: give up after this time; what arrives later is kept.

    Raises:
        HookPayloadError: the payload is of another type. TimeoutError: nothing came in time.
        WrongContextError: not called in a workflow body.

    Example:
        ``comment = await receive("comments", str, timeout="1 day")``
    """
    hooks = _body("receive()").use_hooks()
    valid_text(name, "mailbox name")
    from durable._authoring.fitting import fitter

    fit = fitter(type, f"mailbox {name!r}")
    if timeout is None or hooks.box(name).pending > 0:
        return await hooks.receive(name, fit)
    seconds = parse_duration(timeout, what="timeout") / 1e6
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await hooks.receive(name, fit)
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"nothing came to mailbox {name!r} within {seconds:g} s") from None
