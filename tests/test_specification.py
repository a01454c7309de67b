"""docs/specification.md is complete: it has all rules of the transport chapters, and the tests that it names exist."""

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
ROWS: Final = ("Rule", "Section", "What mcp-tornado does", "Tests")
"""The head of a table of rules."""
COUNTS: Final = ("Section", "Keywords", "For a server")
"""The head of the table of counts."""

_ADDRESS: Final = re.compile(
    r"https://modelcontextprotocol\.io/specification/(?P<page>(?P<revision>[\d-]+)/[\w/-]+)(#[\w%-]+)?"
)
_TEST: Final = re.compile(r"tests/[\w/]+\.py::\w+(\[.+\])?")
_KEYWORD: Final = re.compile(r"\b(?:(?:MUST|SHOULD|SHALL)(?: NOT)?|REQUIRED|(?:NOT )?RECOMMENDED)\b")
"""The keywords of RFC 2119, without those of mere permission."""


@dataclass(frozen=True)
class Cell:
    """A cell of a Markdown table."""

    text: str
    bold: tuple[str, ...]
    code: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    """The text and the address of each link."""


@dataclass(frozen=True)
class Table:
    """A Markdown table: the texts of its head, and its rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def cell_of(inline: Token) -> Cell:
    """Return a table cell from its inline token."""
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
    """Return all tables of a Markdown text."""
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
    """Return the rows of all tables with this head."""
    return [row for table in tables(text) if table.head == head for row in table.rows]


def named_tests(text: str) -> set[str]:
    """Return the names of all tests in the tables of rules."""
    return {name for row in rows_of(text, ROWS) for name in row[3].code}


def faults(text: str, tests: Collection[str]) -> list[str]:
    """Return the faults of the page.

    Args:
        text: The page.
        tests: The ids of all tests that exist.
    """
    found = [
        f"a table with an unknown head: {table.head}" for table in tables(text) if table.head not in (ROWS, COUNTS)
    ]
    in_bold: Counter[str] = Counter()
    for rule, section, behaviour, shown in rows_of(text, ROWS):
        name = rule.text
        texts = (_KEYWORD.sub("", name).strip(" ,"), section.text, behaviour.text, shown.text)
        found += [f"{name}: nothing in {head}" for head, cell in zip(ROWS, texts, strict=True) if not cell]
        found += [f"{name}: {word} is not a keyword" for word in rule.bold if not _KEYWORD.fullmatch(word)]
        found += link_faults(name, section)
        for _, address in section.links:
            in_bold[address] += len(rule.bold)
        if not shown.code:
            found.append(f"{name}: no test")
        for test in shown.code:
            if not _TEST.fullmatch(test):
                found.append(f"{name}: {test} is not the name of a test")
            elif not any(each == test or each.startswith(f"{test}[") for each in tests):
                found.append(f"{name}: {test} does not exist")
    counted: set[str] = set()
    for section, keywords, server in rows_of(text, COUNTS):
        found += link_faults(section.text, section)
        for _, address in section.links:
            counted.add(address)
            if in_bold[address] != int(server.text):
                found.append(f"{section.text}: {server.text} keywords for a server, but {in_bold[address]} in the rows")
        if int(server.text) > int(keywords.text):
            found.append(f"{section.text}: more keywords for a server than keywords")
    for address in in_bold:
        if "/basic/transports" in address and address not in counted:
            found.append(f"{address} is not counted")
    return found


def link_faults(name: str, cell: Cell) -> list[str]:
    """Return the faults of the links in a cell."""
    found = [f"{name}: a link without an address: {cell.text}"] if "[" in cell.text or not cell.links else []
    for text, address in cell.links:
        matched = _ADDRESS.fullmatch(address)
        if matched is None or matched["revision"] not in REVISIONS or text != matched["revision"]:
            found.append(f"{name}: the link {text} leads to {address}")
    return found


def collected(files: Collection[str]) -> set[str]:
    """Return the ids of all tests that pytest collects in these files."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", *sorted(files)]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return {line for line in ran.stdout.splitlines() if "::" in line}


