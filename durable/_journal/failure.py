"""Exceptions to bytes and back: an envelope for people, and the object where it is sound.

Owns what the journal keeps of an exception: type name, message, traceback text, notes,
cause and group members as text, always; and the pickled exception itself, only where a
trial load gives back the same type, text and arguments. Many exception classes pickle
and then do not load, or load as something else; of these the type, arguments and
attributes are kept, and where that fails as well they must not break the run.

Invariants: `encode_failure` takes any exception without raising because of it, and its
size is bounded. Exceptions go by reference only, never with code: whether a body's
``except`` matches must not depend on the process that replays it. Signals to the
process (cancellation, exit, keyboard interrupt) are never rebuilt.

Does not decide what a body or a caller sees when nothing can be rebuilt.
"""

from __future__ import annotations

import asyncio
import io
import pickle
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict, cast

from durable._base.signals import is_from_signal
from durable._journal.codec import Codec
from durable._journal.exceptions import is_same_error, pickles_as_usual
from durable._journal.main_classes import cure_of, dumps, loads, reduce_main
from durable.errors import TRACEBACK_NOTE, PayloadDecodeError, RemoteError, _rebuild

__all__ = ["Failure", "decode_failure", "encode_failure", "preview_failure"]

_NODES_MAX = 64  # exceptions recorded of one failure, causes and group members included
_NOTES_MAX = 32
_DEPTH_MAX = 16
_TEXT_SHARE = 16  # all texts together: this many times the limit of one
_PICKLED_MAX = 256 * 1024
_SIGNALS = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)
_OWN_FOLDER = str(Path(__file__).resolve().parent.parent)
_PLAIN_GROUP = "builtins.ExceptionGroup"
_MORE = "builtins.Exception"


class _Envelope(TypedDict):
    type: str
    message: str
    traceback: str
    notes: list[str]
    cause: _Envelope | None
    group: list[_Envelope]
    pickled: bytes | None


@dataclass(frozen=True, slots=True)
class Failure:
    """What is known of a recorded exception.

    Attributes:
        error_type: module and qualified name, such as ``"builtins.ValueError"``.
        message: its `str`, cut where it is very long.
        traceback_text: as Python prints it, with causes; only of the outermost one.
        notes: its notes (`add_note`).
        cause: what it was raised from, if it was.
        group: the members of an exception group.
        pickled: the exception itself, where a trial load succeeded when it was recorded.
    """

    error_type: str
    message: str
    traceback_text: str
    notes: tuple[str, ...] = ()
    cause: Failure | None = None
    group: tuple[Failure, ...] = ()
    pickled: bytes | None = None

    def rebuild(self, *, strict: bool = False) -> BaseException | None:
        """A new exception of the original type, or None where that is not possible.

        It carries the notes, the rebuilt `__cause__` (a `RemoteError` where that one
        cannot be rebuilt), the attribute `durable_traceback`, and a last note that
        shows the recorded traceback.

        Args:
            strict: raise if it could be rebuilt when it was recorded, but not here.

        Raises:
            PayloadDecodeError: see `strict`.
        """
        error = self._revive(strict)
        if error is None:
            return None
        _dress(error, self)
        _note_traceback(error, self)
        return error

    def remote(self) -> RemoteError:
        """A `RemoteError` with the same texts, notes and causes."""
        error = RemoteError(self.error_type, self.message, self.traceback_text)
        _dress(error, self)
        _note_traceback(error, self)
        return error

    def _revive(self, strict: bool) -> BaseException | None:
        if self.error_type == _PLAIN_GROUP and self.group:
            return self._revive_group()
        if self.pickled is None:
            return None
        try:
            error = _trusted_load(self.pickled)
        except Exception as cause:
            if not strict:
                return None
            raise PayloadDecodeError(
                f"the recorded exception {self.error_type} cannot be rebuilt here: {cause}"
            ) from cause
        return None if _holds_signal(error) else error

    def _revive_group(self) -> BaseException | None:
        # str() of a group adds the count; members are rebuilt one by one, so that a
        # member that cannot be costs neither the group nor its siblings.
        message = re.sub(r" \(\d+ sub-exceptions?\)$", "", self.message)
        members = [member.rebuild() or member.remote() for member in self.group]
        errors = [member for member in members if isinstance(member, Exception)]
        return ExceptionGroup(message, errors) if len(errors) == len(members) else None


