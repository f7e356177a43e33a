"""What a type checker must make of the public API. Checked by mypy, never run.

Each `assert_type` is a promise to users; each ``type: ignore[code]`` marks a mistake that
must be found, and mypy reports it as unused should the mistake ever pass.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, assert_type

import durable
from durable import (
    Backoff,
    CancelOutcome,
    FatalError,
    Hook,
    HookInfo,
    RetryableError,
    Run,
    RunInfo,
    RunPage,
    RunStatus,
    Runtime,
    StepItems,
    Stream,
    StreamChunk,
    SyncRun,
    SyncRuntime,
    SyncStream,
    SyncWritable,
    Webhook,
    WebhookRequest,
    WebhookResponse,
    Writable,
    backup,
    cancel_runs,
    count_runs,
    create_hook,
    create_webhook,
    define_hook,
    get_hook_by_token,
    get_run,
    get_step_metadata,
    get_sync_writable,
    get_workflow_metadata,
    get_writable,
    import_run,
    list_runs,
    receive,
    restore,
    resume_hook,
    resume_webhook,
    set_attributes,
    start,
    start_many,
    step,
    workflow,
)
from durable.asgi import HmacVerifier, WebhookApp, webhooks

# --- definitions ----------------------------------------------------------------------


@step
async def charge(order: str, cents: int) -> str:
    """An async step."""
    return f"{order}:{cents}"


@step
def resize(data: bytes, width: int = 100) -> bytes:
    """A step that blocks, so that it runs in a thread."""
    return data[:width]


@step(
    name="send",
    max_retries=5,
    backoff=Backoff(initial=0.5, factor=2.0, max=30.0, jitter=0.1),
    timeout="30s",
    retry_on=(OSError,),
    no_retry_on=(FileNotFoundError,),
    concurrency=4,
)
async def send(address: str) -> None:
    """A step with every option."""
    if not address:
        raise FatalError("no address")
    raise RetryableError("busy", retry_after=timedelta(seconds=5))


@step(executor="process")
def crunch(number: int) -> float:
    """A step for a worker process."""
    return number / 2


@step
async def complete(prompt: str) -> AsyncIterator[str]:
    """A step that yields."""
    yield prompt


@step(stream="rows", on_retry="resume", max_retries=1)
def rows(table: str, limit: int = 10) -> Iterator[tuple[int, str]]:
    """A plain generator, with options."""
    yield limit, table


@workflow
async def fulfil(order: str, *, cents: int = 4200) -> str:
    """A body that uses every kind of step."""
    assert_type(await charge(order, cents), str)
    assert_type(await send("a@example.org"), None)
    await durable.sleep("1h30m")
    await durable.sleep(timedelta(days=1))
    await durable.sleep(datetime(2030, 1, 1, tzinfo=UTC))
    await durable.sleep(0.5)
    assert_type(durable.now(), datetime)
    assert_type(durable.random(), Random)
    assert_type(durable.uuid4(), uuid.UUID)
    assert_type(get_workflow_metadata().run_id, str)
    assert_type(await charge.options(max_retries=1)(order, 1), str)
    await charge(order)  # type: ignore[call-arg]
    await charge(order, "1")  # type: ignore[arg-type]
    return order


@workflow(name="nightly", retention=timedelta(days=7))
async def nightly() -> dict[str, int]:
    """A body that calls steps that block, and other workflows."""
    assert_type(await resize(b"", width=3), bytes)
    assert_type(await crunch(4), float)
    assert_type(await fulfil("A-17"), str)
    gathered = await asyncio.gather(charge("A-17", 1), crunch(4), fulfil("A-17"))
    assert_type(gathered, tuple[str, float, str])
    child = await start(fulfil, "A-17")
    assert_type(await child.result(), str)
    return {"done": 1}


@workflow
async def talk(prompt: str) -> int:
    """A body that iterates, awaits and writes."""
    async for token in complete(prompt):
        assert_type(token, str)
    async for row in rows("t", limit=3):
        assert_type(row, tuple[int, str])
    assert_type(complete(prompt), StepItems[str])
    assert_type(complete.options(stream="x")(prompt), StepItems[str])
    complete(7)  # type: ignore[arg-type]
    rows.options(on_retry="again")  # type: ignore[arg-type]
    async with get_writable("log", on_retry="replace") as out:
        assert_type(out, Writable)
        assert_type(await out.write({"any": "value"}), None)
        assert_type(await out.write_from(complete(prompt)), int)
    get_writable(on_retry="never")  # type: ignore[arg-type]
    async for letter in Shop().spell("abc"):
        assert_type(letter, str)
    return await rows("t")


class Shop:
    """Methods are steps and workflows too."""

    @step
    async def spell(self, word: str) -> AsyncGenerator[str, None]:
        """A method that is a generator step."""
        for letter in word:
            yield letter

    @step
    async def price(self, item: str) -> int:
        """A method that is a step."""
        return len(item)

    @workflow
    async def order(self, item: str) -> int:
        """A method that is a workflow."""
        return await self.price(item)


@step
async def accept(request: WebhookRequest) -> bool:
    """A step that answers the sender of a request."""
    assert_type(request.header("x-tag"), str | None)
    assert_type(request.text(), str)
    assert_type(request.body, bytes)
    return await request.respond_with({"ok": True})


@workflow
async def paid() -> str:
    """A body that waits for HTTP requests."""
    webhook = create_webhook(respond_with="manual", verify="github")
    assert_type(webhook, Webhook)
    assert_type(webhook.url, str)
    assert_type(await accept(await webhook), bool)
    async for request in webhook:
        assert_type(request, WebhookRequest)
    create_webhook(respond_with=WebhookResponse("ok", 201, {"x-a": "b"}))
    create_webhook(respond_with=204)
    create_webhook(token="chosen")  # type: ignore[call-arg]
    assert_type(await webhook.get(timeout="3 days"), WebhookRequest)
    return webhook.token


async def receiving() -> None:
    """An ASGI application, or any other framework."""
    github = HmacVerifier.github("s3cret")
    app = webhooks(Runtime("app.db"), verify=github, verifiers={"github": github})
    assert_type(app, WebhookApp)
    webhooks(methods=["POST"], delivery_id=lambda request: request.header("x-id"))
    webhooks("app.db")  # type: ignore[arg-type]
    answer = await resume_webhook("token", WebhookRequest("POST", "", {"a": "b"}, b"{}"))
    assert_type(answer, WebhookResponse)
    assert_type(answer.status, int)


# --- starting -------------------------------------------------------------------------


async def starting() -> None:
    """`start` keeps the workflow's parameters and its result type."""
    run = await start(fulfil, "A-17", cents=1)
    assert_type(run, Run[str])
    assert_type(await run, str)
    assert_type(await run.result(timeout=5.0), str)
    assert_type(await run.result(timeout="5s"), str)
    await start(fulfil)  # type: ignore[call-overload]
    await start(fulfil, "A-17", "extra")  # type: ignore[call-overload]
    await start(fulfil, 17)  # type: ignore[call-overload]
    await start(charge, "A-17", 1)  # type: ignore[call-overload]

    assert_type(await start(nightly), Run[dict[str, int]])
    assert_type(await start("nightly"), Run[Any])
    assert_type(await start(fulfil.options(deployment_id="latest"), "A-17"), Run[Any])
    assert_type(await start_many(fulfil, [("A-17",), ("A-18",)]), list[Run[str]])
    assert_type(await start_many("nightly", [(), ()]), list[Run[Any]])


