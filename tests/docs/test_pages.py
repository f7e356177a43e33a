"""The pages in the package: every block does what the page says, and nothing is left out."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable

import pytest

import durable
from durable._surface.cli import main
from tests.docs.pages import DOCS, LANGUAGES, blocks_of, page_names, perform, read

PAGES = page_names()
# Methods of the public classes that are for other rooms of the library.
FOR_THE_LIBRARY = frozenset(
    "abandon going_down live_body make_engine open_journal owner_lost".split()
)
FOR_DEVELOPERS = {"design"}  # about the inside; its links lead into the repository


@pytest.mark.parametrize("name", PAGES)
def test_every_block_does_what_the_page_says(name: str, notebook: dict[str, object]) -> None:
    """All blocks in order, in one namespace and one loop, with the output that is shown."""
    asyncio.run(perform(blocks_of(f"{name}.md", read(name)), notebook))


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_of_a_kind_that_is_checked(name: str) -> None:
    """Fences are closed, and each names its language; outputs follow programs."""
    text = read(name)
    fences = re.findall(r"^```.*$", text, flags=re.MULTILINE)
    assert set(fences[1::2]) <= {"```"}
    assert {fence.removeprefix("```") for fence in fences[::2]} <= LANGUAGES
    blocks = blocks_of(name, text)
    for before, block in zip([None, *blocks], blocks, strict=False):
        if block.language == "text":
            assert before is not None and before.language == "python", block.where


@pytest.mark.parametrize("name", PAGES)
def test_a_page_begins_with_what_it_is_for(name: str) -> None:
    """A heading and a paragraph; the paragraph's first sentence is what listings show."""
    lines = read(name).splitlines()
    assert lines[0].startswith("# ")
    assert lines[1] == ""
    assert re.match(r"[A-Z`].*", lines[2])


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_pages_and_headings_that_are_there(name: str) -> None:
    """A link is the file name of another page, or a heading in one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_blocks(read(name))):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        path = DOCS / (file or f"{name}.md")
        assert path.is_file(), f"{name}.md links to {target}, which is missing"
        if heading:
            assert heading in _headings(path.read_text(encoding="utf-8")), target


def _without_blocks(text: str, language: str = "\\w*") -> str:
    return re.sub(rf"^```{language}\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _headings(text: str) -> set[str]:
    """Return the anchors of a page's headings, as they are made everywhere."""
    found = re.findall(r"^#+ (.+)$", _without_blocks(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in found}


def test_the_index_links_every_page_once() -> None:
    """It gives the order in which pages are listed and read."""
    linked = re.findall(r"\]\((\w[\w-]*)\.md\)", read("index"))
    assert len(linked) == len(set(linked))
    assert set(linked) == set(PAGES) - {"index"}


def test_every_public_name_is_on_some_page() -> None:
    """Who looks for a name of the package finds where it is explained."""
    text = "\n".join(map(read, PAGES))
    words = set(re.findall(r"\w+", text))
    missing = set(durable.__all__) - words
    assert missing == set()


@pytest.mark.parametrize(
    "cls", [durable.Run, durable.Runtime, durable.SyncRuntime, durable.Hook, durable.Writable]
)
def test_every_method_is_on_some_page(cls: type) -> None:
    """The public ones; those of the library's own parts are told by their docstrings."""
    text = "\n".join(map(read, PAGES))
    words = set(re.findall(r"\w+", text)) | FOR_THE_LIBRARY
    methods = {name for name, value in inspect.getmembers(cls) if callable(value)}
    assert {name for name in methods if not name.startswith("_")} - words == set()


@pytest.mark.parametrize("taker", [durable.Runtime, durable.step, durable.create_hook])
def test_every_option_is_on_some_page(taker: Callable[..., object]) -> None:
    """Between backticks, or as it is given in code."""
    text = "\n".join(map(read, PAGES))
    names = set(inspect.signature(taker).parameters) - {"fn", "path"}
    assert {name for name in names if not re.search(rf"`{name}\b|\b{name}=", text)} == set()


def test_every_option_of_a_start_is_on_some_page() -> None:
    """Those of `Workflow.options`, which are known by name only."""
    with pytest.raises(TypeError, match="unknown option") as refusal:
        nothing.options(unknown_option=1)
    names = str(refusal.value).rpartition("takes ")[2].split(", ")
    text = "\n".join(map(read, PAGES))
    assert len(names) > 5
    assert {name for name in names if f"{name}=" not in text} == set()


@durable.workflow
async def nothing() -> None:
    """Do nothing."""


def test_every_command_is_on_some_page(capsys: pytest.CaptureFixture[str]) -> None:
    """As ``durable COMMAND``, with what it is good for."""
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = set(
        re.findall(r"^    ([\w-]+)(?:  |$)", capsys.readouterr().out, flags=re.MULTILINE)
    )
    text = "\n".join(map(read, PAGES))
    assert {"docs", "runs"} <= commands
    assert {command for command in commands if f"durable {command}" not in text} == set()


def test_pages_name_no_place_of_the_machine_they_were_written_on() -> None:
    """They hold anywhere, so they hold no home directory or the like."""
    places = re.compile("/(root|home|work|Users)/[a-z.]")
    assert [name for name in PAGES if places.search(read(name))] == []


@pytest.mark.parametrize("name", PAGES)
def test_lines_can_be_read_in_a_terminal(name: str) -> None:
    """Text is broken at 100 characters; rows of tables and outputs may be longer."""
    text = _without_blocks(read(name), "text")
    long = [line for line in text.splitlines() if len(line) > 100 and not line.startswith("|")]
    assert name in FOR_DEVELOPERS or long == []
