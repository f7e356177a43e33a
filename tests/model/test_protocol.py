"""The journal's protocol keeps its promises in every state; each shortcut breaks one."""

from __future__ import annotations

import pytest

from tests.model.checker import search
from tests.model.protocol import SHIPPED, Limits, Policy

# What the product might do instead, and how that shows.
SHORTCUTS = {
    "normal": (Policy(sync="normal"), "'run_created' was acknowledged, and is lost"),
    "tell-callers": (Policy(unknown="tell callers"), "'run_created' was refused, and is on record"),
    "tell-the-step": (Policy(unknown="tell the step"), "B ran with (failed, 1); on record"),
    "effect-before-commit": (Policy(effects="before"), "B ran with (1, 1); on record"),
    "ack-before-commit": (Policy(acks="before"), "was acknowledged, and is lost"),
    "late-result": (Policy(late="accept"), "step A has two outcomes"),
    "cancel-row": (Policy(cancel="ends"), "the run has two ends"),
    "inbox-at-once": (Policy(inbox="at once"), "a payload is on record, and its hook waits"),
    "two-owners": (Policy(owners="two"), "was acknowledged, and is lost"),
}


@pytest.mark.slow
def test_shipped_protocol_keeps_every_promise_in_every_state() -> None:
    """Crashes, a power loss and an error at COMMIT, at any moment of a run that is cancelled."""
    found = search(SHIPPED, Limits())
    assert found.finding is None, f"{found.finding.broken}\n{found.finding.story}"
    assert 15_000 < found.states < 1_000_000
    assert found.ended > 1000


@pytest.mark.parametrize("name", SHORTCUTS)
def test_shortcut_breaks_a_promise(name: str) -> None:
    """The model can tell: the same search finds the way to a state that must not be."""
    policy, broken = SHORTCUTS[name]
    found = search(policy, Limits()).finding
    assert found is not None
    assert broken in found.broken
    assert " > start" in found.story


def test_normal_is_enough_where_only_processes_die() -> None:
    """So `durability="process"` promises just that."""
    assert search(Policy(sync="normal"), Limits(power_losses=0)).finding is None


def test_story_of_a_finding_reads_like_one() -> None:
    """The moves in order, with what the world saw in brackets, and the disk at the end."""
    found = search(Policy(effects="before"), Limits()).finding
    assert found is not None
    assert found.story.splitlines() == [
        " > start  [asked to start]",
        " > A, attempt 1, returns",
        " > payload 1 is sent  [B ran with (1, 1)]",
        " > the process dies",
        "   on disk: nothing",
    ]
