"""Webhooks over HTTP: an ASGI application, and verifiers of signatures.

    from durable import Runtime
    from durable.asgi import HmacVerifier, webhooks

    app = webhooks(Runtime("app.db"))          # alone: uvicorn module:app

    app = FastAPI(lifespan=...)                # or in an application with its own routes
    app.mount("/", webhooks(verify=HmacVerifier.github(secret)))

A workflow body gets its URLs from `durable.create_webhook`; what they begin with is the
runtime's `webhook_base_url`. The application needs no package but the server that runs it;
`durable serve` brings one, as the extra ``durable[web]``.
"""

from __future__ import annotations

from durable._surface.signatures import HmacVerifier, Verdict, Verifier
from durable._surface.webhook_app import WebhookApp
from durable._surface.webhook_desk import webhooks

__all__ = ["HmacVerifier", "Verdict", "Verifier", "WebhookApp", "webhooks"]
