"""docs/specification.md is whole: it leaves no sentence out, and every test that it names is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

REPOSITORY: Final = Path(__file__).parents[1]
PAGE: Final = REPOSITORY / "docs" / "specification.md"
REVISIONS: Final = ("2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
ROWS: Final = ("It says", "Where", "What happens here", "Shown by")
COUNTS: Final = ("Section", "Words", "A server's")

_ADDRESS: Final = re.compile(
    r"https://modelcontextprotocol\.io/specification/(?P<page>(?P<revision>[\d-]+)/[\w/-]+)(#[\w%-]+)?"
)
_TEST: Final = re.compile(r"tests/[\w/]+\.py::\w+(\[.+\])?")
_WORD: Final = re.compile(r"\b(?:(?:MUST|SHOULD|SHALL)(?: NOT)?|REQUIRED|(?:NOT )?RECOMMENDED)\b")
"""What RFC 2119 calls for, but for what is merely allowed."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    bold: tuple[str, ...]
    code: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    """What each link says, and where it leads."""


@dataclass(frozen=True)
class Table:
    """A table: the texts of its head, and its rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def cell_of(inline: Token) -> Cell:
    bold: list[str] = []
    code: list[str] = []
    links: list[tuple[str, str]] = []
    texts: list[str] = []
    inside: list[str] = []
    for token in inline.children or ():
        if token.type == "link_open":
            links.append(("", str(token.attrGet("href"))))
        inside = [*inside, token.tag] if token.nesting == 1 else inside[:-1] if token.nesting == -1 else inside
        if token.type == "code_inline":
            code.append(token.content)
        texts.append(token.content)
        if "strong" in inside and token.content:
            bold.append(token.content)
        if "a" in inside and token.content:
            links[-1] = (links[-1][0] + token.content, links[-1][1])
    return Cell("".join(texts), tuple(bold), tuple(code), tuple(links))


def tables(text: str) -> Iterator[Table]:
    rows: list[list[Cell]] = []
    for token in MarkdownIt().enable("table").parse(text):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            rows[-1].append(cell_of(token))
        elif token.type == "table_close":
            head, *body = rows
            yield Table(tuple(cell.text for cell in head), tuple(map(tuple, body)))
            rows = []


def rows_of(text: str, head: tuple[str, ...]) -> list[tuple[Cell, ...]]:
    return [row for table in tables(text) if table.head == head for row in table.rows]


def named_tests(text: str) -> set[str]:
    return {name for row in rows_of(text, ROWS) for name in row[3].code}


def faults(text: str, tests: Collection[str]) -> list[str]:
    """Return what is wrong with the page, given the tests that there are."""
    found = [f"a table of another kind: {table.head}" for table in tables(text) if table.head not in (ROWS, COUNTS)]
    in_bold: Counter[str] = Counter()
    for says, where, here, shown in rows_of(text, ROWS):
        name = says.text
        said = (_WORD.sub("", name).strip(" ,"), where.text, here.text, shown.text)
        found += [f"{name}: nothing about {head}" for head, told in zip(ROWS, said, strict=True) if not told]
        found += [f"{name}: {word} is no word of the kind" for word in says.bold if not _WORD.fullmatch(word)]
        found += link_faults(name, where)
        for _, address in where.links:
            in_bold[address] += len(says.bold)
        if not shown.code:
            found.append(f"{name}: no test")
        for test in shown.code:
            if not _TEST.fullmatch(test):
                found.append(f"{name}: {test} is no name of a test")
            elif not any(each == test or each.startswith(f"{test}[") for each in tests):
                found.append(f"{name}: there is no {test}")
    counted: set[str] = set()
    for section, words, server in rows_of(text, COUNTS):
        found += link_faults(section.text, section)
        for _, address in section.links:
            counted.add(address)
            if in_bold[address] != int(server.text):
                found.append(f"{section.text}: {server.text} sentences, but {in_bold[address]} in the rows")
        if int(server.text) > int(words.text):
            found.append(f"{section.text}: more sentences for a server than there are")
    for address in in_bold:
        if "/basic/transports" in address and address not in counted:
            found.append(f"{address} is not counted")
    return found


def link_faults(name: str, cell: Cell) -> list[str]:
    found = [f"{name}: a link that leads nowhere: {cell.text}"] if "[" in cell.text or not cell.links else []
    for text, address in cell.links:
        matched = _ADDRESS.fullmatch(address)
        if matched is None or matched["revision"] not in REVISIONS or text != matched["revision"]:
            found.append(f"{name}: the link {text} leads to {address}")
    return found


def collected(files: Collection[str]) -> set[str]:
    """Return the ids of all tests in these files, as pytest collects them."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", *sorted(files)]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return {line for line in ran.stdout.splitlines() if "::" in line}


