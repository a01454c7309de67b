"""docs/migrating.md is true: the old servers and their replacements are started and get the same calls."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fastmcp
import httpx
import mcp_persist
import pytest
from mcp.client.client import Client
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import (
    DEFAULT_MAX_REQUEST_BODY_SIZE,
    DEFAULT_MAX_SESSIONS,
    DEFAULT_SESSION_IDLE_TIMEOUT,
    StreamableHTTPSessionManager,
)
from mcp.shared.exceptions import MCPError

from mcp_tornado import create_app, state
from mcp_tornado.sessions import StoreError
from mcp_tornado.settings import Settings, describe, load_settings
from tests.documents import DEADLINE, REPOSITORY, Document, environment, free_ports, started, with_ports
from tests.javascript import tools as javascript

DOCUMENT = Document((REPOSITORY / "docs" / "migrating.md").read_text())
TRY = DOCUMENT.section("## Try it, switch, go back")
HTTP = DOCUMENT.section("## What is different over HTTP")
SDK = DOCUMENT.section("## From the SDK and uvicorn")
MOUNTED = DOCUMENT.section("### Mounted in Starlette, and custom routes")
LOW_LEVEL = DOCUMENT.section("### A low-level server and a session manager")
FASTMCP = DOCUMENT.section("## From FastMCP")
PERSIST = DOCUMENT.section("## From mcp-persist")

STREAM_EARLY = "MCP_TORNADO_EVENTS__STREAM_AFTER_SECONDS=0.01"
"""The server answers with a stream even if a call takes only a moment."""
STREAM_LATE = "MCP_TORNADO_EVENTS__STREAM_AFTER_SECONDS=60"
"""The server answers a quick call with JSON, even on a slow machine."""

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
HANDSHAKE = "2025-11-25"


def test_document_has_exactly_the_examples_that_tests_use() -> None:
    assert [(language, text.splitlines()[0]) for language, text in DOCUMENT.blocks] == [
        ("sh", 'pip install "mcp-tornado[sqlite]"'),
        ("python", "# compare.py"),
        ("sh", "python compare.py http://127.0.0.1:8000/mcp http://127.0.0.1:8001/mcp"),
        ("toml", "# settings.toml"),
        ("python", "# shop.py"),
        ("sh", "python shop.py"),
        ("sh", "mcp-tornado serve shop.py:mcp --port 8000"),
        ("python", "# web.py"),
        ("sh", "MCP_TORNADO_SERVER__PATH=/tools/mcp mcp-tornado serve shop.py:mcp --port 8001"),
        ("python", "# shop_app.py"),
        ("python", "# prices.py"),
        ("python", "# prices_app.py"),
        ("toml", "# settings.toml"),
        ("sh", "mcp-tornado serve prices.py:server --port 8000"),
        ("python", "# fast_shop.py"),
        ("sh", "python fast_shop.py"),
        ("sh", "mcp-tornado serve fast_shop.py:mcp --port 8000"),
        ("python", "# fast_app.py"),
        ("toml", "# settings.toml"),
        ("sh", "mcp-tornado serve fast_shop.py:mcp --port 8000"),
        ("python", "# durable.py"),
        ("toml", "# settings.toml"),
        ("sh", "mcp-tornado serve shop.py:mcp --port 8000"),
        ("python", "# cart.py"),
    ]


# ---------------------------------------------------------------- servers


class Server:
    """A server in a directory of its own, which contains every Python file that the page shows.

    Args:
        command: The command that the page shows; the port in it is replaced.
        directory: The working directory; it is created if it does not exist.
        port: The port to listen on.
        variables: Environment variables for the command, as `NAME=value`.
        settings: The text of `settings.toml`; `None` for no such file.
        path: The path of the endpoint.
    """

    def __init__(
        self,
        command: str,
        directory: Path,
        port: int,
        *variables: str,
        settings: str | None = None,
        path: str = "/mcp",
    ) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.url = self.origin + path
        self.directory = directory
        directory.mkdir(exist_ok=True)
        DOCUMENT.write_python_files(directory, {"8000": port})
        if settings is not None:
            (directory / "settings.toml").write_text(settings)
        self.port = port
        self._command = ["env", *variables, *shlex.split(with_ports(command, {"8000": port, "8001": port}))]
        self._stack = ExitStack()

    @property
    def has_ended(self) -> bool:
        return self._started.process.poll() is not None

    @property
    def log(self) -> str:
        return self._started.log.read_text()

    def start(self) -> None:
        self._started = self._stack.enter_context(started(self._command, self.directory, self.port))

    def wait_until_ready(self) -> None:
        self._started.wait_until_ready()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait until the process ends, and return its exit status."""
        self._started.process.send_signal(number)
        status = self._started.process.wait(DEADLINE)
        self._stack.close()
        return status

    def close(self) -> None:
        """Stop the process if it still runs."""
        self._stack.close()


