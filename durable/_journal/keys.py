"""The keys of a sealed journal: where they come from, and what may be known of them.

Owns the format of key files and the conditions on which one is read: a plain file of our
own that nobody else can read, and no link to one. Anything else is refused, because a key
that others can read protects nothing.

A key is 32 random bytes with an id that is made from it, so that nobody has to number keys.
The id tells nothing of the key; it stands in every sealed payload and in messages. The
bytes of a key are in no `repr`, no error and no pickle.
"""

from __future__ import annotations

import binascii
import hmac
import importlib.util
import os
import secrets
import stat
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from durable._journal.files import write_whole
from durable.errors import JournalError

KEY_BYTES, ID_BYTES = 32, 8
KEY_FILE_VARIABLE = "DURABLE_KEY_FILE"

_FILE_BYTES_MAX = 64 * 1024
_LINE = "durable-key-1:"
_ABOUT = (
    "# Keys of a durable journal, the newest first. Keep this file secret, and keep a copy\n"
    "# of it elsewhere: without its key a journal cannot be read by anybody.\n"
)

Path = str | os.PathLike[str]
KeySource = bytes | Path | Callable[[], "bytes | Sequence[bytes]"]


class Key:
    """One key.

    Attributes:
        id: 16 hexadecimal digits, made from the key; it may be shown to anybody.
        secret: the key.
    """

    __slots__ = ("id", "secret")

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.id = hmac.digest(secret, b"durable key id", "sha256")[:ID_BYTES].hex()

    def __repr__(self) -> str:
        return f"<Key {self.id}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not to be pickled: give the place where it is kept")


class KeyRing:
    """The keys that are at hand, the newest first, and how the newest is used.

    Args:
        hide: encrypt, instead of authenticating only.
        optional: do as the journal does: seal if it is sealed, hide if it hides.
    """

    def __init__(
        self, keys: Iterable[Key] = (), *, hide: bool = True, optional: bool = False
    ) -> None:
        self.keys = {key.id: key for key in keys}
        self.hide = hide
        self.optional = optional

    @property
    def newest(self) -> Key | None:
        """The key for what is written from now on."""
        return next(iter(self.keys.values()), None)

    def __repr__(self) -> str:
        return f"<KeyRing {' '.join(self.keys)}>"


class Encryption:
    """Seals all values of a journal with a key, so that the file alone tells nothing of them.

    Each argument, result, error, hook payload and stream chunk is encrypted (AES-256-GCM)
    and bound to its journal, run and place: what was changed, moved, copied from elsewhere
    or written without the key is never loaded, and blocks its run. Names, times, sizes,
    statuses and attributes remain legible, as do the tokens of hooks that your code chooses.

    Args:
        keys: the newest first; it seals what is written from now on, the others are for
            what they have sealed. Each one is 32 bytes; or the path of a key file, which
            `durable keygen FILE` makes; or a callable that returns keys as bytes, asked
            whenever the journal is opened.
        hide: encrypt, which needs ``pip install 'durable[crypto]'``. False: values are
            authenticated (HMAC-SHA256) and remain legible. Default True.

    Raises:
        ValueError: there is no key, or one has another length.
        TypeError: a key is none of these.
        JournalError: the package that encrypts is not installed.

    Without the key that has sealed a run's history, the run is blocked until a runtime with
    this key opens the journal. Without any key nothing can be started. A journal that holds
    runs already is sealed by `durable rekey --from-plain`.

    Example:
        ``Runtime("app.db", encryption=Encryption("app.key"))``
    """

    def __init__(self, *keys: KeySource, hide: bool = True) -> None:
        if not keys:
            raise ValueError("there is no key: give bytes, the path of a key file or a callable")
        for key in keys:
            _check_source(key)
        if hide:
            require_cryptography()
        self._sources = keys
        self._hide = hide
        self._optional = False

    @classmethod
    def if_sealed(cls, path: Path) -> Encryption:
        """Return what a command line uses: it does as the journal does, sealed or not."""
        made = cls(path, hide=False)
        made._optional = True
        return made

    def ring(self) -> KeyRing:
        """Fetch the keys; may block.

        Raises:
            JournalError: a key file cannot be used. ValueError: a key has another length.
        """
        keys = [key for source in self._sources for key in _keys_of(source)]
        if not keys:
            raise ValueError(f"{self!r} has given no key")
        return KeyRing(keys, hide=self._hide, optional=self._optional)

    def __repr__(self) -> str:
        shown = ", ".join(map(_shown_source, self._sources))
        return f"Encryption({shown}{'' if self._hide else ', hide=False'})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Encryption is not to be pickled: it may hold keys")


