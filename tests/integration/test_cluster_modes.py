"""`sessions.mode` and `server.json_responses` over several processes, each with clients that need it."""

from __future__ import annotations

import itertools
import json
import urllib.request
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.error import HTTPError

import anyio
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from tests.integration.cluster import Cluster, cluster_on, front_of
from tests.integration.conftest import DEADLINE, STATELESS, Server, text_of, wire_to
from tests.integration.test_cluster_stateless import CAPABLE
from tests.integration.test_sdk_client import Inbox, answering, text
from tests.integration.test_stateless import envelope, headers

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

BOTH: Final = "application/json, text/event-stream"
JSON: Final = "application/json"
HELLO: Final = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "plain", "version": "1"}}
MODES: Final = ["legacy", STATELESS, "auto"]


class Plain:
    """A client of the standard library: a connection for each request, at the next process, and nothing remembered.

    Args:
        servers: The processes.
        accept: The media types that it understands.
    """

    def __init__(self, servers: Sequence[Server], accept: str) -> None:
        self._turns = itertools.cycle(servers)
        self._ids = itertools.count(1)
        self._accept = accept

    async def fetch(self, method: str, body: Any, path: str = "", **more: str) -> tuple[int, dict[str, str], str]:
        """Make a request, and return the status, the headers and the text of the answer."""
        given = {name.replace("_", "-"): value for name, value in more.items()}
        sent = {"Accept": self._accept, "Content-Type": "application/json", **given}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(next(self._turns).url + path, data, sent, method=method)

        def fetch() -> tuple[int, dict[str, str], str]:
            try:
                with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                    return answer.status, dict(answer.headers), answer.read().decode()
            except HTTPError as error:
                with error:
                    return error.code, dict(error.headers), error.read().decode()

        return await anyio.to_thread.run_sync(fetch)

    async def ask(self, method: str, params: Any = None, /, **more: str) -> Any:
        """Make a request of the protocol's, and return its answer."""
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method}
        _, told, body = await self.fetch("POST", message if params is None else {**message, "params": params}, **more)
        assert "Mcp-Session-Id" not in told or method == "initialize"
        if told["Content-Type"] == "text/event-stream":  # only where it understands that
            assert "event-stream" in self._accept
            body = [line for line in body.splitlines() if line.startswith("data: ")][-1].removeprefix("data: ")
        answer = json.loads(body)
        assert answer["id"] == message["id"]
        return answer

    async def call(self, tool: str, meta: Any = None, more: Any = None, /, **arguments: Any) -> Any:
        """Call a tool, in the stateless era where there is an envelope."""
        params: dict[str, Any] = {"name": tool, "arguments": arguments, **(more or {})}
        if meta is None:
            return await self.ask("tools/call", params)
        return await self.ask("tools/call", {**params, "_meta": meta}, **headers("tools/call", tool))


@asynccontextmanager
async def client_of(cluster: Cluster, mode: str, **callbacks: Any) -> AsyncGenerator[Client]:
    """Give a client of the SDK that can be asked, and speaks through a round robin."""
    with anyio.fail_after(2 * DEADLINE):
        async with (
            front_of(cluster) as front,
            Client(
                front.url,
                mode=mode,
                read_timeout_seconds=DEADLINE,
                elicitation_callback=answering("accept"),
                **callbacks,
            ) as client,
        ):
            yield client


# ---------------------------------------------------------------- required


@pytest.fixture(scope="module")
def required() -> Generator[Cluster]:
    with cluster_on("sqlite", size=2) as cluster:
        yield cluster


@pytest.mark.parametrize("mode", MODES)
async def test_required_is_for_clients_that_hold_a_session_or_need_none(required: Cluster, mode: str) -> None:
    async with client_of(required, mode) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else STATELESS)
        assert [text(await client.call_tool("add", {"a": 1, "b": number})) for number in range(2)] == ["1", "2"]
        assert text(await client.call_tool("greet")) == "Hello Ada"


