"""Time, storage and our own modules are reached through their seams alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.style.sources import FUNCTION, Function, Source, calls, check, dotted, parents

CLOCK = "durable/_base/clock.py"
CLOCK_CALLS = re.compile(
    r"time\.(time|monotonic|perf_counter|process_time|clock_gettime)(_ns)?"
    r"|(datetime\.|dt\.)?(datetime|date)\.(now|utcnow|today)"
)
CLOCK_NAMES = {"time", "monotonic", "perf_counter", "process_time", "clock_gettime", "sleep"}
EXECUTE = {"execute", "executemany", "executescript"}
REAL_SLEEP = "# sleeps:"  # on the line of a sleep that has to be real, with the reason


# --- time -----------------------------------------------------------------------------


def test_only_the_clock_module_reads_a_clock() -> None:
    """A test that swaps the clock controls all time that the library sees."""

    def rule(source: Source) -> Iterator[str]:
        if source.path == CLOCK:
            return
        for node in source.nodes:
            if isinstance(node, ast.Attribute) and CLOCK_CALLS.fullmatch(dotted(node)):
                yield source.at(node, f"{dotted(node)}: take the time from the Clock")
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                names = {alias.name.removesuffix("_ns") for alias in node.names}
                yield from (source.at(node, f"time.{name}") for name in names & CLOCK_NAMES)

    check(rule, "durable")


def test_the_library_never_blocks_in_a_sleep() -> None:
    """Nothing polls: waits are timers of the loop or answers of the journal."""

    def rule(source: Source) -> Iterator[str]:
        for node, name in calls(source):
            if name == "time.sleep" and not _is_excused(source, node):
                yield source.at(node, "time.sleep")

    check(rule, "durable")


def test_no_test_really_sleeps() -> None:
    """A test waits for what happens; a number of seconds is slow here and wrong there."""

    def rule(source: Source) -> Iterator[str]:
        for node, name in calls(source):
            if name in {"time.sleep", "asyncio.sleep"} and not _is_fine(source, node):
                yield source.at(node, f"{ast.unparse(node)}: wait for the event instead")

    check(rule, "tests")


def _is_fine(source: Source, call: ast.Call) -> bool:
    argument = call.args[0] if call.args else None
    if dotted(call.func) == "asyncio.sleep":
        is_number = isinstance(argument, ast.Constant) and isinstance(argument.value, (int, float))
        if not is_number or argument.value <= 0:
            return True
    around = [node for node in parents(call) if isinstance(node, FUNCTION)]
    return _is_excused(source, call) or any(_is_users_code(node) for node in around)


def _is_excused(source: Source, call: ast.Call) -> bool:
    return REAL_SLEEP in source.lines[call.lineno - 1]


def _is_users_code(node: Function) -> bool:
    # Bodies and steps may sleep: that is a durable wait, or a step to be cancelled.
    marks = [dotted(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list]
    names = {mark.rsplit(".", 1)[-1] for mark in marks}
    return node.name.endswith("body") or bool(names & {"workflow", "step"})


# --- storage --------------------------------------------------------------------------


def test_sql_is_never_put_together_from_values() -> None:
    """Statements are constants with parameters; only a PRAGMA cannot take one."""

    def rule(source: Source) -> Iterator[str]:
        for node, name in calls(source):
            if name.rsplit(".", 1)[-1] in EXECUTE and node.args and _is_composed(node.args[0]):
                yield source.at(node, f"{name}({ast.unparse(node.args[0])})")

    check(rule, "durable", "benchmarks")


def _is_composed(node: ast.expr) -> bool:
    if isinstance(node, ast.JoinedStr):
        start = node.values[0]
        return not (isinstance(start, ast.Constant) and str(start.value).startswith("PRAGMA "))
    if isinstance(node, ast.Call):
        return dotted(node.func).endswith((".format", ".join", ".replace"))
    return isinstance(node, ast.BinOp)


# --- our own modules ------------------------------------------------------------------


def test_no_test_replaces_parts_of_the_library() -> None:
    """Tests use the seams: clock, driver, journal path. Nothing of ours is patched."""

    def rule(source: Source) -> Iterator[str]:
        ours = _names_of_ours(source)
        for node in source.nodes:
            if isinstance(node, (ast.Import, ast.ImportFrom)) and _is_mock(node):
                yield source.at(node, "unittest.mock: write a fake for the seam")
            if isinstance(node, ast.Call) and _is_patch(node, ours):
                yield source.at(node, f"{ast.unparse(node)}: use a seam")
            if isinstance(node, ast.Assign) and any(_is_ours(t, ours) for t in node.targets):
                yield source.at(node, f"{ast.unparse(node)}: use a seam")

    check(rule, "tests")


def _names_of_ours(source: Source) -> set[str]:
    found: set[str] = set()
    for node in source.nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "durable":
            found |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            names = [alias.asname or alias.name for alias in node.names]
            found |= {name.split(".")[0] for name in names if name.startswith("durable")}
    return found


def _is_mock(node: ast.Import | ast.ImportFrom) -> bool:
    module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    names = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
    return any(re.match(r"(unittest\.)?mock\b", name) for name in names)


def _is_patch(node: ast.Call, ours: set[str]) -> bool:
    if not dotted(node.func).endswith(
        ("monkeypatch.setattr", "monkeypatch.delattr", "mocker.patch")
    ):
        return False
    target = node.args[0] if node.args else None
    if isinstance(target, ast.Constant):
        return str(target.value).startswith("durable")
    return target is not None and dotted(target).split(".")[0] in ours


def _is_ours(target: ast.expr, ours: set[str]) -> bool:
    return isinstance(target, ast.Attribute) and dotted(target).split(".")[0] in ours
