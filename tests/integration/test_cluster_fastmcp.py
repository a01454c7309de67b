"""A FastMCP server in two processes behind a round robin: what it keeps for a client is the same in both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.exceptions import ToolError
from mcp_types import METHOD_NOT_FOUND, Implementation

from tests.integration.cluster import Cluster, Front, answer_to, cluster_on
from tests.integration.conftest import DEADLINE, STATELESS, Wire, wire_to

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

FAST = f"{Path(__file__).with_name('fast.py')}:fast"
FAILING = [f"Error calling tool '{tool}'" for tool in ("put", "note", "ask")]
"""What FastMCP logs where tools fail, as these tests have them do."""


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with cluster_on(request.param, size=2, app=FAST, expected=FAILING, SESSIONS__MAX_STATE_BYTES=4000) as cluster:
        yield cluster


@asynccontextmanager
async def client_of(front: Front, mode: Any = "legacy", **handlers: Any) -> AsyncGenerator[Client[Any]]:
    """Give a client of FastMCP's."""
    handlers = {"timeout": DEADLINE, "client_info": Implementation(name="somebody", version="1"), **handlers}
    async with asyncio.timeout(2 * DEADLINE), Client(front.url, mode=mode, **handlers) as client:
        yield client


@pytest.fixture
async def client(front: Front) -> AsyncGenerator[Client[Any]]:
    async with client_of(front) as client:
        yield client


@pytest.fixture
async def stateless(front: Front) -> AsyncGenerator[Client[Any]]:
    async with client_of(front, STATELESS) as client:
        yield client


@pytest.fixture
async def wire(front: Front) -> AsyncGenerator[Wire]:
    async with wire_to(front) as wire:
        yield await wire.open()


async def call(client: Client[Any], tool: str, **arguments: Any) -> Any:
    """Call a tool and return what it has returned."""
    return (await client.call_tool(tool, arguments)).data


async def look(client: Client[Any], key: str, prefix: str = "") -> Any:
    """Return what all processes keep under a key."""
    first, second = [await call(client, f"{prefix}look", key=key) for _ in range(2)]
    assert first == second
    return first["value"]


async def names(client: Client[Any]) -> set[str]:
    """Return the tools that all processes show to a client."""
    first, second = [{tool.name for tool in await client.list_tools()} for _ in range(2)]
    assert first == second
    return first


# ---------------------------------------------------------------- ctx.set_state and the like


async def test_state_is_the_same_in_every_process(client: Client[Any]) -> None:
    assert await look(client, "cart") is None
    first = await call(client, "put", key="cart", value=["tea"])
    assert await look(client, "cart") == ["tea"]
    second = await call(client, "put", key="cart", value={"milk": [1, None, 2.5, "ä"]})
    assert await look(client, "cart") == {"milk": [1, None, 2.5, "ä"]}
    assert await client.read_resource("memo://cart")
    assert first != second
    await call(client, "drop", key="cart")
    assert await look(client, "cart") is None
    await call(client, "drop", key="cart")


async def test_resources_and_prompts_see_it_too(client: Client[Any]) -> None:
    await call(client, "put", key="cart", value="tea")
    for _ in range(2):
        assert [content.text for content in await client.read_resource("memo://cart")] == ["cart: tea"]
        prompt = await client.get_prompt("remember", {"name": "cart"})
        assert prompt.messages[0].content.text == "Remember cart: tea"


async def test_clients_share_nothing(front: Front, client: Client[Any]) -> None:
    await call(client, "put", key="cart", value="mine")
    async with client_of(front) as other:
        assert await look(other, "cart") is None
        await call(other, "put", key="cart", value="theirs")
        assert await look(client, "cart") == "mine"
        assert await look(other, "cart") == "theirs"


