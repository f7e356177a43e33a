"""The pages of documentation that lie in the package: list, print and search them.

Owns how a page is found and shown, so that an installed copy explains the version it
runs, also offline and to programs. The pages are `durable/docs/*.md`; `index.md` gives
their order. A page's summary is the first sentence below its heading.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from durable.errors import DurableError

WIDTH = 110
_INDEX = "index"
_LINK = re.compile(r"\]\(([\w-]+)\.md\)")
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)  # for the tests of the pages
_SENTENCE = re.compile(r"(.+?\.)(?:\s|$)", re.DOTALL)


class NoPageError(DurableError):
    """There is no page of documentation under this name."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its name, as in ``durable docs NAME``, and its text in Markdown."""

    name: str
    text: str

    @property
    def summary(self) -> str:
        """The first sentence below the heading, on one line."""
        body = self.text.partition("\n\n")[2]
        paragraph = " ".join(body.partition("\n\n")[0].split())
        found = _SENTENCE.match(paragraph)
        return found[1].rstrip(".") if found else paragraph


def pages() -> list[Page]:
    """Return all pages in the order of the index, the index first."""
    folder = resources.files("durable") / "docs"
    found = {
        entry.name.removesuffix(".md"): Page(
            entry.name.removesuffix(".md"), _COMMENT.sub("", entry.read_text(encoding="utf-8"))
        )
        for entry in folder.iterdir()
        if entry.name.endswith(".md")
    }
    order = [_INDEX, *_LINK.findall(found[_INDEX].text)]
    return sorted(found.values(), key=lambda page: (_place(page, order), page.name))


def _place(page: Page, order: list[str]) -> int:
    return order.index(page.name) if page.name in order else len(order)


def page(name: str) -> Page:
    """Return the page of this name; ``.md`` and capitals do not matter.

    Raises:
        NoPageError: there is none.
    """
    wanted = name.lower().removesuffix(".md")
    known = {each.name: each for each in pages()}
    if wanted in known:
        return known[wanted]
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    cure = f"did you mean {close[0]!r}?" if close else "`durable docs` lists the pages"
    raise NoPageError(f"there is no page {name!r}: {cure}")


def listing() -> str:
    """Return a line for each page: its name and its summary."""
    found = pages()
    width = max(len(each.name) for each in found)
    lines = [_listed(each, width) for each in found]
    hint = "Read one with `durable docs PAGE`, look for a word with --search."
    return "\n".join([*lines, "", hint])


def _listed(each: Page, width: int) -> str:
    return f"{each.name.ljust(width)}  {textwrap.shorten(each.summary, WIDTH, placeholder=' ...')}"


def search(word: str) -> list[str]:
    """Return the lines that contain `word`, each as ``page:number: line``."""
    return list(_hits(word.casefold()))


def _hits(word: str) -> Iterator[str]:
    for each in pages():
        for number, line in enumerate(each.text.splitlines(), 1):
            if word in line.casefold():
                yield f"{each.name}:{number}: {line.strip()}"


# --- the command --------------------------------------------------------------------------


def add_docs(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of ``durable docs``."""
    parser.add_argument("page", metavar="PAGE", nargs="?", help="print this page")
    parser.add_argument("--search", metavar="WORD", help="print the lines that contain WORD")
    parser.set_defaults(perform=_perform)


def _perform(arguments: argparse.Namespace) -> int:
    if arguments.search is not None:
        found = search(arguments.search)
        print("\n".join(found) or f"no page contains {arguments.search!r}")
        return 0 if found else 1
    if arguments.page is None:
        print(listing())
    elif sys.stdout.isatty():
        import pydoc

        pydoc.pager(page(arguments.page).text)
    else:
        print(page(arguments.page).text, end="")
    return 0
