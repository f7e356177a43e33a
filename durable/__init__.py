"""Durable execution for plain asyncio: `async def` functions that survive crashes,
restarts and months of waiting, inside your program, over one SQLite file.

Layers, each importing only from those below it:

    testing      seams for users' tests             asgi   webhooks over HTTP
    _surface     Runtime, start, Run, sync facade, command line
    _engine      scheduler, activation, executor, timers, recovery
    _authoring   workflow, step, sleep ...      _journal   SQLite, codec, ownership
    _replay      deterministic loop, body, history (no I/O)
    _base        clock, durations, ids, backoff
    errors       every error raised

What many programs do not use, such as the sync facade and webhooks, is imported when it is
first asked for.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from durable._authoring.context import StepMetadata, WorkflowMetadata
from durable._authoring.continuing import continue_as_new
from durable._authoring.generator import StepItems
from durable._authoring.primitives import (
    get_step_metadata,
    get_workflow_metadata,
    logger,
    now,
    random,
    sleep,
    uuid4,
)
from durable._authoring.step import GeneratorStep, Step, step
from durable._authoring.workflow import Workflow, workflow
from durable._authoring.writable import (
    SyncWritable,
    Writable,
    get_sync_writable,
    get_writable,
)
from durable._base.backoff import Backoff
from durable._journal.backup import Backup
from durable._journal.codec import Codec, Transform
from durable._journal.keys import Encryption
from durable._surface.api import get_run, run, start, start_many
from durable._surface.attributes import set_attributes
from durable._surface.cancelling import CancelOutcome
from durable._surface.history import HistoryEvent, RunStatus
from durable._surface.hook_info import HookInfo
from durable._surface.hooks import Hook, create_hook, receive
from durable._surface.lifecycle import RunOrigin
from durable._surface.mail import define_hook, get_hook_by_token, resume_hook, send
from durable._surface.management import backup, cancel_runs, count_runs, import_run, list_runs
from durable._surface.run import Run
from durable._surface.runtime import Runtime
from durable._surface.selecting import RunInfo, RunPage
from durable._surface.streams import Stream, StreamChunk
from durable.errors import DurableError, FatalError, RetryableError

if _TYPE_CHECKING:
    from durable._journal.care.judging import Finding
    from durable._journal.care.restoring import Restored
    from durable._journal.care.verifying import Verification
    from durable._surface.messages import WebhookRequest, WebhookResponse
    from durable._surface.restoring import restore
    from durable._surface.sync import SyncRun, SyncRuntime
    from durable._surface.sync_streams import SyncStream
    from durable._surface.verifying import verify
    from durable._surface.webhooks import Webhook, create_webhook, resume_webhook

__all__ = [
    "Backoff",
    "Backup",
    "CancelOutcome",
    "Codec",
    "DurableError",
    "Encryption",
    "FatalError",
    "Finding",
    "GeneratorStep",
    "HistoryEvent",
    "Hook",
    "HookInfo",
    "Restored",
    "RetryableError",
    "Run",
    "RunInfo",
    "RunOrigin",
    "RunPage",
    "RunStatus",
    "Runtime",
    "Step",
    "StepItems",
    "StepMetadata",
    "Stream",
    "StreamChunk",
    "SyncRun",
    "SyncRuntime",
    "SyncStream",
    "SyncWritable",
    "Transform",
    "Verification",
    "Webhook",
    "WebhookRequest",
    "WebhookResponse",
    "Workflow",
    "WorkflowMetadata",
    "Writable",
    "backup",
    "cancel_runs",
    "continue_as_new",
    "count_runs",
    "create_hook",
    "create_webhook",
    "define_hook",
    "get_hook_by_token",
    "get_run",
    "get_step_metadata",
    "get_sync_writable",
    "get_workflow_metadata",
    "get_writable",
    "import_run",
    "list_runs",
    "logger",
    "now",
    "random",
    "receive",
    "restore",
    "resume_hook",
    "resume_webhook",
    "run",
    "send",
    "set_attributes",
    "sleep",
    "start",
    "start_many",
    "step",
    "uuid4",
    "verify",
    "workflow",
]

__version__ = "0.1.0"

_LATER = {
    "Finding": "_journal.care.judging",
    "Restored": "_journal.care.restoring",
    "SyncRun": "_surface.sync",
    "SyncRuntime": "_surface.sync",
    "SyncStream": "_surface.sync_streams",
    "Verification": "_journal.care.verifying",
    "Webhook": "_surface.webhooks",
    "WebhookRequest": "_surface.messages",
    "WebhookResponse": "_surface.messages",
    "create_webhook": "_surface.webhooks",
    "restore": "_surface.restoring",
    "resume_webhook": "_surface.webhooks",
    "verify": "_surface.verifying",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, and keep it."""
    if name not in _LATER:
        raise AttributeError(f"module 'durable' has no attribute {name!r}")
    found = globals()[name] = getattr(_import_module(f"durable.{_LATER[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
