"""Values and exceptions as bytes: the codec and the failure envelope in one object.

This is what the engine hands to bodies and executors, so that neither knows the journal.
"""

from __future__ import annotations

from durable._journal.codec import Codec
from durable._journal.failure import decode_failure, encode_failure
from durable.errors import StepFailedError, WorkflowRunFailedError


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
