"""The README: short, and every block of it does what it says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

import durable
from tests.docs.pages import ROOT, blocks_of, execute
from tests.surface.programs import Program, spawn

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = TEXT.splitlines()


def blocks(language: str) -> list[str]:
    """Return the code of all blocks in a language, in order."""
    return [block.code for block in blocks_of("README.md", TEXT) if block.language == language]


# --- its shape --------------------------------------------------------------------------


def test_readme_is_short_and_begins_with_code() -> None:
    """At most 150 lines, and code by line 15."""
    assert len(LINES) <= 150
    first = next(number for number, line in enumerate(LINES, 1) if line.startswith("```"))
    assert first <= 15


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    """Python is executed, sessions are compared, commands are those of CI; nothing else."""
    fences = [line for line in LINES if line.startswith("```")]
    assert set(fences[::2]) <= {"```python", "```console", "```sh"}
    assert set(fences[1::2]) == {"```"}


def test_commands_are_the_ones_that_are_tested() -> None:
    """One line for the demonstration, one for the tests, each complete on a fresh machine."""
    (text,) = blocks("sh")
    commands = [line for line in text.splitlines() if not line.startswith("#")]
    setup = "python3 -m venv .venv && .venv/bin/pip install -e"
    assert commands == [
        f"{setup} . && .venv/bin/python -m durable demo",
        f"{setup} '.[dev]' && .venv/bin/python -m pytest",
    ]


@pytest.mark.skipif(not (ROOT / "CHANGELOG.md").exists(), reason="needs a whole checkout")
def test_links_lead_to_files_that_are_there() -> None:
    """Relative links point into the repository."""
    targets = re.findall(r"\]\(([^)#]+)\)", "\n".join(LINES))
    missing = [path for path in targets if "://" not in path and not (ROOT / path).exists()]
    assert targets
    assert missing == []


def test_folders_of_the_map_exist() -> None:
    """The map of the rooms names what `ls durable` shows."""
    rows = [line for line in LINES if line.startswith("| `_")]
    named = {name for row in rows for name in re.findall(r"`(_\w+)`", row)}
    package = Path(durable.__file__).parent
    folders = {path.name for path in package.glob("_[a-z]*") if path.is_dir()}
    assert named == folders - {"_base"}


# --- its program, killed and run again ------------------------------------------------------


@pytest.mark.slow
def test_the_example_does_what_its_session_shows(tmp_path: Path) -> None:
    """Killed while packing and run again, it prints exactly the lines of the README."""
    program = Program(tmp_path, blocks("python")[0], "orders.py")
    (session,) = blocks("console")
    first, second = (part.splitlines()[1:] for part in session.split("$ python orders.py")[1:])
    with spawn(program) as process:
        process.until("packing A-17")
        process.kill()
        assert [*process.lines, "Killed"] == first
    with spawn(program) as process:
        assert process.end() == 0
        assert process.lines == second


# --- its tour, typed into one notebook --------------------------------------------------------


def test_the_tour_runs_as_it_is(notebook: dict[str, object]) -> None:
    """All blocks after the first, in order, in one namespace and one loop."""

    async def type_everything() -> None:
        for number, code in enumerate(blocks("python")[1:], 1):
            await execute(code, f"README.md, block {number} of the tour", notebook)

    asyncio.run(asyncio.wait_for(type_everything(), 20))
