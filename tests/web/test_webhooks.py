"""Webhooks in workflow bodies: requests in, answers out, the same on every replay."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Codec,
    SyncRuntime,
    WebhookRequest,
    WebhookResponse,
    create_hook,
    create_webhook,
    get_run,
    resume_hook,
    resume_webhook,
    step,
    workflow,
)
from durable._surface.cli import main
from durable.errors import (
    HookNotFoundError,
    HookPayloadError,
)
from durable.testing import VirtualClock
from tests.engine.rig import crashing, kinds, opened, quiet, until
from tests.web.bodies import POST, begin, manual, many, one, publish, urls


@pytest.fixture(autouse=True)
def _no_urls() -> None:
    urls.clear()


# --- requests ---------------------------------------------------------------------------------


async def test_body_gets_the_request_by_value(journal_path: Path) -> None:
    """And its sender status 202."""
    async with opened(journal_path) as rt:
        run, token = await begin(rt, one)
        response = await resume_webhook(token, POST)
        assert (response.status, response.body) == (202, b"")
        result = await run.result(5)
    assert result == {"method": "POST", "json": {"paid": True}, "url": urls[run.run_id][0]}
    assert token not in repr(run)


async def test_token_is_random_and_only_its_hash_is_indexed(journal_path: Path) -> None:
    """256 bits of it, not made from anything; and what shows of a webhook is its beginning."""
    shown: list[str] = []

    @workflow
    async def peek() -> str:
        webhook = create_webhook()
        shown.append(repr(webhook))
        return webhook.token

    async with opened(journal_path) as rt:
        tokens = {await (await rt.start(peek)).result(5) for _ in range(20)}
        assert len(tokens) == 20
        assert all(len(token) == 43 for token in tokens)
        assert all(token not in text for token in tokens for text in shown)
        _run, token = await begin(rt, one)

        def indexed(conn: Any) -> list[Any]:
            return [value for row in conn.execute("SELECT * FROM hooks") for value in row]

        assert token not in map(str, await rt.reader._driver.call(indexed))


async def test_run_that_waits_for_a_request_says_so(
    journal_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In memory as well as in the journal, where nothing is loaded to tell."""
    async with opened(journal_path) as rt:
        run, _ = await begin(rt, many, 1)
        (created,) = [e for e in await run.events() if e.kind == "hook_created"]
        waits = f"webhook of event {created.seq}"
        assert (await run.status()).waiting_for == (waits,)
        await asyncio.to_thread(main, ["show", "--db", str(journal_path), "--json", run.run_id])
        assert json.loads(capsys.readouterr().out)["waiting_for"] == [waits]


