"""The messages of the server to the SDK's own client: progress, logs, questions and changes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import uuid4

import anyio
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged

from tests.integration.sdk import (
    Inbox,
    answer_roots,
    answer_sampling,
    connect_to,
    elicitation_callback,
    failure_text,
    repeat_question_number,
    result_text,
)
from tests.integration.server_process import LOWLEVEL, Server, StartServer
from tests.integration.waiting import DEADLINE_SECONDS
from tests.integration.wire import STATELESS

pytestmark = [
    pytest.mark.anyio,
    # Logging, sampling and roots are deprecated, but most clients use them.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

Connect = Callable[..., AbstractAsyncContextManager[Client]]
"""Connects a client; its arguments are callbacks."""


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server(EVENTS__RETRY_MILLISECONDS=10, EVENTS__STREAM_AFTER_SECONDS=0.2) as server:
        yield server


@pytest.fixture(scope="module")
def lowlevel(start_server: StartServer) -> Generator[Server]:
    with start_server(LOWLEVEL) as server:
        yield server


@pytest.fixture(params=["legacy", STATELESS, "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def connect(server: Server, mode: str) -> Connect:
    """Connect a client of this mode."""
    return lambda **callbacks: connect_to(server, mode, **callbacks)


@pytest.fixture
def legacy(server: Server) -> Connect:
    return lambda **callbacks: connect_to(server, "legacy", **callbacks)


# ---------------------------------------------------------------- messages of a call


async def test_progress_comes_in_order_before_the_result(connect: Connect) -> None:
    received: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        received.append((progress, total, message))

    async with connect() as client:
        assert result_text(await client.call_tool("progress", {"steps": 20}, progress_callback=on_progress)) == "done"
        assert received == [(step, 20, f"step {step}") for step in range(1, 21)]


async def test_log_messages_come_in_order_before_the_result(connect: Connect) -> None:
    logged: list[str] = []

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logged.append(params.data)

    async with connect(logging_callback=on_log, log_level="debug") as client:
        assert result_text(await client.call_tool("logs", {"number": 20})) == "logged"
        assert logged == [f"{index}:" for index in range(20)]


async def test_more_messages_than_the_event_log_holds_all_arrive(connect: Connect) -> None:
    """The limits of the event log do not affect a client that stays connected."""
    received: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        received.append(progress)

    async with connect() as client:
        assert result_text(await client.call_tool("progress", {"steps": 2500}, progress_callback=on_progress)) == "done"
    assert received == list(range(1, 2501))


@pytest.mark.parametrize(
    ("action", "text"),
    [("accept", "Hello Ada"), ("decline", "no name: decline"), ("cancel", "no name: cancel")],
)
async def test_a_tool_gets_the_answer_to_an_elicitation(connect: Connect, action: str, text: str) -> None:
    async with connect(elicitation_callback=elicitation_callback(action)) as client:
        assert result_text(await client.call_tool("greet")) == text


async def test_a_question_to_a_client_without_the_capability_fails(connect: Connect) -> None:
    async with connect() as client:
        assert "elicitation" in await failure_text(client.call_tool("greet"))


async def test_a_tool_gets_a_sample_and_the_roots(connect: Connect) -> None:
    async with connect(sampling_callback=answer_sampling, list_roots_callback=answer_roots) as client:
        assert result_text(await client.call_tool("sample")) == "oracle says ho ho"
        assert result_text(await client.call_tool("roots")) == "file:///a, file:///b"


async def test_a_tool_can_ask_three_kinds_of_questions_in_one_call(connect: Connect) -> None:
    callbacks = {
        "elicitation_callback": elicitation_callback("accept"),
        "sampling_callback": answer_sampling,
        "list_roots_callback": answer_roots,
    }
    async with connect(**callbacks) as client:
        assert result_text(await client.call_tool("all_three")) == "Ada; ho ho; 2"


async def test_a_tool_can_ask_several_questions_at_once(legacy: Connect) -> None:
    async with legacy(elicitation_callback=repeat_question_number) as client:
        text = result_text(await client.call_tool("elicit", {"times": 8}))
        assert text == ", ".join(str(index) for index in range(8))


async def test_an_error_reply_reaches_the_tool(legacy: Connect) -> None:
    async def on_elicitation(context: Any, params: Any) -> types.ErrorData:
        return types.ErrorData(code=-32042, message="I would rather not")

    async with legacy(elicitation_callback=on_elicitation) as client:
        assert "I would rather not" in await failure_text(client.call_tool("elicit"))


async def test_the_client_reconnects_after_close_sse_stream(legacy: Connect) -> None:
    gate = f"away-{uuid4()}"
    logged: list[str] = []
    results: list[str] = []

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logged.append(params.data)

    async def call(client: Client) -> None:
        results.append(result_text(await client.call_tool("close_stream", {"gate": gate})))

    async with legacy(logging_callback=on_log) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, client)
            await client.call_tool("wait_for_note", {"note": f"{gate}: closed"})
            await client.call_tool("open_gate", {"gate": gate})
        assert results == ["closed and resumed"]
        assert logged == ["before", "while away", "after"]


# ---------------------------------------------------------------- changes


async def test_changes_come_on_the_standalone_stream(legacy: Connect) -> None:
    inbox = Inbox()
    async with legacy(message_handler=inbox) as client:
        await client.call_tool("change")
        await inbox.wait_for(
            "notifications/tools/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/list_changed",
            "notifications/resources/updated",
        )
        assert inbox.methods() == [
            "notifications/tools/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/list_changed",
            "notifications/resources/updated",
        ]
        assert str(inbox.notifications[-1].params.uri) == "memo://changed"


async def test_the_client_reconnects_after_close_standalone_sse_stream(legacy: Connect) -> None:
    inbox = Inbox()
    async with legacy(message_handler=inbox) as client:
        await client.call_tool("change")
        await inbox.wait_for("notifications/resources/updated")
        await client.call_tool("close_standalone")
        await client.call_tool("change", {"uri": "memo://later"})
        await inbox.wait_for_count(8)
        assert [str(note.params.uri) for note in inbox.notifications if note.method.endswith("updated")] == [
            "memo://changed",
            "memo://later",
        ]


async def test_resource_subscriptions_of_the_handshake_era_are_kept(lowlevel: Server) -> None:
    inbox = Inbox()
    async with connect_to(lowlevel, "legacy", message_handler=inbox) as client:
        for uri in ("memo://a", "memo://b", "memo://c"):
            await client.subscribe_resource(uri)  # pyright: ignore
        await client.unsubscribe_resource("memo://b")  # pyright: ignore
        assert result_text(await client.call_tool("subscriptions")) == "memo://a memo://c"
        await client.call_tool("update")
        await inbox.wait_for_count(2)
        assert [str(note.params.uri) for note in inbox.notifications] == ["memo://a", "memo://c"]


async def test_the_logging_level_belongs_to_the_session(lowlevel: Server) -> None:
    async with connect_to(lowlevel, "legacy") as one, connect_to(lowlevel, "legacy") as other:
        await one.set_logging_level("warning")  # pyright: ignore
        assert result_text(await one.call_tool("level")) == "warning"
        assert result_text(await other.call_tool("level")) == "none"


async def test_a_subscription_of_the_stateless_era_gets_the_requested_events(server: Server) -> None:
    async with connect_to(server, STATELESS) as client:
        with anyio.fail_after(DEADLINE_SECONDS):
            async with client.listen(tools_list_changed=True, resource_subscriptions=["memo://mine"]) as subscription:
                await client.call_tool("publish", {"uri": "memo://yours"})
                assert await anext(subscription) == ToolsListChanged()
                await client.call_tool("publish", {"uri": "memo://mine"})
                events = {await anext(subscription), await anext(subscription)}
                assert events == {ToolsListChanged(), ResourceUpdated(uri="memo://mine")}
            async with client.listen(prompts_list_changed=True, resources_list_changed=True) as subscription:
                await client.call_tool("publish")
                assert {await anext(subscription), await anext(subscription)} == {
                    PromptsListChanged(),
                    ResourcesListChanged(),
                }
