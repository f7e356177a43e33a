"""Webhooks: hooks whose payloads are HTTP requests.

In a body `create_webhook` opens one and gives its URL. The HTTP side (`durable.asgi`, or any
framework by `resume_webhook`) finds it by the token in the path, records the request, and
answers: with 202, with the answer that the body chose beforehand, or with what a step
answers while the sender waits.

Invariants: a token is 256 random bits and never the user's own, and a hook that was not
made as a webhook is not found here: what can be guessed is on no public route. The URL is
made of what is recorded, so it is the same on every replay, whatever the setting is by
then. An answer of success is given once the request is durable, not before.
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict, cast

from durable._authoring.context import current_body
from durable._base.ids import token_hash, valid_text
from durable._surface.answering import answer_key, wait_for_answer
from durable._surface.current import Access, current_runtime
from durable._surface.hook_info import find_facts
from durable._surface.hooks import Hook, open_hook
from durable._surface.http_request import WEBHOOK_PATH, check_seconds
from durable._surface.mail import resume
from durable._surface.messages import WebhookRequest, WebhookResponse
from durable._surface.options import RESPONSE_SECONDS
from durable._surface.run import Duration
from durable._surface.signatures import Verifier
from durable.errors import HookNotFoundError, WebhookVerifierError, WrongContextError, shown_token

MANUAL = "manual"

Responding = WebhookResponse | int | str | bytes | dict[str, Any] | list[Any]


class _BodyData(TypedDict, total=False):
    text: str
    base64: str


class WebhookRequestData(_BodyData):
    """A recorded request; what else is sent to a webhook's token is refused."""

    id: str
    method: str
    url: str
    headers: list[list[str]]


# --- in a body ------------------------------------------------------------------------------


class Webhook(Hook[WebhookRequest]):
    """A hook that is resumed by HTTP requests; made by `create_webhook`.

    Awaiting it gives the next `WebhookRequest`; so does each turn of ``async for``, until it
    is disposed. ``async with`` disposes it.

    Attributes:
        url: give this to whoever is to call.
        token: the end of the URL. Who knows it can call.

    Example:
        ``async for request in webhook: seen.append(request.json())``
    """

    def __init__(self, hook: Hook[Any], settings: Mapping[str, Any]) -> None:
        super().__init__(hook._hooks, hook._opened, None)
        self._base = str(settings["base"])
        self._manual = settings["answer"] == MANUAL

    @property
    def url(self) -> str:
        """The address at which requests arrive."""
        return self._base + WEBHOOK_PATH + self.token

    async def get(self, timeout: Duration | None = None) -> WebhookRequest:
        """Wait for the next request and return it.

        Args:
            timeout: give up after this time: seconds, a `timedelta` or text such as
                ``"3 days"``. The wait is durable. Default: wait for ever.

        Raises:
            TimeoutError: none came in time; what comes later is kept.
            HookDisposedError: the webhook is disposed, and has no request left.

        Example:
            ``request = await webhook.get(timeout="2h")``
        """
        data = cast("Mapping[str, Any]", await super().get(timeout))
        key = answer_key(self.token, data["id"]) if self._manual else ""
        return WebhookRequest.from_data(data, key)

    def __repr__(self) -> str:
        return f"<Webhook {shown_token(self.token)}>"


def create_webhook(*, respond_with: Responding | None = None, verify: str | None = None) -> Webhook:
    """In a workflow body: open a hook that HTTP requests resume.

    It is recorded together with, and before, whatever the body does next: a step that
    gives away its URL can be answered at once. To receive, serve `durable.asgi.webhooks`.

    Args:
        respond_with: what a request is answered with, once it is recorded: a status, text,
            bytes, a dict or list (as JSON), or a `WebhookResponse`. Default: status 202.
            ``"manual"``: the sender waits until a step calls `request.respond_with`.
        verify: name of the verifier that requests must pass before they are recorded, out
            of ``durable.asgi.webhooks(verifiers={...})``. Default: who knows the URL can call.

    Raises:
        WrongContextError: not called in a workflow body.
        TypeError, ValueError: no such response can be sent, or the name is not usable.

    Example:
        >>> @workflow
        ... async def order(order_id: str) -> str:
        ...     async with create_webhook() as paid:
        ...         await ask_for_payment(order_id, callback=paid.url)
        ...         return (await paid).json()["status"]
    """
    body = current_body()
    if body is None:
        raise WrongContextError(
            "create_webhook() works in a workflow body, where a run can wait for requests"
        )
    if respond_with is not None and respond_with != MANUAL:
        respond_with = WebhookResponse.of(respond_with).to_data()
    if verify is not None:
        valid_text(verify, "verifier's name", "leave it out for no verifier")
    base = body.scratch["webhook_base_url"]
    settings = {"base": base, "answer": respond_with, "verify": verify}
    hook = open_hook(WebhookRequestData, token=None, metadata=None, webhook=settings)
    recorded = hook._opened.facts.get("webhook", settings)
    return Webhook(hook, cast("Mapping[str, Any]", recorded))


# --- outside: one request -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoundWebhook:
    """A webhook that takes requests, as those who receive them see it.

    Attributes:
        answer: what is answered; None for status 202, ``"manual"`` to wait for a step.
        verifier: name of the verifier that requests must pass.
    """

    access: Access
    token: str
    run_id: str
    answer: Mapping[str, Any] | str | None
    verifier: str | None

    @property
    def response(self) -> WebhookResponse:
        """What is answered by itself."""
        if isinstance(self.answer, Mapping):
            return WebhookResponse.from_data(self.answer)
        return WebhookResponse(status=202)


