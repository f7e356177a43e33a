"""What can be sent to a body: its hooks and mailboxes, and the events that fill them.

`Hooks` belongs to one body. It issues the commands by which hooks come and go, applies the
events that bring payloads and tell what became of a claim, and collects the claims and
releases of tokens that the engine records in the same write. Who gets which payload is
decided in `mailbox`.
"""

from __future__ import annotations

from collections.abc import Callable

from durable._replay.events import Event, EventKind
from durable._replay.loop import BodyLoop
from durable._replay.mailbox import Delivery, Fit, Mailbox, OpenHook
from durable._replay.ports import Payloads
from durable._replay.script import UNDECODED, Inbound, Script
from durable.errors import PayloadDecodeError

HOOK_CREATED, HOOK_DISPOSED = EventKind.HOOK_CREATED, EventKind.HOOK_DISPOSED
HOOK_RECEIVED, HOOK_CONFLICT = EventKind.HOOK_RECEIVED, EventKind.HOOK_CONFLICT

# Name of the event that answers a body which asked: its claim held, there is no conflict.
CLAIMED = "claimed"


# Begins the name of the mailbox for a hook that a run shall have and has not created yet; no
# name that users give begins like this.
_KEPT = "\t"


def kept_box(token: str) -> str:
    """Return the name of the mailbox in which payloads wait for a hook with this token."""
    return _KEPT + token


def mail_name(box: str, key: str | None) -> str:
    """Return the name of the event that records a payload: for whom, and its dedupe key."""
    return f"{box}\n{key}" if key else box


