"""The program that the demonstration kills: an ordinary user of the library.

Owns the workflow `order` and its steps. Each step also appends what it really does to a
ledger outside the journal (one JSON line, on disk before the step goes on) and prints the
same line, which is how the demonstration follows it.

    python -m durable._surface.demo_program JOURNAL LEDGER slow|normal

`slow` makes one step take so long that it can be killed in the middle.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time

from durable import Backoff, Runtime, get_step_metadata, logger, sleep, step, workflow
from durable._base.clock import SystemClock
from durable._surface.demo_plot import PARTS, RUN_ID, SLOW_PART, SLOW_SECONDS

_clock = SystemClock()
_descriptor = -1  # of the ledger
_slow = False


def note(what: str, text: str = "") -> None:
    """Append to the ledger what the running attempt does; returns when it is on disk."""
    seen = get_step_metadata()
    line = {
        "at": _clock.wall_us(),
        "pid": os.getpid(),
        "step": seen.name,
        "key": seen.idempotency_key,
        "attempt": seen.attempt,
        "what": what,
        "text": text,
    }
    raw = json.dumps(line).encode() + b"\n"
    os.write(_descriptor, raw)  # one write: lines of parallel steps do not mix
    os.fsync(_descriptor)
    os.write(1, raw)


# --- the steps ------------------------------------------------------------------------


@step(name="reserve_stock")
async def reserve_stock(order_id: str) -> str:
    """Take a moment and succeed."""
    note("begin")
    await asyncio.sleep(0.3)
    note("end")
    return f"stock for {order_id}"


@step(name="charge_card", backoff=Backoff(initial=0.5, jitter=0.0))
async def charge_card(order_id: str, cents: int) -> str:
    """Fail at the first attempt, like real card terminals."""
    note("begin")
    await asyncio.sleep(0.3)
    if get_step_metadata().attempt == 1:
        note("fail", "the card terminal is busy")
        raise ConnectionError("the card terminal is busy")
    note("end")
    return f"receipt for {cents} cents"


@step(name="send_invoice")
async def send_invoice(order_id: str, receipt: str) -> None:
    """Finish before the process is killed, so it must not run again."""
    note("begin")
    await asyncio.sleep(0.4)
    note("end")


@step(name="print_label")
async def print_label(order_id: str) -> str:
    """Finish before the process is killed, so it must not run again."""
    note("begin")
    await asyncio.sleep(0.6)
    note("end")
    return f"PARCEL-{order_id}"


@step(name="pack_parcel")
def pack_parcel(order_id: str) -> int:
    """Pack part by part; a plain function, so it runs in a thread."""
    note("begin")
    for part in range(1, PARTS + 1):
        is_slow = _slow and part == SLOW_PART
        time.sleep(SLOW_SECONDS if is_slow else 0.3)  # sleeps: packing is work
        note("part", f"{part} of {PARTS}")
    note("end")
    return PARTS


@step(name="hand_over")
async def hand_over(label: str, parts: int) -> None:
    """Take a moment and succeed."""
    note("begin")
    await asyncio.sleep(0.3)
    note("end")


# --- the workflow ---------------------------------------------------------------------


@workflow(name="order")
async def order(order_id: str, cents: int) -> str:
    """Reserve, charge (with a retry), three steps side by side, sleep, hand over."""
    await reserve_stock(order_id)
    receipt = await charge_card(order_id, cents)
    logger.info("invoice, label and packing now run side by side")
    async with asyncio.TaskGroup() as group:
        group.create_task(send_invoice(order_id, receipt))
        label = group.create_task(print_label(order_id))
        parts = group.create_task(pack_parcel(order_id))
    logger.info("the workflow sleeps until the courier comes, 1.5 s")
    await sleep("1.5s")
    await hand_over(label.result(), parts.result())
    return f"{order_id} is on its way: {label.result()}"


class _Speak(logging.Handler):
    """Prints what the workflow's logger says as a line of the protocol."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        line = {"at": _clock.wall_us(), "what": "says", "text": record.getMessage()}
        os.write(1, json.dumps(line).encode() + b"\n")


async def main(journal: str) -> None:
    """Start the order, or go on with it where the last process left it."""
    async with Runtime(journal) as runtime:
        run = await runtime.start(order.options(run_id=RUN_ID), "A-17", 4200)
        result = await run.result()
    os.write(1, json.dumps({"at": _clock.wall_us(), "what": "result", "text": result}).encode())


if __name__ == "__main__":
    _descriptor = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    _slow = sys.argv[3] == "slow"
    logging.getLogger("durable.workflow").setLevel(logging.INFO)
    logging.getLogger("durable.workflow").addHandler(_Speak())
    asyncio.run(main(sys.argv[1]))
