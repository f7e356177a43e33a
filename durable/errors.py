"""Every error that `durable` raises, in one tree under `DurableError`.

Families, in reading order: what users raise inside steps; what a workflow body
sees; what the caller of a `Run` sees; mistakes in the calling program; data;
the journal; and defects of this library. Each docstring says when the error is
raised, what to do, and which sibling it is not. All of them pickle.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

# Begins the note that shows a recorded traceback on an exception.
TRACEBACK_NOTE = "Recorded traceback"


class DurableError(Exception):
    """Root of every error raised by this library."""

    def __init__(self, message: str | None = None) -> None:
        doc = type(self).__doc__ or type(self).__name__
        super().__init__(message if message is not None else doc.splitlines()[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take other constructor arguments than the message, so the
        # object is rebuilt without calling __init__.
        return (_rebuild, (type(self), self.args), self.__dict__)


def _rebuild(cls: type[DurableError], args: tuple[Any, ...]) -> DurableError:
    error = cls.__new__(cls)
    error.args = args
    return error


def _shown(error_type: str) -> str:
    return error_type.removeprefix("builtins.")


_SECRET_TOKEN = re.compile("[A-Za-z0-9_-]{43}")


def shown_token(token: str) -> str:
    """Return a hook's token for messages and logs: of one that is a secret, the beginning.

    Example:
        ``shown_token("order:17") == "order:17"``
    """
    return f"{token[:6]}..." if _SECRET_TOKEN.fullmatch(token) else token


# --- raised by users inside steps ---------------------------------------------------


class FatalError(DurableError):
    """Raise it in a step to fail the step at once, without another attempt."""


class RetryableError(DurableError):
    """Raise it in a step to have another attempt, optionally at a given time.

    Args:
        message: what went wrong.
        retry_after: when the next attempt may begin: seconds, a `timedelta`, an
            aware `datetime`, or a duration such as ``"1m"``. Default: the step's backoff.

    Retries still end after the step's `max_retries`.

    Example:
        ``raise RetryableError("the bank is busy", retry_after="1m")``
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after: float | timedelta | datetime | str | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# --- what a workflow body sees ------------------------------------------------------


class StepFailedError(DurableError):
    """A step failed after all attempts and its own exception could not be rebuilt.

    When the original exception type can be rebuilt, the body gets that instead.

    Attributes:
        step: name of the step.
        attempts: attempts made.
        error_type: qualified name of the original exception type.
        error_message: its message.
        traceback_text: the step's formatted traceback.
    """

    def __init__(
        self, step: str, attempts: int, error_type: str, error_message: str, traceback_text: str
    ) -> None:
        super().__init__(
            f"step {step!r} failed after {attempts} attempt(s): "
            f"{_shown(error_type)}: {error_message}"
        )
        if traceback_text:
            self.add_note(f"{TRACEBACK_NOTE}:\n{traceback_text.rstrip()}")
        self.step = step
        self.attempts = attempts
        self.error_type = error_type
        self.error_message = error_message
        self.traceback_text = traceback_text


class StepTimeoutError(DurableError, TimeoutError):
    """An attempt of a step took longer than the step's `timeout`."""


class StepWorkerDiedError(DurableError):
    """The worker process that ran a step with ``executor="process"`` died."""


class HookConflictError(DurableError):
    """Another run (or an earlier hook of this one) holds the hook's token.

    Raised where a body awaits the hook. A token is free again once its hook is disposed
    or its run has ended.

    Attributes:
        token: the token. run_id: the run that holds it.
    """

    def __init__(self, token: str, run_id: str) -> None:
        super().__init__(
            f"the hook token {shown_token(token)!r} is held by run {run_id}: use another token, or "
            "leave the work to that run (`await hook.get_conflict()` returns it)"
        )
        self.token = token
        self.run_id = run_id


class HookDisposedError(DurableError, RuntimeError):
    """A body waits for a hook that it has disposed itself: nothing can arrive there."""

    def __init__(self, token: str) -> None:
        super().__init__(
            f"the hook {shown_token(token)!r} is disposed: it takes no payloads any more"
        )
        self.token = token


class WorkflowTimeoutError(DurableError, TimeoutError):
    """A run was still unfinished at the deadline given by its `timeout` option."""


# --- what the caller of a Run sees --------------------------------------------------


