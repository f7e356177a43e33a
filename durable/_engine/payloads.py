"""Values and exceptions as bytes: the codec and the failure envelope in one object.

This is what the engine hands to bodies and executors, so that neither knows the journal.
"""

from __future__ import annotations

from durable._journal.codec import Codec
from durable._journal.failure import decode_failure, encode_failure
from durable.errors import StepFailedError, WorkflowNotRegisteredError, WorkflowRunFailedError

Parking = tuple[str, str, str | None]  # kind and reason, and the name of what is missing


class EnginePayloads:
    """Implements `durable._replay.body.Payloads`."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.encode_call = codec.encode_call
        self.encode = codec.encode
        self.preview = codec.preview
        self.decode_call = codec.decode_call
        self.decode = codec.decode

    def encode_error(self, error: BaseException) -> bytes:
        """Encode an exception with its traceback text, notes and causes."""
        return encode_failure(error, self.codec)

    def decode_error(self, payload: bytes, step: str, attempts: int) -> BaseException:
        """Return the original exception, or a `StepFailedError` that tells about it."""
        failure = decode_failure(payload, self.codec)
        error = failure.rebuild(strict=True)
        if error is None:
            error = StepFailedError(
                step, attempts, failure.error_type, failure.message, failure.traceback_text
            )
            for note in failure.notes:
                error.add_note(note)
            error.__cause__ = failure.remote().__cause__
        return error

    def decode_run_failure(self, payload: bytes, run_id: str) -> WorkflowRunFailedError:
        """Return the error that `Run.result` raises, with the original as its cause."""
        failure = decode_failure(payload, self.codec)
        error = WorkflowRunFailedError(
            run_id, failure.error_type, failure.message, failure.traceback_text
        )
        error.__cause__ = failure.rebuild() or failure.remote()
        return error


def parked_by(error: BaseException, what: str = "") -> Parking:
    """Return how to park a run of which a value cannot be loaded here.

    Args:
        error: that has come of it. If it is for want of a workflow that the value names, the
            run goes on by itself once that is registered.
        what: the value, in words.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, WorkflowNotRegisteredError) and cause.name:
            return no_workflow(cause.name, what)
        cause = cause.__cause__
    return "payload", f"{what}: {error}" if what else str(error), None


def no_workflow(name: str, what: str = "") -> Parking:
    """Return how to park a run that needs a workflow of this name."""
    told = (
        f"no workflow named {name!r} is registered in this process: import the module that "
        "defines it, and the run goes on by itself"
    )
    return "missing_code", f"{what}: {told}" if what else told, name
