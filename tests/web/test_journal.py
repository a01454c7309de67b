"""What a server keeps on a connection is brought back when the connection was dropped meanwhile."""

from __future__ import annotations

import time
from typing import Any

import mcp_types as types
import pytest
from mcp.server.lowlevel.server import Server

from mcp_tornado.kernel import connections

pytestmark = [
    pytest.mark.gen_test,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),  # sessions have them still
]


class Recorder:
    """A low-level server that keeps levels and subscriptions where the SDK says: on the connection."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.closed = 0
        self.server: Any = Server(
            "recorder",
            version="1",
            on_set_logging_level=self.set_level,
            on_subscribe_resource=self.subscribe,
            on_unsubscribe_resource=self.unsubscribe,
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
        )

    def _kept(self, ctx: Any) -> dict[str, Any]:
        state = ctx.session._connection.state
        if "kept" not in state:
            state["kept"] = {"level": None, "uris": set()}

            def close() -> None:
                self.closed += 1

            ctx.session._connection.exit_stack.callback(close)
        return state["kept"]

    async def set_level(self, ctx: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
        self.calls.append(f"level {params.level}")
        self._kept(ctx)["level"] = params.level
        return types.EmptyResult()

    async def subscribe(self, ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
        self.calls.append(f"subscribe {params.uri}")
        if params.uri == "bad://x":
            raise ValueError("no such resource")
        self._kept(ctx)["uris"].add(params.uri)
        return types.EmptyResult()

    async def unsubscribe(self, ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        self.calls.append(f"unsubscribe {params.uri}")
        self._kept(ctx)["uris"].discard(params.uri)
        return types.EmptyResult()

    async def list_tools(self, ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name="kept", input_schema={"type": "object"})])

    async def call_tool(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        kept = self._kept(ctx)
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
    """A session's connection is dropped as soon as another session is served."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 1)


async def say(client: Any, session: str, method: str, **params: Any) -> Any:
    answer = await client.fetch(
        "POST", "/mcp", session=session, json_body={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    )
    return answer.json()


async def kept(client: Any, session: str) -> str:
    return (await client.call(session, "kept")).result()["content"][0]["text"]


async def displace(client: Any) -> None:
    """Have another session served."""
    await client.call(await client.session(), "kept")


async def test_the_journal_is_repeated_once_on_a_new_connection(one_connection, recorder, client):
    session = await client.initialize()
    await say(client, session, "logging/setLevel", level="debug")
    await say(client, session, "resources/subscribe", uri="a://1")
    assert await kept(client, session) == "debug ['a://1']"
    recorder.calls.clear()
    await displace(client)
    assert await kept(client, session) == "debug ['a://1']"
    assert recorder.calls == ["level debug", "subscribe a://1"]
    assert await kept(client, session) == "debug ['a://1']"
    assert len(recorder.calls) == 2
    assert recorder.closed >= 1  # what the dropped connection kept was unwound


async def test_only_the_last_word_is_repeated(one_connection, recorder, client):
    session = await client.initialize()
    for level in ("debug", "info", "error"):
        await say(client, session, "logging/setLevel", level=level)
    for uri in ("a://1", "a://2", "a://1"):
        await say(client, session, "resources/subscribe", uri=uri)
    await say(client, session, "resources/unsubscribe", uri="a://2")
    await displace(client)
    recorder.calls.clear()
    assert await kept(client, session) == "error ['a://1']"
    assert recorder.calls == ["level error", "subscribe a://1"]


async def test_what_failed_is_not_repeated(one_connection, recorder, client):
    session = await client.initialize()
    assert "error" in await say(client, session, "resources/subscribe", uri="bad://x")
    assert "error" in await say(client, session, "logging/setLevel", level="no such level")
    await displace(client)
    recorder.calls.clear()
    assert await kept(client, session) == "None []"
    assert recorder.calls == []


async def test_what_was_sent_in_the_background_is_repeated_too(one_connection, recorder, client):
    session = await client.session()
    request = {"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "alert"}}
    await client.fetch("POST", "/mcp/send", session=session, json_body=request)
    assert (await client.fetch("GET", "/mcp/receive?wait=3", session=session)).json()["events"]
    await displace(client)
    assert await kept(client, session) == "alert []"


async def test_an_idle_connection_is_dropped_and_brought_back(app, monkeypatch, recorder, client):
    session = await client.initialize()
    await say(client, session, "logging/setLevel", level="debug")
    now = time.monotonic()
    monkeypatch.setattr(connections, "IDLE_SECONDS", -1.0)
    app._kernel._pool.drop_idle()
    recorder.calls.clear()
    assert await kept(client, session) == "debug []"
    assert recorder.calls == ["level debug"]
    assert time.monotonic() - now < 5


async def test_sessions_keep_apart_what_their_journals_say(one_connection, recorder, client):
    first, second = await client.initialize(), await client.initialize()
    await say(client, first, "logging/setLevel", level="debug")
    await say(client, second, "logging/setLevel", level="error")
    assert await kept(client, first) == "debug []"
    assert await kept(client, second) == "error []"


@pytest.mark.parametrize("dropped", [True, False], ids=["elsewhere", "here"])
async def test_initialize_on_a_live_session_forgets_what_was_set(dropped, monkeypatch, recorder, client, helpers):
    """The same answer, whether this process serves the session on or another one takes it up."""
    session = await client.initialize()
    await say(client, session, "logging/setLevel", level="debug")
    await say(client, session, "resources/subscribe", uri="a://1")
    again = await client.fetch("POST", "/mcp", session=session, json_body=helpers.initialize())
    assert again.status == 200
    if dropped:
        monkeypatch.setattr(connections, "MAX_CONNECTIONS", 1)
        await displace(client)
    assert await kept(client, session) == "None []"


@pytest.mark.parametrize("sections", [{"sessions": {"store": "faulty://"}}])
async def test_a_level_that_cannot_be_stored_is_no_success(faults, recorder, client):
    from mcp_tornado.sessions import StoreUnavailable

    session = await client.session()
    faults.of["update"] = StoreUnavailable("away")
    request = {"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "alert"}}
    answer = await client.fetch("POST", "/mcp", session=session, json_body=request)
    assert answer.json()["error"]["data"]["code"] == "STORE_UNAVAILABLE"
    assert answer.status == 503
    assert "Retry-After" in answer.headers
