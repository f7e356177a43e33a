"""One run of the reference model: a place in its script, and what it waits for there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.machine.program import Script

FINISHED = {"completed", "failed", "cancelled", "continued"}


@dataclass
class Wait:
    """What a run waits for: "start", "soon" (a step), "gate", "until", "retry", "hook", ..."""

    what: str
    name: Any = None
    due: int | None = None
    in_flight: bool = True  # of a gate: an attempt is running in this process
    crashes: int = 0  # that cut off an attempt of the gated step


@dataclass
class RunModel:
    """One run."""

    run_id: str
    script: Script
    mode: str
    created: int
    first_attributes: dict[str, str]
    attributes: dict[str, str]
    parent: str | None = None
    root: str | None = None
    bound_to: str | None = None
    origin: tuple[str, str] | None = None
    first: str | None = None  # of its chain
    status: str = "pending"
    paused: str | None = None
    place: int = 0
    out: list[Any] = field(default_factory=list)
    wait: Wait = field(default_factory=lambda: Wait("start"))
    mail: dict[str, list[Any]] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)  # payloads of the open hook
    received: int = 0  # payloads so far, taken or not, with those that it was continued with
    carried: list[Any] = field(default_factory=list)  # came while it was paused
    keys: set[tuple[str, str]] = field(default_factory=set)
    streams: dict[str, list[int]] = field(default_factory=dict)
    cancelling: bool = False
    reason: str | None = None
    grace: int | None = None
    result: Any = None
    successor: str | None = None

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.status not in FINISHED

    @property
    def moves(self) -> bool:
        """Whether it goes on by itself."""
        return self.live and self.paused is None

    @property
    def token(self) -> str | None:
        """The token of its open hook."""
        return self.wait.name if self.live and self.wait.what == "hook" else None

    @property
    def shown(self) -> str:
        """Its status as it is told."""
        return self.status if self.paused is None else "blocked"