def test_every_sentence_has_its_section_what_we_do_and_tests_that_there_are(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text()
    found = faults(text, {item.nodeid for item in request.session.items})
    if found:  # not all tests are run now
        found = faults(text, collected({test.partition("::")[0] for test in named_tests(text)}))
    assert found == []


def test_all_revisions_are_there() -> None:
    linked = Counter(revision for row in rows_of(PAGE.read_text(), ROWS) for revision, _ in row[1].links)
    assert linked.keys() == set(REVISIONS)
    assert min(linked.values()) > 20


def words_of(directory: Path, page: str) -> dict[str, int]:
    """Return how many words of the kind stand under each heading of a page of the specification, by its anchor."""
    counts: Counter[str] = Counter()
    anchor = ""
    for line in (directory / f"{page}.mdx").read_text().splitlines():
        heading = re.fullmatch(r"#+ (.+)", line)
        if heading is not None:
            anchor = f"#{anchor_of(heading[1])}"
        counts[anchor] += len(_WORD.findall(line))
    return counts


def anchor_of(heading: str) -> str:
    """Return what the site makes of a heading."""
    kept = re.sub(r"[^\w&+ -]", "", heading.lower()).replace(" ", "-")
    return kept.replace("&", "%26").replace("+", "%2B")


@pytest.mark.skipif(
    "MCP_SPECIFICATION" not in os.environ, reason="MCP_SPECIFICATION does not name the text to count in"
)
def test_the_words_are_as_many_as_in_the_text() -> None:
    directory = Path(os.environ["MCP_SPECIFICATION"])
    told = {row[0].links[0][1]: int(row[1].text) for row in rows_of(PAGE.read_text(), COUNTS)}
    site = "https://modelcontextprotocol.io/specification/"
    pages = {address.partition("#")[0].removeprefix(site) for address in told}
    there = {
        f"{site}{page}{anchor}": count
        for page in pages
        for anchor, count in words_of(directory, page).items()
        if count or f"{site}{page}{anchor}" in told
    }
    assert told == there


# ---------------------------------------------------------------- what is found


GOOD: Final = """
| It says | Where | What happens here | Shown by |
|---|---|---|---|
| **MUST**, **MUST NOT** A thing. | [2025-11-25][a] | It does. | `tests/a.py::test_a`<br>`tests/a.py::test_b[one two]` |
| *may* Another. | [2025-11-25][a], [2026-07-28][b] | It does not. | `tests/a.py::test_b` |

| Section | Words | A server's |
|---|---|---|
| [2025-11-25][a]: A | 3 | 2 |
| [2026-07-28][b]: B | 0 | 0 |

[a]: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#a
[b]: https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http#b-%26-c
"""
THERE: Final = {"tests/a.py::test_a", "tests/a.py::test_b[one two]", "tests/a.py::test_b[three]"}


def test_nothing_is_wrong_with_a_page_that_is_whole() -> None:
    assert faults(GOOD, THERE) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("A thing.", "", "nothing about It says"),
        ("test_a`", "test_c`", "there is no tests/a.py::test_c"),
        ("test_b[one two]", "test_b[two]", "there is no tests/a.py::test_b[two]"),
        ("`tests/a.py::test_b` |", "`a.py` |", "a.py is no name of a test"),
        ("`tests/a.py::test_b` |", "a test |", "no test"),
        ("`tests/a.py::test_b` |", "|", "nothing about Shown by"),
        ("It does not.", "", "nothing about What happens here"),
        ("| *may* Another. ", "| ", "nothing about It says"),
        ("[2025-11-25][a] | It does.", "| It does.", "nothing about Where"),
        ("[2025-11-25][a] | It does.", "[2025-11-25][c] | It does.", "leads nowhere"),
        ("[2025-11-25][a] | It does.", "2025-11-25 | It does.", "leads nowhere"),
        ("[2026-07-28][b] |", "[2025-11-25][b] |", "the link 2025-11-25 leads to"),
        ("[a]: https", "[a]: http", "leads to http:"),
        ("2026-07-28/basic", "2027-07-28/basic", "leads to https://modelcontextprotocol.io/specification/2027"),
        ("**MUST NOT**", "**MAY**", "MAY is no word of the kind"),
        ("**MUST**, **MUST NOT**", "**MUST**", "2 sentences, but 1 in the rows"),
        ("| 3 | 2 |", "| 1 | 2 |", "more sentences for a server than there are"),
        ("| [2026-07-28][b]: B | 0 | 0 |\n", "", "is not counted"),
        ("| Section | Words |", "| Section | Number |", "a table of another kind"),
    ],
)
def test_what_is_wrong_with_a_page_is_found(old: str, new: str, fault: str) -> None:
    assert GOOD.count(old)
    broken = GOOD.replace(old, new, 1)
    found = faults(broken, THERE)
    assert any(fault in each for each in found), found