class Hooks:
    """The hooks and mailboxes of one body.

    Attributes:
        open: hooks that are not disposed, by the number of their `hook_created`.
        boxes: mailboxes by name.
        changes: claims (True) and releases of tokens, to be recorded with the next write.
        unsure: kept by the engine: hooks whose claims are not known to hold.
        any_claims: whether this run may hold tokens at all.
    """

    def __init__(self, script: Script, loop: BodyLoop, payloads: Payloads) -> None:
        self.open: dict[int, OpenHook] = {}
        self.boxes: dict[str, Mailbox] = {}
        self.changes: list[tuple[bool, OpenHook]] = []
        self._asking: list[OpenHook] = []
        self.unsure: list[OpenHook] = []
        self.any_claims = False
        self._script = script
        self._loop = loop
        self._payloads = payloads

    # --- what the body does ------------------------------------------------------------

    def create(
        self,
        token: str | None,
        new_token: Callable[[], str],
        facts: dict[str, object],
        fit: Fit | None = None,
    ) -> OpenHook:
        """Issue a hook; it can be resumed as soon as this turn is durable.

        Args:
            token: the user's own, checked; None for one that `new_token` makes. That one is
                recorded, and read back on replay.
            facts: recorded with it and readable from outside: metadata and the like.
            fit: what payloads must fit.

        Raises:
            SerializationError: the facts cannot be recorded; nothing was issued.
        """
        own = token or ""
        # On replay too: what was refused then must be refused now.
        payload = self._payloads.encode({"token": token or new_token(), **facts}, "metadata")
        event = self._script.issue(HOOK_CREATED, own, payload=payload)
        if event is None:
            self._loop.halt()
            return OpenHook(0, own, own, fit)
        recorded: dict[str, object] = {} if own else self._facts_in(event)
        hook = OpenHook(event.seq, own, own or str(recorded.get("token", "")), fit)
        hook.facts = recorded
        self.open[event.seq] = hook
        self.any_claims = True
        if self.boxes and (kept := self.boxes.pop(kept_box(hook.token), None)) is not None:
            hook.keys.update(kept.keys)
            for each in kept.payloads:
                hook.arrive(each)
        if not self._script.replaying:
            self.changes.append((True, hook))
        return hook

    def _facts_in(self, event: Event) -> dict[str, object]:
        try:
            return hook_facts(self._payloads, event)
        except PayloadDecodeError as error:
            self._script.diverge(f"cannot read the token of the hook that it created: {error}")
            self._loop.halt()
            return {}

    def dispose(self, hook: OpenHook) -> None:
        """Issue that a hook is disposed, which frees its token; twice is fine."""
        if hook.closed or hook.kept or self._loop.stopped:
            return
        if self._script.issue(HOOK_DISPOSED, ref=hook.seq) is None:
            self._loop.halt()
            return
        self.open.pop(hook.seq, None)
        if not self._script.replaying:
            self.changes.append((False, hook))
        hook.close()

    def keep(self, token: str) -> OpenHook | None:
        """Keep a token from being freed when the hook is disposed; None if it is not held."""
        for hook in self.open.values():
            if hook.token == token and hook.conflict is None:
                hook.kept = True
                return hook
        return None

    async def next(self, hook: OpenHook) -> object:
        """Return the next payload of a hook; see `OpenHook.next`."""
        return await hook.next(self._loop)

    async def receive(self, name: str, fit: Fit | None) -> object:
        """Return the next payload of a mailbox; see `Mailbox.take`."""
        return await self.box(name).take(self._loop, fit)

    async def find_conflict(self, hook: OpenHook) -> str | None:
        """Return the run that holds the hook's token if that is another one, else None."""
        if not hook.settled:
            self._asking.append(hook)
        return await hook.ask(self._loop)

    def box(self, name: str) -> Mailbox:
        """Return the mailbox of this name."""
        return self.boxes.setdefault(name, Mailbox())

    @property
    def in_doubt(self) -> bool:
        """Whether it is being looked up if tokens are another run's."""
        return any(
            hook.doubted and not hook.closed and hook.conflict is None for hook in self.unsure
        )

    @property
    def is_waiting(self) -> bool:
        """Whether the body waits for something that can be sent to it."""
        boxes = (*self.boxes.values(), *self.open.values())
        return bool(self.questions()) or any(box.awaited for box in boxes)

    # --- what reaches it ----------------------------------------------------------------

    def is_stale(self, item: Inbound) -> bool:
        """Tell whether an item comes too late, or a second time."""
        hook = self.open.get(item.ref)
        if item.kind == HOOK_CONFLICT:
            # One that was held may be lost: a run may come back when its tokens are taken.
            return hook is None or hook.conflict is not None or (hook.held and not item.payload)
        name, _, key = item.name.partition("\n")
        found = hook if item.ref else self._late_hook(name) or self.boxes.get(name)
        if found is None:
            return item.ref != 0
        before = found.keys.get(key, 0) if key else 0
        if before and isinstance(item.value, Delivery):
            item.value.seq, item.value.repeated = before, True
        return bool(before)

    def take_mail(self, event: Event, value: object) -> bool:
        """Apply a `hook_received`; False when there is no such hook."""
        name, _, key = event.name.partition("\n")
        found: Mailbox | None = self.open.get(event.ref)
        if not event.ref:
            found = self._late_hook(name) or self.box(name)
        if found is None:
            return False
        if isinstance(value, Delivery):
            value.seq, value = event.seq, value.value
        if value is UNDECODED:
            assert event.payload is not None
            value = self._payloads.decode(event.payload)
        if key:
            found.keys[key] = event.seq
        found.arrive(value)
        return True

    def _late_hook(self, name: str) -> OpenHook | None:
        """Return the hook that a payload was meant for which was sent before there was one."""
        if not name.startswith(_KEPT):
            return None
        token = name.removeprefix(_KEPT)
        return next((hook for hook in self.open.values() if hook.token == token), None)

    def take_answer(self, event: Event) -> bool:
        """Apply a `hook_conflict`; False when there is no such hook."""
        hook = self.open.get(event.ref)
        if hook is None:
            return False
        holder = None if event.payload is None else str(self._payloads.decode(event.payload))
        hook.settle(holder)
        return True

    def let_go(self) -> None:
        """Forget what is open, so that no reference cycle keeps the body."""
        self.open, self.boxes = {}, {}

    def take_changes(self) -> list[tuple[bool, OpenHook]]:
        """Return and forget the claims and releases since the last call."""
        changes, self.changes = self.changes, []
        return changes

    def questions(self) -> list[OpenHook]:
        """Return the hooks whose body waits to hear what became of the claim."""
        if self._asking:
            self._asking = [hook for hook in self._asking if hook.is_asking]
        return self._asking


def hook_facts(payloads: Payloads, event: Event) -> dict[str, object]:
    """Return what a `hook_created` says about its hook: ``token``, ``metadata`` and more.

    Raises:
        PayloadDecodeError: the recorded metadata cannot be loaded in this process.
    """
    assert event.payload is not None
    facts = payloads.decode(event.payload)
    assert isinstance(facts, dict)
    return facts