async def test_required_says_so_to_a_client_that_holds_none(required: Cluster) -> None:
    plain = Plain(required.servers, BOTH)
    for _ in required.servers:
        refused = await plain.fetch("POST", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert (refused[0], json.loads(refused[2])["error"]["data"]["code"]) == (400, "SESSION_REQUIRED")
        assert text_of(await plain.call("add", envelope(), a=1, b=2)) == "3", "the other era needs none"


# ---------------------------------------------------------------- optional


@pytest.fixture(scope="module")
def optional() -> Generator[Cluster]:
    with cluster_on("sqlite", size=2, SESSIONS__MODE="optional") as cluster:
        yield cluster


async def test_optional_serves_a_client_that_holds_no_session(optional: Cluster) -> None:
    plain = Plain(optional.servers, BOTH)
    for _ in optional.servers:
        hello = await plain.ask("initialize", HELLO)
        assert hello["result"]["protocolVersion"] == "2025-06-18"
        done = await plain.fetch("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert (done[0], done[2]) == (202, "")
        for version in ({}, {"MCP_Protocol_Version": "2025-06-18"}):
            for _ in optional.servers:
                assert (await plain.ask("tools/list", None, **version))["result"]["tools"]
        assert text_of(await plain.call("add", a=1, b=2)) == "3"
        assert text_of(await plain.call("logs", number=3)) == "logged"
        assert text_of(await plain.call("whoami")) == "none"
        assert (await plain.ask("prompts/get", {"name": "introduce", "arguments": {"name": "Ada"}}))["result"]
        assert text_of(await plain.call("add", envelope(), a=1, b=2)) == "3"
        # Nothing can be asked of a client that could not be found again.
        assert "back-channel" in json.dumps(await plain.call("elicit"))


@pytest.mark.parametrize("mode", MODES)
async def test_optional_still_serves_clients_that_hold_one(optional: Cluster, mode: str) -> None:
    async with client_of(optional, mode) as client:
        assert [text(await client.call_tool("greet")) for _ in optional.servers] == ["Hello Ada"] * 2
        (key,) = {text(await client.call_tool("whoami")) for _ in optional.servers}
        assert (key == "none") is (mode != "legacy")


# ---------------------------------------------------------------- off


@pytest.fixture(scope="module")
def off() -> Generator[Cluster]:
    with cluster_on("sqlite", size=2, SESSIONS__MODE="off") as cluster:
        yield cluster


@pytest.mark.parametrize("mode", MODES)
async def test_off_serves_clients_without_any_session(off: Cluster, mode: str) -> None:
    steps: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with client_of(off, mode) as client:
        assert [text(await client.call_tool("add", {"a": 1, "b": number})) for number in range(3)] == ["1", "2", "3"]
        assert text(await client.call_tool("whoami")) == "none"
        assert text(await client.call_tool("progress", {"steps": 3}, progress_callback=on_progress)) == "done"
        assert steps == [1, 2, 3]
        if mode == "legacy":
            assert client.server_capabilities is not None
            assert client.server_capabilities.tools is not None
            assert not client.server_capabilities.tools.list_changed, "there is no stream to hear of it"
            with pytest.raises(MCPError, match="back-channel"):
                await client.call_tool("greet")
        else:
            assert text(await client.call_tool("greet")) == "Hello Ada"
    for server in off.servers:
        assert server.events("session.created") == []
        async with wire_to(server) as wire:
            assert await wire.metric("mcp_tornado_sessions_active") == 0


async def test_off_serves_a_client_that_holds_no_session(off: Cluster) -> None:
    plain = Plain(off.servers, BOTH)
    for _ in off.servers:
        assert (await plain.ask("initialize", HELLO))["result"]["protocolVersion"] == "2025-06-18"
        assert text_of(await plain.call("add", a=1, b=2)) == "3"
        assert text_of(await plain.call("add", envelope(), a=1, b=2)) == "3"


# ---------------------------------------------------------------- JSON only


@pytest.fixture(scope="module")
def json_only() -> Generator[Cluster]:
    with cluster_on("redis", size=2, SERVER__JSON_RESPONSES="true", EVENTS__STREAM_AFTER_SECONDS=0.01) as cluster:
        yield cluster


async def test_a_client_that_accepts_json_alone_has_a_session(json_only: Cluster) -> None:
    plain = Plain(json_only.servers, JSON)
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}
    status, told, body = await plain.fetch("POST", hello)
    assert (status, told["Content-Type"], json.loads(body)["id"]) == (200, "application/json", 0)
    session = {"Mcp_Session_Id": told["Mcp-Session-Id"], "MCP_Protocol_Version": "2025-06-18"}

    async def call(tool: str, **arguments: Any) -> str:
        return text_of(await plain.ask("tools/call", {"name": tool, "arguments": arguments}, **session))

    done = await plain.fetch("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}, **session)
    assert done[0] == 202
    keys = {await call("whoami") for _ in json_only.servers}
    assert len(keys) == 1, "it is one session in every process"
    assert await call("logs", number=3) == "logged"
    assert await call("progress", steps=3) == "done"
    # It has no stream: what is said unasked it fetches, at whatever process.
    assert await call("change") == "changed"
    for _ in json_only.servers:
        _, _, polled = await plain.fetch("GET", None, "/receive?wait=10", **session)
        methods = [event["message"]["method"] for event in json.loads(polled)["events"]]
        assert methods[0] == "notifications/tools/list_changed"
        assert len(methods) == 4
        refused = await plain.fetch("GET", None, **session)
        assert (refused[0], json.loads(refused[2])["error"]["data"]["code"]) == (406, "NOT_ACCEPTABLE")
    assert (await plain.fetch("DELETE", None, **session))[0] == 204


async def test_a_client_that_accepts_json_alone_needs_no_session(json_only: Cluster) -> None:
    plain = Plain(json_only.servers, JSON)
    capable = envelope(**CAPABLE)
    for _ in json_only.servers:
        assert (await plain.ask("tools/list", {"_meta": envelope()}, **headers("tools/list")))["result"]["tools"]
        assert text_of(await plain.call("logs", envelope(), number=3)) == "logged"
        first = (await plain.call("greet", capable))["result"]
        ((key, _),) = first["inputRequests"].items()
        answers = {key: {"action": "accept", "content": {"name": "Ada"}}}
        second = {"inputResponses": answers, "requestState": first["requestState"]}
        assert text_of(await plain.call("greet", capable, second)) == "Hello Ada"


@pytest.mark.parametrize("mode", MODES)
async def test_the_sdk_client_is_content_with_json(json_only: Cluster, mode: str) -> None:
    inbox = Inbox()
    async with client_of(json_only, mode, message_handler=inbox) as client:
        assert text(await client.call_tool("logs", {"number": 3})) == "logged"
        if mode == "legacy":
            assert text(await client.call_tool("change")) == "changed"
            await inbox.has("notifications/tools/list_changed", "notifications/resources/updated")
            with pytest.raises(MCPError, match="back-channel"):
                await client.call_tool("greet")
        else:
            assert text(await client.call_tool("greet")) == "Hello Ada"
            async with client.listen(tools_list_changed=True) as subscription:
                await client.call_tool("publish")
                assert await anext(subscription)
        assert not [each for each in inbox.notifications if each.method == "notifications/message"], "it is dropped"
