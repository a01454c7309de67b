"""Finding the server object that APP names."""

from __future__ import annotations

import colorsys
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp.server.mcpserver import MCPServer

from mcp_tornado import NotServable
from mcp_tornado.commands.find_server import find_server

SERVERS = """
import functools
from mcp.server.mcpserver import MCPServer

def create(name="created"):
    return MCPServer(name)

async def create_later():
    return MCPServer("created later")

class Servers:
    def create(self):
        return MCPServer("of a method")

servers = Servers()
bound = functools.partial(create, "bound")
plain = MCPServer("plain")

def with_any(*args, **kwargs):
    return MCPServer(f"{len(args)} {len(kwargs)}")

def with_keyword(*, name):
    return MCPServer(name)
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory; the modules that a test imports from it are forgotten afterwards."""
    (tmp_path / "several.py").write_text(SERVERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


async def name_of(app: str) -> str:
    server = await find_server(app).resolve()
    assert isinstance(server, MCPServer)
    return server.name


@pytest.mark.anyio
@pytest.mark.parametrize("target", ["several", "several.py"])
@pytest.mark.parametrize(
    ("attribute", "name"),
    [
        ("plain", "plain"),
        ("create", "created"),
        ("create_later", "created later"),
        ("servers.create", "of a method"),
        ("bound", "bound"),
        ("with_any", "0 0"),
    ],
)
async def test_a_function_without_required_arguments_is_called(target: str, attribute: str, name: str) -> None:
    assert await name_of(f"{target}:{attribute}") == name


def test_a_function_with_required_arguments_is_refused_and_the_message_says_what_to_write() -> None:
    with pytest.raises(NotServable) as raised:
        find_server("several:with_keyword")
    assert "several:with_keyword needs arguments (name)" in str(raised.value)
    assert "def create_server(): return with_keyword(name=...)" in str(raised.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("app = M('app'); server = M('server'); mcp = M('mcp')", "mcp"),
        ("app = M('app'); server = M('server')", "server"),
        ("app = M('app')", "app"),
        ("import mcp; server = M('server')", "server"),
        ("mcp = None\ndef server(): return M('function')", "function"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".py"])
async def test_without_an_attribute_the_usual_names_are_tried(
    directory: Path, text: str, name: str, suffix: str
) -> None:
    (directory / "usual.py").write_text(f"from mcp.server.mcpserver import MCPServer as M\n{text}\n")
    assert await name_of(f"usual{suffix}") == name


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["types", "mcp", "secrets", "structlog", "my.server", "my-server", "__main__"])
async def test_a_file_replaces_no_other_module(directory: Path, name: str) -> None:
    (directory / "sibling_of_the_server.py").write_text("name = 'sibling'\n")
    (directory / f"{name}.py").write_text(
        "from mcp.server.mcpserver import MCPServer\n"
        "import sibling_of_the_server\n"
        "class Value:\n    pass\n"
        "server = MCPServer(sibling_of_the_server.name)\n"
    )
    before = sys.modules.get(name)
    found = find_server(f"{name}.py:server")
    assert sys.modules.get(name) in (before, found.module)
    assert before is None or sys.modules[name] is before
    server = await found.resolve()
    assert isinstance(server, MCPServer)
    assert server.name == "sibling"
    assert isinstance(pickle.loads(pickle.dumps(found.module.Value())), found.module.Value)


def test_the_directory_of_a_file_hides_no_installed_module(directory: Path) -> None:
    folder = directory / "project"
    folder.mkdir()
    for name in ("types", "colorsys", "wheel_of_fortune"):
        (folder / f"{name}.py").write_text("server = 'a file of the user'\n")
    (folder / "served.py").write_text("import colorsys, wheel_of_fortune\nserver = wheel_of_fortune.server\n")
    program = (
        "from mcp_tornado.commands.find_server import find_server\n"
        f"print(find_server({str(folder / 'served.py')!r}).module.colorsys.__file__)\n"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program], cwd=directory, capture_output=True, text=True, check=True
    )
    assert completed.stdout.strip() == colorsys.__file__
