"""Pages of documentation as programs: their blocks, and what it means to run them.

A page is typed into one notebook, from top to bottom: its python blocks share a module
and an event loop, `await` is allowed anywhere, and `start` finds an open runtime whose
time jumps ahead whenever nothing else happens. So a block that sleeps for a week takes a
moment. The rules:

- a ``text`` block holds what the python block before it prints, and a block that prints
  has one; ``...`` stands for anything, within a line or as a line of its own;
- a python block whose first line is a comment with a file name is a file, not typed in;
- a ``console`` block is a session: lines behind ``$`` are run, the others are compared;
- in a block behind ``<!-- time stands still -->`` time does not jump.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import os
import re
import shlex
import sys
import types
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import durable
from durable._surface.cli import main
from durable.testing import VirtualRuntime

ROOT = Path(__file__).parents[2]
DOCS = Path(durable.__file__).parent / "docs"
MODULE = "app"  # what the notebook, or the program, is called
LANGUAGES = {"python", "text", "console", "sh"}
READERS = {"runs", "show", "docs"}  # commands that a process may give to itself
STANDS_STILL = "<!-- time stands still -->"
LIMIT_SECONDS = 50.0  # for a page

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w/]+\.py)\n")


@dataclass(frozen=True)
class Block:
    """One block of a page; `line` is where its code begins."""

    page: str
    line: int
    language: str
    code: str
    stands_still: bool = False

    @property
    def where(self) -> str:
        """Its place, for messages."""
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that it is, if it is one."""
        found = _FILE.match(self.code)
        return found[1] if found else None


def blocks_of(page: str, text: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        still = text[: match.start()].rstrip().endswith(STANDS_STILL)
        found.append(Block(page, line, match[1], match[2], still))
    return found


def page_names() -> list[str]:
    """Return the names of all pages."""
    return sorted(path.stem for path in DOCS.glob("*.md"))


def read(name: str) -> str:
    """Return the text of a page."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


# --- a notebook (see conftest.py) ----------------------------------------------------------


async def execute(code: str, name: str, namespace: dict[str, object]) -> None:
    """Execute a cell, with `await` allowed outside functions as in a notebook."""
    compiled = compile(code, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = types.FunctionType(compiled, namespace)()
    if asyncio.iscoroutine(result):
        await result


async def perform(blocks: list[Block], namespace: dict[str, object]) -> None:
    """Run all blocks of a page, and hold what they print against what the page shows."""
    async with asyncio.timeout(LIMIT_SECONDS), VirtualRuntime("durable.db") as runtime:
        for block, following in zip(blocks, [*blocks[1:], None], strict=False):
            if block.language == "python":
                shown = following.code if following and following.language == "text" else ""
                async with _time(runtime, block):
                    await _perform_python(block, shown, namespace)
            elif block.language in {"console", "sh"}:
                await _perform_session(block)


@contextlib.asynccontextmanager
async def _time(runtime: VirtualRuntime, block: Block) -> AsyncIterator[None]:
    if block.stands_still:
        yield
    else:
        async with runtime.fast_forward():
            yield


async def _perform_python(block: Block, shown: str, namespace: dict[str, object]) -> None:
    if block.file is not None:
        path = Path(block.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code, encoding="utf-8")
        return
    printed = io.StringIO()
    lines = "\n" * (block.line - 1)  # so that tracebacks name lines of the page
    try:
        with contextlib.redirect_stdout(printed):
            await execute(lines + block.code, block.page, namespace)
    except Exception as error:
        error.add_note(f"in the block at {block.where}, which printed {printed.getvalue()!r}")
        raise
    compare(block, printed.getvalue(), shown)


def compare(block: Block, printed: str, shown: str) -> None:
    """Fail unless what was printed is what the page shows."""
    assert _as_pattern(shown).fullmatch(_trimmed(printed)), (
        f"{block.where} printed\n{printed}\nand the page shows\n{shown}"
    )


def _trimmed(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.rstrip().splitlines())


def _as_pattern(shown: str) -> re.Pattern[str]:
    """Return the pattern of an output in which ``...`` stands for anything."""
    lines = []
    for line in _trimmed(shown).splitlines():
        if line.strip() == "...":
            lines.append(r"(?:.*\n)*")
        else:
            lines.append(".*".join(map(re.escape, re.split(r" *\.\.\. *", line))) + r"\n")
    return re.compile("".join(lines))


# --- a session ----------------------------------------------------------------------------


async def _perform_session(block: Block) -> None:
    for command, shown in _commands(block):
        if not _is_ours(command):
            continue
        compare(block, await _run(command), shown)


def _commands(block: Block) -> Iterator[tuple[str, str]]:
    """Yield each command with the output that the page shows below it."""
    if block.language == "sh":  # commands alone
        for line in block.code.splitlines():
            if line.strip() and not line.startswith("#"):
                yield line, "..."
        return
    for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def _is_ours(command: str) -> bool:
    """Tell whether a command is one of ours, or a program of the page."""
    return command.split(maxsplit=1)[0] in {"durable", "python"}


async def _run(command: str) -> str:
    """Run a command as a shell would and return what it prints."""
    program, *arguments = shlex.split(command, comments=True)
    if program == "durable" and arguments[0] in READERS:
        return await asyncio.to_thread(_read, arguments)
    if program == "durable":
        arguments = ["-m", "durable", *arguments]
    paths = [str(DOCS.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take their time to load
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await process.communicate()
    killed = "Killed\n" if process.returncode == -9 else ""
    return printed.decode() + killed


def _read(arguments: list[str]) -> str:
    """Perform one of our commands here, which is much faster, and return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        main(arguments)
    return printed.getvalue()
