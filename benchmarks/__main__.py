"""``python -m benchmarks``: measure and print; ``python -m benchmarks profile W2``: explain.

The exit code says whether everything ran, never how fast it was: a missed bar is a
line in the table, a workload that fails is exit code 1.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from benchmarks import machine, outcome, plot, profile, report, results, runner, table
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
    if options.plot is not None or options.keep:
        plot.require()
    plan = _plan(options)
    facts = _facts(plan)
    print(table.pairs(facts), flush=True)
    passes = list(runner.perform(plan, _progress))
    _clear_progress()
    _print(passes)
    _write(options, arguments, facts, passes)
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
    add("--peer-python", type=Path, action="append", default=[], metavar="FILE",
        help="an interpreter that has peers this one lacks; may be repeated")  # fmt: skip
    add("--peer-seconds", type=float, default=30.0, metavar="S", help="for a peer's figure: 30")
    add("--keep", action="store_true", help="write benchmarks/results and README.md's numbers")
    add("--plot", type=Path, metavar="FILE", help="draw the ratios of W1 to W5 as a PNG")
    add("--markdown", type=Path, metavar="FILE", help="write a report there, to be kept")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    add("--quick", action="store_true", help="a tenth of the size, one repetition")
    add("--repeat", type=int, metavar="N", help="how often everything is done (default: 3)")
    add("--durability", choices=sorted(DURABILITIES), default="both", help="default: both")
    loops = ("durable", "asyncio", "uvloop")
    add("--loop", choices=loops, default="durable", help="default: that of durable.run")
    add("--dir", type=Path, help="where journals go; must be a disk (default: temp directory)")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    default = 1 if options.quick else 3
    pythons = _pythons([sys.executable, *map(str, options.peer_python)]) if options.peers else {}
    return Plan(
        workloads=_chosen(options.workloads, set(pythons) if options.peers else None),
        durabilities=DURABILITIES[options.durability],
        repeat=default if options.repeat is None else max(1, options.repeat),
        quick=options.quick,
        loop=options.loop,
        directory=machine.scratch_directory() if options.dir is None else options.dir,
        pythons=pythons,
        peer_seconds=options.peer_seconds,
    )


def _pythons(interpreters: list[str]) -> dict[str, str]:
    """The first interpreter that has it, by package that a peer requires."""
    needed = sorted({each.requires for each in registry() if each.requires})
    found: dict[str, str] = {}
    for python in reversed(interpreters):
        found |= dict.fromkeys(machine.versions(needed, python), python)
    return found


def _chosen(names: list[str], there: set[str] | None) -> list[Workload]:
    """Workloads by their names, and those of peers whose packages are there (None: no peers)."""
    known = registry()
    ours = [workload.name for workload in known if workload.subject == OURS]
    wanted = {name.lower() for name in names or ours}
    unknown = wanted - {name.lower() for name in ours}
    if unknown:
        names = ", ".join(ours)
        raise SystemExit(f"no workload named {', '.join(sorted(unknown))}; there are: {names}")
    chosen = [each for each in known if each.name.lower() in wanted]
    if there is not None:
        for package in sorted({each.requires for each in chosen if each.requires} - there):
            print(f"{package} is not installed, and left out: see benchmarks/README.md")
    chosen = [each for each in chosen if each.subject == OURS or each.requires in (there or ())]
    return sorted(chosen, key=lambda each: (ours.index(each.name), each.subject != OURS))


def _facts(plan: Plan) -> dict[str, str]:
    size = "a tenth (--quick)" if plan.quick else "full"
    peers = sorted({each.requires for each in plan.workloads if each.requires})
    told = [f"{peer} {machine.versions([peer], plan.pythons[peer])[peer]}" for peer in peers]
    return {
        **machine.describe(plan.directory),
        "peers": ", ".join(told) or "none",
        "settings": f"loop {plan.loop}, size {size}, {plan.repeat} repetition(s), else defaults",
    }


def _write(
    options: argparse.Namespace, arguments: list[str], facts: dict[str, str], passes: list[Pass]
) -> None:
    """Write what is to be kept, wherever it was asked for."""
    if options.keep:
        results.RESULTS.mkdir(exist_ok=True)
    rows, floors = outcome.rows(passes), outcome.floor_rows(passes)
    told = f"python -m benchmarks {shlex.join(arguments)}"
    for path in _places(options, "plot", "table.png"):
        plot.draw(rows, facts, path)
    for path in _places(options, "markdown", "table.md"):
        path.write_text(report.markdown(facts, floors, rows, told))
    for path in _places(options, "json", "table.json"):
        path.write_text(json.dumps(_data(facts, passes), indent=1))
    if options.keep:
        results.tell_readme(facts, floors, rows)


def _places(options: argparse.Namespace, option: str, kept: str) -> list[Path]:
    asked = getattr(options, option)
    places = [] if asked is None else [asked]
    return [*places, results.RESULTS / kept] if options.keep else places


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
    """On a terminal one line that changes; elsewhere a line for all that has ended."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif ":" in text:
        print(text, file=sys.stderr, flush=True)


def _clear_progress() -> None:
    _progress("")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