async def test_what_is_kept_at_all_processes_at_once_is_all_kept(client: Client[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(call(client, "put", key=f"key {number}", value=number))
    for number in range(20):
        assert await look(client, f"key {number}") == number


async def test_servers_mounted_in_it_have_state_of_their_own(client: Client[Any]) -> None:
    prefixes = ["", "named_", "named_nested_", "unnamed0_", "unnamed1_"]
    for prefix in prefixes:
        assert await look(client, "n", prefix) is None
        await call(client, f"{prefix}put", key="n", value=f"of {prefix}")
    for prefix in prefixes:
        assert await look(client, "n", prefix) == f"of {prefix}"


async def test_a_server_mounted_later_has_it_too(front: Front, wire: Wire) -> None:
    for server in front.servers:
        assert await wire.at(server).tool("mount_late") == "mounted"
    async with client_of(front) as client:
        await call(client, "put", key="n", value="of the server")
        await call(client, "late_put", key="n", value="of the late one")
        assert await look(client, "n", "late_") == "of the late one"
        assert await look(client, "n") == "of the server"


async def test_what_is_kept_while_shaking_hands_is_the_sessions(client: Client[Any]) -> None:
    greeted = await look(client, "greeted")
    assert greeted["name"] == "somebody"
    assert {greeted["in"]} == {await call(client, "session_of") for _ in range(2)}


async def test_shaking_hands_again_keeps_what_was_kept(wire: Wire) -> None:
    await wire.tool("put", key="cart", value="tea")
    session = wire.headers
    again = await wire.initialize()
    assert again.status_code == 200
    assert wire.headers == session
    for _ in range(2):
        assert '"tea"' in await wire.tool("look", key="cart")
        assert '"wire"' in await wire.tool("look", key="greeted")


async def test_what_middleware_hands_on_reaches_the_tool(client: Client[Any], stateless: Client[Any]) -> None:
    for _ in range(2):
        assert await call(client, "handed_on") == "handed_on True"
        assert await call(stateless, "handed_on") == "handed_on True"


async def test_it_is_not_the_state_of_the_application(client: Client[Any]) -> None:
    for _ in range(2):
        assert await call(client, "beside") == {"seen": {"n": 2}, "fastmcp": 1, "ours": {}}


async def test_what_is_too_large_is_refused_in_words_and_changes_nothing(client: Client[Any]) -> None:
    await call(client, "put", key="cart", value="tea")
    with pytest.raises(ToolError, match=r"sessions\.max_state_bytes allows 4000"):
        await call(client, "put", key="cart", value="x" * 4000)
    assert await look(client, "cart") == "tea"


async def test_a_request_without_a_session_keeps_nothing(client: Client[Any], stateless: Client[Any]) -> None:
    await call(client, "put", key="cart", value="the session's")
    await call(stateless, "put", key="cart", value="the request's")
    assert await look(stateless, "cart") is None
    assert await look(client, "cart") == "the session's"


# ---------------------------------------------------------------- which components a client is shown


async def test_what_is_hidden_is_hidden_in_every_process_and_from_this_client_alone(
    front: Front, client: Client[Any]
) -> None:
    async with client_of(front) as other:
        before = await names(client)
        assert await call(client, "hide", component="steps") == "hidden"
        assert await call(client, "hide", component="memo://fixed/list") == "hidden"
        assert await names(client) == before - {"steps"}
        for _ in range(2):
            assert await client.list_resources() == []
            with pytest.raises(ToolError, match="Unknown tool"):
                await client.call_tool("steps")
        assert await names(other) == before
        assert await call(client, "show", component="steps") == "shown"
        assert await names(client) == before
        await call(client, "reset")
        assert len(await client.list_resources()) == len(await client.list_resources()) == 1


async def test_what_a_mounted_server_hides_is_hidden_there_alone(client: Client[Any]) -> None:
    before = await names(client)
    await call(client, "named_hide", component="put")
    assert await names(client) == before - {"named_put"}


async def test_what_is_hidden_at_all_processes_at_once_is_all_hidden(client: Client[Any]) -> None:
    before = await names(client)
    pairs = [("say", "ask"), ("steps", "greet"), ("note", "beside"), ("put", "drop")]
    async with asyncio.TaskGroup() as group:
        for first, second in pairs:
            group.create_task(call(client, "hide_both", first=first, second=second))
    assert await names(client) == before - {name for pair in pairs for name in pair}


async def test_hiding_and_showing_the_same_can_go_on_for_ever(client: Client[Any]) -> None:
    before = await names(client)
    for _ in range(25):  # whose rules would be more than the state may hold
        await call(client, "hide", component="steps")
        await call(client, "show", component="steps")
    assert await names(client) == before


async def test_the_client_is_told_that_its_lists_have_changed(front: Front) -> None:
    told: list[str] = []

    async def on_message(message: Any) -> None:
        told.append(message.method)

    async with client_of(front, message_handler=on_message) as client:
        await call(client, "hide", component="steps")
        lists = ("tools", "resources", "prompts")
        assert sorted(told) == sorted(f"notifications/{kind}/list_changed" for kind in lists)


# ---------------------------------------------------------------- what outlives requests of the stateless era


async def test_a_session_of_fastmcps_own_is_good_at_every_process(stateless: Client[Any]) -> None:
    session = await call(stateless, "create_session")
    other = await call(stateless, "create_session")
    noted = [await call(stateless, "note", session_id=session, text=text) for text in "abcd"]
    assert [note["notes"] for note in noted] == [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]]
    assert len({note["by"] for note in noted}) == 2
    assert (await call(stateless, "note", session_id=other, text="x"))["notes"] == ["x"]
    assert await call(stateless, "end_session", session_id=session) == "session ended"
    for unknown in (session, session, "_user", "", "ä\n\x00", "x" * 1000):
        with pytest.raises(ToolError, match="Invalid or unknown session"):
            await call(stateless, "note", session_id=unknown, text="x")
    assert (await call(stateless, "note", session_id=other, text="y"))["notes"] == ["x", "y"]


async def test_clients_with_a_session_may_use_it_too(client: Client[Any], stateless: Client[Any]) -> None:
    session = await call(client, "create_session")
    assert (await call(stateless, "note", session_id=session, text="a"))["notes"] == ["a"]
    assert (await call(client, "note", session_id=session, text="b"))["notes"] == ["a", "b"]


async def test_it_is_no_session_of_ours_and_a_session_of_ours_is_none_of_these(wire: Wire) -> None:
    session = await wire.tool("create_session")
    thief = wire.fork()
    thief.headers = {**wire.headers, "Mcp-Session-Id": session}
    for _ in range(2):
        assert (await thief.post(thief.call("look", key="notes"))).status_code == 404
    for ours in (wire.session_id, await wire.tool("session_of")):
        answer = await wire.post(wire.call("note", session_id=ours, text="x"))
        assert "Invalid or unknown session" in answer.text


# ---------------------------------------------------------------- what goes to the client


async def test_a_tool_asks_the_client(front: Front) -> None:
    answers = iter([ElicitResult(action="accept", content={"value": 7}), ElicitResult(action="decline")] * 2)

    async def on_elicitation(message: str, response_type: Any, params: Any, context: Any) -> Any:
        assert message == "How many?"
        return next(answers)

    async with client_of(front, elicitation_handler=on_elicitation) as client:
        for _ in range(2):
            assert await call(client, "ask") == "accept 7"
            assert await call(client, "ask") == "decline None"


async def test_a_tool_asks_in_rounds(front: Front) -> None:
    async def on_elicitation(message: str, response_type: Any, params: Any, context: Any) -> Any:
        return ElicitResult(action="accept", content={"name": "Ada"})

    async with client_of(front, STATELESS, elicitation_handler=on_elicitation) as client:
        for _ in range(2):
            assert await call(client, "greet") == "Ada True"  # the second round came to another process
        with pytest.raises(ToolError, match="unavailable on 2026-07-28"):
            await call(client, "ask")


async def test_the_client_hears_from_the_level_up_that_it_has_set(front: Front) -> None:
    said: list[Any] = []

    async def on_log(message: Any) -> None:
        said.append(message)

    async with client_of(front, log_handler=on_log) as client:
        for number in range(2):
            await call(client, "say", text=f"{number}")
        assert [each.data["msg"] for each in said] == [
            f"{level} {number}" for number in range(2) for level in ("debug", "info", "warning")
        ]
        said.clear()
        await client.set_logging_level("warning")
        for number in range(4):
            await call(client, "say", text=f"{number}")
        assert [each.data["msg"] for each in said] == [f"warning {number}" for number in range(4)]
        assert len({each.data["extra"]["pid"] for each in said}) == 2


async def test_a_tool_that_is_added_while_it_runs_is_there_at_once_and_the_client_told(
    front: Front, wire: Wire
) -> None:
    for server in front.servers:
        at = wire.at(server)
        async with at.stream(at.call("grow", name="new")) as events:
            told = [frame.message.get("method") for frame in await events.rest() if frame.message is not None]
        assert told == ["notifications/tools/list_changed", None]
        assert await at.tool("new") == "new"


async def test_fastmcp_has_no_subscriptions_and_says_so(wire: Wire) -> None:
    answer = await answer_to(wire, wire.request("resources/subscribe", {"uri": "memo://fixed/list"}))
    assert answer["error"]["code"] == METHOD_NOT_FOUND


async def test_a_tool_reports_progress_and_sees_the_lifespan(client: Client[Any], stateless: Client[Any]) -> None:
    for each in (client, client, stateless, stateless):
        progress: list[float] = []

        async def on_progress(value: float, total: float | None, message: str | None, to: Any = progress) -> None:
            to.append(value)

        result = await each.call_tool("steps", progress_handler=on_progress)
        assert result.data == {"from": "the lifespan"}
        assert progress == [0, 1, 2]