class _RunError(DurableError):
    """Something about one run; carries its `run_id`."""

    def __init__(self, run_id: str, message: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class WorkflowRunFailedError(_RunError):
    """The run ended with an exception, which is this error's `__cause__`.

    Attributes:
        run_id: the failed run.
        error_type, error_message, traceback_text: of the original exception,
            also when its type cannot be rebuilt here (then `__cause__` is a `RemoteError`).
    """

    def __init__(
        self, run_id: str, error_type: str, error_message: str, traceback_text: str
    ) -> None:
        super().__init__(run_id, f"run {run_id} failed: {_shown(error_type)}: {error_message}")
        self.error_type = error_type
        self.error_message = error_message
        self.traceback_text = traceback_text


class RemoteError(DurableError):
    """Stands for a recorded exception whose type cannot be rebuilt in this process."""

    def __init__(self, error_type: str, error_message: str, traceback_text: str) -> None:
        super().__init__(f"{_shown(error_type)}: {error_message}")
        self.error_type = error_type
        self.error_message = error_message
        self.traceback_text = traceback_text


class WorkflowRunCancelledError(_RunError):
    """The run was cancelled; `reason` tells why, if a reason was given."""

    def __init__(self, run_id: str, reason: str | None) -> None:
        super().__init__(run_id, f"run {run_id} was cancelled" + (f": {reason}" if reason else ""))
        self.reason = reason


class WorkflowRunNotFoundError(_RunError):
    """The journal holds no run with this id (never started, or past its retention)."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            run_id, f"the journal holds no run {run_id!r}: check the id and the journal's path"
        )


class WorkflowRunBlockedError(_RunError):
    """The run cannot go on until somebody acts; it is not lost and not failed.

    A run that was paused raises no such error: who waits for it waits on.

    Attributes:
        reason: readable explanation with the cure; for a divergence, the diff.
        kind: ``"missing_code"``, ``"divergence"``, ``"poison_step"``, ``"payload"``
            or ``"corrupt"``.
    """

    def __init__(self, run_id: str, kind: str, reason: str) -> None:
        super().__init__(run_id, f"run {run_id} is blocked ({kind}): {reason}")
        self.kind = kind
        self.reason = reason


class RunStateError(_RunError):
    """What was asked of the run is not possible in its `status`; nothing was changed."""

    def __init__(self, run_id: str, status: str, message: str) -> None:
        super().__init__(run_id, f"run {run_id} is {status}: {message}")
        self.status = status


class WorkflowRunNotFinishedError(RunStateError):
    """What was asked of the run is possible only once it has ended, such as deleting it."""

    def __init__(self, run_id: str, status: str) -> None:
        super().__init__(run_id, status, "cancel it first, or wait until it has ended")


class ForkError(_RunError, ValueError):
    """A run cannot be forked where, or with the results, that were asked for."""

    def __init__(self, run_id: str, message: str) -> None:
        super().__init__(run_id, f"run {run_id} cannot be forked like this: {message}")


class RunExistsError(_RunError):
    """A run with this id exists already and `on_conflict="raise"` was asked for."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id, f"a run with the id {run_id!r} exists already")


class RunConflictError(_RunError):
    """A run with this id exists, but with another workflow or other arguments."""


class HookNotFoundError(DurableError, LookupError):
    """Nothing takes this payload: the hook is unknown or disposed, or its run has ended.

    The payload was not recorded.

    Attributes:
        token: the hook's token, or the mailbox's name.
    """

    def __init__(self, token: str, message: str | None = None) -> None:
        super().__init__(
            message
            or f"no open hook has the token {shown_token(token)!r}: it was never created, it is "
            "disposed, or its run has ended"
        )
        self.token = token


class StreamClosedError(_RunError):
    """A chunk was written to a stream that was closed, or whose run has ended.

    Attributes:
        run_id, namespace: the stream; "" is the run's default stream.
    """

    def __init__(self, run_id: str, namespace: str, why: str = "it was closed") -> None:
        super().__init__(
            run_id, f"stream {namespace!r} of run {run_id} takes no more chunks: {why}"
        )
        self.namespace = namespace


class StreamResetError(_RunError):
    """A step was tried again and has withdrawn chunks that this reader has had already.

    Begin again with what you have made of them, or iterate `Stream.chunks()`, which tells
    by items with ``reset=True`` what to forget. The stream can be read on from `index`.

    Attributes:
        run_id, namespace: the stream; "" is the run's default stream.
        index: of the item that withdraws the chunks; those after it stand.
    """

    def __init__(self, run_id: str, namespace: str, index: int) -> None:
        super().__init__(
            run_id,
            f"a step of run {run_id} was tried again and has withdrawn what it had written to "
            f"stream {namespace!r} before index {index}, which this reader has had: read again "
            "from the start, or iterate stream.chunks() and look at chunk.reset",
        )
        self.namespace = namespace
        self.index = index


# --- mistakes in the calling program ------------------------------------------------


class NotAWorkflowError(DurableError, TypeError):
    """`start` was given something that is neither a workflow nor a registered name."""


class WorkflowNotRegisteredError(DurableError, LookupError):
    """No workflow of this `name` has been defined in this process."""

    name = ""


class WrongContextError(DurableError, RuntimeError):
    """The call is not possible here: inside or outside a workflow body or a step."""


class NotInBodyError(WrongContextError, NotImplementedError):
    """A workflow body used I/O, threads, processes, signals or a foreign awaitable.

    Put that work in a step: a body must be replayable, so it may only await steps,
    sleeps, hooks and asyncio's own primitives.
    """


class RuntimeNotRunningError(DurableError, RuntimeError):
    """The call needs a running `Runtime` of this event loop."""


class RuntimeClosedError(RuntimeNotRunningError):
    """The `Runtime` has been closed; runs go on when the journal is opened again."""


class WebhookVerifierError(DurableError, LookupError):
    """A webhook asks for a verifier that whoever receives its requests does not have.

    The request was not recorded. It was not refused as forged either: it can be sent again.

    Attributes:
        name: of the verifier.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"a webhook asks for the verifier {name!r}, which is unknown here: give it, as in "
            "durable.asgi.webhooks(verifiers={name: HmacVerifier.github(secret)})"
        )
        self.name = name


class DurationError(DurableError, ValueError):
    """A duration or a point in time is not usable (negative, NaN, naive, too far)."""


class InvalidExportError(DurableError, ValueError):
    """What should be imported is no exported run, is damaged, or of a newer `durable`."""


class InvalidCursorError(DurableError, ValueError):
    """A listing was given a cursor of another listing, or something that is no cursor."""


# --- data ---------------------------------------------------------------------------


class SerializationError(DurableError, TypeError):
    """A value cannot be stored in the journal.

    Attributes:
        path: where it sits, such as ``args[0]["conn"]``.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class PayloadTooLargeError(SerializationError):
    """A value is larger than the journal's payload limit."""


class PayloadDecodeError(DurableError):
    """A recorded value cannot be loaded in this process; the bytes are kept.

    Raised when its class or module is missing, or when it holds code recorded by
    another Python version, which is never loaded.
    """


class HookPayloadError(DurableError, ValueError):
    """A payload is not of the type that the hook or mailbox was given.

    Raised at the sender, before anything is recorded; the run does not notice. Raised by
    `receive` for a payload that was sent before the body said which type it wants.

    Attributes:
        path: the part that does not fit, such as ``payload["items"][2]``.
        payload: what was sent, where `receive` raises it; else None.
    """

    def __init__(self, message: str, path: str = "payload", payload: object = None) -> None:
        super().__init__(message)
        self.path = path
        self.payload = payload


class NondeterminismError(DurableError):
    """A workflow body took another decision than its history records.

    Attributes:
        position: sequence number in the history.
        expected: what the history holds there.
        got: what the body did.
        where: source line of the body, ``file:line``.
    """

    def __init__(self, position: int, expected: str, got: str, where: str) -> None:
        super().__init__(
            f"at event {position} the history holds {expected}, but the code at {where} {got}. "
            "Restore the recorded order of calls, then `await run.resume()`"
        )
        self.position = position
        self.expected = expected
        self.got = got
        self.where = where


# --- the journal --------------------------------------------------------------------


class JournalError(DurableError):
    """The journal could not be read or written; nothing was recorded by this call."""


class JournalFullError(JournalError):
    """The disk (or a quota) is full. Runs pause and go on by themselves once there is space."""


class JournalLockedError(JournalError):
    """Another process owns this journal.

    Attributes:
        pid: process id of the owner, or None when it is not known.
    """

    def __init__(self, path: str, pid: int | None, message: str | None = None) -> None:
        owner = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            message
            or f"the journal {path} is owned by {owner}: stop it, or open with client=True "
            "to work through it"
        )
        self.path = path
        self.pid = pid


class JournalVersionError(JournalError):
    """The journal was written by a newer `durable`; this one refuses to touch it."""


class JournalCorruptError(JournalError):
    """A row of the journal does not match its checksum, or the file is damaged."""


class JournalRolledBackError(JournalCorruptError):
    """The journal lacks events that it has held: its end was lost, or it is an older copy."""


class BackupError(JournalError):
    """A backup could not be made or restored, or is not good; nothing is left of the attempt."""


class UnsafeFilesystemError(JournalError):
    """The journal would lie on a network or virtual filesystem where SQLite's WAL is unsafe."""


class ForkedJournalError(JournalError):
    """The journal was opened before a `fork`; the child must open its own `Runtime`."""


class InternalError(DurableError):
    """An invariant of `durable` broke. This is a defect of the library: please report it."""
