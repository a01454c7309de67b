"""A fault in the user's code: the traceback from the user's first line on, and one line that says what failed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.integration.command_line import run_command
from tests.integration.server_process import Server
from tests.integration.stores import sqlite_url

LIFESPAN = """
from contextlib import asynccontextmanager
from {package} import {server_class}

@asynccontextmanager
async def lifespan(server):
    {before}
    yield
    {after}

server = {server_class}("faulty", lifespan=lifespan)
"""
SDK = {"package": "mcp.server.mcpserver", "server_class": "MCPServer", "before": "pass", "after": "pass"}
FASTMCP = {**SDK, "package": "fastmcp", "server_class": "FastMCP"}
LOW_LEVEL = {**SDK, "package": "mcp.server.lowlevel.server", "server_class": "Server"}
MISSING_FILE = "FileNotFoundError: [Errno 2] No such file or directory: '/nonesuch'"


def check_fault(completed: subprocess.CompletedProcess[str], first_file: Path, message: str) -> str:
    """Check that a traceback begins in a file of the user, and that one line with the message follows it."""
    assert completed.returncode == 1, completed.stderr
    assert completed.stdout == ""
    lines = completed.stderr.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    assert errors == [f"Error: {message}"], completed.stderr
    assert lines[-1] == errors[0]
    first_frame = next(line for line in lines if line.startswith("  File "))
    assert first_frame.startswith(f'  File "{first_file}", line '), completed.stderr
    assert completed.stderr.count("Traceback") <= 1
    return completed.stderr


@pytest.fixture(params=[1, 2], ids=["one-process", "workers"])
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    return [] if request.param == 1 else ["--workers", "2", "--store", sqlite_url(tmp_path)]


@pytest.mark.parametrize("names", [SDK, FASTMCP, LOW_LEVEL], ids=["sdk", "fastmcp", "low-level"])
def test_a_lifespan_that_cannot_open_a_file(tmp_path: Path, arguments: list[str], names: dict[str, str]) -> None:
    app = tmp_path / "faulty.py"
    app.write_text(LIFESPAN.format(**{**names, "before": "open('/nonesuch')"}))
    text = check_fault(
        run_command(tmp_path, "serve", "faulty.py:server", *arguments),
        app,
        f"the server's lifespan failed: {MISSING_FILE}",
    )
    assert "open('/nonesuch')" in text
    assert "cannot listen" not in text


def test_a_lifespan_that_fails_when_the_server_stops(tmp_path: Path) -> None:
    app = tmp_path / "faulty.py"
    app.write_text(LIFESPAN.format(**{**SDK, "after": "open('/nonesuch')"}))
    server = Server(f"{app}:server", tmp_path, {})
    try:
        server.block_until_logged("server.started")
        server.send_signal()
        assert server.block_until_exit() == 1
    finally:
        server.close()
    texts = "".join(server.raw_log_lines)
    assert "open('/nonesuch')" in texts
    assert server.raw_log_lines[-1] == f"Error: the server's lifespan failed: {MISSING_FILE}\n"


def test_a_lifespan_that_ends_the_process(tmp_path: Path, arguments: list[str]) -> None:
    app = tmp_path / "faulty.py"
    app.write_text(LIFESPAN.format(**{**SDK, "before": "raise SystemExit(3)"}))
    check_fault(
        run_command(tmp_path, "serve", "faulty.py:server", *arguments),
        app,
        "the server's lifespan failed: SystemExit: 3",
    )


def test_a_module_that_raises_three_imports_deep(tmp_path: Path, arguments: list[str]) -> None:
    for name, text in {
        "first": "import second\n",
        "second": "import third\n",
        "third": "settings = {}\nsettings['token']\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    for app in ("first:server", "first.py:server"):
        text = check_fault(
            run_command(tmp_path, "serve", app, *arguments),
            tmp_path / "first.py",
            f"{app.removesuffix(':server')} cannot be imported: KeyError: 'token'",
        )
        assert [name in text for name in ("first.py", "second.py", "third.py", "settings['token']")] == [True] * 4
        assert "importlib" not in text


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import sys\nsys.exit()\n", "SystemExit"),
        ("import nonesuch_dependency\n", "ModuleNotFoundError: No module named 'nonesuch_dependency'"),
        ("class Panic(BaseException): pass\nraise Panic('of a library\\nwith a second line')\n", "Panic: of a library"),
        ("def (:\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, code: str, reason: str) -> None:
    app = tmp_path / "broken.py"
    app.write_text(code)
    check_fault(run_command(tmp_path, "serve", "broken.py:server"), app, f"broken.py cannot be imported: {reason}")


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_function_that_raises(tmp_path: Path, keyword: str) -> None:
    app = tmp_path / "factory.py"
    app.write_text(f"{keyword} create():\n    return {{}}['token']\n")
    check_fault(
        run_command(tmp_path, "serve", "factory.py:create"), app, "factory.py:create() failed: KeyError: 'token'"
    )