async def options() -> None:
    """A configured copy is the same kind of workflow."""
    configured = fulfil.options(
        run_id="order-A-17",
        on_conflict="raise",
        delay="1m",
        timeout=timedelta(hours=1),
        attributes={"customer": "17"},
        retention="forever",
    )
    assert_type(await start(configured, "A-17"), Run[str])
    assert_type(await start(fulfil.options(at=datetime(2030, 1, 1, tzinfo=UTC)), "A"), Run[str])
    fulfil.options(on_conflict="ignore")  # type: ignore[call-overload]
    fulfil.options(colour="red")  # type: ignore[call-overload]


async def original_functions() -> None:
    """`fn` is the undecorated function."""
    await charge.fn("A-17", 1)
    charge.fn("A-17")  # type: ignore[call-arg]
    resize.fn("no bytes")  # type: ignore[arg-type]
    body: Callable[[], Coroutine[Any, Any, dict[str, int]]] = nightly.fn
    assert_type(await body(), dict[str, int])


# --- runs -----------------------------------------------------------------------------


async def handles() -> None:
    """What can be asked of a run, and done to it."""
    run = get_run("run_1")
    assert_type(run, Run[Any])
    assert_type(run.run_id, str)
    assert_type(await run.exists(), bool)
    assert_type(await run.status(), RunStatus)
    assert_type(await run.workflow_name(), str)
    assert_type(await run.created_at(), datetime)
    assert_type(await run.started_at(), datetime | None)
    assert_type(await run.completed_at(), datetime | None)
    assert_type(await run.attributes(), dict[str, str])
    assert_type(await run.wake_up(), int)
    await run.cancel(reason="changed my mind")
    await run.resume()
    assert_type(await run.pause("a reason"), None)
    assert_type(await run.retry(), None)
    typed: Run[str] = run
    assert_type(await typed.rerun(run_id="again"), Run[str])
    assert_type(await typed.fork(results={charge: "by hand", "other": 1}), Run[str])
    assert_type(await typed.fork(at=charge), Run[str])
    assert_type(await typed.fork(7), Run[str])
    assert_type(await run.origin(), durable.RunOrigin | None)
    assert_type(await run.replayed_from(), str | None)
    assert_type(await typed.continued_as(), Run[str] | None)
    assert_type(await run.children(), list[Run[Any]])
    for event in await run.events():
        assert_type(event.seq, int)
        assert_type(event.kind, str)
        assert_type(event.at, datetime)
        assert_type(event.due, datetime | None)


