"""Runs programmes of the test campaign for as long as asked, and says what they found.

    python -m tests.campaign                          # all of them, a minute each
    python -m tests.campaign T1 T2 --minutes 60       # half an hour each
    python -m tests.campaign T4 --whole               # one sweep through every fault
    python -m tests.campaign T5 --seed 12345 --trials 1
    python -m tests.campaign --sum one.json other.json

Seeds S, S+1, ... are handed to workers as they are ready. Every minute a line tells how far
it is; in the end comes a table, also after Ctrl-C. Failing seeds go to a file (`--out`), each
with the command that does its trial again, and their directories beside it. The exit code
is 1 when anything was found.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.campaign import registry, sometimes, tally
from tests.campaign.crew import Crew
from tests.campaign.programme import Programme
from tests.campaign.tally import Finding, Total


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = _parser()
    asked = parser.parse_args()
    for option, least in (("trials", 1), ("workers", 1), ("minutes", 0)):
        if (given := getattr(asked, option)) is not None and given < least:
            parser.error(f"--{option} {given:g}: it has to be {least} at least")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the table so far, as for Ctrl-C
    if asked.sum:
        _tell(tally.add_up(asked.sum))
        return 0
    if unknown := set(asked.programmes) - {*registry.MODULES, *registry.HIDDEN}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {_known()}")
    programmes = [registry.load(key) for key in asked.programmes or registry.MODULES]
    if asked.list:
        _list(programmes)
        return 0
    return _run(asked, programmes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("programmes", nargs="*", metavar="Tn", help=f"which to run: {_known()}; default all")
    add("--minutes", type=float, help="for all together; default one for each, or none for "
        "--trials and --whole")  # fmt: skip
    add("--seed", type=int, default=1, help="the first seed; default 1")
    add("--trials", type=int, help="at most so many of each programme")
    add("--whole", action="store_true", help="one sweep of each, where there is such a thing")
    add("--workers", type=int, default=os.cpu_count() or 1, help="default one per core")
    add("--list", action="store_true", help="say what there is, and what this machine lacks")
    add("--out", type=Path, default=Path("campaign-failures.json"), help="failing seeds")
    add("--json", type=Path, help="write the totals to this file")
    add("--sum", type=Path, nargs="+", help="print the table of several such files together")
    add("--keep", action="store_true", help="keep the directories of all trials, and say where")
    return parser


def _known() -> str:
    return ", ".join(registry.MODULES)


def _list(programmes: list[Programme]) -> None:
    for programme in programmes:
        whole = programme.whole()
        print(f"{programme.key:5}{programme.title}", *([f"({whole:,} seeds)"] if whole else []))
        if lacks := programme.lacking():
            print(f"     cannot run here: {lacks}")


def _run(asked: argparse.Namespace, programmes: list[Programme]) -> int:
    crews: list[Crew] = []
    lacking: list[Total] = []
    kept = asked.out.with_suffix("")
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(
        prefix="campaign-", dir=memory if os.access(memory, os.W_OK) else None))  # fmt: skip
    began, interrupted = time.time(), False
    try:
        for number, programme in enumerate(programmes):
            if lacks := programme.lacking():
                print(f"{programme.key}: cannot run here: {lacks}", flush=True)
                lacking.append(Total(programme.key, note=f"not run: {lacks}"))
                continue
            seeds, until = _seeds(asked, programme), _until(asked, programmes[number:], began)
            crew = Crew(
                programme, seeds, until=until, place=place, kept=kept, keep=asked.keep, say=_say
            )
            crews.append(crew)
            crew.run(asked.workers)
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted; so far:")
    finally:
        if asked.keep:
            print(f"directories of all trials: {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)
    totals = [crew.total for crew in crews] + lacking
    findings = [finding for crew in crews for finding in crew.findings]
    _tell(totals)
    _write(asked, totals, findings, began)
    return 1 if findings else 130 if interrupted else 0


def _seeds(asked: argparse.Namespace, programme: Programme) -> Iterator[int]:
    whole = programme.whole() if asked.whole else None
    limits = [limit for limit in (asked.trials, whole) if limit is not None]
    seeds = itertools.count(asked.seed)
    return itertools.islice(seeds, min(limits)) if limits else seeds


def _until(asked: argparse.Namespace, left: list[Programme], began: float) -> float:
    """Return when the first of `left` has to end: what is left of the time is shared evenly."""
    if asked.minutes is None:
        limited = asked.trials is not None or (asked.whole and left[0].whole() is not None)
        return time.monotonic() + (float("inf") if limited else 60.0)
    rest = asked.minutes * 60 - (time.time() - began)
    return time.monotonic() + rest / len(left)


def _say(line: str) -> None:
    print(line, flush=True)


def _tell(totals: list[Total]) -> None:
    print(tally.table(totals))
    for line in sometimes.report(totals):
        print(line)


def _write(
    asked: argparse.Namespace, totals: list[Total], findings: list[Finding], began: float
) -> None:
    if asked.json:
        about = {"began": began, "seed": asked.seed, "workers": asked.workers}
        tally.dump(totals, asked.json, **about)
    if not findings:
        return
    rows = [finding.as_json() for finding in findings]
    asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{len(findings)} found, written to {asked.out}; once more:")
    for finding in findings:
        where = f"   # {finding.verdict}; kept in {finding.directory}"
        print(f"  {finding.command}{where if finding.directory else ''}")


if __name__ == "__main__":
    sys.exit(main())
