"""The rooms: who may import whom, with lazy and type-only imports counted."""

from __future__ import annotations

import graphlib
import subprocess
import sys

import grimp

from tests.style.sources import ROOT


def test_rooms_import_only_downwards() -> None:
    """The contracts of pyproject.toml hold: layers, and who alone imports what."""
    # In a process of its own, because it sets logging up anew for the whole process.
    program = "import sys; from importlinter.cli import lint_imports as lint; sys.exit(lint(%s))"
    options = "no_cache=True, no_logo=True"
    linted = subprocess.run(
        [sys.executable, "-c", program % options],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_modules_form_no_import_cycle() -> None:
    """No module depends on itself, not even by a lazy or a type-only import."""
    graph = grimp.build_graph("durable", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None
