"""Brings payloads into runs: for hooks by their tokens, for mailboxes by run and name.

A sender is answered once its own payload is recorded in the run's history, in one
transaction with whatever the body made of it; or it is told why it was not. So a payload
that comes while its run ends is either part of the history or refused. What the body says
about the payload's type is checked first: one that does not fit never reaches the run.

For a run that is blocked, payloads are recorded behind what its body has seen, and the body
is given them once the run goes on. Those for a hook with a type are refused meanwhile, since
the code that knows the type cannot be asked: their senders are told to try again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from durable._base.ids import token_hash
from durable._engine.activation import Activation
from durable._engine.claims import Claims
from durable._engine.commands import Commands
from durable._engine.hot import HotRun, settle
from durable._engine.loader import Loader
from durable._engine.payloads import EnginePayloads
from durable._engine.receipts import Receipts
from durable._journal.attributes import decode_blocked
from durable._journal.journal import Journal
from durable._journal.records import BLOCKED, FINISHED, HookRow, RunRow, Write
from durable._replay.hooks import HOOK_RECEIVED, hook_facts, kept_box, mail_name
from durable._replay.mailbox import Delivery, Fit, Mailbox, OpenHook
from durable._replay.script import UNDECODED, Inbound
from durable.errors import (
    DurableError,
    HookNotFoundError,
    HookPayloadError,
    PayloadDecodeError,
    SerializationError,
    WorkflowRunBlockedError,
)

# How many payloads a run is given in one turn, so that a flood does not hold up the host.
AT_ONCE = 500


class Mail:
    """See the module's docstring.

    Args:
        spawn: begins work of the engine in the background.
        park: records a payload for a blocked run; False when it is not blocked any more.
    """

    def __init__(
        self,
        journal: Journal,
        commands: Commands,
        loader: Loader,
        activation: Activation,
        payloads: EnginePayloads,
        claims: Claims,
        *,
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
        park: Callable[[str, Inbound], Awaitable[bool]],
    ) -> None:
        self._journal = journal
        self._commands = commands
        self._loader = loader
        self._activation = activation
        self._payloads = payloads
        self._hot = claims.hot
        self._receipts = Receipts(journal, commands, payloads, spawn)
        self._spawn = spawn
        self._park = park
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}  # senders who wait, by run id

    # --- what callers ask --------------------------------------------------------------

    async def resume_hook(
        self,
        token: str,
        payload: bytes,
        key: str | None = None,
        run_id: str | None = None,
        again: bool = False,
    ) -> str:
        """Record a payload for a hook; return the id of its run.

        Args:
            key: a payload with a key that the hook has got before is not recorded again.
            run_id: where the caller saw the hook. With it a call that is repeated, because
                its first answer was lost, finds its payload though the hook is elsewhere or gone.
            again: the call is a repetition, of a caller that could not say where.

        Raises:
            HookNotFoundError, HookPayloadError, WorkflowRunBlockedError: not recorded.
        """
        if key and again and (there := await self._receipts.anywhere(token, key)) is not None:
            return there
        name, late = mail_name("", key), mail_name(kept_box(token), key)
        while (place := await self._find(token)) is not None:
            run, hook = place
            if key and run_id and run.run_id != run_id:
                if (there := await self._receipts.along(run_id, token, key)) is not None:
                    return there
                run_id = run.run_id
                continue  # it may have gone meanwhile
            item = Inbound(HOOK_RECEIVED, hook.seq, name if hook.seq else late, None, payload)
            if await self._give(run, hook, item):
                return run.run_id
        if key and run_id and (there := await self._receipts.along(run_id, token, key)):
            return there
        raise HookNotFoundError(token)

    async def _find(self, token: str) -> tuple[HotRun | RunRow, OpenHook | HookRow] | None:
        """Return the open hook of a token and its run, None when there is none."""
        hook = self._hot.get(token)
        if hook is not None and isinstance(run := hook.run, HotRun) and _is_open(run, hook):
            return run, hook
        while (row := await self._journal.reader.hook(token_hash(token))) is not None:
            found = await self._fetch(row.run_id)
            if isinstance(found, RunRow):
                return (found, row) if found.status == BLOCKED else None
            assert found.body is not None
            if found.body.outcome is None and row.seq == 0:
                return found, row
            hook = None if found.body.hooks is None else found.body.hooks.open.get(row.seq)
            if found.body.outcome is None:
                # The index may be forged; the hook itself tells which token is its own.
                is_its = hook is not None and token_hash(hook.token) == token_hash(token)
                return (found, hook) if hook is not None and is_its else None
            await self._next_commit(found)  # its last
        return None

    async def _give(self, run: HotRun | RunRow, hook: OpenHook | HookRow, item: Inbound) -> bool:
        if isinstance(run, HotRun):
            assert run.body is not None
            late = item.name.partition("\n")[0]
            box = hook if isinstance(hook, OpenHook) else run.body.use_hooks().box(late)
            return await self._deliver(run, box, item)
        if item.ref == 0:  # the run has yet to create the hook
            return await self._leave(run, item)
        created = await self._journal.reader.history(run.pk, run.run_id, item.ref - 1, 1)
        if created and hook_facts(self._payloads, created[0]).get("type") is not None:
            raise _cannot_ask(run)
        return await self._leave(run, item)

    async def send(self, run_id: str, name: str, payload: bytes, key: str | None = None) -> None:
        """Record a payload for a mailbox of a run, or of the one that has continued it.

        Raises:
            WorkflowRunNotFoundError: there is no such run. HookNotFoundError: it has ended.
            HookPayloadError, WorkflowRunBlockedError: not recorded.
        """
        item = Inbound(HOOK_RECEIVED, 0, mail_name(name, key), None, payload)
        while not await self._send(run := await self._fetch(run_id), name, item):
            if isinstance(run, RunRow) and run.status in FINISHED:
                break
        else:
            return
        if key and await self._was_recorded(run_id, item.name):
            return
        if (successor := await self._commands.successor_of(run)) is not None:
            return await self.send(successor, name, payload, key)
        raise HookNotFoundError(
            name, f"run {run_id} is {run.status}: its mailbox {name!r} takes nothing any more"
        )

    async def _send(self, run: HotRun | RunRow, name: str, item: Inbound) -> bool:
        if isinstance(run, RunRow):
            return run.status == BLOCKED and await self._leave(run, item)
        assert run.body is not None
        if run.body.outcome is None:
            return await self._deliver(run, run.body.use_hooks().box(name), item)
        await self._next_commit(run)  # its last
        return False

    async def _leave(self, row: RunRow, item: Inbound) -> bool:
        """Record a payload for a blocked run; False when it is not blocked any more."""
        if decode_blocked(row.blocked).kind == "corrupt":
            raise _cannot_ask(row)
        self._fitted(None, item.payload or b"")
        return await self._park(row.run_id, item)

    async def _fetch(self, run_id: str) -> HotRun | RunRow:
        run = self._commands.at_hand(run_id)
        return await self._commands.fetch(self._loader, run_id) if run is None else run

    # --- one payload -----------------------------------------------------------------------

    async def _deliver(self, run: HotRun, box: Mailbox, item: Inbound) -> bool:
        """Put a payload into a run; False when it was not taken, and the caller looks again."""
        if len(run.inbox) >= AT_ONCE or run.run_id in self._lines:
            await self._queue_up(run)
            if run.gone:
                return False
        delivery, payload = self._fitted(box.fit, item.payload or b"")
        self._activation.post(run, item._replace(payload=payload, value=delivery))
        box.coming += 1
        try:
            await self._next_commit(run)
        finally:
            box.coming -= 1
        if delivery.repeated:  # what recorded it may still be on its way to the disk
            await self._journal.perform(Write(done=_ignore, vital=True))
        return delivery.seq != 0

    async def _queue_up(self, run: HotRun) -> None:
        """Wait in line until the run has taken in enough of what it was given before."""
        line = self._lines.get(run.run_id)
        if line is None:
            line = self._lines[run.run_id] = deque()
            self._spawn(self._let_in(run, line))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        await turn

    async def _let_in(self, run: HotRun, line: deque[asyncio.Future[None]]) -> None:
        try:
            while line:
                if len(run.inbox) >= AT_ONCE and not run.gone:
                    await self._next_commit(run)
                for _ in range(min(AT_ONCE, len(line))):
                    settle(line.popleft(), None)
                await asyncio.sleep(0)  # and there they post
        except DurableError:
            pass  # each of them is told by itself
        finally:
            del self._lines[run.run_id]
            for turn in line:
                settle(turn, None)

    def _fitted(self, fit: Fit | None, payload: bytes) -> tuple[Delivery, bytes]:
        try:
            value = self._payloads.decode(payload)
        except PayloadDecodeError as error:
            raise HookPayloadError(
                f"the payload cannot be loaded by the process that runs the workflow: {error}"
            ) from error
        if fit is None:
            return Delivery(value), payload
        fitted = fit(value)
        if fitted is value:
            return Delivery(value), payload
        # Recorded as what it became, so that it becomes the same again on every replay.
        try:
            return Delivery(UNDECODED), self._payloads.encode(fitted, "payload")
        except SerializationError:  # as JSON it goes as it came, and is fitted by the body
            return Delivery(value), payload

    async def _next_commit(self, run: HotRun) -> None:
        ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run.acks.append(ack)
        await ack

    async def _was_recorded(self, run_id: str, name: str) -> bool:
        row = await self._journal.reader.run_by_id(run_id)
        if row is None:
            return False
        history = await self._journal.reader.history(row.pk, run_id)
        return any(e.kind == HOOK_RECEIVED and not e.ref and e.name == name for e in history)


def _is_open(run: HotRun, hook: OpenHook) -> bool:
    body = run.body
    if run.gone or body is None or body.hooks is None or body.outcome is not None:
        return False
    return body.hooks.open.get(hook.seq) is hook


def _cannot_ask(row: RunRow) -> WorkflowRunBlockedError:
    blocked = decode_blocked(row.blocked)
    reason = f"{blocked.reason}. The payload was not recorded: send it again after that"
    return WorkflowRunBlockedError(row.run_id, blocked.kind, reason)


def _ignore(error: BaseException | None) -> None:
    """Do nothing: `perform` tells the outcome."""
