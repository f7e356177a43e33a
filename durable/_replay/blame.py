"""Which step's failure a run failed with, so that the run can be taken up again there.

The exception that a failed step raises in the body is marked; when an exception ends the
run, the nearest marked one is looked for: itself, the members of a group, exceptions among
its arguments, then what it was raised from. Judged once, when the run fails, and recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_MARK = "_durable_failed_step"


class Accused(NamedTuple):
    """A failed step: its run, the event that says that it failed, and its own number."""

    run_id: str
    failed: int
    step: int


def accuse(error: BaseException, step: Accused) -> None:
    """Note on an exception which step's failure it is."""
    try:
        setattr(error, _MARK, tuple(step))
    except Exception:  # an exception class of its own kind: then the run's end names no step
        pass


def blamed_step(error: BaseException, run_id: str) -> int:
    """Return the number of the step whose failure has led to `error`, 0 for none."""
    try:
        return _nearest(error, run_id)
    except Exception:  # of the user's exception class, when it is looked at
        return 0


def _nearest(error: BaseException, run_id: str) -> int:
    level = [error]
    seen: set[int] = set()
    while level:
        if found := [step for each in level if (step := _accused(each, run_id)) is not None]:
            return min(found, key=lambda step: step.failed).step
        seen.update(map(id, level))
        level = [each for error in level for each in _led_to(error) if id(each) not in seen]
    return 0


def _accused(error: BaseException, run_id: str) -> Accused | None:
    noted = getattr(error, _MARK, None)
    if not isinstance(noted, tuple) or len(noted) != 3 or noted[0] != run_id:
        return None  # that of another run crosses over as the cause of an error
    delattr(error, _MARK)  # it need not be recorded with the error
    return Accused(*noted)


def _led_to(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that `error` is made of or, if none, was raised from."""
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else error.args
    inner = [
        each
        for member in members
        for each in (member if isinstance(member, (list, tuple)) else (member,))
        if isinstance(each, BaseException)
    ]
    cause = error.__cause__ or error.__context__
    yield from inner
    if not inner and cause is not None:
        yield cause
