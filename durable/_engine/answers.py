"""Answers that steps give to webhook requests, on their way to whoever waits for them.

Owns a place for each request whose sender waits, in this process or in a client of it, and
a memory of answers given lately: a sender that was cut off, or answered "too late", repeats
its delivery, and then gets the answer that was given meanwhile.

Nothing of this is recorded, on purpose. An answer is for a connection, which does not
outlive the process; the request is recorded, so the step that answers runs again after a
crash, and answers the delivery that is repeated.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

# How much is remembered; what is oldest goes first.
ANSWERS_MAX = 256
ANSWERS_BYTES_MAX = 8 * 1024 * 1024

Answer = dict[str, Any]  # what `WebhookResponse.to_data` returns


class Answers:
    """See the module's docstring. A key names one delivery to one webhook."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[Answer]]] = {}
        self._given: OrderedDict[str, Answer] = OrderedDict()
        self._bytes = 0

    async def wait(self, key: str) -> Answer:
        """Return the answer to a delivery as soon as it is given; for ever if it is not."""
        if key in self._given:
            return self._given[key]
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(key, [])
        waiters.append(waiter)
        try:
            return await waiter
        finally:
            waiters.remove(waiter)
            if not waiters and self._waiting.get(key) is waiters:
                del self._waiting[key]

    async def give(self, key: str, answer: Answer) -> bool:
        """Hand an answer to those who wait; the first one given counts.

        Returns:
            Whether somebody was waiting. If not it is kept for the delivery's repetition, unless
            there is an older answer.
        """
        if key in self._given:
            return False
        self._remember(key, answer)
        waiting = [waiter for waiter in self._waiting.get(key, ()) if not waiter.done()]
        for waiter in waiting:
            waiter.set_result(answer)
        return bool(waiting)

    def _remember(self, key: str, answer: Answer) -> None:
        self._given[key] = answer
        self._bytes += _size(answer)
        while len(self._given) > ANSWERS_MAX or self._bytes > ANSWERS_BYTES_MAX:
            _, oldest = self._given.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(answer: Answer) -> int:
    return len(answer.get("text") or answer.get("base64") or "")
