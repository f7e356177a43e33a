"""In a notebook: runs outlive the kernel, cells may be run again, waiting may be interrupted.

A real kernel is driven through its own protocol; killing its process is what "restart the
kernel" does at its worst.
"""

from __future__ import annotations

import os
import re
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ipykernel")
client = pytest.importorskip("jupyter_client")

ROOT = Path(__file__).parents[2]
WAIT = 60  # seconds until a test gives up on a kernel

pytestmark = pytest.mark.slow


class Notebook:
    """One kernel, and its cells."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._environment = os.environ | {"PYTHONPATH": path, "IPYTHONDIR": str(folder / "ipy")}
        self._environment.pop("DURABLE_JOURNAL", None)
        self._folder = folder
        self._begin()

    def _begin(self) -> None:
        self._sockets = tempfile.TemporaryDirectory(prefix="nb-")  # their paths must be short
        self._manager = client.KernelManager(
            kernel_name="python3", transport="ipc", ip=f"{self._sockets.name}/s"
        )
        self._manager.start_kernel(cwd=str(self._folder), env=self._environment)
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=WAIT)

    def run(self, cell: str) -> str:
        """Run a cell and return what it printed; an error of the cell is our error."""
        return self.outcome(self.send(cell))

    def send(self, cell: str) -> str:
        """Begin to run a cell and return its id."""
        return str(self._client.execute(textwrap.dedent(cell)))

    def outcome(self, cell: str, until: str | None = None) -> str:
        """Return what a cell has printed at its end, or once `until` is part of it."""
        printed = ""
        while True:
            message = self._client.get_iopub_msg(timeout=WAIT)
            if message["parent_header"].get("msg_id") != cell:
                continue
            printed += _text(message)
            if until is not None and until in printed:
                return printed
            is_idle = message["content"].get("execution_state") == "idle"
            if message["msg_type"] == "status" and is_idle:
                return printed

    def interrupt(self) -> None:
        """Press the stop button."""
        self._manager.interrupt_kernel()

    def restart(self) -> None:
        """Kill the kernel and start another one in its place."""
        self.close()
        self._begin()

    def close(self) -> None:
        """Kill the kernel."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._sockets.cleanup()


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if message["msg_type"] == "stream":
        return str(content["text"])
    if message["msg_type"] == "error":
        plain = "\n".join(re.sub("\x1b\\[[0-9;]*m", "", line) for line in content["traceback"])
        return f"ERROR {content['ename']}: {content['evalue']}\n{plain}"
    return ""


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    opened = Notebook(tmp_path)
    yield opened
    opened.close()


DEFINE = """
    import asyncio, os
    from dataclasses import dataclass
    from durable import Runtime, get_run, sleep, start, step, workflow

    @dataclass
    class Parcel:
        order: str
        weight: int

    @step
    async def pack(order: str) -> Parcel:
        with open("ledger", "a") as file:
            file.write(f"packed {order}\\n")
        return Parcel(order, 3)

    @step
    async def deliver(parcel: Parcel) -> str:
        while not os.path.exists("open-road"):
            await asyncio.sleep(0.01)
        return f"{parcel.order} of {parcel.weight} kg delivered"

    @workflow
    async def fulfil(order: str) -> str:
        parcel = await pack(order)
        return await deliver(parcel)
"""

START = """
    run = await start(fulfil.options(run_id="order"), "A-17")
    while not any("deliver" in what for what in (await run.status()).waiting_for):
        await asyncio.sleep(0.01)
    print("under way")
"""


def test_a_run_goes_on_after_the_kernel_was_killed(notebook: Notebook, tmp_path: Path) -> None:
    """Define and start in cells, kill the kernel, run the defining cell again: it completes."""
    notebook.run(DEFINE)
    assert notebook.run(START) == "under way\n"
    notebook.restart()
    (tmp_path / "open-road").touch()
    assert notebook.run(DEFINE) == ""
    said = notebook.run("print(await get_run('order').result())")
    assert said == "A-17 of 3 kg delivered\n"
    assert (tmp_path / "ledger").read_text() == "packed A-17\n"


def test_a_runtime_opened_in_a_cell_recovers_what_later_cells_define(
    notebook: Notebook, tmp_path: Path
) -> None:
    """A run whose code is not there yet is blocked, and goes on by itself when it is defined."""
    notebook.run(DEFINE)
    assert notebook.run(START) == "under way\n"
    notebook.restart()
    (tmp_path / "open-road").touch()
    blocked = notebook.run(
        """
        import asyncio
        from durable import Runtime, get_run
        runtime = Runtime("durable.db")
        await runtime.open()
        while await get_run("order").status() != "blocked":
            await asyncio.sleep(0.01)
        print((await get_run("order").status()).reason)
        """
    )
    assert "fulfil" in blocked
    notebook.run(DEFINE)
    said = notebook.run("print(await runtime.get_run('order').result())")
    assert said == "A-17 of 3 kg delivered\n"


def test_a_cell_that_defines_a_workflow_can_be_run_again(
    notebook: Notebook, tmp_path: Path
) -> None:
    """A changed definition replaces the old one for the runs that start afterwards."""
    (tmp_path / "open-road").touch()
    notebook.run(DEFINE)
    notebook.run(DEFINE)
    notebook.run(DEFINE.replace("kg delivered", "kg at your door"))
    said = notebook.run("print(await (await start(fulfil, 'A-18')).result())")
    assert said == "A-18 of 3 kg at your door\n"


def test_interrupting_a_cell_that_waits_leaves_the_run_going(
    notebook: Notebook, tmp_path: Path
) -> None:
    """The stop button ends the waiting; the run completes, and the kernel is as before."""
    notebook.run(DEFINE)
    assert notebook.run(START) == "under way\n"
    waiting = notebook.send("print('waiting', flush=True); await run.result()")
    notebook.outcome(waiting, until="waiting")
    notebook.interrupt()
    assert "ERROR" in notebook.outcome(waiting)
    assert notebook.run("print(await run.status())") == "running\n"
    (tmp_path / "open-road").touch()
    assert notebook.run("print(await run.result())") == "A-17 of 3 kg delivered\n"
    assert (tmp_path / "ledger").read_text() == "packed A-17\n"
