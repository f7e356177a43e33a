"""One journal, two programs: the script that was started, and one that imports it.

Each knows the other's classes under another module name. Values and exceptions that one of
them recorded are of the other's own classes all the same, so `type`, `isinstance` and
`except` in bodies that go on there hold.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.surface.programs import ROOT, Program, spawn

pytestmark = pytest.mark.slow  # each test starts two programs

# Each run is given an Order, gets one from a step, catches a Declined of another step and
# then waits; so whoever continues it has all of them from the journal.
SHOP = """
import asyncio, sys
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from durable import Runtime, create_hook, resume_hook, step, workflow

class Size(Enum):
    SMALL = 1

@cache
def discount(cents): return cents // 10

@dataclass
class Order:
    @dataclass
    class Line:
        text: str
    number: str
    lines: list = field(default_factory=lambda: [Order.Line("tea")])
    size: Size = Size.SMALL
    rule: object = discount

class Declined(Exception):
    def __init__(self, order, *, code):
        super().__init__(f"{order.number} is declined")
        self.order, self.code = order, code

@step
async def price(order): return Order(order.number + "-priced")

@step(max_retries=0)
async def charge(order): raise Declined(order, code=Order)

def check(order, number):
    assert type(order) is Order and order.number == number, order
    assert type(order.lines[0]) is Order.Line and order.size is Size.SMALL
    assert order.rule is discount

@workflow
async def buy(order):
    check(order, "A1")
    check(await price(order), "A1-priced")
    try:
        await charge(order)
    except Declined as declined:
        check(declined.order, "A1")
        assert declined.code is Order
    async with create_hook(Order, token="go") as hook:
        last = await hook
    check(last, "A2")
    return Order("A3")

async def write():
    async with Runtime("shop.db") as runtime:
        run = await runtime.start(buy.options(run_id="one"), Order("A1"))
        while not await run.hooks():
            await asyncio.sleep(0.01)
        print("waiting", flush=True)

async def read():
    async with Runtime("shop.db") as runtime:
        await runtime.resume_hook("go", Order("A2"))
        check(await runtime.get_run("one").result(), "A3")
        assert ("__main__" == __name__) == ("shop" not in sys.modules)
        print("went on", flush=True)

async def own():
    async with Runtime("shop.db"):
        print("owner", flush=True)
        await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]]())
"""
WORKER = """
import asyncio, sys
import shop
asyncio.run(getattr(shop, sys.argv[1])())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where both programs lie, and their journal."""
    Program(tmp_path, SHOP, "shop.py").write()
    Program(tmp_path, WORKER, "worker.py").write()
    return tmp_path


def run(folder: Path, *command: str) -> str:
    """Run Python there to its end and return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["shop.py"], ["worker.py"]),
        (["worker.py"], ["shop.py"]),
        (["-m", "shop"], ["worker.py"]),
        (["worker.py"], ["-m", "shop"]),
        (["shop.py"], ["shop.py"]),
    ],
    ids="-".join,
)
def test_run_goes_on_in_the_other_program(
    folder: Path, first: list[str], second: list[str]
) -> None:
    """Whichever of them recorded it: arguments, results and exceptions are of its classes."""
    assert run(folder, *first, "write") == "waiting\n"
    assert run(folder, *second, "read") == "went on\n"


@pytest.mark.parametrize(("owner", "client"), [("worker.py", "shop.py"), ("shop.py", "worker.py")])
def test_client_of_the_owner_is_the_other_program(folder: Path, owner: str, client: str) -> None:
    """The client's values reach the owner's bodies, and results come back to the client."""
    text = {"shop.py": SHOP, "worker.py": WORKER}[owner]
    with spawn(Program(folder, text, owner), "own") as process:
        process.until("owner")
        assert run(folder, client, "write") == "waiting\n"
        assert run(folder, client, "read") == "went on\n"


def test_program_that_lacks_the_script_is_told_to_import_it(folder: Path) -> None:
    """Loading does not import it: a script without a guard would start once more."""
    run(folder, "shop.py", "write")
    Program(
        folder,
        """
        import asyncio, sys
        from durable import Runtime, workflow
        from durable.errors import WorkflowRunBlockedError

        @workflow(name="shop.buy")
        async def buy(order): return None

        async def main():
            async with Runtime("shop.db") as runtime:
                try:
                    await runtime.resume_hook("go", None)
                except WorkflowRunBlockedError as error:
                    print(error)
            assert "shop" not in sys.modules

        asyncio.run(main())
        """,
        "other.py",
    ).write()
    told = run(folder, "other.py")
    assert "shop.Order is not known in this program" in told
    assert "import shop in this program" in told
