"""Workflows with webhooks, and how a test finds their tokens."""

from __future__ import annotations

from typing import Any

from durable import WebhookRequest, create_webhook, step, workflow
from tests.engine.rig import until

POST = WebhookRequest("POST", "http://example.org/", {"X-Tag": "a"}, b'{"paid": true}')

urls: dict[str, list[str]] = {}


async def token_of(run: Any) -> str:
    """Return the token of the last webhook that a run has opened."""
    await until(lambda: run.run_id in urls)
    return urls[run.run_id][-1].rpartition("/")[2]


@step
async def publish(run_id: str, url: str) -> None:
    """Give away a URL."""
    urls.setdefault(run_id, []).append(url)


@step
async def respond(request: WebhookRequest, response: Any) -> bool:
    """Answer a request."""
    return await request.respond_with(response)


@workflow
async def one(name: str, respond_with: Any = None, verify: str | None = None) -> dict[str, Any]:
    """Wait for one request."""
    async with create_webhook(respond_with=respond_with, verify=verify) as webhook:
        await publish(name, webhook.url)
        request = await webhook
        return {"method": request.method, "json": request.json(), "url": webhook.url}


@workflow
async def manual(name: str, response: Any, *, in_body: bool = False) -> list[bool]:
    """Answer one request, twice."""
    webhook = create_webhook(respond_with="manual")
    await publish(name, webhook.url)
    request = await webhook
    if in_body:
        return [await request.respond_with(response), await request.respond_with("again")]
    return [await respond(request, response), await respond(request, "again")]


@workflow
async def many(name: str, count: int) -> list[str]:
    """Wait for several requests."""
    webhook = create_webhook()
    await publish(name, webhook.url)
    found = []
    async for request in webhook:
        found.append(request.text())
        if len(found) == count:
            webhook.dispose()
    return found


async def begin(rt: Any, workflow: Any, *args: Any, **kwargs: Any) -> tuple[Any, str]:
    """Start a run that publishes its webhook under the run's id; return it and the token."""
    run_id = f"run-{len(urls)}"
    run = await rt.start(workflow.options(run_id=run_id), run_id, *args, **kwargs)
    return run, await token_of(run)
