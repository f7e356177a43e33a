"""The shape of the code: sizes, docstrings and words."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.style.sources import ROOT, Documented, Function, Source, check, docstring, sources

EVERYWHERE = ("durable", "tests", "benchmarks")
SHIPPED = ("durable", "benchmarks")

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
NESTING_MAX = 3
PARAMETERS_MAX = 6
LINE_CHARACTERS_MAX = 100
MODULE_DOCSTRING_LINES = range(3, 31)

PRAGMA = re.compile("  # (type: ignore|noqa).*")  # the formatter does not break these either

TOP_LEVEL = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "benchmarks",
    "durable",
    "pyproject.toml",
    "tests",
}

# One word, one thing. These name something else (SQLite's, other libraries') or nothing.
RESERVED_WORDS = frozenset("activity awakeable helper helpers job jobs manager util utils".split())
JOURNAL_WORDS = frozenset({"checkpoint", "transaction"})  # SQLite's, so the journal may say them

NESTING = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.With,
    ast.AsyncWith,
    ast.Try,
    ast.TryStar,
    ast.Match,
)


# --- sizes --------------------------------------------------------------------------


def test_files_have_at_most_500_lines() -> None:
    """A file fits into one reading."""

    def rule(source: Source) -> Iterator[str]:
        if len(source.lines) > FILE_LINES_MAX:
            yield f"{source.path}: {len(source.lines)} lines"

    check(rule, *EVERYWHERE)


def test_functions_have_at_most_60_lines_of_code() -> None:
    """A function fits onto one screen."""

    def rule(source: Source) -> Iterator[str]:
        for node in source.functions:
            if (size := source.code_lines(node)) > FUNCTION_LINES_MAX:
                yield source.at(node, f"{node.name} has {size} lines of code")

    check(rule, *EVERYWHERE)


def test_statements_nest_at_most_three_deep() -> None:
    """Early returns and small functions instead of pyramids."""

    def rule(source: Source) -> Iterator[str]:
        for node in source.functions:
            if (depth := _nesting(node)) > NESTING_MAX:
                yield source.at(node, f"{node.name} nests {depth} deep")

    check(rule, *SHIPPED)


def test_functions_take_at_most_six_positional_parameters() -> None:
    """More than six are options, which are given by keyword."""

    def rule(source: Source) -> Iterator[str]:
        for node in source.functions:
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            count = len([name for name in names if name not in {"self", "cls"}])
            if count > PARAMETERS_MAX and not node.name.startswith("__"):
                yield source.at(node, f"{node.name} takes {count} positional parameters")

    check(rule, *SHIPPED)


def test_lines_have_at_most_100_characters() -> None:
    """Also in SQL and in shell scripts, which the formatter does not see."""
    found = [
        f"{path.relative_to(ROOT)}:{number} has {len(line)} characters"
        for path in [*ROOT.glob("durable/**/*.sql"), *_python_files(), ROOT / ".ci" / "run"]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(PRAGMA.sub("", line)) > LINE_CHARACTERS_MAX
    ]
    assert not found, "\n" + "\n".join(found)


def _python_files() -> Iterator[Path]:
    return (ROOT / source.path for source in sources(*EVERYWHERE))


def _nesting(node: ast.AST, depth: int = 0) -> int:
    deepest = depth
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, _SEPARATE):
                continue
            is_elif = name == "orelse" and isinstance(node, ast.If) and value == [child]
            deeper = isinstance(child, NESTING) and not (is_elif and isinstance(child, ast.If))
            deepest = max(deepest, _nesting(child, depth + deeper))
    return deepest


_SEPARATE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


# --- docstrings -----------------------------------------------------------------------


def test_every_module_opens_with_a_docstring_of_3_to_30_lines() -> None:
    """It tells what the module owns, its invariants, and what it leaves to others."""

    def rule(source: Source) -> Iterator[str]:
        text = docstring(source.tree)
        size = text.end_lineno - text.lineno + 1 if text and text.end_lineno else 0
        if size not in MODULE_DOCSTRING_LINES:
            yield f"{source.path}: its docstring has {size} lines"

    check(rule, "durable")


def test_every_public_class_and_function_has_a_docstring() -> None:
    """In private modules too: everything that another module may use."""

    def rule(source: Source) -> Iterator[str]:
        for node in _public(source.tree):
            if docstring(node) is None and not _is_overload(node):
                yield source.at(node, f"{node.name} has no docstring")

    check(rule, *SHIPPED)


def test_every_test_says_in_one_line_what_holds() -> None:
    """Each test module and each test function has a docstring; a test's is one line."""

    def rule(source: Source) -> Iterator[str]:
        if docstring(source.tree) is None:
            yield f"{source.path}: has no docstring"
        for node in source.functions:
            text = docstring(node)
            if node.name.startswith("test_") and (text is None or "\n" in str(text.value)):
                yield source.at(node, f"{node.name} has no docstring of one line")

    check(rule, "tests")


