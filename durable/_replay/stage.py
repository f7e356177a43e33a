"""What a thread must be set up with while workflow bodies run on it.

Two things of the interpreter belong to the host and would reach into bodies: the hooks
of async generators (the host's loop would adopt a body's generators and close them at
its own end) and the garbage collector (a collection comes at any time and would run
finalizers: those of a body's garbage out of order, and those of the host's under the
guard against I/O).

Setting up costs as much as a short step, so whoever runs many bodies in a row enters the
stage once for all of them; a loop that finds none enters one by itself.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncGenerator
from typing import Any


class Stage:
    """A context in which bodies may run; code of the host's users may not run in it.

    Example:
        ``with Stage(): body.activate(inbox)``
    """

    __slots__ = ("_collecting", "_hooks")

    def __enter__(self) -> None:
        self._hooks, self._collecting = sys.get_asyncgen_hooks(), gc.isenabled()
        gc.disable()
        sys.set_asyncgen_hooks(on_stage, None)

    def __exit__(self, *raised: object) -> None:
        sys.set_asyncgen_hooks(*self._hooks)
        if self._collecting:
            gc.enable()


def on_stage(generator: AsyncGenerator[Any, Any]) -> None:
    """Do nothing with a generator that begins; being the hook says that a stage is set."""
