"""A FastMCP server in two processes behind a load balancer: its state of a client is the same in both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.exceptions import ToolError
from mcp_types import METHOD_NOT_FOUND, Implementation

from tests.integration.cluster import Cluster, run_cluster
from tests.integration.load_balancer import LoadBalancer
from tests.integration.server_process import app_name
from tests.integration.waiting import DEADLINE_SECONDS
from tests.integration.wire import STATELESS, Wire, open_wire

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

FASTMCP_ERRORS = [f"Error calling tool '{tool}'" for tool in ("put", "note", "ask")]
"""The errors that FastMCP logs when these tests make tools fail."""


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    app = app_name("fastmcp_state", "fast")
    settings = {"SESSIONS__MAX_STATE_BYTES": 4000}
    with run_cluster(request.param, size=2, app=app, expected_errors=FASTMCP_ERRORS, **settings) as cluster:
        yield cluster


@asynccontextmanager
async def connect_fastmcp_client(
    balancer: LoadBalancer, mode: Any = "legacy", **handlers: Any
) -> AsyncGenerator[Client[Any]]:
    """Connect a client of FastMCP."""
    handlers = {"timeout": DEADLINE_SECONDS, "client_info": Implementation(name="tester", version="1"), **handlers}
    async with asyncio.timeout(2 * DEADLINE_SECONDS), Client(balancer.url, mode=mode, **handlers) as client:
        yield client


@pytest.fixture
async def client(balancer: LoadBalancer) -> AsyncGenerator[Client[Any]]:
    async with connect_fastmcp_client(balancer) as client:
        yield client


@pytest.fixture
async def stateless_client(balancer: LoadBalancer) -> AsyncGenerator[Client[Any]]:
    async with connect_fastmcp_client(balancer, STATELESS) as client:
        yield client


@pytest.fixture
async def wire(balancer: LoadBalancer) -> AsyncGenerator[Wire]:
    async with open_wire(balancer) as wire:
        yield await wire.open_session()


async def call(client: Client[Any], tool: str, **arguments: Any) -> Any:
    """Call a tool and return its result."""
    return (await client.call_tool(tool, arguments)).data


async def get_everywhere(client: Client[Any], key: str, prefix: str = "") -> Any:
    """Return the value of a key, which must be the same in both processes."""
    first, second = [await call(client, f"{prefix}get", key=key) for _ in range(2)]
    assert first == second
    return first["value"]


async def tool_names(client: Client[Any]) -> set[str]:
    """Return the tools of a client, which must be the same in both processes."""
    first, second = [{tool.name for tool in await client.list_tools()} for _ in range(2)]
    assert first == second
    return first


# ---------------------------------------------------------------- values of ctx.set_state


async def test_state_is_the_same_in_every_process(client: Client[Any]) -> None:
    assert await get_everywhere(client, "cart") is None
    first = await call(client, "put", key="cart", value=["tea"])
    assert await get_everywhere(client, "cart") == ["tea"]
    second = await call(client, "put", key="cart", value={"milk": [1, None, 2.5, "ä"]})
    assert await get_everywhere(client, "cart") == {"milk": [1, None, 2.5, "ä"]}
    assert await client.read_resource("memo://cart")
    assert first != second
    await call(client, "delete", key="cart")
    assert await get_everywhere(client, "cart") is None
    await call(client, "delete", key="cart")


async def test_resources_and_prompts_read_the_state(client: Client[Any]) -> None:
    await call(client, "put", key="cart", value="tea")
    for _ in range(2):
        assert [content.text for content in await client.read_resource("memo://cart")] == ["cart: tea"]
        prompt = await client.get_prompt("remember", {"name": "cart"})
        assert prompt.messages[0].content.text == "Remember cart: tea"


async def test_clients_have_separate_state(balancer: LoadBalancer, client: Client[Any]) -> None:
    await call(client, "put", key="cart", value="mine")
    async with connect_fastmcp_client(balancer) as other:
        assert await get_everywhere(other, "cart") is None
        await call(other, "put", key="cart", value="other")
        assert await get_everywhere(client, "cart") == "mine"
        assert await get_everywhere(other, "cart") == "other"


async def test_concurrent_writes_to_different_keys_are_all_stored(client: Client[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(call(client, "put", key=f"key {number}", value=number))
    for number in range(20):
        assert await get_everywhere(client, f"key {number}") == number


async def test_mounted_servers_have_their_own_state(client: Client[Any]) -> None:
    prefixes = ["", "named_", "named_nested_", "unnamed0_", "unnamed1_"]
    for prefix in prefixes:
        assert await get_everywhere(client, "n", prefix) is None
        await call(client, f"{prefix}put", key="n", value=f"of {prefix}")
    for prefix in prefixes:
        assert await get_everywhere(client, "n", prefix) == f"of {prefix}"


async def test_a_server_that_is_mounted_later_has_its_own_state(balancer: LoadBalancer, wire: Wire) -> None:
    for server in balancer.servers:
        assert await wire.at(server).call_tool("mount_late") == "mounted"
    async with connect_fastmcp_client(balancer) as client:
        await call(client, "put", key="n", value="outer")
        await call(client, "late_put", key="n", value="mounted")
        assert await get_everywhere(client, "n", "late_") == "mounted"
        assert await get_everywhere(client, "n") == "outer"


async def test_a_value_that_is_stored_during_the_handshake_belongs_to_the_session(client: Client[Any]) -> None:
    stored = await get_everywhere(client, "client")
    assert stored["name"] == "tester"
    assert {stored["session"]} == {await call(client, "session_of") for _ in range(2)}


async def test_a_second_handshake_keeps_the_state(wire: Wire) -> None:
    await wire.call_tool("put", key="cart", value="tea")
    session = wire.headers
    again = await wire.initialize()
    assert again.status_code == 200
    assert wire.headers == session
    for _ in range(2):
        assert '"tea"' in await wire.call_tool("get", key="cart")
        assert '"wire"' in await wire.call_tool("get", key="client")


async def test_a_tool_gets_the_values_of_middleware(client: Client[Any], stateless_client: Client[Any]) -> None:
    for _ in range(2):
        assert await call(client, "middleware_values") == "middleware_values True"
        assert await call(stateless_client, "middleware_values") == "middleware_values True"


async def test_the_state_is_separate_from_that_of_mcp_tornado(client: Client[Any]) -> None:
    for _ in range(2):
        assert await call(client, "both_states") == {"before": {"n": 2}, "fastmcp": 1, "ours": {}}


async def test_a_value_that_is_too_large_is_refused_with_a_message_and_changes_nothing(client: Client[Any]) -> None:
    await call(client, "put", key="cart", value="tea")
    with pytest.raises(ToolError, match=r"sessions\.max_state_bytes allows 4000"):
        await call(client, "put", key="cart", value="x" * 4000)
    assert await get_everywhere(client, "cart") == "tea"


async def test_a_request_without_a_session_stores_nothing(client: Client[Any], stateless_client: Client[Any]) -> None:
    await call(client, "put", key="cart", value="the session's")
    await call(stateless_client, "put", key="cart", value="the request's")
    assert await get_everywhere(stateless_client, "cart") is None
    assert await get_everywhere(client, "cart") == "the session's"


# ---------------------------------------------------------------- visibility of components


async def test_a_hidden_component_is_hidden_in_every_process_for_this_client_only(
    balancer: LoadBalancer, client: Client[Any]
) -> None:
    async with connect_fastmcp_client(balancer) as other:
        before = await tool_names(client)
        assert await call(client, "hide", component="report_steps") == "hidden"
        assert await call(client, "hide", component="memo://fixed/list") == "hidden"
        assert await tool_names(client) == before - {"report_steps"}
        for _ in range(2):
            assert await client.list_resources() == []
            with pytest.raises(ToolError, match="Unknown tool"):
                await client.call_tool("report_steps")
        assert await tool_names(other) == before
        assert await call(client, "show", component="report_steps") == "shown"
        assert await tool_names(client) == before
        await call(client, "reset")
        assert len(await client.list_resources()) == len(await client.list_resources()) == 1


async def test_a_mounted_server_hides_its_own_components_only(client: Client[Any]) -> None:
    before = await tool_names(client)
    await call(client, "named_hide", component="put")
    assert await tool_names(client) == before - {"named_put"}


async def test_concurrent_visibility_changes_all_take_effect(client: Client[Any]) -> None:
    before = await tool_names(client)
    pairs = [("log", "ask"), ("report_steps", "greet"), ("note", "both_states"), ("put", "delete")]
    async with asyncio.TaskGroup() as group:
        for first, second in pairs:
            group.create_task(call(client, "hide_both", first=first, second=second))
    assert await tool_names(client) == before - {name for pair in pairs for name in pair}


async def test_repeated_visibility_changes_do_not_fill_the_state(client: Client[Any]) -> None:
    before = await tool_names(client)
    for _ in range(25):  # the rules of all rounds would exceed the size limit of the state
        await call(client, "hide", component="report_steps")
        await call(client, "show", component="report_steps")
    assert await tool_names(client) == before


async def test_a_visibility_change_notifies_the_client_of_all_lists(balancer: LoadBalancer) -> None:
    received: list[str] = []

    async def on_message(message: Any) -> None:
        received.append(message.method)

    async with connect_fastmcp_client(balancer, message_handler=on_message) as client:
        await call(client, "hide", component="report_steps")
        lists = ("tools", "resources", "prompts")
        assert sorted(received) == sorted(f"notifications/{kind}/list_changed" for kind in lists)


# ---------------------------------------------------------------- FastMCP's own sessions


async def test_a_session_of_fastmcp_works_at_every_process(stateless_client: Client[Any]) -> None:
    session = await call(stateless_client, "create_session")
    other = await call(stateless_client, "create_session")
    noted = [await call(stateless_client, "note", session_id=session, text=text) for text in "abcd"]
    assert [note["notes"] for note in noted] == [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]]
    assert len({note["by"] for note in noted}) == 2
    assert (await call(stateless_client, "note", session_id=other, text="x"))["notes"] == ["x"]
    assert await call(stateless_client, "end_session", session_id=session) == "session ended"
    for unknown in (session, session, "_user", "", "ä\n\x00", "x" * 1000):
        with pytest.raises(ToolError, match="Invalid or unknown session"):
            await call(stateless_client, "note", session_id=unknown, text="x")
    assert (await call(stateless_client, "note", session_id=other, text="y"))["notes"] == ["x", "y"]


async def test_a_session_of_fastmcp_works_in_both_eras(client: Client[Any], stateless_client: Client[Any]) -> None:
    session = await call(client, "create_session")
    assert (await call(stateless_client, "note", session_id=session, text="a"))["notes"] == ["a"]
    assert (await call(client, "note", session_id=session, text="b"))["notes"] == ["a", "b"]


async def test_sessions_of_fastmcp_and_of_mcp_tornado_are_not_interchangeable(wire: Wire) -> None:
    session = await wire.call_tool("create_session")
    attacker = wire.new_client()
    attacker.headers = {**wire.headers, "Mcp-Session-Id": session}
    for _ in range(2):
        assert (await attacker.post(attacker.tool_request("get", key="notes"))).status_code == 404
    for ours in (wire.session_id, await wire.call_tool("session_of")):
        answer = await wire.post(wire.tool_request("note", session_id=ours, text="x"))
        assert "Invalid or unknown session" in answer.text


# ---------------------------------------------------------------- messages to the client


async def test_a_tool_asks_the_client(balancer: LoadBalancer) -> None:
    answers = iter([ElicitResult(action="accept", content={"value": 7}), ElicitResult(action="decline")] * 2)

    async def on_elicitation(message: str, response_type: Any, params: Any, context: Any) -> Any:
        assert message == "How many?"
        return next(answers)

    async with connect_fastmcp_client(balancer, elicitation_handler=on_elicitation) as client:
        for _ in range(2):
            assert await call(client, "ask") == "accept 7"
            assert await call(client, "ask") == "decline None"


async def test_a_tool_asks_the_client_in_several_rounds(balancer: LoadBalancer) -> None:
    async def on_elicitation(message: str, response_type: Any, params: Any, context: Any) -> Any:
        return ElicitResult(action="accept", content={"name": "Ada"})

    async with connect_fastmcp_client(balancer, STATELESS, elicitation_handler=on_elicitation) as client:
        for _ in range(2):
            assert await call(client, "greet") == "Ada True"  # the second round is served by the other process
        with pytest.raises(ToolError, match="unavailable on 2026-07-28"):
            await call(client, "ask")


async def test_the_client_gets_log_messages_from_its_level_up(balancer: LoadBalancer) -> None:
    logged: list[Any] = []

    async def on_log(message: Any) -> None:
        logged.append(message)

    async with connect_fastmcp_client(balancer, log_handler=on_log) as client:
        for number in range(2):
            await call(client, "log", text=f"{number}")
        assert [each.data["msg"] for each in logged] == [
            f"{level} {number}" for number in range(2) for level in ("debug", "info", "warning")
        ]
        logged.clear()
        await client.set_logging_level("warning")
        for number in range(4):
            await call(client, "log", text=f"{number}")
        assert [each.data["msg"] for each in logged] == [f"warning {number}" for number in range(4)]
        assert len({each.data["extra"]["pid"] for each in logged}) == 2


async def test_a_new_tool_is_available_at_once_and_the_client_is_notified(balancer: LoadBalancer, wire: Wire) -> None:
    for server in balancer.servers:
        at = wire.at(server)
        async with at.post_stream(at.tool_request("add_tool", name="new")) as events:
            frames = await events.read_to_end()
        assert [frame.message.get("method") for frame in frames if frame.message is not None] == [
            "notifications/tools/list_changed",
            None,
        ]
        assert await at.call_tool("new") == "new"


async def test_resource_subscriptions_are_refused_because_fastmcp_has_none(wire: Wire) -> None:
    answer = await wire.send_request(wire.request("resources/subscribe", {"uri": "memo://fixed/list"}))
    assert answer["error"]["code"] == METHOD_NOT_FOUND


async def test_a_tool_reports_progress_and_reads_the_lifespan_context(
    client: Client[Any], stateless_client: Client[Any]
) -> None:
    for each in (client, client, stateless_client, stateless_client):
        progress: list[float] = []

        async def on_progress(value: float, total: float | None, message: str | None, to: Any = progress) -> None:
            to.append(value)

        result = await each.call_tool("report_steps", progress_handler=on_progress)
        assert result.data == {"from": "the lifespan"}
        assert progress == [0, 1, 2]
