"""A process whose clocks are moved: it starts sleeps that it is told of, and says when they end.

One line on stdin for each, `[name, "nap" | "until", seconds]`; on stdout `["open"]`, then
`[name, wall, boot]` at each end, by its own (moved) clocks.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta

from durable import Runtime, sleep, workflow
from durable._base.clock import SystemClock

CLOCK = SystemClock()


@workflow(name="clocks.real")
async def sleeping(name: str, kind: str, seconds: float, until: float) -> None:
    """Sleep, and say so."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=until)
    await sleep(moment if kind == "until" else seconds)
    tell(name, CLOCK.wall_us() / 1e6, CLOCK.boot())


async def main(path: str) -> None:
    """Serve until stdin ends."""
    loop = asyncio.get_running_loop()
    async with Runtime(path, durability="process", drain_seconds=0) as rt:
        tell("open", CLOCK.wall_us() / 1e6, CLOCK.boot())
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            name, kind, seconds = json.loads(line)
            wall, boot = time.time(), CLOCK.boot()
            await rt.start(sleeping, name, kind, seconds, wall + seconds)
            tell(f"began {name}", wall, boot)


def tell(*message: object) -> None:
    """Write one line in one piece."""
    os.write(1, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
