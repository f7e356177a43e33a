"""Webhooks that are used wrongly: each mistake is told where it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from durable import (
    WebhookRequest,
    WebhookResponse,
    create_webhook,
    resume_webhook,
    workflow,
)
from durable.errors import (
    WebhookVerifierError,
    WorkflowRunFailedError,
    WrongContextError,
)
from tests.engine.rig import kinds, make, opened
from tests.web.bodies import POST, begin, one, publish, respond, urls


@pytest.fixture(autouse=True)
def _no_urls() -> None:
    urls.clear()


# --- mistakes -------------------------------------------------------------------------------------


async def test_answering_in_the_wrong_place_is_told(journal_path: Path) -> None:
    """A webhook that answers by itself; outside of any step; a request that came from nowhere."""

    @workflow
    async def keep(name: str, respond_with: Any) -> WebhookRequest:
        webhook = create_webhook(respond_with=respond_with)
        await publish(name, webhook.url)
        request = await webhook
        if respond_with is None:
            with pytest.raises(WrongContextError, match='respond_with="manual"'):
                await request.respond_with("no")
        return request

    async with opened(journal_path) as rt:
        run, token = await begin(rt, keep, None)
        await resume_webhook(token, POST)
        await run.result(5)
        run, token = await begin(rt, keep, "manual")
        await resume_webhook(token, POST, response_timeout=0.01)
        request = await run.result(5)
        with pytest.raises(WrongContextError, match="async step"):
            await request.respond_with("no")
        with pytest.raises(TypeError, match="no response"):
            await request.respond_with(object())
    assert await POST.respond_with("nobody waits") is False
    assert await respond.fn(POST, "a test of the step") is False


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"respond_with": 99}, "99"),
        ({"respond_with": object()}, "no response"),
        ({"respond_with": WebhookResponse}, "no response"),
        ({"verify": ""}, "verifier's name"),
        ({"verify": 7}, "verifier's name"),
    ],
)
async def test_webhook_that_cannot_be_is_refused(
    journal_path: Path, options: dict[str, Any], named: str
) -> None:
    """Before it is recorded."""

    @workflow
    async def wrong() -> str:
        with pytest.raises((ValueError, TypeError), match=named):
            create_webhook(**options)
        return "refused"

    async with opened(journal_path) as rt:
        run = await rt.start(wrong)
        assert await run.result(5) == "refused"
        assert "hook_created" not in await kinds(run)


async def test_webhooks_are_made_in_bodies_and_resumed_elsewhere(journal_path: Path) -> None:
    """Each the other way round is an error that says so."""

    @workflow
    async def wrong() -> None:
        await resume_webhook("A" * 43, POST)

    with pytest.raises(WrongContextError, match="workflow body"):
        create_webhook()
    async with opened(journal_path) as rt:
        with pytest.raises(WorkflowRunFailedError, match="works in a step"):
            await (await rt.start(wrong)).result(5)
        with pytest.raises(TypeError, match="WebhookRequest, not dict"):
            await resume_webhook("A" * 43, {})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="response_timeout is 0"):
            await resume_webhook("A" * 43, POST, response_timeout=0)
        with pytest.raises(ValueError, match="dedupe key"):
            await resume_webhook("A" * 43, POST, dedupe_key="a\nb")


@pytest.mark.parametrize(
    "url", ["", "example.org", "ftp://x", "http://", "http://a b", "http://x?y", "http://u@x", 7]
)
def test_base_url_that_is_none_is_refused(journal_path: Path, url: Any) -> None:
    """Where the runtime is made."""
    if url != "":
        with pytest.raises(ValueError, match="no URL can begin with"):
            make(journal_path, webhook_base_url=url)


async def test_webhook_asks_for_its_verifier(journal_path: Path) -> None:
    """Without it nothing passes; what does not pass is not recorded."""
    async with opened(journal_path) as rt:
        run, token = await begin(rt, one, None, "mine")
        with pytest.raises(WebhookVerifierError, match="'mine'"):
            await resume_webhook(token, POST)
        no = await resume_webhook(token, POST, verifiers={"mine": lambda request: False})
        assert no.status == 401
        assert "hook_received" not in await kinds(run)
        yes = await resume_webhook(token, POST, verifiers={"mine": lambda request: True})
        assert yes.status == 202
        assert (await run.result(5))["method"] == "POST"
