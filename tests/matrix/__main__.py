"""Do the trials of some seeds in this process, which has no threads: `-m tests.matrix 1 2 3`."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.matrix.matrix import matrix_trial

total: Counter[str] = Counter()
for seed in map(int, sys.argv[1:]):
    with tempfile.TemporaryDirectory() as place:
        total += matrix_trial(seed, Path(place))
print(*(f"{count} {what}" for what, count in sorted(total.items())), sep=", ")
