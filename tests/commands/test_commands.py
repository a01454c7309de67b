"""The commands: which exist, and what they import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

import mcp_tornado
from mcp_tornado.commands import main

WITHOUT_SDK = [["--version"], ["--help"], ["config"], ["stores"]]


@pytest.mark.parametrize("arguments", WITHOUT_SDK, ids=" ".join)
def test_a_command_that_needs_no_sdk_does_not_import_it(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from mcp_tornado.commands import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "assert not {'mcp', 'mcp_types', 'starlette'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=60, check=True)


def test_every_command_that_help_lists_exists() -> None:
    context = click.Context(main)
    names = main.list_commands(context)
    commands = [main.get_command(context, name) for name in names]
    assert [command and command.name for command in commands] == names == ["config", "serve", "stores"]
    help_text = main.get_help(context)
    assert [name for name in names if f"  {name} " not in help_text] == []


def test_an_unknown_command_does_not_exist() -> None:
    assert main.get_command(click.Context(main), "nonesuch") is None


def test_the_names_that_the_package_exports_are_imported_at_their_first_use() -> None:
    for name in mcp_tornado.__all__:
        assert getattr(mcp_tornado, name) is not None
    assert set(mcp_tornado.__all__) <= set(dir(mcp_tornado))
    with pytest.raises(AttributeError, match="nonesuch"):
        mcp_tornado.nonesuch  # type: ignore[attr-defined]  # noqa: B018


def test_serve_says_that_windows_is_not_supported(tmp_path: Path) -> None:
    program = "import sys\nfrom mcp_tornado.commands.serve import serve\nsys.platform = 'win32'\nserve([])\n"
    completed = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert completed.returncode == 1
    assert completed.stderr.startswith("Error: Windows is not supported: ")
    assert len(completed.stderr.splitlines()) == 1