def test_tests_are_plain_functions() -> None:
    """No class wraps tests; state comes from fixtures."""

    def rule(source: Source) -> Iterator[str]:
        for node in source.nodes:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                yield source.at(node, f"class {node.name}")

    check(rule, "tests")


def _public(tree: ast.Module) -> Iterator[ast.ClassDef | Function]:
    for node in tree.body:
        is_definition = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if is_definition and not node.name.startswith("_"):
            yield node


def _is_overload(node: Documented) -> bool:
    return any("overload" in ast.unparse(line) for line in getattr(node, "decorator_list", []))


# --- words ----------------------------------------------------------------------------


def test_reserved_words_name_none_of_our_things() -> None:
    """Modules, classes and functions keep to the glossary."""

    def rule(source: Source) -> Iterator[str]:
        banned = RESERVED_WORDS if "/_journal/" in source.path else RESERVED_WORDS | JOURNAL_WORDS
        for node, name in _names(source):
            if used := banned & set(_words(name)):
                yield source.at(node, f"{name}: {', '.join(sorted(used))} is not a word of ours")

    check(rule, *SHIPPED)


def test_files_name_no_place_of_the_machine_they_were_written_on() -> None:
    """The project runs anywhere, so no file holds a home directory or the like."""
    places = re.compile("/(root|home|work|Users)/[a-z.]")
    mine = [".ci/run", "pyproject.toml", "README.md", "CHANGELOG.md"]
    texts = [(name, (ROOT / name).read_text(encoding="utf-8")) for name in mine]
    texts += [(source.path, source.text) for source in sources(*EVERYWHERE)]
    found = [f"{name}: {hit.group()}..." for name, text in texts for hit in places.finditer(text)]
    assert not found, "\n" + "\n".join(found)


def _names(source: Source) -> Iterator[tuple[ast.AST, str]]:
    yield source.tree, source.path.rsplit("/", 1)[1].removesuffix(".py")
    for node in source.nodes:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node, node.name


def _words(name: str) -> list[str]:
    return re.sub("([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_")


# --- the root -------------------------------------------------------------------------


def test_top_level_holds_nothing_but_the_agreed_names() -> None:
    """What `ls` shows at the root is the design's list, and all of it is there."""
    assert _top_level() == TOP_LEVEL


def test_ci_runs_the_commands_that_the_readme_gives() -> None:
    """One line sets up and passes the tests, and it is the line that CI goes through."""
    setup = "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]'"
    tests = ".venv/bin/python -m pytest"
    assert f"{setup} && {tests}" in (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert setup in ci
    assert tests in ci


def _top_level() -> set[str]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return {path.name for path in ROOT.iterdir() if path.name[0] not in "._"}
    options = ["ls-files", "--cached", "--others", "--exclude-standard"]
    trust = ["-c", f"safe.directory={ROOT}"]
    listed = subprocess.run(
        [git, *trust, *options], cwd=ROOT, check=True, capture_output=True, text=True
    )
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    return {name for name in names if not name.startswith(".") and (ROOT / name).exists()}
