"""`durable docs`: the pages as an installed copy shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from durable._surface import manual
from durable._surface.cli import main
from tests.docs.pages import page_names, read

ROOT = Path(__file__).resolve().parents[2]


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Perform ``durable docs ...``: exit code, stdout, stderr."""
    code = main(["docs", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_docs_lists_every_page_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, in the order of the index, short enough for a terminal."""
    code, out, err = command(capsys)
    lines = out.split("\n\n")[0].splitlines()
    assert (code, err) == (0, "")
    names = [line.split()[0] for line in lines]
    assert sorted(names) == page_names()
    assert names[:3] == ["index", "quickstart", "workflows"]
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)
    assert max(map(len, lines)) <= 140


@pytest.mark.parametrize("name", ["steps", "STEPS", "steps.md"])
def test_docs_prints_a_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As it is, but for the remarks to its tests; not to a pager, since this is no terminal."""
    code, out, err = command(capsys, name)
    assert (code, out, err) == (0, read("steps"), "")


def test_docs_leaves_out_what_is_meant_for_tests(capsys: pytest.CaptureFixture[str]) -> None:
    """Comments of Markdown are not shown elsewhere either."""
    assert "<!--" in read("runs")
    assert "<!--" not in command(capsys, "runs")[1]


def test_docs_of_an_unknown_page_names_the_closest_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A slip of the finger is put right; else the way to the list is told."""
    assert command(capsys, "step") == (
        1, "", "durable: there is no page 'step': did you mean 'steps'?\n",
    )  # fmt: skip
    assert "`durable docs` lists the pages" in command(capsys, "zzz")[2]


def test_docs_search_finds_a_word_in_all_pages(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line with its page and number; capitals do not matter."""
    code, out, err = command(capsys, "--search", "IDEMPOTENCY_key")
    assert (code, err) == (0, "")
    hits = out.splitlines()
    assert any(hit.startswith("steps:") for hit in hits)
    assert all("idempotency_key" in hit.lower() for hit in hits)
    page, number, line = hits[0].split(":", 2)
    shown = manual.page(page).text.splitlines()[int(number) - 1]
    assert shown.strip() == line.strip()


def test_docs_search_for_what_is_nowhere_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """With an exit code for scripts."""
    nowhere = "q" * 9
    assert command(capsys, "--search", nowhere) == (1, f"no page contains '{nowhere}'\n", "")


def test_a_summary_is_the_first_sentence() -> None:
    """Or the first paragraph, where no sentence ends."""
    assert manual.Page("x", "# X\n\nOne thing.\nMore.\n\nElse.\n").summary == "One thing"
    assert manual.Page("x", "# X\n\nOne\nthing\n\nElse.\n").summary == "One thing"
    assert manual.Page("x", "# X\n\nVersion 1.5 of it.\n").summary == "Version 1.5 of it"


@pytest.mark.skipif(not (ROOT / "CHANGELOG.md").exists(), reason="needs a whole checkout")
def test_each_promise_names_tests_that_are_there() -> None:
    """The table of the design page has a row for each promise, and no name of a lost file."""
    promises = re.findall(r"^\d+\. \*\*", read("guarantees"), re.MULTILINE)
    _, _, rest = read("design").partition("tests that keep them")
    rows = [line for line in rest.partition("\n## ")[0].splitlines() if "| `tests/" in line]
    assert len(rows) >= len(promises) > 10
    for row in rows:
        folder = ""
        for name in re.findall(r"`([a-z_/]+\.py)`", row):
            folder = name.rpartition("/")[0] or folder
            assert (ROOT / folder / name.rpartition("/")[2]).is_file(), f"{name} in {row}"
