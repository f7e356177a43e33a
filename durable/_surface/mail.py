"""Answering runs from outside: `resume_hook`, `send`, `get_hook_by_token`, typed by `define_hook`.

Owns the checks that a payload must pass in the sender's process. What is recorded, and when
the sender is answered, is decided in `_engine.mail`. A call in a workflow body is a step of
the library's own, so that its answer is recorded.
"""

from __future__ import annotations

import secrets
from typing import Any, Generic, TypeVar, overload

from durable._authoring.context import current_body
from durable._authoring.primitives import get_step_metadata
from durable._authoring.step import Step, StepOptions
from durable._base.ids import token_hash, valid_text
from durable._surface.current import Access, current_runtime
from durable._surface.hook_info import HookInfo, find
from durable._surface.hooks import Hook, open_hook
from durable._surface.run import Run
from durable.errors import HookNotFoundError

T = TypeVar("T")

KEY_BYTES = 9  # of the random keys under which clients repeat a call
KEY_CHARS = 24  # of those under which steps of ours do


async def resume_hook(
    token: str | HookInfo, payload: object = None, *, dedupe_key: str | None = None
) -> Run[Any]:
    """Give a hook its next payload; returns once that is recorded.

    Args:
        token: the hook's token, or what `get_hook_by_token` returned.
        payload: any value that can be stored; it must fit the hook's type, and arrives as
            that: a dict as the dataclass that the body asked for, for example.
        dedupe_key: a payload under a key that this hook has got before is not recorded again,
            for deliveries that may come twice. 1 to 256 printable characters.

    Returns:
        The run that has got it.

    Raises:
        HookNotFoundError: unknown or disposed, or the run has ended.
        HookPayloadError: the payload does not fit.
        SerializationError: the payload cannot be stored.
        WorkflowRunBlockedError: the run is blocked or paused, so that its code cannot check
            the payload; send it again after that. A hook without a type takes it all the same.
        In all cases nothing was recorded.

    In a workflow body it is recorded, and sent once however often the body is replayed.

    Example:
        ``run = await resume_hook("approve:A-17", True); print(await run.result())``
    """
    told = token.token if isinstance(token, HookInfo) else token
    if current_body() is not None:
        return Run(await _resume_in_body(told, payload, dedupe_key))
    return await resume(await current_runtime(), told, payload, dedupe_key)


async def resume(
    access: Access,
    token: str | HookInfo,
    payload: object,
    key: str | None,
    *,
    again: bool = False,
) -> Run[Any]:
    """Give a hook of one journal its next payload, perhaps `again`; see `resume_hook`."""
    token = token.token if isinstance(token, HookInfo) else token
    valid_text(token, "hook token")
    encoded = access.payloads.encode(payload, "payload")
    fields: dict[str, Any] = {"token": token, "payload": encoded, "key": _key(access, key)}
    if not access.is_owner:  # the call may be repeated, after the hook is gone
        row = await access.reader.hook(token_hash(token))
        if row is None:
            raise HookNotFoundError(token)
        fields["run_id"] = row.run_id
    if again:
        fields["again"] = True
    return Run(await (await access.port()).ask("resume_hook", **fields), access)


async def send(
    run: str | Run[Any], name: str, payload: object = None, *, dedupe_key: str | None = None
) -> None:
    """Send a payload to a mailbox of a run; returns once that is recorded.

    The run need not wait for it yet, nor have begun: it is kept until the body asks by
    `receive`.

    Args:
        run: the run or its id.
        name: of the mailbox, 1 to 256 printable characters.
        payload: any value that can be stored.
        dedupe_key: as for `resume_hook`; counts per run and name.

    Raises:
        WorkflowRunNotFoundError: there is no such run. HookNotFoundError: it has ended.
        HookPayloadError: the body waits for another type.
        SerializationError: the payload cannot be stored.
        In all cases nothing was recorded.

    Example:
        ``await send("order-17", "comments", "please wrap it")``
    """
    run_id = run.run_id if isinstance(run, Run) else run
    if current_body() is not None:
        await _send_in_body(run_id, name, payload, dedupe_key)
    else:
        await deliver(await current_runtime(), run_id, name, payload, dedupe_key)


