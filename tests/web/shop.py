"""A small shop that takes orders by webhook: what the crash tests serve, kill and ask again."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from durable import create_webhook, get_run, start, step, workflow
from durable.asgi import webhooks


def tell(*words: object) -> None:
    """Write one line in one piece."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


@step
async def publish(url: str) -> None:
    """Tell the test a URL."""
    tell("url", url)


@workflow
async def collect() -> None:
    """Take whatever comes, for ever."""
    webhook = create_webhook()
    await publish(webhook.url)
    async for request in webhook:
        request.text()


@workflow
async def serve_one() -> bool:
    """Answer one order."""
    webhook = create_webhook(respond_with="manual")
    await publish(webhook.url)
    return await fulfil(await webhook)


@step
async def fulfil(request: Any) -> bool:
    """Answer an order, but only once the test says so."""
    tell("fulfilling", os.getpid())
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    return await request.respond_with(request.text().upper())


async def begin(request: Any) -> Any:
    """Start a run."""
    return PlainTextResponse((await start(globals()[request.path_params["name"]])).run_id)


async def result(request: Any) -> Any:
    """Wait for a run's result."""
    return PlainTextResponse(str(await get_run(request.path_params["run"]).result(20)))


app = Starlette(
    routes=[
        Route("/start/{name}", begin, methods=["POST"]),
        Route("/result/{run}", result),
        Mount("/", webhooks()),
    ]
)
