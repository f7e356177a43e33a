"""`SyncRuntime`: the runtime for programs without an event loop of their own.

Owns one daemon thread with one event loop, on which an ordinary `Runtime` lives, and
blocking versions of the methods of `Runtime` and `Run`. It adds no behaviour: each
method hands its call to the loop and waits. Any thread may call, several at once, but
not code that runs on that loop itself. Giving up a wait (a time limit, Ctrl-C) ends the
wait and nothing else: the run goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from os import PathLike
from types import TracebackType
from typing import (
    Any,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from durable._authoring.step import Step
from durable._authoring.workflow import Workflow
from durable._authoring.writable import SyncWritable
from durable._base.clock import Clock
from durable._journal.backup import Backup
from durable._journal.codec import Codec
from durable._journal.driver import DriverFactory
from durable._journal.keys import Encryption
from durable._surface.cancelling import CancelOutcome
from durable._surface.history import HistoryEvent, RunStatus
from durable._surface.hook_info import HookInfo
from durable._surface.lifecycle import Results, RunOrigin
from durable._surface.messages import WebhookRequest, WebhookResponse
from durable._surface.options import RESPONSE_SECONDS, Duration
from durable._surface.run import Run
from durable._surface.runtime import Runtime
from durable._surface.scoped import may_drain
from durable._surface.selecting import HasRunId, Order, RunFilters, RunInfo, RunPage
from durable._surface.signatures import Verifier
from durable._surface.sync_host import Host
from durable._surface.sync_streams import Blocking, SyncStream
from durable.errors import RuntimeNotRunningError

P = ParamSpec("P")
R = TypeVar("R")

# What closing may take beyond the runtime's own deadline for running attempts.
_CLOSE_SECONDS = 10.0


class RuntimeOptions(TypedDict, total=False):
    """The options of `Runtime`, which explains them."""

    durability: Literal["full", "process"]
    client: bool
    retention: Duration | Literal["forever"] | None
    drain_seconds: float
    grace: Duration
    threads: int
    processes: int | None
    codec: Codec | None
    encryption: Encryption | None
    idle_runs: int
    webhook_base_url: str | None
    allow_unsafe_filesystem: bool
    clock: Clock | None
    driver: DriverFactory


class SyncRuntime:
    """A `Runtime` in a thread of its own, for scripts and programs with another main loop.

    Args:
        path, options: as for `Runtime`.

    Raises on opening whatever `Runtime` raises. Leaving the `with` block drains and
    parks like `async with Runtime(...)`; a program that ends without it loses nothing.

    Example:
        ``with SyncRuntime("app.db") as rt: print(rt.start(fulfil, "A-17").result())``
    """

    def __init__(self, path: str | PathLike[str], **options: Unpack[RuntimeOptions]) -> None:
        self._make = lambda: Runtime(path, **options)
        self._drain_seconds = options.get("drain_seconds", 5.0)
        self._host: Host | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(drain=may_drain(kind))

    def open(self) -> None:
        """Open the journal and recover; `with` does it.

        Raises:
            RuntimeError: it is open already.
        """
        if self._host is not None and not self._host.over:
            raise RuntimeError("this SyncRuntime is open already: open each one once")
        host = Host(self._make)
        host.open()
        self._host = host

    def close(self, *, drain: bool = True) -> None:
        """Drain running attempts up to the deadline, park the rest, end the thread.

        Takes at most `drain_seconds` and 10 seconds; the journal is safe either way.
        With `drain` False running attempts get no more time. Closing what is closed does
        nothing.
        """
        if self._host is not None:
            seconds = self._drain_seconds if drain else 0.0
            self._host.close(seconds + _CLOSE_SECONDS, drain=drain)

    @overload
    def start(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncRun[R]: ...
    @overload
    def start(self, workflow: str, /, *args: Any, **kwargs: Any) -> SyncRun[Any]: ...
    def start(self, workflow: Any, /, *args: Any, **kwargs: Any) -> SyncRun[Any]:
        """Start a run; returns as soon as it is recorded. See `durable.start`."""
        host = self._opened()
        run = host.call(lambda: host.runtime.start(workflow, *args, **kwargs))
        return SyncRun(run, host)

    @overload
    def start_many(
        self,
        workflow: Workflow[..., R],
        arguments: Iterable[Sequence[Any] | Mapping[str, Any]],
        /,
    ) -> list[SyncRun[R]]: ...
    @overload
    def start_many(
        self, workflow: str, arguments: Iterable[Sequence[Any] | Mapping[str, Any]], /
    ) -> list[SyncRun[Any]]: ...
    def start_many(
        self, workflow: Any, arguments: Iterable[Sequence[Any] | Mapping[str, Any]], /
    ) -> list[SyncRun[Any]]:
        """Start one run for each set of arguments. See `durable.start_many`."""
        host = self._opened()
        given = list(arguments)  # here, because the iterable may block
        runs = host.call(lambda: host.runtime.start_many(workflow, given))
        return [SyncRun(run, host) for run in runs]

    def get_run(self, run_id: str) -> SyncRun[Any]:
        """Return the handle of a run, without looking it up."""
        host = self._opened()
        return SyncRun(host.runtime.get_run(run_id), host)

    def resume_hook(
        self, token: str | HookInfo, payload: object = None, *, dedupe_key: str | None = None
    ) -> SyncRun[Any]:
        """Give a hook its next payload; returns once it is recorded. See `durable.resume_hook`."""
        host = self._opened()
        run = host.call(lambda: host.runtime.resume_hook(token, payload, dedupe_key=dedupe_key))
        return SyncRun(run, host)

    def resume_webhook(
        self,
        token: str,
        request: WebhookRequest,
        *,
        dedupe_key: str | None = None,
        verifiers: Mapping[str, Verifier] | None = None,
        response_timeout: float = RESPONSE_SECONDS,
    ) -> WebhookResponse:
        """Hand a request to a webhook and return what to answer. See `durable.resume_webhook`.

        For Flask, Django and the like:

            answer = runtime.resume_webhook(token, WebhookRequest("POST", request.url,
                                            request.headers, request.get_data()))
            return answer.body, answer.status, dict(answer.headers)
        """
        host = self._opened()
        return host.call(
            lambda: host.runtime.resume_webhook(
                token, request, dedupe_key=dedupe_key, verifiers=verifiers,
                response_timeout=response_timeout,
            )
        )  # fmt: skip

    def get_hook_by_token(self, token: str) -> HookInfo:
        """Return an open hook. See `durable.get_hook_by_token`."""
        host = self._opened()
        return host.call(lambda: host.runtime.get_hook_by_token(token))

    def send(
        self,
        run: str | SyncRun[Any],
        name: str,
        payload: object = None,
        *,
        dedupe_key: str | None = None,
    ) -> None:
        """Send a payload to a mailbox of a run; returns once it is recorded. See `durable.send`."""
        host = self._opened()
        run_id = run.run_id if isinstance(run, SyncRun) else run
        host.call(lambda: host.runtime.send(run_id, name, payload, dedupe_key=dedupe_key))

    def list_runs(
        self,
        *,
        order: Order = "newest",
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[RunFilters],
    ) -> RunPage[SyncRunInfo]:
        """Return a page of this journal's runs. See `durable.list_runs`."""
        host = self._opened()
        page = host.call(
            lambda: host.runtime.list_runs(order=order, limit=limit, cursor=cursor, **filters)
        )
        return RunPage((_blocking(info, host) for info in page), page.next_cursor)

    def count_runs(self, **filters: Unpack[RunFilters]) -> int:
        """Return how many runs of this journal fit. See `durable.count_runs`."""
        host = self._opened()
        return host.call(lambda: host.runtime.count_runs(**filters))

    def cancel_runs(
        self,
        runs: Iterable[HasRunId | str] | None = None,
        *,
        reason: str | None = None,
        **filters: Unpack[RunFilters],
    ) -> list[CancelOutcome]:
        """Ask many runs to end; return what came of each. See `durable.cancel_runs`."""
        host = self._opened()
        chosen = None if runs is None else list(runs)
        return host.call(lambda: host.runtime.cancel_runs(chosen, reason=reason, **filters))

    def import_run(
        self, source: str | PathLike[str] | Mapping[str, Any], *, run_id: str | None = None
    ) -> SyncRun[Any]:
        """Take an exported run into the journal. See `durable.import_run`."""
        host = self._opened()
        return SyncRun(host.call(lambda: host.runtime.import_run(source, run_id=run_id)), host)

    def backup(self, path: str | PathLike[str], *, overwrite: bool = False) -> Backup:
        """Copy the journal to a file while it is being worked on. See `durable.backup`."""
        host = self._opened()
        return host.call(lambda: host.runtime.backup(path, overwrite=overwrite))

    def _opened(self) -> Host:
        if self._host is None:
            raise RuntimeNotRunningError(
                "this SyncRuntime is not open: use it in a `with` block, or call open() first"
            )
        return self._host


