"""The state that a server keeps on a session's connection is restored on a new connection."""

from __future__ import annotations

import time
from typing import Any

import mcp_types as types
import pytest
from mcp.server.lowlevel.server import Server

from mcp_tornado.kernel import connections
from mcp_tornado.sessions import StoreUnavailable
from tests.web.messages import initialize_request

pytestmark = [
    pytest.mark.gen_test(timeout=60),
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


class Recorder:
    """A low-level server that keeps levels and subscriptions on the connection, as the SDK intends."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.closed_count = 0
        self.server: Any = Server(
            "recorder",
            version="1",
            on_set_logging_level=self.set_level,
            on_subscribe_resource=self.subscribe,
            on_unsubscribe_resource=self.unsubscribe,
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
        )

    def _state_of(self, ctx: Any) -> dict[str, Any]:
        state = ctx.session._connection.state
        if "kept" not in state:
            state["kept"] = {"level": None, "uris": set()}

            def close() -> None:
                self.closed_count += 1

            ctx.session._connection.exit_stack.callback(close)
        return state["kept"]

    async def set_level(self, ctx: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
        self.calls.append(f"level {params.level}")
        self._state_of(ctx)["level"] = params.level
        return types.EmptyResult()

    async def subscribe(self, ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
        self.calls.append(f"subscribe {params.uri}")
        if params.uri == "bad://x":
            raise ValueError("no such resource")
        self._state_of(ctx)["uris"].add(params.uri)
        return types.EmptyResult()

    async def unsubscribe(self, ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        self.calls.append(f"unsubscribe {params.uri}")
        self._state_of(ctx)["uris"].discard(params.uri)
        return types.EmptyResult()

    async def list_tools(self, ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="kept", input_schema={"type": "object"})])

    async def call_tool(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        kept = self._state_of(ctx)
        text = f"{kept['level']} {sorted(kept['uris'])}"
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def server(recorder: Recorder) -> Any:
    return recorder.server


@pytest.fixture
def one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection of a session is dropped when another session is served."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 1)


async def send_request(client: Any, session: str, method: str, **params: Any) -> Any:
    answer = await client.fetch(
        "POST", "/mcp", session=session, json_body={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    )
    return answer.json()


async def read_state(client: Any, session: str) -> str:
    return (await client.call_tool(session, "kept")).result()["content"][0]["text"]


async def serve_another_session(client: Any) -> None:
    """Make a call in a new session, which drops the connection of the session before."""
    await client.call_tool(await client.create_session(), "kept")


async def test_journal_is_replayed_once_on_a_new_connection(one_connection, recorder, client):
    session = await client.initialize()
    await send_request(client, session, "logging/setLevel", level="debug")
    await send_request(client, session, "resources/subscribe", uri="a://1")
    assert await read_state(client, session) == "debug ['a://1']"
    recorder.calls.clear()
    await serve_another_session(client)
    assert await read_state(client, session) == "debug ['a://1']"
    assert recorder.calls == ["level debug", "subscribe a://1"]
    assert await read_state(client, session) == "debug ['a://1']"
    assert len(recorder.calls) == 2
    assert recorder.closed_count >= 1  # the exit stack of the dropped connection was unwound


async def test_only_the_last_values_are_replayed(one_connection, recorder, client):
    session = await client.initialize()
    for level in ("debug", "info", "error"):
        await send_request(client, session, "logging/setLevel", level=level)
    for uri in ("a://1", "a://2", "a://1"):
        await send_request(client, session, "resources/subscribe", uri=uri)
    await send_request(client, session, "resources/unsubscribe", uri="a://2")
    await serve_another_session(client)
    recorder.calls.clear()
    assert await read_state(client, session) == "error ['a://1']"
    assert recorder.calls == ["level error", "subscribe a://1"]


async def test_failed_requests_are_not_replayed(one_connection, recorder, client):
    session = await client.initialize()
    assert "error" in await send_request(client, session, "resources/subscribe", uri="bad://x")
    assert "error" in await send_request(client, session, "logging/setLevel", level="no such level")
    await serve_another_session(client)
    recorder.calls.clear()
    assert await read_state(client, session) == "None []"
    assert recorder.calls == []


async def test_background_requests_are_replayed(one_connection, recorder, client):
    session = await client.create_session()
    request = {"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "alert"}}
    await client.fetch("POST", "/mcp/send", session=session, json_body=request)
    assert (await client.fetch("GET", "/mcp/receive?wait=3", session=session)).json()["events"]
    await serve_another_session(client)
    assert await read_state(client, session) == "alert []"


async def test_idle_connection_is_dropped_and_restored(app, monkeypatch, recorder, client):
    session = await client.initialize()
    await send_request(client, session, "logging/setLevel", level="debug")
    started_at = time.monotonic()
    monkeypatch.setattr(connections, "IDLE_SECONDS", -1.0)
    app._kernel._pool.drop_idle()
    recorder.calls.clear()
    assert await read_state(client, session) == "debug []"
    assert recorder.calls == ["level debug"]
    assert time.monotonic() - started_at < 5


async def test_journals_of_sessions_are_separate(one_connection, recorder, client):
    first, second = await client.initialize(), await client.initialize()
    await send_request(client, first, "logging/setLevel", level="debug")
    await send_request(client, second, "logging/setLevel", level="error")
    assert await read_state(client, first) == "debug []"
    assert await read_state(client, second) == "error []"


@pytest.mark.parametrize("is_dropped", [True, False], ids=["new-connection", "same-connection"])
async def test_initialize_on_a_live_session_clears_the_journal(is_dropped, monkeypatch, recorder, client):
    """The answer is the same on the same connection and on a new one, which another process would make."""
    session = await client.initialize()
    await send_request(client, session, "logging/setLevel", level="debug")
    await send_request(client, session, "resources/subscribe", uri="a://1")
    again = await client.fetch("POST", "/mcp", session=session, json_body=initialize_request())
    assert again.status == 200
    if is_dropped:
        monkeypatch.setattr(connections, "MAX_CONNECTIONS", 1)
        await serve_another_session(client)
    assert await read_state(client, session) == "None []"


@pytest.mark.parametrize("sections", [{"sessions": {"store": "faulty://"}}])
async def test_level_that_cannot_be_stored_is_an_error(faults, recorder, client):
    session = await client.create_session()
    faults.of["update"] = StoreUnavailable("away")
    request = {"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "alert"}}
    answer = await client.fetch("POST", "/mcp", session=session, json_body=request)
    assert answer.json()["error"]["data"]["code"] == "STORE_UNAVAILABLE"
    assert answer.status == 503
    assert "Retry-After" in answer.headers