def require_cryptography() -> None:
    """Raise a JournalError that names the extra, if what encrypts is not installed."""
    if importlib.util.find_spec("cryptography") is None:
        raise JournalError(
            "encrypting needs the package cryptography, which is not installed: "
            "pip install 'durable[crypto]', or give Encryption(..., hide=False) to authenticate "
            "only"
        )


def _check_source(source: object) -> None:
    if isinstance(source, bytes):
        _check_length(source)
    elif not (isinstance(source, str | os.PathLike) or callable(source)):
        # Its type only: what it is may be a key in another dress.
        raise TypeError(
            f"a key is given as {type(source).__name__}: give 32 bytes, the path of a key file, "
            "or a callable that returns keys"
        )


def _check_length(secret: object) -> None:
    if not isinstance(secret, bytes) or len(secret) != KEY_BYTES:
        what = f"{len(secret)} bytes" if isinstance(secret, bytes) else type(secret).__name__
        raise ValueError(f"a key has {KEY_BYTES} random bytes, such as os.urandom(32), not {what}")


def _shown_source(source: KeySource) -> str:
    if isinstance(source, bytes):
        return repr(Key(source))
    if isinstance(source, str | os.PathLike):
        return repr(os.fspath(source))
    return getattr(source, "__qualname__", type(source).__qualname__)


def _keys_of(source: KeySource) -> list[Key]:
    if isinstance(source, bytes):
        return [Key(source)]
    if isinstance(source, str | os.PathLike):
        return read_key_file(source)
    given = source()
    secrets_ = [given] if isinstance(given, bytes) else list(given)
    for secret in secrets_:
        _check_length(secret)
    return list(map(Key, secrets_))


# --- key files --------------------------------------------------------------------------


def create_key_file(path: Path) -> Key:
    """Write a new key to a new file of mode 0600.

    Raises:
        FileExistsError: there is something already.
    """
    key = Key(secrets.token_bytes(KEY_BYTES))
    write_whole(path, _text([key]), overwrite=False)
    return key


def add_key(path: Path) -> Key:
    """Put a new key in front of those of a key file."""
    key = Key(secrets.token_bytes(KEY_BYTES))
    write_whole(path, _text([key, *read_key_file(path)]), overwrite=True)
    return key


def read_key_file(path: Path) -> list[Key]:
    """Return the keys of a file, the newest first.

    Raises:
        JournalError: it is missing, damaged, a link, of another user, or others may read it.
    """
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags)
    except OSError as error:
        why = "it is a link, or " if os.path.islink(path) else ""
        raise _refused(path, f"{why}it cannot be opened: {error.strerror}") from None
    try:
        _check_file(path, os.fstat(descriptor))
        data = os.read(descriptor, _FILE_BYTES_MAX)
    finally:
        os.close(descriptor)
    keys = [_key_in(path, line) for line in data.splitlines() if line[:1] not in {b"", b"#"}]
    if not keys:
        raise _refused(path, "it holds no key")
    return keys


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refused(path, "it is no plain file")
    if status.st_uid != os.geteuid():
        raise _refused(path, f"it belongs to user {status.st_uid}, and this is {os.geteuid()}")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise _refused(path, f"others may read or write it (mode {mode:04o}): chmod 600 it")


def _key_in(path: Path, line: bytes) -> Key:
    try:
        head, data = line[: len(_LINE)], line[len(_LINE) :].strip()
        if head == _LINE.encode() and len(secret := b64decode(data, validate=True)) == KEY_BYTES:
            return Key(secret)
    except (binascii.Error, ValueError):
        pass
    raise _refused(path, "a line of it is no key") from None  # and is not shown


def _text(keys: Iterable[Key]) -> bytes:
    lines = (f"{_LINE}{b64encode(key.secret).decode()}\n" for key in keys)
    return (_ABOUT + "".join(lines)).encode()


def _refused(path: Path, why: str) -> JournalError:
    return JournalError(f"the key file {os.fspath(path)} is not used: {why}")