@contextmanager
def running(*servers: Server) -> Generator[None]:
    """Start servers at the same time, and stop them at the end."""
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait_until_ready()
        yield
    finally:
        for server in servers:
            server.close()


class Pair:
    """An old server, and the mcp-tornado server that replaces it."""

    def __init__(self, old: Server, new: Server) -> None:
        self.old = old
        self.new = new

    def clients(self) -> tuple[WireClient, WireClient]:
        return WireClient(self.old.url), WireClient(self.new.url)

    def restart(self) -> None:
        """Start the servers that have ended."""
        ended = [server for server in (self.old, self.new) if server.has_ended]
        for server in ended:
            server.start()
        for server in ended:
            server.wait_until_ready()


def from_sdk(directory: Path, old: int, new: int) -> Pair:
    before, after = SDK.block("sh", "python shop.py"), SDK.block("sh", "serve shop.py:mcp --port 8000")
    return Pair(Server(before, directory / "old", old), Server(after, directory / "new", new, STREAM_EARLY))


def from_fastmcp(directory: Path, old: int, new: int) -> Pair:
    before, after = FASTMCP.block("sh", "python fast_shop.py").strip(), f"{commands(FASTMCP)[1]} --store sqlite:///s.db"
    return Pair(Server(before, directory / "old", old), Server(after, directory / "new", new, STREAM_LATE))


def from_mcp_persist(directory: Path, old: int, new: int) -> Pair:
    before, after = "python durable.py", PERSIST.block("sh", "mcp-tornado serve")
    settings = PERSIST.block("toml", "sqlite")
    return Pair(
        Server(before, directory / "old", old, path="/mcp/"),
        Server(after, directory / "new", new, STREAM_EARLY, settings=settings),
    )


def commands(document: Document) -> list[str]:
    return [text.strip() for language, text in document.blocks if language == "sh"]


