"""The whole way: a real client, a real server, a real journal, the body of a workflow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import fastapi
import httpx
import pytest
import starlette.applications
import starlette.routing

from durable import Runtime, create_webhook, get_run, start, step, workflow
from durable._journal.driver import InlineDriver
from durable.asgi import HmacVerifier, webhooks
from durable.errors import RuntimeNotRunningError
from tests.engine.rig import kinds, until, without_workflow
from tests.web.rig import WAIT, serving, status_of
from tests.web.test_signatures import github

addresses: list[str] = []


@pytest.fixture(autouse=True)
def _no_addresses() -> None:
    addresses.clear()


@step
async def give_away(url: str) -> None:
    """Tell the test a URL."""
    addresses.append(url)


@workflow
async def collect(count: int, respond_with: Any = None, verify: str | None = None) -> list[str]:
    """Collect the bodies of some requests."""
    async with create_webhook(respond_with=respond_with, verify=verify) as webhook:
        await give_away(webhook.url)
        return [(await webhook).text() for _ in range(count)]


@workflow
async def upper(count: int) -> None:
    """Answer some requests with their bodies in capitals."""
    webhook = create_webhook(respond_with="manual")
    await give_away(webhook.url)
    for _ in range(count):
        await shout(await webhook)


@step
async def shout(request: Any) -> None:
    """Answer a request."""
    await request.respond_with(request.text().upper())


async def path_of(url_index: int = 0) -> str:
    """Return the path of a URL that was given away."""
    await until(lambda: len(addresses) > url_index)
    return httpx.URL(addresses[url_index]).path


@pytest.mark.both_loops
async def test_request_over_http_reaches_the_body(journal_path: Path) -> None:
    """Through the application alone, which opens and closes the runtime that it was given."""
    runtime = Runtime(journal_path)
    async with serving(webhooks(runtime)) as site:
        assert runtime.is_open
        run = await start(collect, 2)
        path = await path_of()
        for text in ("one", "two"):
            response = await site.client.post(path, content=text)
            assert (response.status_code, response.content) == (202, b"")
        assert await run.result(WAIT) == ["one", "two"]
        assert (await site.client.post(path, content="three")).status_code == 404
    assert not runtime.is_open


async def test_runtime_that_others_have_opened_stays_open(journal_path: Path) -> None:
    """It is theirs to close; and where none is named, the current one is used."""
    async with Runtime(journal_path) as runtime:
        for app in (webhooks(runtime), webhooks()):
            async with serving(app) as site:
                run = await start(collect, 1)
                path = await path_of(len(addresses))
                assert (await site.client.post(path, content="x")).status_code == 202
                assert await run.result(WAIT) == ["x"]
            assert runtime.is_open


async def test_server_that_cannot_open_its_journal_does_not_start(journal_path: Path) -> None:
    """Rather than to refuse every request."""
    app = webhooks(Runtime(journal_path))
    told: list[Any] = []
    messages = iter([{"type": "lifespan.startup"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        told.append(message)

    async with Runtime(journal_path):
        await app({"type": "lifespan"}, receive, send)
    assert told[0]["type"] == "lifespan.startup.failed"
    assert "already" in told[0]["message"]


async def test_runtime_that_nobody_has_opened_is_told_in_the_log(
    journal_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As of an application that is mounted, whose server's start it does not hear of."""
    async with serving(webhooks(Runtime(journal_path)), lifespan="off") as site:
        response = await site.client.post("/.well-known/workflow/v1/webhook/" + "A" * 43)
    assert response.status_code == 503
    assert "is not open" in caplog.text


def test_what_is_no_runtime_is_refused() -> None:
    """And so are options that cannot be."""
    with pytest.raises(TypeError, match="needs a Runtime, got str"):
        webhooks("app.db")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="body_max is 0"):
        webhooks(body_max=0)
    with pytest.raises(ValueError, match="timeout is -1"):
        webhooks(timeout=-1)
    with pytest.raises(ValueError, match="response_timeout is nan"):
        webhooks(response_timeout=float("nan"))
    with pytest.raises(ValueError, match="'get' is no method"):
        webhooks(methods=["get"])
    with pytest.raises(ValueError, match="OPTIONS never"):
        webhooks(methods=["OPTIONS"])
    with pytest.raises(ValueError, match="methods is empty"):
        webhooks(methods=[])
    with pytest.raises(TypeError, match="delivery_id is 'X-Id'"):
        webhooks(delivery_id="X-Id")
    with pytest.raises(TypeError, match="no function"):
        webhooks(verify="s3cret")  # type: ignore[arg-type]


