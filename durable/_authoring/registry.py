"""The workflows and steps that this process knows, by name.

A later definition under the same name replaces an earlier one when it comes from the
same place (a notebook cell or module that is run again, a closure made again) and is
refused otherwise. Runtimes listen, so that a run that was blocked for missing code goes
on as soon as the code is defined.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

from durable._base.main_name import name_of_main

NAME_CHARS_MAX = 256


@runtime_checkable
class Definition(Protocol):
    """A workflow or a step."""

    name: str
    fn: Callable[..., Any]


Listener = Callable[[str], None]

_workflows: dict[str, Definition] = {}
_steps: dict[str, Definition] = {}
_listeners: weakref.WeakSet[object] = weakref.WeakSet()


def default_name(fn: Callable[..., Any]) -> str:
    """Return ``module.qualname``, the same whether a module is imported or run as a script.

    Raises:
        ValueError: it is a `functools.partial`, of which there may be many.
    """
    if isinstance(fn, partial):
        raise ValueError(
            f"{fn!r:.200} has no name of its own, under which its runs and outcomes could be found "
            'again: give it one, name="..."'
        )
    module: str = getattr(fn, "__module__", None) or "unknown"
    if module == "__main__":
        module = (name_of_main() or module).removesuffix(".__main__")
    return f"{module}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def check_name(name: object) -> str | None:
    """Return the name that a decorator was given, if one was.

    Raises:
        TypeError: it is no text. ValueError: it is empty, too long or unprintable.
    """
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"name={name!r} must be a text")
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise ValueError(
            f"name={name[:40]!r} is not usable: give 1 to {NAME_CHARS_MAX} printable characters"
        )
    return name


def refuse_misplaced(fn: object, what: str) -> None:
    """Refuse to decorate a class, or what is a step or a workflow already.

    Raises:
        TypeError: it is one of these.
    """
    if isinstance(fn, type):
        raise TypeError(
            f"@{what} needs a function, got the class {fn.__qualname__}: "
            f"put @{what} above its methods"
        )
    if isinstance(fn, Definition):
        raise TypeError(
            f"@{what} needs a function, got {fn!r}, which is decorated already: keep one "
            f"decorator, or write {what}({fn.name}.fn) for the function in it"
        )


def register_workflow(definition: Definition) -> None:
    """Make a workflow known under its name.

    Raises:
        ValueError: another function already goes by this name.
    """
    _register(_workflows, definition, "workflow")


def register_step(definition: Definition) -> None:
    """Make a step known under its name.

    Raises:
        ValueError: another function already goes by this name.
    """
    _register(_steps, definition, "step")


def _register(known: dict[str, Definition], definition: Definition, what: str) -> None:
    name = definition.name
    earlier = known.get(name)
    if earlier is not None and _place(earlier.fn) != _place(definition.fn):
        raise ValueError(
            f"the {what} name {name!r} is taken by {_place(earlier.fn)}: give "
            f"{_place(definition.fn)} another name, @{what}(name=...)"
        )
    known[name] = definition
    for listener in list(_listeners):
        listener.on_registered(name)  # type: ignore[attr-defined]


def _place(fn: Callable[..., Any]) -> str:
    if isinstance(fn, partial):
        return f"a partial of {_place(fn.func)}"
    qualname = getattr(fn, "__qualname__", type(fn).__qualname__)
    return f"{getattr(fn, '__module__', '?')}.{qualname}"


def find_workflow(name: str) -> Definition | None:
    """Return the workflow of this name, or None."""
    return _workflows.get(name)


def is_registered(name: str) -> bool:
    """Tell whether a workflow or a step of this name is known."""
    return name in _workflows or name in _steps


def workflow_names() -> list[str]:
    """Return the names of all known workflows, sorted."""
    return sorted(_workflows)


def listen(listener: object) -> None:
    """Call ``listener.on_registered(name)`` for each later definition, while it lives."""
    _listeners.add(listener)
