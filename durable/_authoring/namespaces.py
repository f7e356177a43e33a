"""The names of streams within a run.

Owns what a name may be. A stream without a name is the run's default stream, and is kept
under the empty text.
"""

from __future__ import annotations

NAMESPACE_CHARS_MAX = 64


def check_namespace(namespace: object, *, what: str = "namespace") -> str:
    """Return the name of a stream, "" for the default one.

    Raises:
        TypeError: it is no text. ValueError: it is too long or unprintable.
    """
    if namespace is None:
        return ""
    if not isinstance(namespace, str):
        raise TypeError(f"{what}={namespace!r} must be a text, or None for the default stream")
    if len(namespace) > NAMESPACE_CHARS_MAX or not namespace.isprintable():
        raise ValueError(
            f"{what}={namespace[:80]!r} is not usable: give up to {NAMESPACE_CHARS_MAX} "
            "printable characters"
        )
    return namespace