def encode_failure(exc: BaseException, codec: Codec, *, limit_text: int = 64 * 1024) -> bytes:
    """The payload for an exception; it never raises because of the exception.

    Args:
        exc: any exception, however odd.
        codec: the journal's codec. With JSON only the texts are kept.
        limit_text: longest single text in characters; the middle of longer ones is cut.
    """
    for limit, keep_objects in ((limit_text, True), (limit_text // 16, False)):
        recorder = _Recorder(max(limit, 256), keep_objects and codec.format == "pickle")
        try:
            return codec.encode(recorder.record(exc, 0), "the exception")
        except BaseException as error:  # too large for the codec, or the exception's own code
            _pass_signals_on(error)
    text = _text(exc)[:256]
    return codec.encode(_bare_envelope(_type_name(exc)[:256], text), "the exception")


def decode_failure(payload: bytes, codec: Codec) -> Failure:
    """What `encode_failure` recorded. Nothing of the exception is loaded yet.

    Raises:
        PayloadDecodeError: the payload cannot be decoded, or holds no failure.
    """
    return _from_envelope(codec.decode(payload))


def preview_failure(payload: bytes, codec: Codec) -> str:
    """What `encode_failure` recorded, as one line for people; loads nothing, never raises."""
    shown = codec.preview(payload)
    try:
        failure = _from_envelope(shown)
    except Exception:  # whatever it holds, it was meant to be looked at
        return repr(shown)
    return f"{str(failure.error_type).removeprefix('builtins.')}: {failure.message}"


def _from_envelope(envelope: object) -> Failure:
    try:
        return _read_envelope(envelope)  # type: ignore[arg-type]  # checked by reading it
    except (KeyError, TypeError) as error:
        raise PayloadDecodeError(f"the payload holds no recorded exception: {error!r}") from error


def _read_envelope(envelope: _Envelope) -> Failure:
    cause = envelope["cause"]
    return Failure(
        error_type=envelope["type"],
        message=envelope["message"],
        traceback_text=envelope["traceback"],
        notes=tuple(envelope["notes"]),
        cause=None if cause is None else _read_envelope(cause),
        group=tuple(_read_envelope(member) for member in envelope["group"]),
        pickled=envelope["pickled"],
    )


# --- recording ------------------------------------------------------------------------


class _Recorder:
    """Turns one exception and what hangs on it into an envelope of bounded size."""

    def __init__(self, limit_text: int, keep_objects: bool) -> None:
        self.limit_text = limit_text
        self.keep_objects = keep_objects
        self.text_left = limit_text * _TEXT_SHARE
        self.pickled_left = _PICKLED_MAX
        self.nodes_left = _NODES_MAX
        self.seen: set[int] = set()

    def record(self, exc: BaseException, depth: int) -> _Envelope:
        self.nodes_left -= 1
        self.seen.add(id(exc))
        return {
            "type": _type_name(exc),
            "message": self.cut(_text(exc)),
            # The outermost traceback shows the causes too: once is enough.
            "traceback": "" if depth else self.cut(_traceback_text(exc)),
            "notes": self.notes(exc),
            "cause": self.cause(exc, depth),
            "group": self.members(exc, depth),
            "pickled": self.pickle(exc),
        }

    def cause(self, exc: BaseException, depth: int) -> _Envelope | None:
        cause = exc.__cause__
        if cause is None or id(cause) in self.seen or depth >= _DEPTH_MAX or self.nodes_left < 1:
            return None
        return self.record(cause, depth + 1)

    def members(self, exc: BaseException, depth: int) -> list[_Envelope]:
        if not isinstance(exc, BaseExceptionGroup) or depth >= _DEPTH_MAX:
            return []
        members: list[_Envelope] = []
        for member in exc.exceptions:
            if self.nodes_left < 1:
                rest = len(exc.exceptions) - len(members)
                return [*members, _bare_envelope(_MORE, f"{rest} more were not recorded")]
            members.append(self.record(member, depth + 1))
        return members

    def notes(self, exc: BaseException) -> list[str]:
        try:
            notes = [_text(note) for note in exc.__notes__[:_NOTES_MAX]]
        except Exception:  # no notes, or __notes__ is something else
            return []
        # A recorded traceback that comes round again is in the traceback text already.
        return [self.cut(note) for note in notes if not note.startswith(TRACEBACK_NOTE)]

    def pickle(self, exc: BaseException) -> bytes | None:
        rebuilt_by_parts = type(exc) is ExceptionGroup
        if not self.keep_objects or rebuilt_by_parts or _holds_signal(exc):
            return None
        pickled = _trial(exc)
        if pickled is None or len(pickled) > self.pickled_left:
            return None
        self.pickled_left -= len(pickled)
        return pickled

    def cut(self, text: str) -> str:
        room = max(0, min(self.limit_text, self.text_left))
        if len(text) > room:
            # Both ends tell most: where it began, and what it was.
            half = room // 2
            gap = f"\n... {len(text) - 2 * half} characters left out ...\n"
            text = text[:half] + gap + text[len(text) - half :]
        self.text_left -= len(text)
        return text


def _pass_signals_on(error: BaseException) -> None:
    """Raise what is meant for the program, and hit the exception's code by chance."""
    if is_from_signal(error):
        raise error


def _bare_envelope(error_type: str, message: str) -> _Envelope:
    return {
        "type": error_type,
        "message": message,
        "traceback": "",
        "notes": [],
        "cause": None,
        "group": [],
        "pickled": None,
    }


def _holds_signal(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return any(map(_holds_signal, exc.exceptions))
    return isinstance(exc, _SIGNALS)


class _Lean(pickle.Pickler):
    """Pickles an exception without those of its attributes that cannot be pickled."""

    def __init__(self, file: io.BytesIO, exc: BaseException) -> None:
        super().__init__(file, protocol=5)
        self._exc = exc

    def reducer_override(self, obj: object) -> Any:
        if obj is not self._exc:
            return reduce_main(obj)
        make, args, *state = cast("tuple[Any, ...]", obj.__reduce_ex__(5))
        if not state or not isinstance(state[0], dict):
            return NotImplemented
        return make, args, {key: each for key, each in state[0].items() if _is_sound(each)}


class _Bare(_Lean):
    """Pickles an exception as its type, arguments and attributes, past its `__init__`.

    Most classes of errors that have an `__init__` want something else than the message
    which they hand on, so `pickle`, which calls them with the message, cannot load them.
    """

    def reducer_override(self, obj: object) -> Any:
        if obj is not self._exc:
            return reduce_main(obj)
        if not pickles_as_usual(self._exc):
            return NotImplemented
        sound = {key: each for key, each in vars(obj).items() if _is_sound(each)}
        return _rebuild, (type(obj), self._exc.args), sound


def _is_sound(value: object) -> bool:
    try:
        pickle.loads(pickle.dumps(value, protocol=5))
    except BaseException as error:  # somebody's code: it may raise anything
        _pass_signals_on(error)
        return False
    return True


def _by(pickler: type[_Lean], exc: BaseException) -> bytes:
    file = io.BytesIO()
    pickler(file, exc).dump(exc)
    return file.getvalue()


def _trial(exc: BaseException) -> bytes | None:
    """The pickled exception, if loading it gives the same one."""
    ways = (dumps, partial(_by, _Lean), partial(_by, _Bare))
    return next(filter(None, (_checked(exc, way) for way in ways)), None)


def _checked(exc: BaseException, dump: Callable[[BaseException], bytes]) -> bytes | None:
    try:
        pickled = dump(exc)
        back = _trusted_load(pickled)
        same = is_same_error(back, exc)
    except BaseException as error:
        _pass_signals_on(error)
        return None
    return pickled if same else None


def _trusted_load(pickled: bytes) -> BaseException:
    """Load our own pickle; whatever goes wrong comes out as an Exception."""
    try:
        error = loads(pickled)
    except BaseException as cause:
        _pass_signals_on(cause)
        text = _text(cause)
        cure = cure_of(cause, text)
        raise PayloadDecodeError(f"{type(cause).__name__}: {text}; {cure}") from cause
    if not isinstance(error, BaseException):
        raise PayloadDecodeError(f"a {type(error).__name__} came back, not an exception")
    return error


def _type_name(exc: BaseException) -> str:
    kind = type(exc)
    return f"{kind.__module__}.{kind.__qualname__}"


def _text(value: object) -> str:
    try:
        return "".join((str(value),))  # an exact str, whatever __str__ returned
    except BaseException as error:
        _pass_signals_on(error)
        return f"<str() of this {type(value).__name__} raised {type(error).__name__}>"


def _traceback_text(exc: BaseException) -> str:
    try:
        first = _first_foreign_frame(exc.__traceback__)
        return "".join(traceback.TracebackException(type(exc), exc, first).format())
    except BaseException as error:  # odd notes, odd frames: the type and text at least
        _pass_signals_on(error)
        return f"{_type_name(exc)}: {_text(exc)}\n"


def _first_foreign_frame(trace: TracebackType | None) -> TracebackType | None:
    # Our own frames at the top tell the reader nothing; kept if there are no others.
    frame = trace
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
        frame = frame.tb_next
    return frame or trace


# --- dressing -------------------------------------------------------------------------


def _dress(error: BaseException, failure: Failure) -> None:
    """Put back what pickle does not carry: notes, causes, and those of group members."""
    try:
        error.__notes__ = list(failure.notes)
        error.durable_traceback = failure.traceback_text  # type: ignore[attr-defined]
    except Exception:
        pass  # a class may forbid attributes; the Failure still has the texts
    if failure.cause is not None:
        error.__cause__ = failure.cause.rebuild() or failure.cause.remote()
    if isinstance(error, BaseExceptionGroup) and failure.pickled is not None:
        for member, recorded in zip(error.exceptions, failure.group, strict=False):
            _dress(member, recorded)


def _note_traceback(error: BaseException, failure: Failure) -> None:
    if failure.traceback_text:
        error.add_note(f"{TRACEBACK_NOTE}:\n{failure.traceback_text.rstrip()}")
