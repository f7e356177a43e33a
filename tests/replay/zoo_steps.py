"""The steps that the bodies of the zoo take, and the list of these bodies."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from durable import step

Body = Callable[[], Coroutine[Any, Any, Any]]

ZOO: dict[str, Body] = {}


def entry(fn: Body) -> Body:
    """Put a body into the zoo."""
    ZOO[fn.__name__] = fn
    return fn


@step
async def fetch(what: object) -> object:
    """Give back what was asked for."""
    return what


@step
def broken(what: object) -> object:
    """Fail."""
    raise ValueError(what)


@step
async def clean_up(what: object) -> None:
    """Stand for a compensation."""


async def child(what: object) -> object:
    """Take two steps."""
    return await fetch(await fetch(what))
