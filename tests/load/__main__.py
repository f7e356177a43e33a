"""Put a load on a journal and print its figures: `-m tests.load suspended 10000 /dev/shm/x`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.load.loads import LOADS, check_journal

name, count, place = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
figures = asyncio.run(LOADS[name](place / "app.db", count))
figures["runs"] = check_journal(place)
print(json.dumps(figures))
