"""W10: bytes on the disk per step with small values, after the journal was closed."""

from __future__ import annotations

from benchmarks.engine import open_runtime
from benchmarks.floors import Samples
from benchmarks.workload import Bar, Figure, Settings, Workload
from benchmarks.workloads.w2_sequential import sequential

STEPS = 10_000


def size(settings: Settings, name: str) -> int:
    """The size of a closed journal, whatever it consists of."""
    found = settings.journal(name).parent.glob(f"{name}.db*")
    return sum(file.stat().st_size for file in found if not file.name.endswith(".lock"))


async def measure(settings: Settings) -> Samples:
    """Bytes of a journal with one long run above those of one with a short run, per step."""
    steps = settings.size(STEPS)
    for name, count in (("short", 1), ("long", steps)):
        async with open_runtime(settings, name) as runtime:
            await (await runtime.start(sequential, count)).result()
    return {"step": [(size(settings, "long") - size(settings, "short")) / (steps - 1)]}


WORKLOADS = (
    Workload(
        name="W10",
        title="bytes on the disk",
        perform=lambda settings: settings.run(measure(settings)),
        figures=(Figure("step", "per step", unit="bytes"),),
        bars=(Bar("step", 150, stage="goal"),),
        operations=STEPS,
        once=True,
    ),
)
