"""The workflows that fill the journals of the fuzzing, one of each kind, and their runs.

`fill` starts them in a runtime on virtual time and lets them come to rest; `RESULTS` says
what the finished ones return, and what the others return once they may go on.
"""

from __future__ import annotations

from typing import Any

from durable import (
    Runtime,
    continue_as_new,
    create_hook,
    create_webhook,
    get_writable,
    receive,
    set_attributes,
    sleep,
    step,
    workflow,
)
from durable.testing import VirtualRuntime

TOKEN = "a-token-that-only-tests-know"


@step(name="fuzz.add")
async def add(a: int, b: int) -> int:
    return a + b


@step(name="fuzz.fail", max_retries=1, backoff=None)
async def fail(text: str) -> None:
    raise LookupError(text)


@step(name="fuzz.emit")
async def emit(count: int) -> None:
    async with get_writable() as stream:
        for number in range(count):
            await stream.write({"number": number})


@workflow(name="fuzz.sum")
async def total(count: int) -> int:
    found = 0
    for number in range(count):
        found = await add(found, number)
    return found


@workflow(name="fuzz.failing")
async def failing(text: str) -> None:
    await fail(text)


@workflow(name="fuzz.nap")
async def nap(name: str) -> str:
    await set_attributes({"asleep": name})
    await sleep("1 day")
    return f"{name} woke"


@workflow(name="fuzz.hooked")
async def hooked() -> list[Any]:
    async with create_hook(token=TOKEN) as hook:
        first = await hook
        return [first, await receive("box")]


@workflow(name="fuzz.emitting")
async def emitting(count: int) -> int:
    await emit(count)
    return count


@workflow(name="fuzz.parent")
async def parent() -> int:
    run = await start_child(4)
    return 1 + int(await run.result())


@workflow(name="fuzz.chain")
async def chain(left: int) -> str:
    if left:
        await continue_as_new(left - 1)
    return "the end"


@workflow(name="fuzz.web")
async def web() -> int:
    async with create_webhook() as webhook:
        await webhook
    return 1


async def start_child(count: int) -> Any:
    """Start the child of `parent`, from its body."""
    from durable import start

    return await start(total.options(run_id="child"), count)


RESULTS: dict[str, Any] = {
    "sum": 10, "emitting": 3, "parent": 7, "child": 6, "chain": "the end", "nap": "nap woke",
    "hooked": ["first", "second"], "failing": LookupError, "stopped": None, "web": 1,
}  # fmt: skip
RUNS = tuple(RESULTS)


async def fill(rt: VirtualRuntime | Runtime) -> None:
    """Start one run of each kind, and let each come as far as it does by itself."""
    calls = [
        (total, "sum", (5,)), (emitting, "emitting", (3,)), (parent, "parent", ()),
        (chain, "chain", (2,)), (nap, "nap", ("nap",)), (hooked, "hooked", ()),
        (failing, "failing", ("on purpose",)), (nap, "stopped", ("x",)), (web, "web", ()),
    ]  # fmt: skip
    for definition, run_id, given in calls:
        attributes = {"who": run_id, "odd": "%_'\u00e9"}
        await rt.start(definition.options(run_id=run_id, attributes=attributes), *given)
    if isinstance(rt, VirtualRuntime):
        await rt.advance("1 minute")
    await rt.get_run("stopped").cancel("not wanted")
    if isinstance(rt, VirtualRuntime):
        await rt.settled()
