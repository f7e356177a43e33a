"""``python -m benchmarks``: measure and print; ``python -m benchmarks profile W2``: explain.

The exit code says whether everything ran, never how fast it was: a missed bar is a
line in the table, a workload that fails is exit code 1.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine, outcome, plot, profile, report, runner, table
from benchmarks.floors import Durability
from benchmarks.runner import Pass, Plan
from benchmarks.workload import Workload
from benchmarks.workloads import OURS, registry

DURABILITIES: dict[str, list[Durability]] = {
    "full": ["full"],
    "process": ["process"],
    "both": ["full", "process"],
}


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    if arguments[:1] == ["profile"]:
        return profile.main(arguments[1:])
    options = _parser().parse_args(arguments)
    plan = _plan(options)
    facts = _facts(plan)
    print(table.pairs(facts), flush=True)
    passes = list(runner.perform(plan, _progress))
    _clear_progress()
    _print(passes)
    if options.plot is not None:
        plot.draw(outcome.rows(passes), facts, options.plot)
    if options.markdown is not None:
        told = f"python -m benchmarks {shlex.join(arguments)}"
        floors, rows = outcome.floor_rows(passes), outcome.rows(passes)
        options.markdown.write_text(report.markdown(facts, floors, rows, told))
    if options.json is not None:
        options.json.write_text(json.dumps(_data(facts, passes), indent=1))
    return 1 if outcome.failures(passes) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures durable against the floors of this machine.",
        epilog="python -m benchmarks profile W2 shows where the time of one workload goes.",
    )
    add = parser.add_argument
    add("workloads", nargs="*", metavar="W", help="names such as W1 W2 idle (default: all)")
    add("--peers", action="store_true", help="the same work on the peers that are installed")
    add("--peer-python", type=Path, metavar="FILE", help="an interpreter that has the peers")
    add("--plot", type=Path, metavar="FILE", help="draw the ratios of W1 to W5 as a PNG")
    add("--markdown", type=Path, metavar="FILE", help="write a report there, to be kept")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    add("--quick", action="store_true", help="a tenth of the size, one repetition")
    add("--repeat", type=int, metavar="N", help="how often everything is done (default: 3)")
    add("--durability", choices=sorted(DURABILITIES), default="both", help="default: both")
    add("--loop", choices=("asyncio", "uvloop"), default="asyncio", help="default: asyncio")
    add("--dir", type=Path, help="where journals go; must be a disk (default: temp directory)")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    default = 1 if options.quick else 3
    peer_python = str(options.peer_python or sys.executable)
    return Plan(
        workloads=_chosen(options.workloads, peers=peer_python if options.peers else None),
        durabilities=DURABILITIES[options.durability],
        repeat=default if options.repeat is None else max(1, options.repeat),
        quick=options.quick,
        loop=options.loop,
        directory=machine.scratch_directory() if options.dir is None else options.dir,
        peer_python=peer_python,
    )


def _chosen(names: list[str], *, peers: str | None) -> list[Workload]:
    known = registry()
    ours = [workload.name for workload in known if workload.subject == OURS]
    wanted = {name.lower() for name in names or ours}
    unknown = wanted - {name.lower() for name in ours}
    if unknown:
        there = ", ".join(ours)
        raise SystemExit(f"no workload named {', '.join(sorted(unknown))}; there are: {there}")
    chosen = [each for each in known if each.name.lower() in wanted]
    needed = {each.requires for each in chosen if peers is not None and each.requires}
    versions = {} if peers is None else machine.versions(sorted(needed), peers)
    for package in sorted(needed - set(versions)):
        print(f"{package} is not installed, and left out: pip install -e '.[bench]'")
    chosen = [each for each in chosen if each.subject == OURS or each.requires in versions]
    return sorted(chosen, key=lambda each: (ours.index(each.name), each.subject != OURS))


def _facts(plan: Plan) -> dict[str, str]:
    size = "a tenth (--quick)" if plan.quick else "full"
    peers = sorted({each.requires for each in plan.workloads if each.requires})
    versions = machine.versions(peers, plan.peer_python) if peers else {}
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        **machine.describe(plan.directory),
        "peers": ", ".join(f"{name} {version}" for name, version in versions.items()) or "none",
        "settings": f"loop {plan.loop}, size {size}, {plan.repeat} repetition(s), else defaults",
    }


def _print(passes: list[Pass]) -> None:
    rows = outcome.rows(passes)
    print(f"\nFloors\n\n{table.floor_table(outcome.floor_rows(passes))}")
    print(f"\nResults (ratios: to the floors just before and after)\n\n{table.result_table(rows)}")
    print(f"\nBars (due now) and goals\n\n{table.verdict_table(rows)}")
    for said in dict.fromkeys(_failures(passes)):
        print(f"\nFAILED {said}", file=sys.stderr)


def _data(facts: dict[str, str], passes: list[Pass]) -> dict[str, object]:
    data = table.as_data(outcome.floor_rows(passes), outcome.rows(passes))
    return {"machine": facts, **data, "failed": _failures(passes)}


def _failures(passes: list[Pass]) -> list[str]:
    return [f"at {one.durability}: {one.error}" for one in outcome.failures(passes)]


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _clear_progress() -> None:
    _progress("")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