@pytest.fixture(
    scope="module", params=[from_sdk, from_fastmcp, from_mcp_persist], ids=["sdk", "fastmcp", "mcp-persist"]
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    pair = request.param(tmp_path_factory.mktemp("pair"), *free_ports(2))
    with running(pair.old, pair.new):
        yield pair


def only(*sources: Callable[..., Pair]) -> pytest.MarkDecorator:
    """Run a test only with the servers of these sources."""
    return pytest.mark.parametrize("pair", sources, indirect=True, ids=lambda source: source.__name__)


# ---------------------------------------------------------------- a plain HTTP client


def send(method: str, url: str, message: Any = None, **headers: str) -> httpx.Response:
    named = {"Accept": f"{JSON}, {EVENT_STREAM}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return httpx.request(method, url, json=message, headers=named, timeout=DEADLINE, verify=False)


def request(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return request("tools/call", name=tool, arguments=arguments)


INITIALIZE = request(
    "initialize", protocolVersion=HANDSHAKE, capabilities={}, clientInfo={"name": "wire", "version": "1"}
)


def media_type(response: httpx.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0]


def frames(text: str) -> list[dict[str, str]]:
    """Return the server-sent events in a text, each as a dict of its fields."""
    events = [[line.partition(":") for line in event.splitlines()] for event in re.split(r"\r?\n\r?\n", text.strip())]
    return [{name: value.strip() for name, _, value in event if name} for event in events]


def answer(response: httpx.Response) -> Any:
    """Return the last message of a response, which is JSON or a stream."""
    if media_type(response) == EVENT_STREAM:
        return json.loads(frames(response.text)[-1]["data"])
    return response.json()


def text_of(message: Any) -> str:
    """Return the text of a tool's result."""
    assert not message["result"].get("isError"), message
    return message["result"]["content"][0]["text"]


class WireClient:
    """A client that sends plain HTTP requests, in a session of its own if the server creates sessions."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opened = send("POST", url, INITIALIZE)
        self.headers = {"MCP-Protocol-Version": HANDSHAKE}
        if "Mcp-Session-Id" in self.opened.headers:
            self.headers["Mcp-Session-Id"] = self.opened.headers["Mcp-Session-Id"]
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    @property
    def session_id(self) -> str:
        return self.headers["Mcp-Session-Id"]

    def post(self, message: Any, **headers: str) -> httpx.Response:
        return send("POST", self.url, message, **self.headers, **headers)

    def tool(self, name: str, **arguments: Any) -> str:
        return text_of(answer(self.post(call(name, **arguments))))


@contextmanager
def calling(server: Server, seconds: float) -> Generator[httpx.Response]:
    """Call a tool that runs for `seconds`, and yield the response when its head has arrived and its body is unread."""
    client = WireClient(server.url)
    with httpx.stream(
        "POST",
        client.url,
        json=call("deliver", seconds=seconds),
        headers={"Accept": f"{JSON}, {EVENT_STREAM}", **client.headers},
        timeout=DEADLINE,
        verify=False,
    ) as response:
        yield response


# ---------------------------------------------------------------- tests with all three sources


def rows(document: Document) -> list[list[str]]:
    """Return the cells of the last table of a document, row by row, without its head."""
    table = document.text[document.text.rindex("|---") :].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table]


def documented(row: str) -> tuple[list[int], list[int]]:
    """Return the numbers in a row of the table of differences over HTTP: those of the old server, and ours."""
    (cells,) = [cells for cells in rows(HTTP) if cells[0] == row]
    old, new = [[int(number) for number in re.findall(r"-?\d+", cell)] for cell in cells[1:]]
    return old, new


def test_tools_answer_the_same(pair: Pair) -> None:
    old, new = pair.clients()
    assert answer(old.post(request("tools/list"))) == answer(new.post(request("tools/list")))
    for client in (old, new):
        assert client.tool("price", item="tea") == "3"
        assert client.tool("add", item="tea") == "tea"
        assert client.tool("add", item="milk") == "tea, milk"
        assert WireClient(client.url).tool("add", item="bread") == "bread"


def test_session_id_has_another_form(pair: Pair) -> None:
    old, new = pair.clients()
    assert re.fullmatch("[0-9a-f]+", old.session_id)
    assert re.fullmatch("[A-Za-z0-9_-]+", new.session_id)
    assert ([len(old.session_id)], [len(new.session_id)]) == documented("session id")
    assert old.post(request("ping")).headers["Mcp-Session-Id"] == old.session_id
    assert "Mcp-Session-Id" not in new.post(request("ping")).headers


def test_session_key_gives_no_access(pair: Pair) -> None:
    _, new = pair.clients()
    hashed = hashlib.sha256(new.session_id.encode()).digest()
    key = base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()
    assert send("POST", new.url, request("ping"), Mcp_Session_Id=key).status_code == 404


def test_missing_session_has_the_same_status_and_a_symbolic_name(pair: Pair) -> None:
    statuses: tuple[list[int], list[int]] = ([], [])
    for headers, name in (({}, "SESSION_REQUIRED"), ({"Mcp_Session_Id": "0" * 32}, "SESSION_NOT_FOUND")):
        answers = [send("POST", server.url, request("ping"), **headers) for server in (pair.old, pair.new)]
        for seen, response in zip(statuses, answers, strict=True):
            seen.append(response.status_code)
        old, new = [response.json()["error"] for response in answers]
        assert old["code"] == new["code"] == -32600
        assert "data" not in old
        assert new["data"]["code"] == name
    assert statuses == documented("no session, unknown session")


def test_malformed_request_gets_another_error(pair: Pair) -> None:
    old, new = pair.clients()
    refused = [client.post(request("ping"), Content_Type="text/plain") for client in (old, new)]
    assert tuple([response.status_code] for response in refused) == documented("a wrong `Content-Type`")
    refused = [client.post({}) for client in (old, new)]
    codes = tuple([response.status_code, response.json()["error"]["code"]] for response in refused)
    assert codes == documented("JSON that is not a JSON-RPC message")


def test_delete_has_another_status(pair: Pair) -> None:
    old, new = pair.clients()
    ended = [send("DELETE", client.url, **client.headers) for client in (old, new)]
    assert tuple([response.status_code] for response in ended) == documented("DELETE")
    assert [client.post(request("ping")).status_code for client in (old, new)] == [404, 404]


def test_trailing_slash_is_not_redirected(pair: Pair) -> None:
    for server, status in ((pair.old, 307), (pair.new, 200)):
        other = server.url.removesuffix("/") if server.url.endswith("/") else f"{server.url}/"
        assert send("POST", other, INITIALIZE).status_code == status


def test_cors_preflight_is_answered(pair: Pair) -> None:
    headers = {"Origin": "http://localhost:3000", "Access_Control_Request_Method": "POST"}
    assert [send("OPTIONS", server.url, **headers).status_code for server in (pair.old, pair.new)] == [405, 204]


def test_host_and_origin_are_always_checked(pair: Pair, request: pytest.FixtureRequest) -> None:
    checked = "sdk" in request.node.callspec.id
    for headers, status in (
        ({"Host": "mcp.example.com"}, 421),
        ({"Origin": "https://app.example.com"}, 403),
    ):
        old, new = [send("POST", server.url, INITIALIZE, **headers) for server in (pair.old, pair.new)]
        assert old.status_code == (status if checked else 200)
        assert new.status_code == status
    local = [send("POST", server.url, INITIALIZE, Host="localhost").status_code for server in (pair.old, pair.new)]
    assert local == [421 if checked else 200, 200]


def test_probes_and_metrics_are_new(pair: Pair) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        statuses = [send("GET", server.origin + path).status_code for server in (pair.old, pair.new)]
        assert statuses == [404, 200]
    made = [send("POST", f"{server.origin}/mcp/session").status_code for server in (pair.old, pair.new)]
    assert made[1] == 201
    assert made[0] != 201


@only(from_fastmcp)
def test_quick_answer_is_json(pair: Pair) -> None:
    old, new = pair.clients()
    for client, expected in ((old, EVENT_STREAM), (new, JSON)):
        assert media_type(client.opened) == expected
        assert media_type(client.post(call("price", item="tea"))) == expected


@only(from_sdk, from_mcp_persist)
def test_slow_answer_is_a_stream(pair: Pair, request: pytest.FixtureRequest) -> None:
    old, new = [client.post(call("deliver", seconds=0.1)) for client in pair.clients()]
    assert media_type(old) == media_type(new) == EVENT_STREAM
    first, *_, last = frames(new.text)
    assert first["id"]
    assert (first["data"], first["retry"]) == ("", "1000")
    assert last["id"] != first["id"]
    first = frames(old.text)[0]
    if "sdk" in request.node.callspec.id:
        assert "id" not in first
        assert json.loads(first["data"])["id"] == 1
    else:
        assert first["id"]
        assert first["data"] == ""
    assert "retry" not in first


@only(from_fastmcp)
def test_fastmcp_state_survives_a_kill_on_a_durable_store(pair: Pair) -> None:
    client = WireClient(pair.new.url)
    assert client.tool("add", item="tea") == "tea"
    pair.new.stop(signal.SIGKILL)
    pair.restart()
    assert client.tool("add", item="milk") == "tea, milk"


@only(from_mcp_persist)
def test_sessions_survive_a_kill_and_dictionaries_do_not(pair: Pair) -> None:
    clients = pair.clients()
    assert [client.tool("add", item="tea") for client in clients] == ["tea", "tea"]
    pair.old.stop(signal.SIGKILL)
    pair.new.stop(signal.SIGKILL)
    pair.restart()
    assert [client.tool("add", item="milk") for client in clients] == ["milk", "milk"]


@only(from_mcp_persist)
@pytest.mark.anyio
async def test_file_of_mcp_persist_is_refused(pair: Pair) -> None:
    app = create_app(MCPServer("shop"), sessions={"store": f"sqlite:///{pair.old.directory / 'events.db'}"})
    with pytest.raises(StoreError, match="the database of another application"):
        async with app.lifespan():
            pass


# ---------------------------------------------------------------- the switch


@only(from_sdk)
def test_compare_script_prints_same_for_every_call(pair: Pair) -> None:
    lines = compared(pair.old, pair.new)
    assert len(lines) == 8
    assert [line for line in lines if not line.endswith(" same")] == []


def compared(old: Server, new: Server) -> list[str]:
    command = with_ports(TRY.block("sh", "compare.py"), {"8000": old.port, "8001": new.port})
    ran = subprocess.run(
        shlex.split(command),
        cwd=old.directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_first_step_starts_the_new_server_on_another_port() -> None:
    install, serve = TRY.block("sh", "pip install").splitlines()
    assert install == 'pip install "mcp-tornado[sqlite]"'
    assert serve == f"{commands(SDK)[1].replace('8000', '8001')} --store sqlite:///sessions.db"


@only(from_sdk)
@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_switch_ends_sessions_and_stateless_clients_continue(pair: Pair, tmp_path: Path) -> None:
    replacement = Server(commands(SDK)[1], tmp_path / "place", pair.old.port, STREAM_EARLY)
    with typescript_clients(pair.old.url) as typescript_calls:
        async with AsyncExitStack() as stack:
            stateless = await stack.enter_async_context(Client(pair.old.url))
            with_session = [
                await stack.enter_async_context(client)
                for client in (Client(pair.old.url, mode="legacy"), fastmcp.Client(pair.old.url, mode="legacy"))
            ]
            for client in (stateless, *with_session):
                await client.call_tool("price", {"item": "tea"})
            assert [call_tool("before") for call_tool in typescript_calls] == ["before: 3"] * len(typescript_calls)
            with calling(pair.old, seconds=60) as response:
                assert pair.old.stop() == -signal.SIGTERM
                with pytest.raises(httpx.RemoteProtocolError):  # the stream is cut
                    response.read()
            with running(replacement):
                assert not (await stateless.call_tool("price", {"item": "tea"})).is_error
                for client in with_session:
                    for _ in range(2):
                        with pytest.raises(MCPError, match="Session not found"):
                            await client.call_tool("price", {"item": "tea"})
                assert [call_tool("after").startswith("after failed:") for call_tool in typescript_calls] == [
                    True
                ] * len(typescript_calls)
                async with Client(pair.old.url, mode="legacy") as anew:
                    assert not (await anew.call_tool("price", {"item": "tea"})).is_error
                made_here = WireClient(replacement.url)
                with calling(replacement, seconds=0.5) as response:
                    assert replacement.stop() == 0
                    response.read()
                    assert text_of(answer(response)) == "delivered"
    pair.restart()
    assert made_here.post(request("ping")).status_code == 404
    assert WireClient(pair.old.url).tool("price", item="tea") == "3"
    if not typescript_calls:
        javascript.require()


PROGRAM = """
import { createInterface } from "node:readline";

const [version, url] = process.argv.slice(-2);
const { Client, StreamableHTTPClientTransport } =
  version === "1"
    ? {
        ...(await import("@modelcontextprotocol/sdk/client/index.js")),
        ...(await import("@modelcontextprotocol/sdk/client/streamableHttp.js")),
      }
    : await import("@modelcontextprotocol/client");
const client = new Client({ name: "test", version: "1" });
await client.connect(new StreamableHTTPClientTransport(new URL(url)));
for await (const word of createInterface({ input: process.stdin })) {
  try {
    const result = await client.callTool({ name: "price", arguments: { item: "tea" } });
    console.log(`${word}: ${result.content[0].text}`);
  } catch (error) {
    console.log(`${word} failed: ${error.message}`);
  }
}
process.exit(0);
"""
"""A program with a client of the TypeScript SDK: it calls a tool for each line that it reads."""


@contextmanager
def typescript_clients(url: str) -> Generator[list[Callable[[str], str]]]:
    """Connect one client of each TypeScript SDK, if they are installed; yield a function for each that calls a tool."""
    with ExitStack() as stack:
        calls: list[Callable[[str], str]] = []
        for version in ("1", "2") if javascript.is_installed() else ():
            process = stack.enter_context(
                subprocess.Popen(
                    javascript.node("--input-type=module", "-e", PROGRAM, "--", version, url),
                    cwd=javascript.DIRECTORY,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            calls.append(partial(call_tool_in, process))
        yield calls


def call_tool_in(process: subprocess.Popen[str], word: str) -> str:
    """Make the program call its tool once, and return the line that it prints."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


# ---------------------------------------------------------------- tests of single sections


KEYED = """
import uvicorn
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse

from web import app


async def ask_for_key(request, call_next):
    return await call_next(request) if "key" in request.headers else PlainTextResponse("no key", 401)


app.add_middleware(BaseHTTPMiddleware, dispatch=ask_for_key)
uvicorn.run(app, port=8000)
"""
"""The Starlette application of the page, with a middleware around it that asks for a key."""


def test_server_mounted_in_starlette_becomes_a_tornado_application_or_a_process(tmp_path: Path) -> None:
    ports = free_ports(3)
    old = Server("python keyed.py", tmp_path / "old", ports[0], path="/tools/mcp")
    (old.directory / "keyed.py").write_text(with_ports(KEYED, {"8000": ports[0]}))
    app = Server("python shop_app.py", tmp_path / "app", ports[1], path="/tools/mcp")
    command, settings = MOUNTED.block("sh", "/tools/mcp"), TRY.block("toml", "allowed_hosts")
    beside = Server(command, tmp_path / "beside", ports[2], settings=settings, path="/tools/mcp")
    with running(old, app, beside):
        for server, headers in ((old, {"Key": "mine"}), (app, {})):
            assert send("GET", f"{server.origin}/", **headers).text == "The shop is open"
            assert send("GET", f"{server.origin}/tools/health", **headers).text == "fine"
            assert send("POST", server.url, INITIALIZE, **headers).status_code == 200
        assert send("POST", old.url, INITIALIZE).status_code == 401
        assert send("POST", beside.url, INITIALIZE).status_code == 200, "the key is no longer checked"
        assert send("POST", beside.url, INITIALIZE, Host="localhost").status_code == 421
        by_name = {"Host": "mcp.example.com", "Origin": "https://app.example.com", "X_Forwarded_For": "203.0.113.9"}
        answered = send("POST", beside.url, INITIALIZE, **by_name)
        assert answered.status_code == 200
        assert answered.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        lines = [json.loads(line) for line in beside.log.splitlines()]
        assert "203.0.113.9" in [line.get("client") for line in lines]
        assert [line["path"] for line in lines if line["event"] == "route.unserved"] == ["/health"]
        with calling(app, seconds=1) as response:
            assert app.stop() == 0
            response.read()
            assert text_of(answer(response)) == "delivered"


def test_low_level_server_needs_no_session_manager(tmp_path: Path) -> None:
    ports = free_ports(2)
    old = Server("python prices_app.py", tmp_path / "old", ports[0], path="/mcp/")
    command, settings = LOW_LEVEL.block("sh", "prices.py"), LOW_LEVEL.block("toml", "max_sessions")
    new = Server(command, tmp_path / "new", ports[1], settings=settings)
    with running(old, new):
        for server, with_port in ((old, 421), (new, 200)):
            client = WireClient(server.url)
            assert client.tool("price", item="tea") == "3"
            assert media_type(client.opened) == JSON
            answered = client.post(call("price", item="tea"), Accept=JSON)
            assert (answered.status_code, media_type(answered)) == (200, JSON)
            assert client.post(request("ping"), Host="mcp.example.com").status_code == 200
            assert client.post(request("ping"), Host="mcp.example.com:8000").status_code == with_port
            assert client.post(request("ping"), Host="example.com").status_code == 421
            assert client.post(request("ping"), Origin="https://app.example.com").status_code == 200
            assert send("POST", server.url, INITIALIZE).status_code == 200
            assert send("POST", server.url, INITIALIZE).status_code == 503


def test_http_app_without_sessions_becomes_three_settings(tmp_path: Path) -> None:
    ports = free_ports(2)
    old = Server("python fast_app.py", tmp_path / "old", ports[0], path="/shop/mcp")
    # FastMCP's variables for its HTTP server must have no effect.
    variables = ("FASTMCP_PORT=1", "FASTMCP_STREAMABLE_HTTP_PATH=/nowhere", "FASTMCP_STATELESS_HTTP=false")
    settings = FASTMCP.block("toml", 'mode = "off"')
    new = Server(commands(FASTMCP)[2], tmp_path / "new", ports[1], *variables, settings=settings, path="/shop/mcp")
    with running(old, new):
        for server in (old, new):
            client = WireClient(server.url)
            assert "Mcp-Session-Id" not in client.opened.headers
            assert client.tool("price", item="tea") == "3"
            answered = client.post(call("price", item="tea"), Accept=JSON)
            assert (answered.status_code, media_type(answered)) == (200, JSON)
        assert send("GET", new.url, Accept=EVENT_STREAM).status_code == 405


@only(from_sdk)
@pytest.mark.anyio
async def test_state_moves_from_a_dictionary_into_the_session(pair: Pair, tmp_path: Path) -> None:
    server = Server("mcp-tornado serve cart.py:mcp --port 8000", tmp_path / "cart", free_ports(1)[0])
    with running(server):
        client = WireClient(server.url)
        assert client.tool("add", item="tea") == "tea"
        assert client.tool("add", item="milk") == "tea, milk"
        assert [line for line in compared(pair.old, server) if "new:" in line]
        for each in (pair.old, pair.new, server):
            async with Client(each.url) as stateless:
                assert (await stateless.call_tool("add", {"item": "tea"})).is_error, "there is no session"
    with pytest.raises(state.NoSession):
        state.current()


# ---------------------------------------------------------------- the tables


def options(document: Document) -> set[str]:
    return {name for row in rows(document) for name in re.findall(r"`(\w+)`", row[0])}


def parameters(*functions: Callable[..., Any]) -> set[str]:
    return {name for function in functions for name in inspect.signature(function).parameters}


@pytest.mark.parametrize(
    ("distribution", "document", "existing"),
    [
        (
            "mcp",
            Document(SDK.text.partition("### ")[0]),
            parameters(MCPServer.run_streamable_http_async, StreamableHTTPSessionManager) - {"self", "app"},
        ),
        (
            "fastmcp",
            FASTMCP,
            parameters(fastmcp.FastMCP.run_http_async, fastmcp.FastMCP.http_app) - {"self"},
        ),
        ("mcp-persist", PERSIST, parameters(mcp_persist.with_persistence)),
    ],
)
def test_tables_name_every_option(distribution: str, document: Document, existing: set[str]) -> None:
    named = options(document)
    assert named <= existing
    # The page names the release that it was tried with. A later release may have more options.
    if f"{distribution} {version(distribution)}" in DOCUMENT.text.replace("\n", " "):
        assert named == existing


def test_settings_exist_with_the_documented_defaults(tmp_path: Path) -> None:
    real = {key: value for key, value, _ in describe(load_settings(directory=tmp_path))}
    named = set(re.findall(r"`((?:server|sessions|events|log|metrics)\.(?!db\b)\w+)", DOCUMENT.text))
    assert len(named) > 20
    assert named <= real.keys()
    defaults = re.findall(r"`([a-z]+\.\w+)`\s\(default\s(\d+(?:\.\d+)?)\)", DOCUMENT.text)
    assert len(defaults) > 5
    for key, value in defaults:
        assert real[key] == float(value), key


def test_sdk_defaults_are_documented_correctly() -> None:
    assert documented("idle sessions end after")[0] == [DEFAULT_SESSION_IDLE_TIMEOUT]
    assert documented("the most sessions at once")[0] == [DEFAULT_MAX_SESSIONS]
    assert Settings().server.max_body_bytes == DEFAULT_MAX_REQUEST_BODY_SIZE
    assert fastmcp.settings.http_session_idle_timeout == "auto"
    server = MCPServer("shop")
    server.streamable_http_app(host="0.0.0.0")
    assert server.session_manager.security_settings is None


def test_every_link_leads_to_a_file_and_heading() -> None:
    links = re.findall(r"\]\(([^)]+)\)", DOCUMENT.text)
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        text = (REPOSITORY / "docs" / path).read_text() if path else DOCUMENT.text
        headings = re.findall(r"^#{2,} (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, link
