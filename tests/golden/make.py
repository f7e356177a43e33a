"""Writes the golden journals of this version: ``python -m tests.golden.make``.

For each Python of this machine there are two: `clean`, closed in good order, and `unclean`,
as a process leaves it that is killed while steps are running. A golden journal is a small
archive with the journal's files and `facts.json`: what everybody could see when it was left.

Run it once when a version is released (or, before the first release, when the schema has
changed), and commit what it writes. Journals of released versions are never written again.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from durable._journal.migrations import LATEST
from tests.determinism.matrix import LENT, ROOT, other_pythons
from tests.golden.writing import FILES

JOURNALS = Path(__file__).parent / "journals"
ENDS = ("clean", "unclean")
_WRITE = "from tests.golden import neutral; neutral.install(); neutral.write()"


def names() -> list[str]:
    """Return the names of the golden journals that there are."""
    return sorted(path.name.removesuffix(".tar.xz") for path in JOURNALS.glob("*.tar.xz"))


def pack(place: Path, name: str) -> Path:
    """Put a journal's files into its archive; the same files make the same archive."""
    target = JOURNALS / f"{name}.tar.xz"
    with tarfile.open(target, "w:xz") as archive:
        for file in (*FILES, "facts.json"):
            if (place / file).exists():
                info = tarfile.TarInfo(file)
                content = (place / file).read_bytes()
                info.size, info.mode = len(content), 0o600
                archive.addfile(info, io.BytesIO(content))
    return target


def unpack(name: str, place: Path) -> dict[str, Any]:
    """Put a golden journal's files into `place`; return its facts."""
    with tarfile.open(JOURNALS / f"{name}.tar.xz") as archive:
        archive.extractall(place, filter="data")
    facts: dict[str, Any] = json.loads((place / "facts.json").read_text())
    return facts


def main() -> None:
    """Write those of all Pythons."""
    ours = ".".join(map(str, sys.version_info[:2]))
    JOURNALS.mkdir(exist_ok=True)
    for minor, python in {ours: sys.executable, **other_pythons()}.items():
        lent = {} if python == sys.executable else {"PYTHONPATH": LENT}
        for end in ENDS:
            with tempfile.TemporaryDirectory() as place:
                subprocess.run(
                    [python, "-c", _WRITE, place, end], env={**os.environ, **lent}, cwd=ROOT,
                    check=True,
                )  # fmt: skip
                made = pack(Path(place), f"v{LATEST}-python{minor}-{end}")
            print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
