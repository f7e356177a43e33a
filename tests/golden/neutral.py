"""Code under paths that are the same on every machine.

Recorded errors hold tracebacks, and these hold the paths of source files; those of the
machine that writes golden journals are nobody's business. Modules imported after `install`
know their source by its path from the root of the repository.
"""

from __future__ import annotations

import sys
from importlib.machinery import FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).parents[2]


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Compile the source anew: compiled files are of another path."""
        path = Path(self.get_filename(fullname))
        code: CodeType = compile(path.read_bytes(), str(path.relative_to(ROOT)), "exec")
        return code


def _hook(path: str) -> FileFinder:
    if not Path(path).resolve().is_relative_to(ROOT):
        raise ImportError(path)
    return FileFinder(path, (_Loader, [".py"]))


def install() -> None:
    """Import the modules of this repository in this way from now on."""
    sys.path_hooks.insert(0, _hook)
    sys.path_importer_cache.clear()


def write() -> None:
    """Write a golden journal, see `writing`."""
    from tests.golden.writing import main

    main()
