"""The command line: an error is reported with its cause and a remedy."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.integration.command_line import error_output, install_plugin, run_command
from tests.integration.server_process import Server, StartServer, app_name
from tests.integration.stores import sqlite_url
from tests.integration.wire import open_wire

SERVERS = """
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

class Verifier:
    async def verify_token(self, token):
        return None

auth = AuthSettings(issuer_url="https://issuer.example", resource_server_url="https://me.example/mcp")
guarded = MCPServer("guarded", token_verifier=Verifier(), auth=auth)
number = 17

def needs_name(name, port=8000):
    return guarded

def run():
    pass
"""


APPLICATION = """
from fastmcp import FastMCP
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

class CheckToken(BaseHTTPMiddleware):
    pass

mcp = FastMCP("guarded")
app = mcp.http_app(middleware=[Middleware(CheckToken)])
"""

APPS = [
    ("nonesuch.module:server", ["nonesuch", "path/to/file.py:attribute"]),
    ("servers:nonesuch", ["nonesuch", "guarded"]),
    ("servers.py:nonesuch", ["nonesuch", "guarded"]),
    ("nonesuch.py:server", ["nonesuch.py"]),
    ("servers:number", ["int", "MCPServer"]),
    ("servers", ["none of mcp, server, app", "servers:attribute", "guarded"]),
    ("servers:a b", ["app", "package.module:attribute"]),
    ("servers:Verifier", ["servers:Verifier", "class", "instance"]),
    ("servers:needs_name", ["needs_name", "(name)", "return needs_name(name=...)"]),
    ("servers:run", ["servers:run()", "None", "returns the server"]),
    ("servers:guarded", ["guarded", "auth", "not served"]),
    ("application.py", ["guarded", "application.CheckToken", "authentication", "not served"]),
]
SETTINGS = [
    ("SERVER__PROT", 1, ["server.prot", "server.port", "MCP_TORNADO_SERVER__PROT"]),
    ("SERVER__PORT", "many", ["server.port", "MCP_TORNADO_SERVER__PORT"]),
    ("ENV", "nowhere", ["nowhere", "production"]),
    ("SESSIONS__STORE", "nonesuch://", ["nonesuch", "memory"]),
    ("SERVER__WORKERS", 2, ["server.workers", "2 workers", "memory://"]),
]

Completed = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("command-line")
    (path / "servers.py").write_text(SERVERS)
    (path / "application.py").write_text(APPLICATION)
    return path


@pytest.fixture(scope="module")
def runs(directory: Path) -> Iterator[dict[str, Future[Completed]]]:
    """The commands that must fail, by app or setting; they run in parallel because each takes seconds to start."""
    with ThreadPoolExecutor(4) as pool:
        apps = {app: pool.submit(run_command, directory, "serve", app) for app, _ in APPS}
        yield apps | {
            name: pool.submit(run_command, directory, "serve", **{name: value}) for name, value, _ in SETTINGS
        }


@pytest.mark.parametrize(("app", "words"), APPS)
def test_a_server_that_cannot_be_served(runs: dict[str, Future[Completed]], app: str, words: list[str]) -> None:
    text = error_output(runs[app].result())
    assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize(("name", "value", "words"), SETTINGS)
def test_settings_that_cannot_be_used(
    runs: dict[str, Future[Completed]], name: str, value: object, words: list[str]
) -> None:
    text = error_output(runs[name].result())
    assert [word for word in words if word not in text] == [], text


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_that_is_in_use(directory: Path, used_port: int) -> None:
    text = error_output(run_command(directory, "serve", "--port", str(used_port)))
    assert f"127.0.0.1:{used_port}" in text
    assert "in use" in text


def test_the_version(directory: Path) -> None:
    completed = run_command(directory, "--version")
    assert completed.returncode == 0
    assert completed.stdout.startswith("mcp-tornado, version ")


def test_config_lists_every_setting_with_its_source(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[production.server]\npath = '/elsewhere'\n")
    completed = run_command(
        tmp_path,
        "config",
        "--env",
        "production",
        SERVER__KEEPALIVE_SECONDS=7,
        SESSIONS__STORE_OPTIONS='{password = "hunter2"}',
    )
    assert completed.returncode == 0
    rows = {line.split()[0]: line for line in completed.stdout.splitlines()}
    assert "'/elsewhere'" in rows["server.path"]
    assert "settings.toml [production]" in rows["server.path"]
    assert rows["server.keepalive_seconds"].split()[1:] == ["7", "MCP_TORNADO_SERVER__KEEPALIVE_SECONDS"]
    assert rows["server.host"].split()[1:] == ["'127.0.0.1'", "default"]
    assert "hunter2" not in completed.stdout
    assert len(rows) > 25


def test_stores_are_listed_and_a_broken_plugin_is_reported_separately(tmp_path: Path) -> None:
    install_plugin(tmp_path, "fine-1.2", "fine", "fine")
    (tmp_path / "fine.py").write_text("def factory(url, options, clock): ...\n")
    install_plugin(tmp_path, "broken-9", "broken", "broken")
    (tmp_path / "broken.py").write_text("import nonesuch_dependency\n")
    completed = run_command(tmp_path, "stores")
    assert completed.returncode == 0
    rows = [line.split() for line in completed.stdout.splitlines()]
    assert rows[0] == ["SCHEME", "DISTRIBUTION", "VERSION", "EVENTS"]
    assert ["fine", "fine", "1.2", "?"] in rows
    assert ["broken", "broken", "9", "?"] in rows
    assert ["memory", "mcp-tornado", version("mcp-tornado"), "yes"] in rows
    assert [row[0] for row in rows[1:]] == sorted(row[0] for row in rows[1:])
    (problem,) = [line for line in completed.stderr.splitlines() if line.startswith("broken: ")]
    assert "nonesuch_dependency" in problem
    assert "Traceback" not in completed.stderr


@pytest.mark.anyio
async def test_unserved_routes_are_logged(start_server: StartServer) -> None:
    with start_server(app_name("routed")) as server:
        assert "/custom/health" in str(server.log_lines_of("route.unserved"))
        assert server.log_lines_of("route.unserved")[0]["level"] == "warning"
        async with open_wire(server) as wire:
            assert (await wire.http.get(f"{server.origin}/custom/health")).status_code == 404


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["types", "mcp", "fastmcp"])
async def test_a_file_with_the_name_of_another_module_is_served(
    start_server: StartServer, tmp_path: Path, name: str
) -> None:
    app = tmp_path / f"{name}.py"
    app.write_text("from fastmcp import FastMCP\nmcp = FastMCP('m')\n@mcp.tool\ndef name() -> str:\n    return 'yes'\n")
    with start_server(str(app)) as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            assert await wire.call_tool("name") == "yes"


@pytest.mark.anyio
@pytest.mark.parametrize("keyword", ["def", "async def"])
async def test_a_function_that_returns_a_server_is_called(
    start_server: StartServer, tmp_path: Path, keyword: str
) -> None:
    app = tmp_path / "factory.py"
    app.write_text(
        "from mcp.server.mcpserver import MCPServer\n"
        f"{keyword} create_server(name='made'):\n"
        "    server = MCPServer(name)\n"
        "    @server.tool()\n    def its_name() -> str:\n        return name\n"
        "    return server\n"
    )
    with start_server(f"{app}:create_server") as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            assert await wire.call_tool("its_name") == "made"


def test_the_start_is_logged_with_store_environment_files_and_tools(tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    install_plugin(tmp_path, "hidden-1", "hidden", "hidden_store")
    (tmp_path / "hidden_store.py").write_text(
        "from mcp_tornado.stores.memory import memory_store\n"
        "def factory(url, options, clock):\n    return memory_store('memory://', options, clock)\n"
    )
    settings.write_text("[staging.log]\nlevel = 'INFO'\n")
    app = tmp_path / "two_tools.py"
    app.write_text(
        "from fastmcp import FastMCP\nmcp = FastMCP('m')\ndef name() -> str:\n    return ''\n"
        "mcp.tool(name='a')(name)\nmcp.tool(name='b')(name)\n"
    )
    server = Server(str(app), tmp_path, {"ENV": "staging", "SESSIONS__STORE": "hidden://user:hunter2@host"})
    try:
        started = server.block_until_logged("server.started")
        assert started["store"] == "hidden://***@host"
        assert started["environment"] == "staging"
        assert started["settings_files"] == [str(settings)]
        assert started["tools"] == 2
        assert started["app"] == str(app)
        assert server.log_lines_of("server.empty") == []
        assert "hunter2" not in "".join(server.raw_log_lines)
    finally:
        server.close()


@pytest.mark.parametrize(
    "package", ["from fastmcp import FastMCP as S", "from mcp.server.mcpserver import MCPServer as S"]
)
def test_a_server_that_offers_nothing_is_a_warning(start_server: StartServer, tmp_path: Path, package: str) -> None:
    app = tmp_path / "filled_later.py"
    app.write_text(
        f"{package}\nmcp = S('m')\ndef name() -> str:\n    return ''\n"
        "def main():\n    mcp.tool()(name)\n    mcp.run()\n"
        "def create():\n    mcp.tool()(name)\n    return mcp\n"
    )
    with start_server(f"{app}:mcp") as server:
        warning = server.block_until_logged("server.empty", level="warning")
        assert [
            word for word in ("main()", "returns the server", "package.module:function") if word not in warning["hint"]
        ] == []
        assert server.log_lines_of("server.started")[0]["tools"] == 0
    with start_server(f"{app}:create") as server:
        assert server.block_until_logged("server.started")["tools"] == 1
        server.stop()
        assert server.log_lines_of("server.empty") == []


@pytest.mark.anyio
async def test_the_demo_is_served_without_an_argument(start_server: StartServer) -> None:
    with start_server("mcp_tornado.demo:server") as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            assert [await wire.call_tool("count") for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.anyio
async def test_the_count_of_the_demo_belongs_to_the_session_in_every_process(
    start_server: StartServer, tmp_path: Path
) -> None:
    url = sqlite_url(tmp_path)
    with (
        start_server("mcp_tornado.demo:server", SESSIONS__STORE=url) as one,
        start_server("mcp_tornado.demo:server", SESSIONS__STORE=url) as other,
    ):
        async with open_wire(one) as wire:
            await wire.open_session()
            clients = (wire, wire.at(other), wire)
            assert [await client.call_tool("count") for client in clients] == ["1", "2", "3"]
