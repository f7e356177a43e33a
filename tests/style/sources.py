"""The project's own source files, parsed once for all style tests.

Each rule of tests/style is a function from a `Source` to findings, and a finding is a
line ``path:line what is wrong``, so that a failing test reads like a compiler's output.
"""

from __future__ import annotations

import ast
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
Documented = ast.Module | ast.ClassDef | Function
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTION)


@dataclass(frozen=True, eq=False)
class Source:
    """One Python file: its path from the root, its text and its syntax tree."""

    path: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """Text by line; line n is ``lines[n - 1]``."""
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        gc.disable()  # it would look again and again at many objects that all stay
        try:
            return ast.parse(self.text, self.path)
        finally:
            gc.enable()

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the tree, from the outside in, each with its `parent`."""
        nodes: list[ast.AST] = [self.tree]
        for node in nodes:  # grows meanwhile
            for child in ast.iter_child_nodes(node):
                child.parent = node  # type: ignore[attr-defined]
                nodes.append(child)
        return nodes

    @cached_property
    def functions(self) -> list[Function]:
        """Every function and method, nested ones included."""
        return [node for node in self.nodes if isinstance(node, FUNCTION)]

    @cached_property
    def docstring_lines(self) -> frozenset[int]:
        """Numbers of the lines that belong to a docstring."""
        found: set[int] = set()
        for node in self.nodes:
            if isinstance(node, DOCUMENTED) and (text := docstring(node)):
                found |= set(range(text.lineno, (text.end_lineno or text.lineno) + 1))
        return frozenset(found)

    def code_lines(self, node: Function) -> int:
        """Lines of a function without blank ones, comments and docstrings."""
        numbers = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        return sum(1 for number in numbers if self._is_code(number))

    def _is_code(self, number: int) -> bool:
        text = self.lines[number - 1].strip()
        return bool(text) and not text.startswith("#") and number not in self.docstring_lines

    def at(self, node: ast.AST, message: str) -> str:
        """Return a finding about `node`."""
        return f"{self.path}:{getattr(node, 'lineno', 1)} {message}"


Rule = Callable[[Source], Iterable[str]]


def sources(*folders: str) -> tuple[Source, ...]:
    """Return the Python files below `folders`, in a fixed order."""
    return tuple(source for folder in folders for source in _below(folder))


@cache
def _below(folder: str) -> tuple[Source, ...]:
    return tuple(
        Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / folder).rglob("*.py"))
    )


def forget() -> None:
    """Drop what has been read and parsed."""
    _below.cache_clear()


def check(rule: Rule, *folders: str) -> None:
    """Fail with everything that `rule` finds below `folders`."""
    found = [finding for source in sources(*folders) for finding in rule(source)]
    assert not found, "\n" + "\n".join(found)


def docstring(node: Documented) -> ast.Constant | None:
    """Return the docstring of a module, class or function as a node."""
    first = node.body[0] if node.body else None
    if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant):
        return None
    return first.value if isinstance(first.value.value, str) else None


def parents(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what encloses `node`, from the inside out."""
    while (outer := getattr(node, "parent", None)) is not None:
        yield outer
        node = outer


def dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` for such an expression, with ``()`` for what is computed."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "()"


def calls(source: Source) -> Iterator[tuple[ast.Call, str]]:
    """Yield every call with the dotted name of what it calls."""
    for node in source.nodes:
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)
