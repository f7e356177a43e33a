"""T3: real power cuts, on an ext4 that forgets what was not synced, at operation n.

The process that writes cuts the power itself, just before an operation, and dies with it;
what the disk holds after the kernel has replayed its journal is judged and worked to the
end. In every other round the recovery is cut, too.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.campaign.programme import Counts, Programme, Trial
from tests.campaign.sometimes import reached_by
from tests.crash.forkserver import ForkServer
from tests.crash.plan import OPERATIONS, Sweep, strides
from tests.crash.smalldisk import SmallDisk, lacking
from tests.crash.trials import FaultFields, death_trial

KINDS = ("cut", "cut twice")

SWEEP = Sweep(KINDS, lambda _kind, scenario: strides(scenario, OPERATIONS[scenario].changes))


@contextmanager
def open_trials() -> Iterator[Trial]:
    """Share a disk, and a fork server that sees it."""
    with (
        tempfile.TemporaryDirectory() as place,
        SmallDisk(Path(place)) as disk,
        ForkServer() as server,
    ):

        def trial(seed: int, place: Path) -> Counts:
            chosen = SWEEP.place(seed)
            draw = random.Random(seed)
            at = [chosen.at]
            if chosen.kind == "cut twice":
                at.append(draw.randint(1, draw.choice([60, OPERATIONS[chosen.scenario].changes])))
            faults: list[FaultFields] = [{"at": n, "action": "cut"} for n in at]
            ended = death_trial(server, chosen.scenario, place / "trial", faults, disk=disk)
            twice = ["cut while an earlier cut is recovered"] * (ended.deaths > 1)
            return Counter(cuts=ended.deaths) + reached_by("T3", [*ended.seen, *twice])

        yield trial


PROGRAMME = Programme(
    "T3", "real power cuts on ext4", open_trials, lacking=lacking, whole=lambda: SWEEP.whole
)
