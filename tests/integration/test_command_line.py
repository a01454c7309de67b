"""`python -m mcp_tornado` as an operator types it: what goes wrong is said, with what to do."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.integration.conftest import DEADLINE, EVERYTHING, StartServer, command, environment, wire_to

SERVERS = f"""
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

class Verifier:
    async def verify_token(self, token):
        return None

auth = AuthSettings(issuer_url="https://issuer.example", resource_server_url="https://me.example/mcp")
guarded = MCPServer("guarded", token_verifier=Verifier(), auth=auth)
number = 17
everything = {str(EVERYTHING)!r}
"""


APPS = [
    ("nonesuch.module:server", ["nonesuch", "path/to/file.py:attribute"]),
    ("servers:nonesuch", ["nonesuch", "guarded"]),
    ("servers.py:nonesuch", ["nonesuch", "guarded"]),
    ("nonesuch.py:server", ["nonesuch.py"]),
    ("servers:number", ["int", "MCPServer"]),
    ("servers", ["app", "package.module:attribute"]),
    ("broken:server", ["broken", "nonesuch_dependency"]),
    ("broken.py:server", ["broken.py", "nonesuch_dependency"]),
    ("wrong.py:server", ["wrong.py", "SyntaxError"]),
    ("servers:guarded", ["guarded", "auth", "not served"]),
]
SETTINGS = [
    ("SERVER__PROT", 1, ["server.prot", "server.port", "MCP_TORNADO_SERVER__PROT"]),
    ("SERVER__PORT", "many", ["server.port", "MCP_TORNADO_SERVER__PORT"]),
    ("ENV", "nowhere", ["nowhere", "production"]),
    ("SESSIONS__STORE", "nonesuch://", ["nonesuch", "memory"]),
    ("SERVER__WORKERS", 2, ["server.workers", "2 workers", "memory://"]),
]

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("command-line")
    (path / "servers.py").write_text(SERVERS)
    (path / "broken.py").write_text("import nonesuch_dependency\n")
    (path / "wrong.py").write_text("def (:\n")
    return path


def run(directory: Path, *arguments: str, **settings: object) -> Done:
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment({"SERVER__PORT": 0, **settings}),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.fixture(scope="module")
def runs(directory: Path) -> Iterator[dict[str, Future[Done]]]:
    """What is to be refused, started side by side: a process takes a second to begin."""
    with ThreadPoolExecutor(4) as pool:
        served = {app: pool.submit(run, directory, "serve", app) for app, _ in APPS}
        yield served | {name: pool.submit(run, directory, "serve", **{name: value}) for name, value, _ in SETTINGS}


def said(done: Done) -> str:
    """Check that it ended with an error in a few lines, and return what it said."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "server.started" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(("app", "words"), APPS)
def test_a_server_that_cannot_be_served(runs: dict[str, Future[Done]], app: str, words: list[str]) -> None:
    text = said(runs[app].result())
    assert [word for word in words if word not in text] == [], text


@pytest.mark.parametrize(("name", "value", "words"), SETTINGS)
def test_settings_that_cannot_be_used(
    runs: dict[str, Future[Done]], name: str, value: object, words: list[str]
) -> None:
    text = said(runs[name].result())
    assert [word for word in words if word not in text] == [], text


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_port_that_is_taken(directory: Path, taken: int) -> None:
    text = said(run(directory, "serve", "--port", str(taken)))
    assert f"127.0.0.1:{taken}" in text
    assert "in use" in text


def test_the_version(directory: Path) -> None:
    done = run(directory, "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("mcp-tornado, version ")


def test_config_tells_every_setting_and_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[production.server]\npath = '/elsewhere'\n")
    done = run(
        tmp_path,
        "config",
        "--env",
        "production",
        SERVER__KEEPALIVE_SECONDS=7,
        SESSIONS__STORE_OPTIONS='{password = "hunter2"}',
    )
    assert done.returncode == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "'/elsewhere'" in rows["server.path"]
    assert "settings.toml [production]" in rows["server.path"]
    assert rows["server.keepalive_seconds"].split()[1:] == ["7", "MCP_TORNADO_SERVER__KEEPALIVE_SECONDS"]
    assert rows["server.host"].split()[1:] == ["'127.0.0.1'", "default"]
    assert "hunter2" not in done.stdout
    assert len(rows) > 25


def install(directory: Path, distribution: str, scheme: str, module: str) -> None:
    """Make a plugin that a process finds which runs in the directory."""
    metadata = directory / f"{distribution}.dist-info"
    metadata.mkdir()
    name, _, number = distribution.partition("-")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    (metadata / "entry_points.txt").write_text(f"[mcp_tornado.stores]\n{scheme} = {module}:factory\n")


def test_stores_are_listed_and_what_is_wrong_with_one_is_said_apart(tmp_path: Path) -> None:
    install(tmp_path, "fine-1.2", "fine", "fine")
    (tmp_path / "fine.py").write_text("def factory(url, options, clock): ...\n")
    install(tmp_path, "broken-9", "broken", "broken")
    (tmp_path / "broken.py").write_text("import nonesuch_dependency\n")
    done = run(tmp_path, "stores")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["SCHEME", "DISTRIBUTION", "VERSION", "EVENTS"]
    assert ["fine", "fine", "1.2", "?"] in rows
    assert ["broken", "broken", "9", "?"] in rows
    assert ["memory", "mcp-tornado", version("mcp-tornado"), "yes"] in rows
    assert [row[0] for row in rows[1:]] == sorted(row[0] for row in rows[1:])
    (problem,) = [line for line in done.stderr.splitlines() if line.startswith("broken: ")]
    assert "nonesuch_dependency" in problem
    assert "Traceback" not in done.stderr


@pytest.mark.anyio
async def test_routes_that_are_not_served_are_named(start_server: StartServer) -> None:
    with start_server("routed") as server:
        assert "/custom/health" in str(server.events("route.unserved"))
        assert server.events("route.unserved")[0]["level"] == "warning"
        async with wire_to(server) as wire:
            assert (await wire.http.get(f"{server.origin}/custom/health")).status_code == 404


@pytest.mark.anyio
async def test_the_demo_is_served_without_an_argument(start_server: StartServer) -> None:
    with start_server("mcp_tornado.demo:server") as server:
        async with wire_to(server) as wire:
            await wire.open()
            assert [await wire.tool("count") for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.anyio
async def test_the_demos_count_is_the_sessions_wherever_it_is_served(start_server: StartServer, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sessions.db'}"
    with (
        start_server("mcp_tornado.demo:server", SESSIONS__STORE=url) as one,
        start_server("mcp_tornado.demo:server", SESSIONS__STORE=url) as other,
    ):
        async with wire_to(one) as wire:
            await wire.open()
            elsewhere = wire.at(other)
            assert [await each.tool("count") for each in (wire, elsewhere, wire)] == ["1", "2", "3"]