class SyncRun(Generic[R]):
    """The handle of a run, with the methods of `Run` in blocking form.

    As an argument of a workflow, or pickled, it becomes the `Run`.

    Example:
        ``run = rt.start(fulfil, "A-17"); print(run.status(), run.result(timeout="1m"))``
    """

    def __init__(self, run: Run[R], host: Host) -> None:
        self._run = run
        self._host = host

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run.run_id

    def result(self, timeout: Duration | None = None) -> R:
        """Wait for the run's end and return its result. See `Run.result`.

        Ctrl-C and `timeout` (a duration, then TimeoutError) end the waiting, not the run.
        """
        return self._host.call(lambda: self._run.result(timeout))

    def exists(self) -> bool:
        """Tell whether the journal holds this run."""
        return self._host.call(self._run.exists)

    def status(self) -> RunStatus:
        """Return its status, as text with details."""
        return self._host.call(self._run.status)

    def workflow_name(self) -> str:
        """Return the name of its workflow."""
        return self._host.call(self._run.workflow_name)

    def created_at(self) -> datetime:
        """Return when it was created (UTC)."""
        return self._host.call(self._run.created_at)

    def started_at(self) -> datetime | None:
        """Return when its body began (UTC), None while it is pending."""
        return self._host.call(self._run.started_at)

    def completed_at(self) -> datetime | None:
        """Return when it ended (UTC), None before."""
        return self._host.call(self._run.completed_at)

    def attributes(self) -> dict[str, str]:
        """Return its attributes: those it was started with, and what it has set since."""
        return self._host.call(self._run.attributes)

    def parent_id(self) -> str | None:
        """Return the id of the run that started it, if one did."""
        return self._host.call(self._run.parent_id)

    def children(self) -> list[SyncRun[Any]]:
        """Return the runs that its body has started, oldest first."""
        return [SyncRun(run, self._host) for run in self._host.call(self._run.children)]

    def continued_as(self) -> SyncRun[R] | None:
        """Return the run that goes on in its place after `continue_as_new`, if one does."""
        run = self._host.call(self._run.continued_as)
        return None if run is None else SyncRun(run, self._host)

    def origin(self) -> RunOrigin | None:
        """Return what it was made from, None if it was just started."""
        return self._host.call(self._run.origin)

    def replayed_from(self) -> str | None:
        """Return the id of the run that it is a rerun or fork of, if it is one."""
        return self._host.call(self._run.replayed_from)

    def events(self) -> list[HistoryEvent]:
        """Return its history for people."""
        return self._host.call(self._run.events)

    def hooks(self) -> list[HookInfo]:
        """Return its open hooks, oldest first."""
        return self._host.call(self._run.hooks)

    def stream(
        self, namespace: str | None = None, start_index: int = 0, *, follow: bool = True
    ) -> SyncStream:
        """Return an iterator of what the run writes to a stream. See `Run.stream`."""
        return SyncStream(self._run.stream(namespace, start_index, follow=follow), self._host)

    def stream_bytes(
        self, namespace: str | None = None, start_index: int = 0, *, follow: bool = True
    ) -> Iterator[bytes]:
        """Return an iterator of the stream's chunks as bytes. See `Run.stream_bytes`."""
        pieces = self._run.stream_bytes(namespace, start_index, follow=follow)
        return Blocking(pieces, self._host)

    def get_writable(self, namespace: str | None = None) -> SyncWritable:
        """Return a handle that writes to a stream of the run. See `Run.get_writable`."""
        return SyncWritable(self._run.get_writable(namespace), self._host.call)

    def tail_index(self, namespace: str | None = None) -> int:
        """Return the index of the newest item of a stream, -1 when it is empty."""
        return self._host.call(lambda: self._run.tail_index(namespace))

    def list_streams(self) -> list[str]:
        """Return the names of the streams that the run has written to; "" is the default."""
        return self._host.call(self._run.list_streams)

    def cancel(self, reason: str | None = None) -> None:
        """Ask the run to end. See `Run.cancel`."""
        self._host.call(lambda: self._run.cancel(reason))

    def wake_up(self, correlation_ids: Iterable[int] | None = None) -> int:
        """End pending sleeps before their time; return how many. See `Run.wake_up`."""
        return self._host.call(lambda: self._run.wake_up(correlation_ids))

    def pause(self, reason: str | None = None) -> None:
        """Keep the run from going on until `resume`. See `Run.pause`."""
        self._host.call(lambda: self._run.pause(reason))

    def resume(self) -> None:
        """Let a paused run go on, or a blocked one try again. See `Run.resume`."""
        self._host.call(self._run.resume)

    def retry(self) -> None:
        """Let a failed run go on from its failed step. See `Run.retry`."""
        self._host.call(self._run.retry)

    def rerun(self, *, run_id: str | None = None) -> SyncRun[R]:
        """Start a new run with the same workflow and input. See `Run.rerun`."""
        return SyncRun(self._host.call(lambda: self._run.rerun(run_id=run_id)), self._host)

    def fork(
        self,
        at: str | int | Step[..., Any] | None = None,
        results: Results | None = None,
        *,
        run_id: str | None = None,
    ) -> SyncRun[R]:
        """Start a new run that shares this one's history up to a place. See `Run.fork`."""
        run = self._host.call(lambda: self._run.fork(at, results, run_id=run_id))
        return SyncRun(run, self._host)

    def delete(self) -> None:
        """Delete the run, which must have ended. See `Run.delete`."""
        self._host.call(self._run.delete)

    def export(
        self, path: str | PathLike[str] | None = None, *, overwrite: bool = False
    ) -> dict[str, Any]:
        """Return the run as one JSON document, and write it to a file. See `Run.export`."""
        return self._host.call(lambda: self._run.export(path, overwrite=overwrite))

    def __reduce__(self) -> tuple[Any, ...]:
        return self._run.__reduce__()  # elsewhere, as in a body, it is awaited

    def __repr__(self) -> str:
        return f"<SyncRun {self.run_id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SyncRun) and other.run_id == self.run_id

    def __hash__(self) -> int:
        return hash(self.run_id)


@dataclass(frozen=True, slots=True)
class SyncRunInfo(RunInfo):
    """A `RunInfo` whose `run` is a `SyncRun`.

    Example:
        ``for info in rt.list_runs(status="blocked"): info.run.resume()``
    """

    run: SyncRun[Any] = field(repr=False, compare=False)  # type: ignore[assignment]


def _blocking(info: RunInfo, host: Host) -> SyncRunInfo:
    facts = {each.name: getattr(info, each.name) for each in fields(info)}
    return SyncRunInfo(**{**facts, "run": SyncRun(info.run, host)})
