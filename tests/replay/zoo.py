"""Bodies that use asyncio's primitives, one per habit, for tests and as a program.

Run as a program it performs every body under several seeds and prints one digest of all
histories: equal digests under different hash seeds mean that no order depended on one.
It moves memory about first, so that addresses differ from process to process too.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import sys

from tests.replay import zoo_tasks, zoo_waiting
from tests.replay.rig import comparable, perform
from tests.replay.zoo_steps import ZOO

__all__ = ["SEEDS", "ZOO", "zoo_tasks", "zoo_waiting"]

SEEDS = range(5)


def main() -> None:
    """Print the digest of the histories of the whole zoo."""
    junk = [bytearray(random.randrange(1, 5000)) for _ in range(3000)]
    del junk[:: random.randrange(2, 5)]
    digest = hashlib.sha256()
    for name, body in ZOO.items():
        for seed in SEEDS:
            recording = perform(body, seed)
            told = repr([comparable(event) for event in recording.history])
            digest.update(told.encode())
            if "-v" in sys.argv:
                print(name, seed, hashlib.sha256(told.encode()).hexdigest()[:12])
    print(digest.hexdigest())


if __name__ == "__main__":
    logging.disable()
    assert os.environ.get("PYTHONHASHSEED"), "give a hash seed"
    main()