async def test_token_shows_nowhere_in_full(
    journal_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in what the run shows of itself, nor in errors, nor at the command line."""
    async with opened(journal_path) as rt:
        run, token = await begin(rt, many, 1)
        (info,) = await run.hooks()
        assert info.token == token
        (created,) = [e for e in await run.events() if e.kind == "hook_created"]
        with pytest.raises(HookNotFoundError) as missing:
            await resume_webhook("x" + token[1:], POST)
        shown = [repr(info), repr(created), str((await run.status()).waiting_for)]
        assert token[1:] not in " ".join(shown) + str(missing.value)
        assert created.value["type"] == "WebhookRequestData"
        await resume_webhook(token, POST)
        await run.result(5)
        # The URL is an argument of the step here, and arguments are shown.
        await asyncio.to_thread(main, ["show", "--db", str(journal_path), "--json", run.run_id])
        events = json.loads(capsys.readouterr().out)["events"]
        assert token not in str([e for e in events if e["kind"] != "step_created"])


def test_requests_come_in_by_a_runtime_without_a_loop(journal_path: Path) -> None:
    """For web frameworks that know nothing of asyncio."""
    with SyncRuntime(journal_path) as rt:
        run = rt.start(many.options(run_id="sync"), "sync", 1)
        while "sync" not in urls or not run.hooks():
            pass
        (info,) = run.hooks()
        assert rt.resume_webhook(info.token, POST, dedupe_key="1").status == 202
        assert run.result(5) == ['{"paid": true}']


async def test_requests_are_kept_in_order(journal_path: Path) -> None:
    """Also those that come before the body asks."""
    async with opened(journal_path) as rt:
        run, token = await begin(rt, many, 3)
        for text in ("one", "two", "three"):
            await resume_webhook(token, WebhookRequest("PUT", "", {}, text))
        assert await run.result(5) == ["one", "two", "three"]


async def test_delivery_that_comes_twice_is_recorded_once(journal_path: Path) -> None:
    """Under the name that its sender gives it; and is answered in the same way."""
    async with opened(journal_path) as rt:
        run, token = await begin(rt, many, 2)
        for _ in range(3):
            response = await resume_webhook(
                token, WebhookRequest("PUT", "", {}, "a"), dedupe_key="1"
            )
            assert response.status == 202
        await resume_webhook(token, WebhookRequest("PUT", "", {}, "b"), dedupe_key="2")
        assert await run.result(5) == ["a", "b"]


@pytest.mark.parametrize("codec", ["pickle", "json"])
@pytest.mark.parametrize("body", [b"", "grüße".encode(), b"\xff\x00", b"x" * 100_000])
async def test_request_is_the_same_after_a_crash(
    journal_path: Path, body: bytes, codec: Any
) -> None:
    """What was recorded is what replay hands over, and the URL stays though the setting changes."""
    options = {"codec": Codec(format=codec)}

    @workflow(name="after-a-crash")
    async def look(name: str) -> list[Any]:
        webhook = create_webhook()
        await publish(name, webhook.url)
        request = await webhook
        await asyncio.sleep(60)
        pairs = [list(pair) for pair in request.headers.pairs]
        return [request.method, request.url, pairs, request.body == body, webhook.url]

    clock = VirtualClock()
    base = "https://example.org/hooks/"
    async with crashing(journal_path, clock, webhook_base_url=base, **options) as rt:
        run, token = await begin(rt, look)
        sent = WebhookRequest("PATCH", "http://x/?a=1", [("x", "1"), ("x", "2")], body)
        await resume_webhook(token, sent)
    async with opened(journal_path, clock, webhook_base_url="http://other", **options) as rt:
        await quiet(rt)
        await clock.advance(60)
        method, url, pairs, same, address = await get_run(run.run_id).result(5)
    assert (method, url, same) == ("PATCH", "http://x/?a=1", True)
    assert pairs == [["x", "1"], ["x", "2"]]
    assert address == urls[run.run_id][0]
    assert address == f"https://example.org/hooks/.well-known/workflow/v1/webhook/{token}"


async def test_request_during_a_restart_finds_the_run_that_sleeps(journal_path: Path) -> None:
    """The run is a row until the request comes."""
    async with crashing(journal_path) as rt:
        run, token = await begin(rt, one)
        await quiet(rt)
    async with opened(journal_path):
        assert (await resume_webhook(token, POST)).status == 202
        assert (await get_run(run.run_id).result(5))["json"] == {"paid": True}


async def test_waiting_for_a_request_may_be_limited(journal_path: Path, virtual_clock: Any) -> None:
    """The wait is durable, and what comes later is kept."""

    @workflow
    async def patient(name: str) -> str:
        webhook = create_webhook()
        await publish(name, webhook.url)
        with pytest.raises(TimeoutError) as late:
            await webhook.get(timeout="1h")
        assert webhook.token not in str(late.value)
        return (await webhook).text()

    async with opened(journal_path, virtual_clock) as rt:
        run, token = await begin(rt, patient)
        await quiet(rt)
        await virtual_clock.advance(3600)
        await resume_webhook(token, WebhookRequest("POST", "", {}, "late"))
        assert await run.result(5) == "late"


# --- what leads nowhere -------------------------------------------------------------------------


async def test_what_is_no_open_webhook_is_not_found(journal_path: Path) -> None:
    """Unknown tokens, disposed webhooks, ended runs, and hooks of the other kind."""

    @workflow
    async def named() -> None:
        await create_hook(token="order:17")

    async with opened(journal_path) as rt:
        run, token = await begin(rt, many, 1)
        await resume_webhook(token, POST)
        await run.result(5)
        await rt.start(named)
        await quiet(rt)
        for wrong in (token, "A" * 43, "", "order:17", "é\udcff"):
            with pytest.raises(HookNotFoundError):
                await resume_webhook(wrong, POST)
        assert await kinds(run) == [
            "run_created", "run_started", "hook_created", "step_created", "step_completed",
            "hook_received", "hook_disposed", "run_completed",
        ]  # fmt: skip


async def test_other_payloads_do_not_reach_a_webhook(journal_path: Path) -> None:
    """Its body can rely on getting requests."""
    async with opened(journal_path) as rt:
        run, token = await begin(rt, one)
        for wrong in (None, "text", {"id": "1"}, POST.to_data() | {"headers": {"a": "b"}}):
            with pytest.raises(HookPayloadError):
                await resume_hook(token, wrong)
        await resume_hook(token, POST.to_data())
        assert (await run.result(5))["method"] == "POST"


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("respond_with", "status", "body"),
    [
        (204, 204, b""),
        ("thanks", 200, b"thanks"),
        (b"\xff", 200, b"\xff"),
        ({"ok": True}, 200, b'{"ok":true}'),
        (WebhookResponse("made", 201, {"x-a": "b"}), 201, b"made"),
    ],
)
async def test_answer_may_be_chosen_beforehand(
    journal_path: Path, respond_with: Any, status: int, body: bytes
) -> None:
    """Recorded with the webhook, so it is there after a restart."""
    async with crashing(journal_path) as rt:
        run, token = await begin(rt, one, respond_with)
        await quiet(rt)
    async with opened(journal_path):
        response = await resume_webhook(token, POST)
        assert (response.status, response.body) == (status, body)
        await get_run(run.run_id).result(5)


@pytest.mark.parametrize("codec", ["pickle", "json"])
async def test_step_answers_while_the_sender_waits(journal_path: Path, codec: Any) -> None:
    """The first answer counts; and it may be given by the body itself."""
    async with opened(journal_path, codec=Codec(format=codec)) as rt:
        run, token = await begin(rt, manual, {"n": 1}, in_body=codec == "json")
        response = await resume_webhook(token, POST)
        assert (response.status, response.body) == (200, b'{"n":1}')
        assert await run.result(5) == [True, False]


async def test_sender_is_told_when_the_answer_takes_too_long(journal_path: Path) -> None:
    """With 504; the answer that comes then says that nobody waits, and waits for a repetition."""
    gate = asyncio.Event()

    @step
    async def late(request: WebhookRequest) -> bool:
        await gate.wait()
        return await request.respond_with("late")

    @workflow
    async def slow(name: str) -> bool:
        webhook = create_webhook(respond_with="manual")
        await publish(name, webhook.url)
        told = await late(await webhook)
        await create_hook(token="hold")
        return told

    async with opened(journal_path) as rt:
        run, token = await begin(rt, slow)
        response = await resume_webhook(token, POST, dedupe_key="1", response_timeout=0.05)
        assert response.status == 504
        gate.set()
        await quiet(rt)
        again = await resume_webhook(token, POST, dedupe_key="1")
        assert (again.status, again.body) == (200, b"late")
        await resume_hook("hold")
        assert await run.result(5) is False


async def test_run_that_ends_without_an_answer_is_not_waited_for(journal_path: Path) -> None:
    """Its sender is told at once."""

    @workflow
    async def forgetful(name: str) -> None:
        webhook = create_webhook(respond_with="manual")
        await publish(name, webhook.url)
        await webhook

    async with opened(journal_path) as rt:
        _run, token = await begin(rt, forgetful)
        async with asyncio.timeout(10):
            assert (await resume_webhook(token, POST, response_timeout=1000)).status == 500


async def test_delivery_that_is_repeated_after_a_crash_gets_its_answer(journal_path: Path) -> None:
    """The step that answers runs again, and then the sender that came back is waiting."""
    gates = [asyncio.Event(), asyncio.Event()]
    attempts: list[int] = []

    @step(name="answer-after-crash")
    async def slowly(request: WebhookRequest) -> bool:
        attempts.append(1)
        await gates[len(attempts) - 1].wait()
        return await request.respond_with("done")

    @workflow(name="answers-after-crash")
    async def body(name: str) -> bool:
        webhook = create_webhook(respond_with="manual")
        await publish(name, webhook.url)
        return await slowly(await webhook)

    async with crashing(journal_path) as rt:
        run, token = await begin(rt, body)
        first = asyncio.create_task(resume_webhook(token, POST, dedupe_key="1"))
        await until(lambda: attempts)
        first.cancel()
    async with opened(journal_path):
        await until(lambda: len(attempts) == 2)
        again = asyncio.create_task(resume_webhook(token, POST, dedupe_key="1"))
        for _ in range(100):
            await asyncio.sleep(0)
        gates[1].set()
        assert (await again).body == b"done"
        assert await get_run(run.run_id).result(5) is True
