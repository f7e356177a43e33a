"""`durable doctor` and `durable verify`: is a journal, and what lies around it, well?

Owns the arguments, what is printed, the exit codes and the support bundle. Both read the
file beside an owner or without one, change nothing, and load nothing recorded in it.

Exit codes: 0 all is well, 1 something needs looking after (or an error, told in one line),
3 something recorded is damaged. 2 means wrong usage, as everywhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from durable._base.clock import SystemClock
from durable._base.words import counted
from durable._journal.care.doctor import Check, Level, examine, shown, worst
from durable._journal.care.judging import Finding
from durable._journal.care.verifying import verify_journal
from durable._journal.files import JournalFiles, write_whole
from durable._journal.filesystem import canonical_journal_path
from durable._surface.cli_runs import add_journal
from durable._surface.listing import plain
from durable.errors import JournalCorruptError

WELL, ATTENTION, DAMAGED = 0, 1, 3
_CODES: dict[Level, int] = {"ok": WELL, "note": WELL, "warning": ATTENTION, "damage": DAMAGED}
_DETAILS_SHOWN = 20


def add_doctor(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands."""
    doctor = _add(add_parser("doctor", help="examine a journal and its surroundings"), _doctor)
    doctor.add_argument(
        "--full", action="store_true", help="hold indexes against their tables, too (slower)"
    )
    doctor.add_argument(
        "--bundle", metavar="FILE",
        help="write the outcome for a support request: no values, tokens or names of yours",
    )  # fmt: skip
    doctor.add_argument("--overwrite", action="store_true", help="over an existing FILE")
    _add(add_parser("verify", help="check every row of a journal"), _verify)


def _add(
    parser: argparse.ArgumentParser, perform: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    add_journal(parser, perform)
    add_place(parser)
    parser.add_argument("--json", action="store_true", help="as a JSON object")
    return parser


def add_place(parser: argparse.ArgumentParser) -> None:
    """Let a command name its journal without an option, too."""
    parser.add_argument("journal", metavar="JOURNAL", nargs="?", help="the same as --db JOURNAL")


def files_of(arguments: argparse.Namespace) -> JournalFiles:
    """Return the files of the journal that is meant."""
    return JournalFiles(canonical_journal_path(arguments.journal or arguments.db))


def _doctor(arguments: argparse.Namespace) -> int:
    from durable import __version__

    checks = examine(
        files_of(arguments), SystemClock().wall_us(), version=__version__, fully=arguments.full
    )
    level = worst(checks)
    if arguments.bundle is not None:
        data = json.dumps(bundle(checks), indent=1).encode() + b"\n"
        write_whole(arguments.bundle, data, overwrite=arguments.overwrite)
    if arguments.json:
        print(json.dumps({"level": level, "checks": [asdict(check) for check in checks]}, indent=1))
    else:
        print("\n".join(check_lines(checks)))
    return _CODES[level]


def bundle(checks: Sequence[Check]) -> dict[str, object]:
    """Return what may be sent to somebody else: no text that a user gave."""
    return {
        "format": "durable doctor",
        "version": 1,
        "level": worst(list(checks)),
        "checks": [{"name": c.name, "level": c.level, "facts": c.facts} for c in checks],
    }


def check_lines(checks: Sequence[Check]) -> list[str]:
    """Return checks as lines: level, name, summary; then what is not well in detail."""
    lines: list[str] = []
    for check in checks:
        level = "" if check.level == "ok" else check.level
        lines.append(f"{level:<8}{check.name:<13}{plain(check.summary)}".rstrip())
        lines += [f"{'':<21}{plain(each)}" for each in check.details[:_DETAILS_SHOWN]]
        if (more := len(check.details) - _DETAILS_SHOWN) > 0:
            lines.append(f"{'':<21}... and {more} more; --json has all")
    return lines


def _verify(arguments: argparse.Namespace) -> int:
    try:
        found = verify_journal(files_of(arguments))
    except JournalCorruptError as error:
        print(plain(str(error)))
        return DAMAGED
    if arguments.json:
        print(json.dumps(asdict(found), indent=1))
    else:
        pairs = [(found.runs, "run"), (found.events, "event"), (found.chunks, "chunk")]
        counts = ", ".join(counted(*pair) for pair in pairs)
        verdict = counted(len(found.findings), "finding") if found.findings else "all sound"
        print("\n".join([f"{found.path}: {counts}: {verdict}", *map(_line, found.findings)]))
    return DAMAGED if found.findings else WELL


def _line(finding: Finding) -> str:
    return plain(f"{finding.table:<10}  {shown(finding)}")