# --- mounted ------------------------------------------------------------------------------------


def _starlette(prefix: str, lifespan: Any) -> Any:
    mount = starlette.routing.Mount(prefix or "/", app=webhooks())
    return starlette.applications.Starlette(routes=[mount], lifespan=lifespan)


def _fastapi(prefix: str, lifespan: Any) -> Any:
    app = fastapi.FastAPI(lifespan=lifespan)
    app.mount(prefix or "/", webhooks())
    return app


def _nested(prefix: str, lifespan: Any) -> Any:
    inner = fastapi.FastAPI()
    inner.mount("/inner", webhooks())
    outer = starlette.routing.Mount(prefix.removesuffix("/inner"), app=inner)
    return starlette.applications.Starlette(routes=[outer], lifespan=lifespan)


def _stripping(prefix: str, lifespan: Any) -> Any:
    """What Litestar does: the prefix goes without a word, and slashes come and go."""
    app = webhooks()

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            inner = starlette.applications.Starlette(lifespan=lifespan)
            return await inner(scope, receive, send)
        path = scope["path"].removeprefix(prefix).removeprefix("/") + "/"
        await app({**scope, "path": path}, receive, send)

    return outer


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (_starlette, ""), (_starlette, "/hooks"), (_starlette, "/a/b"), (_fastapi, ""),
        (_fastapi, "/hooks"), (_nested, "/outer/inner"), (_stripping, "/hooks"),
    ],
)  # fmt: skip
async def test_application_may_be_mounted_below_any_prefix(
    journal_path: Path, make: Any, prefix: str
) -> None:
    """In Starlette, FastAPI, one in the other; the URL tells the prefix if the runtime does."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        base = f"http://testserver{prefix}"
        async with Runtime(journal_path, webhook_base_url=base, durability="process"):
            yield

    async with serving(make(prefix, lifespan)) as site:
        run = await start(collect, 1)
        path = await path_of()
        assert path.startswith(prefix + "/.well-known/")
        for wrong in (path + "x", path.removeprefix(prefix) if prefix else path[:-1], "/"):
            if make is not _stripping or not wrong.startswith("/.well-known"):
                assert (await site.client.post(wrong)).status_code == 404
        assert (await site.client.post(path, content="x")).status_code == 202
        assert await run.result(WAIT) == ["x"]


async def test_url_names_the_mount(journal_path: Path) -> None:
    """What the body sees is what the client has asked for."""

    @workflow
    async def where() -> str:
        webhook = create_webhook()
        await give_away(webhook.url)
        return (await webhook).url

    async with Runtime(journal_path):
        app = starlette.routing.Mount("/hooks", app=webhooks())
        async with serving(starlette.applications.Starlette(routes=[app])) as site:
            run = await start(where)
            path = "/hooks" + await path_of()
            await site.client.post(path + "?a=%20b")
            assert await run.result(WAIT) == f"http://127.0.0.1:{site.port}{path}?a=%20b"


# --- answers and deliveries ---------------------------------------------------------------------


async def test_step_answers_over_http(journal_path: Path) -> None:
    """Many senders wait at once, and each gets its own answer."""
    async with serving(webhooks(Runtime(journal_path))) as site:
        run = await start(upper, 20)
        path = await path_of()
        posts = [site.client.post(path, content=f"text {n}") for n in range(20)]
        answers = await asyncio.gather(*posts)
        assert [(a.status_code, a.text) for a in answers] == [(200, f"TEXT {n}") for n in range(20)]
        await run.result(WAIT)


async def test_sender_that_waits_in_vain_is_told(journal_path: Path) -> None:
    """With 504, after the time that the application sets."""
    app = webhooks(Runtime(journal_path), response_timeout=0.05)
    async with serving(app) as site:
        await start(collect, 2, "manual")
        response = await site.client.post(await path_of(), content="x")
        assert response.status_code == 504


async def test_delivery_that_is_sent_again_is_recorded_once(journal_path: Path) -> None:
    """Also when both are under way at once."""
    async with serving(webhooks(Runtime(journal_path))) as site:
        run = await start(collect, 2)
        path = await path_of()
        first = {"X-GitHub-Delivery": "1"}
        posts = [site.client.post(path, content="a", headers=first) for _ in range(10)]
        assert {answer.status_code for answer in await asyncio.gather(*posts)} == {202}
        await site.client.post(path, content="b", headers={"X-GitHub-Delivery": "2"})
        assert await run.result(WAIT) == ["a", "b"]
        assert (await kinds(run)).count("hook_received") == 2


async def test_webhook_with_a_verifier_takes_signed_requests_only(journal_path: Path) -> None:
    """What is refused is not in the history."""
    app = webhooks(Runtime(journal_path), verifiers={"github": HmacVerifier.github("s3cret")})
    async with serving(app) as site:
        run = await start(collect, 1, None, "github")
        path = await path_of()
        for headers in ({}, github(b"other"), github(b"x", "other")):
            assert (await site.client.post(path, content="x", headers=headers)).status_code == 401
        assert "hook_received" not in await kinds(run)
        response = await site.client.post(path, content="x", headers=github(b"x"))
        assert response.status_code == 202
        assert await run.result(WAIT) == ["x"]


async def test_run_that_is_blocked_is_not_answered_with_success(journal_path: Path) -> None:
    """Its code cannot be asked, so its sender shall come again."""

    async with Runtime(journal_path):
        run = await start(collect, 1)
        path = await path_of()
    with without_workflow(collect):
        async with serving(webhooks(Runtime(journal_path))) as site:
            response = await site.client.post(path)
            assert (response.status_code, response.headers["retry-after"]) == (503, "5")
            assert await get_run(run.run_id).status() == "blocked"


async def test_shutdown_of_the_runtime_is_not_answered_with_success(journal_path: Path) -> None:
    """A request that comes too late can be sent again, to the next process."""
    runtime = Runtime(journal_path)
    async with serving(webhooks(runtime)) as site:
        await start(collect, 1)
        path = await path_of()
        await runtime.close()
        assert (await site.client.post(path, content="x")).status_code == 503
    with pytest.raises(RuntimeNotRunningError):
        await runtime.open()


async def test_connections_of_other_kinds_are_closed(journal_path: Path) -> None:
    """A WebSocket is refused, and what ASGI does not know is an error."""
    app = webhooks(Runtime(journal_path))
    told: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        told.append(message)

    await app({"type": "websocket", "path": "/"}, receive, send)
    assert told == [{"type": "websocket.close", "code": 1000}]
    with pytest.raises(RuntimeError, match="'smtp'"):
        await app({"type": "smtp"}, receive, send)
    assert status_of(b"HTTP/1.1 200 OK") == 200


# --- durable first ------------------------------------------------------------------------------


class GatedDriver(InlineDriver):
    """A disk that takes its time: what is written waits for the gate."""

    waiting: ClassVar[list[Callable[[], None]]] = []
    shut: ClassVar[bool] = False

    def submit(self, fn: Any, done: Any) -> None:
        """Run a function, now or once the gate opens."""
        if type(self).shut and "mode=ro" not in self._uri:
            self.waiting.append(partial(super().submit, fn, done))
        else:
            super().submit(fn, done)

    @classmethod
    def open_gate(cls) -> None:
        """Write what has waited."""
        cls.shut = False
        while cls.waiting:
            cls.waiting.pop(0)()


async def test_success_is_answered_once_the_request_is_durable(journal_path: Path) -> None:
    """And not a moment before."""
    async with serving(webhooks(Runtime(journal_path, driver=GatedDriver))) as site:
        run = await start(collect, 1)
        path = await path_of()
        GatedDriver.shut = True
        answer = asyncio.create_task(site.client.post(path, content="x"))
        await until(lambda: GatedDriver.waiting)
        assert (await site.client.get("/")).status_code == 404
        assert not answer.done()
        GatedDriver.open_gate()
        assert (await answer).status_code == 202
        assert await run.result(WAIT) == ["x"]


async def test_disk_that_takes_too_long_is_no_success(journal_path: Path) -> None:
    """The sender comes again, and the delivery is recorded once however late that is."""
    app = webhooks(Runtime(journal_path, driver=GatedDriver), timeout=0.1)
    async with serving(app) as site:
        run = await start(collect, 2)
        path = await path_of()
        GatedDriver.shut = True
        headers = {"Idempotency-Key": "1"}
        refused = await site.client.post(path, content="x", headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        GatedDriver.open_gate()
        assert (await site.client.post(path, content="x", headers=headers)).status_code == 202
        await site.client.post(path, content="y")
        assert await run.result(WAIT) == ["x", "y"]