async def deliver(
    access: Access, run: str | Run[Any], name: str, payload: object, key: str | None
) -> None:
    """Send a payload to a run of one journal; see `send`."""
    valid_text(name, "mailbox name")
    fields = {
        "run_id": run.run_id if isinstance(run, Run) else run,
        "name": name,
        "payload": access.payloads.encode(payload, "payload"),
        "key": _key(access, key),
    }
    await (await access.port()).ask("send", **fields)


def _key(access: Access, key: str | None) -> str | None:
    if key is not None:
        return valid_text(key, "dedupe key", "leave it out to record every call")
    # A client repeats a call whose answer was lost with the owner's process.
    return None if access.is_owner else secrets.token_urlsafe(KEY_BYTES)


async def get_hook_by_token(token: str) -> HookInfo:
    """Return an open hook, so that one can see who waits and what for.

    Its metadata is loaded like a run's result.

    Raises:
        HookNotFoundError: unknown or disposed, or its run has ended.
        PayloadDecodeError: its metadata cannot be loaded in this process.

    Example:
        ``hook = await get_hook_by_token("approve:A-17"); print(hook.run_id, hook.metadata)``
    """
    if current_body() is not None:
        return await _find_in_body(token)
    return await find(await current_runtime(), token)


# --- inside bodies: steps of ours, so that what they did and answered is recorded ----------------


async def _resume_in_step(token: str, payload: object, key: str | None) -> str:
    again, key = get_step_metadata().attempt > 1, key or _step_key()
    return (await resume(await current_runtime(), token, payload, key, again=again)).run_id


async def _send_in_step(run_id: str, name: str, payload: object, key: str | None) -> None:
    await deliver(await current_runtime(), run_id, name, payload, key or _step_key())


def _step_key() -> str:
    # An attempt that was interrupted runs again: its key keeps it from sending twice.
    return f"step:{token_hash(get_step_metadata().idempotency_key).hex()[:KEY_CHARS]}"


async def _find_in_step(token: str) -> HookInfo:
    return await find(await current_runtime(), token)


_ONCE = StepOptions(max_retries=0)  # what is not found, or does not fit, stays so
_resume_in_body: Step[[str, object, str | None], str] = Step(
    _resume_in_step, "durable.resume_hook", _ONCE
)
_send_in_body: Step[[str, str, object, str | None], None] = Step(
    _send_in_step, "durable.send", _ONCE
)
_find_in_body: Step[[str], HookInfo] = Step(_find_in_step, "durable.get_hook_by_token", _ONCE)


class DefinedHook(Generic[T]):
    """A hook's type, for the body that creates it and the code that answers; see `define_hook`."""

    def __init__(self, type: Any) -> None:
        self.type = type
        from durable._authoring.fitting import fitter

        self._fit = fitter(type)

    def create(self, *, token: str | None = None, metadata: object = None) -> Hook[T]:
        """In a workflow body: open a hook of this type; see `create_hook`."""
        return open_hook(self.type, token=token, metadata=metadata)

    async def resume(
        self, token: str | HookInfo, payload: T, *, dedupe_key: str | None = None
    ) -> Run[Any]:
        """Check the payload here and give it to a hook of this type; see `resume_hook`."""
        fitted = payload if self._fit is None else self._fit(payload)
        return await resume_hook(token, fitted, dedupe_key=dedupe_key)


@overload
def define_hook(type: type[T]) -> DefinedHook[T]: ...
@overload
def define_hook(type: Any = None) -> DefinedHook[Any]: ...
def define_hook(type: Any = None) -> Any:
    """Return a typed hook to be created in bodies and resumed elsewhere.

    Args:
        type: as for `create_hook`.

    Raises:
        TypeError: the type cannot be checked.

    Example:
        >>> approval = define_hook(bool)
        >>> @workflow
        ... async def order(order_id: str) -> bool:
        ...     return await approval.create(token=f"approve:{order_id}")
        >>> async def on_click(order_id: str) -> None:
        ...     await approval.resume(f"approve:{order_id}", True)
    """
    return DefinedHook(type)
