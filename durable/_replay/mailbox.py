"""Payloads in order of arrival, waiters in order of asking.

A waiter that is woken does not own a payload yet: it takes the first one at the moment when
its code goes on. One that is cancelled in between, by a timeout or a lost race, leaves the
payload to the next. Nothing here depends on anything but the order of events and of calls,
so replay hands over the same payloads to the same lines.

A hook is a mailbox with a token, which the run has claimed. Whether the claim held is known
to the body by an event: a payload, a conflict, or the answer to a body that asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from durable._replay.loop import BodyFuture, BodyLoop
from durable._replay.script import UNDECODED
from durable.errors import HookConflictError, HookDisposedError, HookPayloadError

# Makes a payload of the type that was asked for, or raises `HookPayloadError`.
Fit = Callable[[object], object]


class Delivery:
    """A payload on its way into a body, as its sender holds it.

    Attributes:
        value: the decoded payload, or `UNDECODED`.
        seq: number of the event that records it, 0 while there is none.
        repeated: it was recorded before, under the same dedupe key.
    """

    __slots__ = ("repeated", "seq", "value")

    def __init__(self, value: object = UNDECODED) -> None:
        self.value = value
        self.seq = 0
        self.repeated = False


class _Waiter(NamedTuple):
    turn: BodyFuture
    fit: Fit | None


class Mailbox:
    """See the module's docstring.

    Attributes:
        payloads: what has arrived and was not taken.
        keys: the events of payloads by their dedupe keys.
        coming: kept by the engine: payloads that are about to arrive.
    """

    __slots__ = ("_awake", "_waiters", "coming", "keys", "payloads")

    def __init__(self) -> None:
        self.payloads: deque[object] = deque()
        self.keys: dict[str, int] = {}
        self.coming = 0
        self._waiters: deque[_Waiter] = deque()
        self._awake = 0  # waiters that were woken and have not gone on yet

    @property
    def pending(self) -> int:
        """Payloads that nobody has taken or is about to take."""
        return len(self.payloads) - self._awake

    @property
    def awaited(self) -> bool:
        """Whether a payload that arrives now would be taken at once."""
        return bool(self._waiters)

    @property
    def fit(self) -> Fit | None:
        """What the next payload must fit, as far as that is known by now."""
        return self._waiters[0].fit if self._waiters and not self.coming else None

    def arrive(self, payload: object) -> None:
        """Take a payload in."""
        self.payloads.append(payload)
        self._wake()

    async def take(self, loop: BodyLoop, fit: Fit | None) -> object:
        """Wait for this caller's turn and return the next payload.

        Raises:
            HookPayloadError: it does not fit; it is taken all the same.
        """
        if self._awake or self._waiters or not self.payloads:
            await self._wait(loop, fit)
        payload = self.payloads.popleft()
        try:
            return payload if fit is None else fit(payload)
        except HookPayloadError as error:
            error.payload = payload
            raise

    async def _wait(self, loop: BodyLoop, fit: Fit | None) -> None:
        waiter = _Waiter(loop.create_future(), fit)
        self._waiters.append(waiter)
        self._wake()
        try:
            await waiter.turn
        except BaseException:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self._awake -= 1  # it was woken and cancelled: its turn goes to the next
                self._wake()
            raise
        self._awake -= 1

    def _wake(self) -> None:
        while self._waiters and self._awake < len(self.payloads):
            turn = self._waiters.popleft().turn
            if not turn.done():
                self._awake += 1
                turn.set_result(None)

    def _fail_all(self, make: Callable[[], Exception]) -> None:
        while self._waiters:
            turn = self._waiters.popleft().turn
            if not turn.done():
                turn.set_exception(make())


class OpenHook(Mailbox):
    """A hook as its body holds it, until it is disposed.

    Attributes:
        seq: number of its `hook_created` event.
        token: under which payloads find it.
        name: the token if it is the user's own, else empty.
        fit: what payloads must fit, if it has a type.
        conflict: the run that holds the token, once that is known to be another one.
        facts: what is recorded with a hook whose token we have made.
        held: the token is known to be ours, by an event of the history.
        run: kept by the engine: the run in memory.
        kept: the run goes on as another one, which shall have the token.
        claimed: kept by the engine: the journal says that the token is ours.
        asked: kept by the engine too: the body has asked, and the answer is on its way.
        doubted: kept by the engine too: it seems to be another run's, and is looked up.
    """

    __slots__ = (
        "__weakref__", "_asking", "_fit", "asked", "claimed", "closed", "conflict", "doubted",
        "facts", "held", "kept", "name", "run", "seq", "token",
    )  # fmt: skip

    def __init__(self, seq: int, name: str, token: str, fit: Fit | None) -> None:
        super().__init__()
        self.seq = seq
        self.name = name
        self.token = token
        self._fit = fit
        self.conflict: str | None = None
        self.facts: dict[str, object] = {}
        self.held = False
        self.closed = False
        self.kept = False
        self.run: object = None
        self.claimed = False
        self.asked = False
        self.doubted = False
        self._asking: list[BodyFuture] = []

    @property
    def fit(self) -> Fit | None:
        """What payloads must fit."""
        return self._fit

    @property
    def settled(self) -> bool:
        """Whether the history says what became of the claim."""
        return self.held or self.conflict is not None

    @property
    def is_asking(self) -> bool:
        """Whether the body waits to hear what became of the claim."""
        return any(not each.done() for each in self._asking)

    async def next(self, loop: BodyLoop) -> object:
        """Return the next payload.

        Raises:
            HookConflictError: the token is another run's.
            HookDisposedError: the hook is disposed and has no payload left.
        """
        if self.conflict is not None:
            raise HookConflictError(self.token, self.conflict)
        if self.closed and self.pending <= 0:
            raise HookDisposedError(self.token)
        return await self.take(loop, self._fit)

    async def ask(self, loop: BodyLoop) -> str | None:
        """Return the run that holds the token if that is another one, else None."""
        if not self.settled:
            if self.closed:
                raise HookDisposedError(self.token)
            answer = loop.create_future()
            self._asking.append(answer)
            await answer
        return self.conflict

    def arrive(self, payload: object) -> None:
        """Take a payload in: whoever gets one holds the token."""
        self.settle(None)
        super().arrive(payload)

    def settle(self, conflict: str | None) -> None:
        """Learn what became of the claim."""
        if conflict is None:
            self.held = True
        else:
            self.conflict = conflict
            self._fail_all(lambda: HookConflictError(self.token, conflict))
        self._answer(None)

    def close(self) -> None:
        """Take nothing more in; what has arrived can still be taken."""
        self.closed = True
        self._fail_all(lambda: HookDisposedError(self.token))
        self._answer(HookDisposedError(self.token))

    def _answer(self, error: Exception | None) -> None:
        asking, self._asking = self._asking, []
        for answer in asking:
            if answer.done():
                continue
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(error)
