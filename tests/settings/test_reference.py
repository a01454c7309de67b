"""`docs/settings.md`, which is generated from the declarations of the settings."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_tornado.settings import load_settings
from mcp_tornado.settings.reference import render_reference
from mcp_tornado.settings.table import SECTIONS, SETTINGS
from tests.documents import Document
from tests.settings.conftest import DEFAULTS, write

REPOSITORY = Path(__file__).parents[2]
FILE = REPOSITORY / "docs" / "settings.md"
COMMAND = "python -m mcp_tornado.settings.reference > docs/settings.md"
DOCUMENT = Document(render_reference())


def test_the_file_of_the_repository_is_fresh() -> None:
    assert FILE.read_text(encoding="utf-8") == DOCUMENT.text, f"write it again: {COMMAND}"


def test_the_command_that_writes_the_file_works() -> None:
    assert COMMAND in DOCUMENT.text
    command = [sys.executable, *shlex.split(COMMAND)[1:3]]
    written = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert written.stdout == DOCUMENT.text


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_has_a_description(key: str) -> None:
    assert re.fullmatch(r"[A-Z`].{15,}\.", SETTINGS[key].description)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_has_a_description(section: str) -> None:
    assert (SECTIONS[section].__doc__ or "").endswith(".")


def test_the_reference_lists_every_setting_once() -> None:
    assert re.findall(r"(?m)^\| `([a-z_.]+)` \|", DOCUMENT.text) == list(SETTINGS)
    assert SETTINGS.keys() == DEFAULTS.keys()


@pytest.mark.parametrize(
    "row",
    [
        "| `server.port` | a whole number from 0 to 65535 | `8000` | The TCP port to listen on. 0 takes a free port. |",
        "| `metrics.enabled` | true or false | `true` | Whether `/metrics` is served. |",
    ],
)
def test_a_row_has_the_allowed_values_the_default_and_the_description(row: str) -> None:
    assert row in DOCUMENT.text


def test_no_row_is_broken_by_a_character_of_markdown() -> None:
    rows = [line for line in DOCUMENT.text.splitlines() if line.startswith("| `")]

    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_the_settings_of_the_example_file_are_allowed(directory: Path) -> None:
    write(directory, DOCUMENT.block("toml", "# settings.toml"))

    server = load_settings(env="production").settings.server

    assert (server.port, server.host, server.allowed_hosts) == (9000, "0.0.0.0", ("mcp.example.com",))


def test_the_variables_of_the_example_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for assignment in shlex.split(DOCUMENT.block("sh", "export").replace("export ", "")):
        monkeypatch.setenv(*assignment.split("=", 1))

    settings = load_settings().settings

    assert (settings.server.port, settings.server.workers) == (9001, 2)
    assert settings.sessions.store_options == {"timeout": 5}