@dataclass
class Approval:
    """A payload."""

    granted: bool


async def hooks() -> None:
    """What a hook gives is of the type that it was created with."""
    hook = create_hook(Approval, token="A-17")
    assert_type(hook, Hook[Approval])
    assert_type(await hook, Approval)
    assert_type(await hook.get(timeout="1h"), Approval)
    assert_type(hook.pending, int)
    assert_type(await hook.get_conflict(), Run[Any] | None)
    async with create_hook() as anything:
        async for payload in anything:
            assert_type(payload, Any)
    assert_type(create_hook(int | None), Hook[Any])
    assert_type(await receive("notes", str, "1h"), str)
    assert_type(await receive("notes"), Any)
    create_hook(token=7)  # type: ignore[call-overload]


async def answers() -> None:
    """Those who answer need the token alone, or the type as well."""
    info = await get_hook_by_token("A-17")
    assert_type(info, HookInfo)
    assert_type(await resume_hook(info, True), Run[Any])
    await durable.send(get_run("run_1"), "notes", "now", dedupe_key="k")
    await durable.send(17, "notes")  # type: ignore[arg-type]
    approval = define_hook(Approval)
    assert_type(await approval.create(), Approval)
    await approval.resume("A-17", Approval(granted=True))
    await approval.resume("A-17", "yes")  # type: ignore[arg-type]
    assert_type(await get_run("run_1").hooks(), list[HookInfo])


async def streams() -> None:
    """What can be read from a run's streams, and written to them."""
    run = get_run("run_1")
    assert_type(run.stream("tokens", -3, follow=False), Stream)
    async for chunk in run.stream().chunks():
        assert_type(chunk, StreamChunk)
        assert_type((chunk.index, chunk.attempt, chunk.reset), tuple[int, int, bool])
        assert_type(chunk.step_id, str | None)
    async for piece in run.stream_bytes():
        assert_type(piece, bytes)
    assert_type(run.stream().position, int | None)
    assert_type(await run.tail_index(), int)
    assert_type(await run.list_streams(), list[str])
    assert_type(run.get_writable("notes"), Writable)
    run.stream(start_index="3")  # type: ignore[arg-type]