def test_every_rule_has_a_section_a_behaviour_and_existing_tests(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text()
    found = faults(text, {item.nodeid for item in request.session.items})
    if found:  # this run may have collected only some of the tests
        found = faults(text, collected({test.partition("::")[0] for test in named_tests(text)}))
    assert found == []


def test_page_covers_all_revisions() -> None:
    linked = Counter(revision for row in rows_of(PAGE.read_text(), ROWS) for revision, _ in row[1].links)
    assert linked.keys() == set(REVISIONS)
    assert min(linked.values()) > 20


def keywords_of(directory: Path, page: str) -> dict[str, int]:
    """Return the number of keywords under each heading of a page of the specification, by the heading's anchor."""
    counts: Counter[str] = Counter()
    anchor = ""
    for line in (directory / f"{page}.mdx").read_text().splitlines():
        heading = re.fullmatch(r"#+ (.+)", line)
        if heading is not None:
            anchor = f"#{anchor_of(heading[1])}"
        counts[anchor] += len(_KEYWORD.findall(line))
    return counts


def anchor_of(heading: str) -> str:
    """Return the anchor that the site of the specification makes from a heading."""
    kept = re.sub(r"[^\w&+ -]", "", heading.lower()).replace(" ", "-")
    return kept.replace("&", "%26").replace("+", "%2B")


@pytest.mark.skipif(
    "MCP_SPECIFICATION" not in os.environ, reason="MCP_SPECIFICATION does not name the text of the specification"
)
def test_keyword_counts_match_the_text_of_the_specification() -> None:
    directory = Path(os.environ["MCP_SPECIFICATION"])
    documented = {row[0].links[0][1]: int(row[1].text) for row in rows_of(PAGE.read_text(), COUNTS)}
    site = "https://modelcontextprotocol.io/specification/"
    pages = {address.partition("#")[0].removeprefix(site) for address in documented}
    counted = {
        f"{site}{page}{anchor}": count
        for page in pages
        for anchor, count in keywords_of(directory, page).items()
        if count or f"{site}{page}{anchor}" in documented
    }
    assert documented == counted


# ---------------------------------------------------------------- the check finds faults


GOOD: Final = """
| Rule | Section | What mcp-tornado does | Tests |
|---|---|---|---|
| **MUST**, **MUST NOT** A thing. | [2025-11-25][a] | It does. | `tests/a.py::test_a`<br>`tests/a.py::test_b[one two]` |
| *may* Another. | [2025-11-25][a], [2026-07-28][b] | It does not. | `tests/a.py::test_b` |

| Section | Keywords | For a server |
|---|---|---|
| [2025-11-25][a]: A | 3 | 2 |
| [2026-07-28][b]: B | 0 | 0 |

[a]: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#a
[b]: https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http#b-%26-c
"""
EXISTING: Final = {"tests/a.py::test_a", "tests/a.py::test_b[one two]", "tests/a.py::test_b[three]"}


def test_complete_page_has_no_faults() -> None:
    assert faults(GOOD, EXISTING) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("A thing.", "", "nothing in Rule"),
        ("test_a`", "test_c`", "tests/a.py::test_c does not exist"),
        ("test_b[one two]", "test_b[two]", "tests/a.py::test_b[two] does not exist"),
        ("`tests/a.py::test_b` |", "`a.py` |", "a.py is not the name of a test"),
        ("`tests/a.py::test_b` |", "a test |", "no test"),
        ("`tests/a.py::test_b` |", "|", "nothing in Tests"),
        ("It does not.", "", "nothing in What mcp-tornado does"),
        ("| *may* Another. ", "| ", "nothing in Rule"),
        ("[2025-11-25][a] | It does.", "| It does.", "nothing in Section"),
        ("[2025-11-25][a] | It does.", "[2025-11-25][c] | It does.", "a link without an address"),
        ("[2025-11-25][a] | It does.", "2025-11-25 | It does.", "a link without an address"),
        ("[2026-07-28][b] |", "[2025-11-25][b] |", "the link 2025-11-25 leads to"),
        ("[a]: https", "[a]: http", "leads to http:"),
        ("2026-07-28/basic", "2027-07-28/basic", "leads to https://modelcontextprotocol.io/specification/2027"),
        ("**MUST NOT**", "**MAY**", "MAY is not a keyword"),
        ("**MUST**, **MUST NOT**", "**MUST**", "2 keywords for a server, but 1 in the rows"),
        ("| 3 | 2 |", "| 1 | 2 |", "more keywords for a server than keywords"),
        ("| [2026-07-28][b]: B | 0 | 0 |\n", "", "is not counted"),
        ("| Section | Keywords |", "| Section | Number |", "a table with an unknown head"),
    ],
)
def test_fault_of_a_page_is_found(old: str, new: str, fault: str) -> None:
    assert GOOD.count(old)
    broken = GOOD.replace(old, new, 1)
    found = faults(broken, EXISTING)
    assert any(fault in each for each in found), found
