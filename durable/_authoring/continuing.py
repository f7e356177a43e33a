"""`continue_as_new`: a body ends its run and goes on as a new one.

Owns the checks that the call must pass; what then happens is the engine's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from durable._authoring.context import current_body
from durable._authoring.workflow import Workflow
from durable._base.ids import next_run_id
from durable._replay.ending import Continuation
from durable._replay.hooks import Hooks
from durable._replay.mailbox import OpenHook
from durable.errors import WrongContextError


def continue_as_new(*args: Any, keep_hooks: Iterable[str] = (), **kwargs: Any) -> NoReturn:
    """End this run and start its successor, with these arguments, in one transaction.

    For workflows that go on for ever: the successor begins with an empty history. It has
    the same workflow, attributes, parent, retention and deployment, an id of its own, and
    the deadline that is left of a `timeout`: that counts for the whole chain. `Run.result`
    of any run of the chain waits for the result of the last one, `Run.cancel` reaches the
    one that is open, and children stay with the chain.

    The call does not return: it unwinds the body like an exception that is no `Exception`,
    so `finally` blocks run (and may await steps) before the run ends. What the body has
    not awaited is cancelled, with a warning. A run that was asked to cancel does not
    continue: it ends as cancelled. Mail that was not received goes to the new run.

    Args:
        args, kwargs: of the new run; in a workflow defined in a class `self` comes first.
        keep_hooks: tokens of open hooks that the new run shall have: no other run gets them
            in between, and payloads that were not taken, or come in between, wait for the
            hook that it creates with the same token. Others are freed.

    Raises:
        WrongContextError: not called from a workflow body.
        TypeError: the arguments do not fit. SerializationError: one cannot be stored.
        ValueError: a token is not that of an open hook of this run.

    Example:
        >>> @workflow
        ... async def poll(count: int = 0) -> None:
        ...     await check()
        ...     await sleep("1 hour")
        ...     continue_as_new(count + 1)
    """
    body = current_body()
    if body is None:
        raise WrongContextError(
            "continue_as_new() ends the run whose body calls it: call it in a workflow body; "
            "elsewhere use `await start(...)`"
        )
    definition: Workflow[..., Any] = body.scratch["workflow"]
    unbound = Workflow(definition.fn, definition.name, definition.settings)
    unbound.bind(args, kwargs)
    successor = next_run_id(body.run_id, body.script.now_us)
    payload = body.payloads.encode_call(args, kwargs)
    hooks = body.use_hooks()
    kept = [_kept(hooks, token) for token in _tokens(keep_hooks)]
    raise Continuation(successor, payload, kept, hooks.boxes)


def _tokens(keep_hooks: Iterable[str]) -> list[str]:
    if isinstance(keep_hooks, str):
        raise TypeError(f"keep_hooks={keep_hooks!r} must be a list of tokens: write [hook.token]")
    return list(keep_hooks)


def _kept(hooks: Hooks, token: str) -> OpenHook:
    hook = hooks.keep(token)
    if hook is None:
        known = ", ".join(repr(each.token) for each in hooks.open.values()) or "none"
        raise ValueError(f"keep_hooks: {token!r} is no open hook of this run; it has: {known}")
    return hook