async def many_runs() -> None:
    """Listings, counts, cancellations, and what is carried elsewhere."""
    page = await list_runs(workflow=fulfil, status=["failed", "blocked"], order="oldest", limit=5)
    assert_type(page, RunPage[RunInfo])
    assert_type(page.next_cursor, str | None)
    assert_type(page[0], RunInfo)
    for info in page:
        assert_type(info.run_id, str)
        assert_type(info.status, RunStatus)
        assert_type(info.created_at, datetime)
        assert_type(info.completed_at, datetime | None)
        assert_type(info.attributes, dict[str, str])
        assert_type(info.parent_id, str | None)
        assert_type(info.blocked_reason, str | None)
        assert_type(info.run, Run[Any])
    await list_runs(attributes={"customer": "17"}, created_after=datetime(2030, 1, 1, tzinfo=UTC))
    await list_runs(parent=get_run("run_1"), root="run_1", cursor=page.next_cursor)
    await list_runs(order="random")  # type: ignore[arg-type]
    await list_runs(attributes={"customer": 17})  # type: ignore[dict-item]
    await list_runs(colour="red")  # type: ignore[call-arg]
    assert_type(await count_runs(workflow="nightly"), int)
    outcomes = await cancel_runs(["run_1", page[0], get_run("run_2")], reason="enough")
    assert_type(outcomes, list[CancelOutcome])
    assert_type(outcomes[0].message, str | None)
    await cancel_runs(workflow=fulfil, attributes={"customer": "17"})
    document = await get_run("run_1").export("run.json")
    assert_type(document, dict[str, Any])
    assert_type(await import_run(document), Run[Any])
    assert_type(await import_run("run.json", run_id="copy"), Run[Any])
    await get_run("run_1").delete()
    assert_type((await backup("copy.db", overwrite=True)).runs, int)
    assert_type((await restore("copy.db", "app.db", overwrite=True)).replaced, str | None)


async def attributes() -> None:
    """Texts, or None to remove one."""
    await set_attributes({"stage": "packing", "waiting_for": None})
    await set_attributes({"stage": 7})  # type: ignore[dict-item]


async def metadata() -> None:
    """What a step can learn about its attempt."""
    meta = get_step_metadata()
    assert_type(meta.step_id, str)
    assert_type(meta.name, str)
    assert_type(meta.attempt, int)
    assert_type(meta.started_at, datetime)
    assert_type(meta.run_id, str)
    assert_type(meta.idempotency_key, str)


# --- runtimes -------------------------------------------------------------------------


async def runtimes() -> None:
    """A runtime starts runs of its own journal."""
    async with Runtime("app.db", durability="process", retention=None) as runtime:
        assert_type(runtime, Runtime)
        assert_type(await runtime.start(fulfil, "A-17"), Run[str])
        await runtime.start(fulfil)  # type: ignore[call-overload]
        assert_type(await runtime.start_many(fulfil, [("A-17",)]), list[Run[str]])
        assert_type(await runtime.start_many("nightly", [()]), list[Run[Any]])
        runtime.get_run("run_1")
    Runtime("app.db", durability="never")  # type: ignore[arg-type]


def without_a_loop() -> None:
    """Scripts need no event loop of their own."""
    with SyncRuntime("app.db") as runtime:
        assert_type(runtime.start(fulfil, "A-17").result(), str)
        assert_type(runtime.start_many("nightly", [()])[0].result(timedelta(1)), Any)
        assert_type(runtime.list_runs(status="blocked")[0].run, SyncRun[Any])
        assert_type(runtime.count_runs(workflow=nightly), int)
        assert_type(runtime.cancel_runs(["run_1"]), list[CancelOutcome])
        assert_type(runtime.import_run("run.json").export(), dict[str, Any])
        assert_type(runtime.backup("copy.db").bytes, int)
        runtime.start(fulfil)  # type: ignore[call-overload]
        run = runtime.get_run("run_1")
        assert_type(run.stream(), SyncStream)
        for chunk in run.stream().chunks():
            assert_type(chunk, StreamChunk)
        for piece in run.stream_bytes():
            assert_type(piece, bytes)
        assert_type(run.get_writable(), SyncWritable)
        assert_type(get_sync_writable().write_from([1]), int)


async def main() -> int:
    """A program's main coroutine."""
    return 0


assert_type(durable.run(main()), int)
