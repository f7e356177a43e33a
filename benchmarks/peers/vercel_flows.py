"""The workflows of `peer_vercel`: its sandbox imports this module anew, by its name."""

from __future__ import annotations

import asyncio
import os

from vercel.workflow import SandboxPolicy, Workflows

SHARE = "BENCHMARK_SHARE_SANDBOXES"

flows = Workflows(sandbox_policy=SandboxPolicy(share_sandboxes=SHARE in os.environ))


@flows.step
async def add(number: int, other: int) -> int:
    """The smallest step."""
    return number + other


@flows.workflow
async def chain(steps: int) -> int:
    """Steps, each waiting for the one before."""
    number = 0
    for other in range(steps):
        number = await add(number, other)
    return number


@flows.workflow
async def gather(steps: int) -> int:
    """All steps at once."""
    return sum(await asyncio.gather(*(add(number, 1) for number in range(steps))))