async def find_webhook(access: Access, token: str) -> FoundWebhook:
    """Return the webhook of a token.

    Raises:
        HookNotFoundError: unknown or disposed, its run has ended, or it is no webhook.
    """
    row = await access.reader.hook(token_hash(token))
    found = None if row is None else await find_facts(access, row)
    settings = None if found is None else found[0].get("webhook")
    if row is None or found is None or settings is None:
        raise HookNotFoundError(token)
    if not hmac.compare_digest(str(found[0]["token"]).encode(), token.encode(errors="replace")):
        raise HookNotFoundError(token)
    return FoundWebhook(access, token, row.run_id, settings["answer"], settings["verify"])


async def receive_request(
    found: FoundWebhook, request: WebhookRequest, *, key: str | None, response_seconds: float
) -> WebhookResponse | asyncio.Task[WebhookResponse]:
    """Record a request; return the answer, or what will have it.

    Args:
        key: what the request's sender calls the delivery, if it does: it is recorded once.
        response_seconds: how long a manual answer is waited for.

    Raises:
        HookNotFoundError: it takes no requests any more. WorkflowRunBlockedError: the run is
        blocked. In both cases, and in those of the journal, nothing was recorded.
    """
    if found.answer != MANUAL:
        await resume(found.access, found.token, request.to_data(), key)
        return found.response
    # Begins to wait before the step can answer.
    waiting = asyncio.create_task(_wait(found, request.id, response_seconds))
    try:
        await asyncio.sleep(0)
        await resume(found.access, found.token, request.to_data(), key)
    except BaseException:
        waiting.cancel()
        raise
    return waiting


async def _wait(found: FoundWebhook, delivery: str, seconds: float) -> WebhookResponse:
    port = await found.access.port()
    key = answer_key(found.token, delivery)
    try:
        async with asyncio.timeout(seconds):
            data = await wait_for_answer(port, key, found.run_id)
    except TimeoutError:
        return WebhookResponse("the workflow has not answered in time\n", 504)
    if data is None:
        return WebhookResponse("the workflow has ended without an answer\n", 500)
    return WebhookResponse.from_data(data)


async def resume_webhook(
    token: str,
    request: WebhookRequest,
    *,
    dedupe_key: str | None = None,
    verifiers: Mapping[str, Verifier] | None = None,
    response_timeout: float = RESPONSE_SECONDS,
) -> WebhookResponse:
    """Hand a request to a webhook and return what to answer; for other frameworks and tests.

    Args:
        token: the end of the webhook's URL.
        request: what came, its limits being the framework's.
        dedupe_key: what its sender calls the delivery: one that this webhook has got before
            is not recorded again, and gets the same answer. 1 to 256 printable characters.
        verifiers: by name, for webhooks that ask for one; a request that does not pass is
            answered with 401.
        response_timeout: seconds until a manual answer is given up, with status 504.

    Returns:
        The answer, once the request is recorded.

    Raises:
        HookNotFoundError: unknown or disposed, its run has ended, or it is no webhook.
        WebhookVerifierError: it asks for a verifier that is not in `verifiers`.
        WorkflowRunBlockedError, JournalError: see `resume_hook`.
        In all cases nothing was recorded.

    Example:
        >>> async def on_request(token: str, body: bytes) -> tuple[int, bytes]:
        ...     answer = await resume_webhook(token, WebhookRequest("POST", "", body=body))
        ...     return answer.status, answer.body
    """
    if current_body() is not None:
        raise WrongContextError("resume_webhook() works in a step, or outside of workflows")
    access = await current_runtime()
    return await hand_in(
        access, token, request, dedupe_key=dedupe_key, verifiers=verifiers,
        response_timeout=response_timeout,
    )  # fmt: skip


async def hand_in(
    access: Access,
    token: str,
    request: WebhookRequest,
    *,
    dedupe_key: str | None,
    verifiers: Mapping[str, Verifier] | None,
    response_timeout: float,
) -> WebhookResponse:
    """Hand a request to a webhook of one journal; see `resume_webhook`."""
    check_seconds("response_timeout", response_timeout)
    if not isinstance(request, WebhookRequest):
        raise TypeError(f"a webhook gets a WebhookRequest, not {type(request).__name__}")
    if dedupe_key is not None:
        request = replace(request, id=valid_text(dedupe_key, "dedupe key", "leave it out"))
    found = await find_webhook(access, token)
    if not await _is_verified(found, request, verifiers or {}):
        return WebhookResponse("the signature is missing or wrong\n", 401)
    answer = await receive_request(
        found, request, key=dedupe_key, response_seconds=response_timeout
    )
    # Awaiting the very task: who gives up waiting for it ends it, too.
    return answer if isinstance(answer, WebhookResponse) else await answer


async def _is_verified(
    found: FoundWebhook, request: WebhookRequest, verifiers: Mapping[str, Verifier]
) -> bool:
    if found.verifier is None:
        return True
    if found.verifier not in verifiers:
        raise WebhookVerifierError(found.verifier)
    verdict = verifiers[found.verifier](request)
    return bool(await verdict if inspect.isawaitable(verdict) else verdict)
