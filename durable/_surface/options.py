"""The options of a `Runtime`, checked when it is made.

Owns the rules for what may be given, and the errors for what may not: each names the
value, what is wrong with it and what to give. A value that is refused here would
else be met in the middle of opening or closing a journal.
"""

from __future__ import annotations

import math
import os
import re
from datetime import timedelta
from typing import Literal

from durable._authoring.workflow import KEEP_FOR_EVER, check_retention
from durable._base.duration import parse_duration
from durable._engine.options import EngineOptions
from durable._journal.codec import Codec
from durable._journal.keys import Encryption

Duration = float | timedelta | str

BASE_URL_VARIABLE = "DURABLE_WEBHOOK_BASE_URL"
BASE_URL = "http://127.0.0.1:8787"  # where `durable serve` listens
RESPONSE_SECONDS = 30.0  # how long the sender of a request to a webhook waits for a step's answer
_BASE_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?", re.ASCII | re.IGNORECASE)

_DURABILITIES = ("full", "process")


def engine_options(
    *,
    retention: Duration | Literal["forever"] | None,
    grace: Duration,
    drain_seconds: float,
    threads: int,
    processes: int | None,
    idle_runs: int,
    webhook_base_url: str | None,
) -> EngineOptions:
    """Return the engine's options.

    Raises:
        DurationError: a duration cannot be understood.
        TypeError, ValueError: a number is none, or out of its range.
    """
    return EngineOptions(
        retention_us=KEEP_FOR_EVER if retention is None else check_retention(retention),
        grace_us=parse_duration(grace, what="grace"),
        drain_seconds=_seconds("drain_seconds", drain_seconds),
        threads_max=_count("threads", threads, at_least=1),
        processes_max=None if processes is None else _count("processes", processes, at_least=1),
        idle_runs_max=_count("idle_runs", idle_runs, at_least=0),
        webhook_base_url=_base_url(webhook_base_url),
    )


def _base_url(given: str | None) -> str:
    """Return what the URLs of webhooks begin with, without a slash at the end."""
    url = given
    if url is None:
        url = os.environ.get(BASE_URL_VARIABLE) or BASE_URL
    if not isinstance(url, str) or not _BASE_URL.fullmatch(url):
        source = f"${BASE_URL_VARIABLE}" if given is None else "webhook_base_url"
        raise ValueError(
            f"{source} is {url!r}, which no URL can begin with: give scheme, host and perhaps "
            "a path, such as 'https://example.org/hooks'"
        )
    return url.rstrip("/")


def check_durability(durability: object) -> None:
    """Raise a ValueError for an unknown durability."""
    if durability not in _DURABILITIES:
        raise ValueError(
            f'durability is {durability!r}, which is unknown: give "full" or "process"'
        )


def check_codec(codec: object) -> None:
    """Raise a TypeError for what is no codec."""
    if codec is not None and not isinstance(codec, Codec):
        raise TypeError(
            f"codec is {codec!r}, which is no Codec: give one, such as "
            'durable.Codec(format="json"), or None'
        )


def check_encryption(encryption: object) -> None:
    """Raise a TypeError for what is no encryption."""
    if encryption is not None and not isinstance(encryption, Encryption):
        raise TypeError(
            f"encryption is a {type(encryption).__name__}: give durable.Encryption(...) with the "
            'key, such as Encryption("app.key"), or None'
        )


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}, which is no number: give seconds, such as 5.0")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}: give a finite number of seconds, 0 or more")
    return float(value)


def _count(name: str, value: object, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}, which is no whole number: give {at_least} or more")
    if value < at_least:
        raise ValueError(f"{name} is {value}, which is too few: give {at_least} or more")
    return value
