"""The rooms: who may import whom, with lazy and type-only imports counted."""

from __future__ import annotations

import graphlib
import os

import grimp
from importlinter.cli import lint_imports

from tests.style.sources import ROOT


def test_rooms_import_only_downwards() -> None:
    """The contracts of pyproject.toml hold: layers, and who alone imports what."""
    previous = os.getcwd()
    os.chdir(ROOT)
    try:
        assert lint_imports(no_cache=True, no_logo=True) == 0, "see the captured output"
    finally:
        os.chdir(previous)


def test_modules_form_no_import_cycle() -> None:
    """No module depends on itself, not even by a lazy or a type-only import."""
    graph = grimp.build_graph("durable", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None
