"""`sessions.mode` and `server.json_responses` with several processes, each with the clients that it is made for."""

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

from tests.integration.cluster import Cluster, run_cluster
from tests.integration.load_balancer import run_balancer
from tests.integration.sdk import Inbox, elicitation_callback, result_text
from tests.integration.server_process import Server
from tests.integration.stateless_era import ELICITATION_CAPABILITY, envelope, stateless_headers
from tests.integration.waiting import DEADLINE_SECONDS
from tests.integration.wire import STATELESS, answer_text, open_wire

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

BOTH: Final = "application/json, text/event-stream"
JSON: Final = "application/json"
INITIALIZE_PARAMS: Final = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "plain", "version": "1"},
}
MODES: Final = ["legacy", STATELESS, "auto"]


class Plain:
    """A client made of the standard library. It keeps no state, and sends each request to the next process.

    Args:
        servers: The processes.
        accept: The media types that the client accepts.
    """

    def __init__(self, servers: Sequence[Server], accept: str) -> None:
        self._turns = itertools.cycle(servers)
        self._ids = itertools.count(1)
        self._accept = accept

    async def send(self, method: str, body: Any, path: str = "", **headers: str) -> tuple[int, dict[str, str], str]:
        """Send an HTTP request and return the status, the headers and the text of its answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        given = {"Accept": self._accept, "Content-Type": "application/json", **named}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(next(self._turns).url + path, data, given, method=method)

        def send() -> tuple[int, dict[str, str], str]:
            try:
                with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:
                    return answer.status, dict(answer.headers), answer.read().decode()
            except HTTPError as error:
                with error:
                    return error.code, dict(error.headers), error.read().decode()

        return await anyio.to_thread.run_sync(send)

    async def send_request(self, method: str, params: Any = None, /, **headers: str) -> Any:
        """Send a JSON-RPC request and return its answer."""
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method}
        whole = message if params is None else {**message, "params": params}
        _, received, body = await self.send("POST", whole, **headers)
        assert "Mcp-Session-Id" not in received or method == "initialize"
        if received["Content-Type"] == "text/event-stream":
            assert "event-stream" in self._accept
            body = [line for line in body.splitlines() if line.startswith("data: ")][-1].removeprefix("data: ")
        answer = json.loads(body)
        assert answer["id"] == message["id"]
        return answer

    async def call(self, tool: str, meta: Any = None, more: Any = None, /, **arguments: Any) -> Any:
        """Call a tool; with `meta`, the envelope, in the stateless era. `more` are further params."""
        params: dict[str, Any] = {"name": tool, "arguments": arguments, **(more or {})}
        if meta is None:
            return await self.send_request("tools/call", params)
        headers = stateless_headers("tools/call", tool)
        return await self.send_request("tools/call", {**params, "_meta": meta}, **headers)


@asynccontextmanager
async def connect_through_balancer(cluster: Cluster, mode: str, **callbacks: Any) -> AsyncGenerator[Client]:
    """Connect a client of the SDK that can answer questions, through a load balancer."""
    with anyio.fail_after(2 * DEADLINE_SECONDS):
        async with (
            run_balancer(cluster) as balancer,
            Client(
                balancer.url,
                mode=mode,
                read_timeout_seconds=DEADLINE_SECONDS,
                elicitation_callback=elicitation_callback("accept"),
                **callbacks,
            ) as client,
        ):
            yield client


# ---------------------------------------------------------------- required


@pytest.fixture(scope="module")
def required() -> Generator[Cluster]:
    with run_cluster("sqlite", size=2) as cluster:
        yield cluster


@pytest.mark.parametrize("mode", MODES)
async def test_required_serves_clients_with_a_session_and_the_stateless_era(required: Cluster, mode: str) -> None:
    async with connect_through_balancer(required, mode) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else STATELESS)
        assert [result_text(await client.call_tool("add", {"a": 1, "b": number})) for number in range(2)] == ["1", "2"]
        assert result_text(await client.call_tool("greet")) == "Hello Ada"


async def test_required_refuses_a_client_without_a_session(required: Cluster) -> None:
    plain = Plain(required.servers, BOTH)
    for _ in required.servers:
        refused = await plain.send("POST", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert (refused[0], json.loads(refused[2])["error"]["data"]["code"]) == (400, "SESSION_REQUIRED")
        assert answer_text(await plain.call("add", envelope(), a=1, b=2)) == "3", (
            "a request of the stateless era needs no session"
        )


# ---------------------------------------------------------------- optional


@pytest.fixture(scope="module")
def optional() -> Generator[Cluster]:
    with run_cluster("sqlite", size=2, SESSIONS__MODE="optional") as cluster:
        yield cluster


async def test_optional_serves_a_client_without_a_session(optional: Cluster) -> None:
    plain = Plain(optional.servers, BOTH)
    for _ in optional.servers:
        initialized = await plain.send_request("initialize", INITIALIZE_PARAMS)
        assert initialized["result"]["protocolVersion"] == "2025-06-18"
        accepted = await plain.send("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert (accepted[0], accepted[2]) == (202, "")
        for version in ({}, {"MCP_Protocol_Version": "2025-06-18"}):
            for _ in optional.servers:
                assert (await plain.send_request("tools/list", None, **version))["result"]["tools"]
        assert answer_text(await plain.call("add", a=1, b=2)) == "3"
        assert answer_text(await plain.call("logs", number=3)) == "logged"
        assert answer_text(await plain.call("whoami")) == "none"
        assert (await plain.send_request("prompts/get", {"name": "introduce", "arguments": {"name": "Ada"}}))["result"]
        assert answer_text(await plain.call("add", envelope(), a=1, b=2)) == "3"
        # The server cannot ask a client without a session.
        assert "back-channel" in json.dumps(await plain.call("elicit"))


@pytest.mark.parametrize("mode", MODES)
async def test_optional_serves_clients_with_a_session(optional: Cluster, mode: str) -> None:
    async with connect_through_balancer(optional, mode) as client:
        assert [result_text(await client.call_tool("greet")) for _ in optional.servers] == ["Hello Ada"] * 2
        (key,) = {result_text(await client.call_tool("whoami")) for _ in optional.servers}
        assert (key == "none") is (mode != "legacy")


# ---------------------------------------------------------------- off


@pytest.fixture(scope="module")
def off() -> Generator[Cluster]:
    with run_cluster("sqlite", size=2, SESSIONS__MODE="off") as cluster:
        yield cluster


@pytest.mark.parametrize("mode", MODES)
async def test_off_serves_the_sdk_client_without_sessions(off: Cluster, mode: str) -> None:
    steps: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with connect_through_balancer(off, mode) as client:
        assert [result_text(await client.call_tool("add", {"a": 1, "b": number})) for number in range(3)] == [
            "1",
            "2",
            "3",
        ]
        assert result_text(await client.call_tool("whoami")) == "none"
        assert result_text(await client.call_tool("progress", {"steps": 3}, progress_callback=on_progress)) == "done"
        assert steps == [1, 2, 3]
        if mode == "legacy":
            assert client.server_capabilities is not None
            assert client.server_capabilities.tools is not None
            assert not client.server_capabilities.tools.list_changed, "there is no stream for the notification"
            with pytest.raises(MCPError, match="back-channel"):
                await client.call_tool("greet")
        else:
            assert result_text(await client.call_tool("greet")) == "Hello Ada"
    for server in off.servers:
        assert server.log_lines_of("session.created") == []
        async with open_wire(server) as wire:
            assert await wire.metric("mcp_tornado_sessions_active") == 0


async def test_off_serves_a_client_without_a_session(off: Cluster) -> None:
    plain = Plain(off.servers, BOTH)
    for _ in off.servers:
        assert (await plain.send_request("initialize", INITIALIZE_PARAMS))["result"]["protocolVersion"] == "2025-06-18"
        assert answer_text(await plain.call("add", a=1, b=2)) == "3"
        assert answer_text(await plain.call("add", envelope(), a=1, b=2)) == "3"


# ---------------------------------------------------------------- JSON only


@pytest.fixture(scope="module")
def json_only() -> Generator[Cluster]:
    with run_cluster("redis", size=2, SERVER__JSON_RESPONSES="true", EVENTS__STREAM_AFTER_SECONDS=0.01) as cluster:
        yield cluster


async def test_a_client_that_accepts_only_json_can_use_a_session(json_only: Cluster) -> None:
    plain = Plain(json_only.servers, JSON)
    initialize = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE_PARAMS}
    status, received, body = await plain.send("POST", initialize)
    assert (status, received["Content-Type"], json.loads(body)["id"]) == (200, "application/json", 0)
    session = {"Mcp_Session_Id": received["Mcp-Session-Id"], "MCP_Protocol_Version": "2025-06-18"}

    async def call(tool: str, **arguments: Any) -> str:
        return answer_text(await plain.send_request("tools/call", {"name": tool, "arguments": arguments}, **session))

    accepted = await plain.send("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}, **session)
    assert accepted[0] == 202
    keys = {await call("whoami") for _ in json_only.servers}
    assert len(keys) == 1, "every process must see the same session"
    assert await call("logs", number=3) == "logged"
    assert await call("progress", steps=3) == "done"
    # The client has no stream. It polls for notifications, at any process.
    assert await call("change") == "changed"
    for _ in json_only.servers:
        _, _, polled = await plain.send("GET", None, "/receive?wait=10", **session)
        methods = [event["message"]["method"] for event in json.loads(polled)["events"]]
        assert methods[0] == "notifications/tools/list_changed"
        assert len(methods) == 4
        refused = await plain.send("GET", None, **session)
        assert (refused[0], json.loads(refused[2])["error"]["data"]["code"]) == (406, "NOT_ACCEPTABLE")
    assert (await plain.send("DELETE", None, **session))[0] == 204


async def test_a_client_that_accepts_only_json_can_use_the_stateless_era(json_only: Cluster) -> None:
    plain = Plain(json_only.servers, JSON)
    capable = envelope(**ELICITATION_CAPABILITY)
    for _ in json_only.servers:
        assert (await plain.send_request("tools/list", {"_meta": envelope()}, **stateless_headers("tools/list")))[
            "result"
        ]["tools"]
        assert answer_text(await plain.call("logs", envelope(), number=3)) == "logged"
        first = (await plain.call("greet", capable))["result"]
        ((key, _),) = first["inputRequests"].items()
        answers = {key: {"action": "accept", "content": {"name": "Ada"}}}
        second = {"inputResponses": answers, "requestState": first["requestState"]}
        assert answer_text(await plain.call("greet", capable, second)) == "Hello Ada"


@pytest.mark.parametrize("mode", MODES)
async def test_the_sdk_client_works_with_json_responses(json_only: Cluster, mode: str) -> None:
    inbox = Inbox()
    async with connect_through_balancer(json_only, mode, message_handler=inbox) as client:
        assert result_text(await client.call_tool("logs", {"number": 3})) == "logged"
        if mode == "legacy":
            assert result_text(await client.call_tool("change")) == "changed"
            await inbox.wait_for("notifications/tools/list_changed", "notifications/resources/updated")
            with pytest.raises(MCPError, match="back-channel"):
                await client.call_tool("greet")
        else:
            assert result_text(await client.call_tool("greet")) == "Hello Ada"
            async with client.listen(tools_list_changed=True) as subscription:
                await client.call_tool("publish")
                assert await anext(subscription)
        assert "notifications/message" not in inbox.methods(), "notifications of a call are dropped"
