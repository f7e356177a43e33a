"""Where each programme of the campaign lies: a module with a `PROGRAMME`, loaded when asked for."""

from __future__ import annotations

from importlib import import_module

from tests.campaign.programme import Programme

MODULES: dict[str, str] = {}


def load(key: str) -> Programme:
    """Return the programme `key`, "T1" to "T17"."""
    programme = import_module(MODULES[key]).PROGRAMME
    if not isinstance(programme, Programme) or programme.key != key:
        raise TypeError(f"{MODULES[key]}.PROGRAMME is not the programme {key}, but {programme!r}")
    return programme
