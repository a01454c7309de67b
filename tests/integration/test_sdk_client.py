"""The SDK's own client: its requests to a server, in both eras."""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import uuid4

import anyio
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from tests.integration.sdk import connect_to, elicitation_callback, failure_text, result_text
from tests.integration.server_process import LOWLEVEL, Server, StartServer
from tests.integration.waiting import wait_until
from tests.integration.wire import STATELESS, open_wire

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


# ---------------------------------------------------------------- tools


async def test_tools_are_listed_and_called(connect: Connect) -> None:
    async with connect() as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert {"echo", "add", "weather"} <= tools
        assert result_text(await client.call_tool("echo", {"text": "grüß dich, 世界 🎈"})) == "grüß dich, 世界 🎈"
        assert result_text(await client.call_tool("add", {"a": 2, "b": 40})) == "42"


async def test_the_server_sends_its_name_and_instructions(connect: Connect, mode: str) -> None:
    async with connect() as client:
        if mode == STATELESS:
            await client.list_tools()
        else:
            assert client.server_info is not None
            assert (client.server_info.name, client.server_info.version) == ("everything", "7")
            assert client.instructions == "Have a bit of everything."
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else STATELESS)


async def test_a_plain_function_runs_outside_of_the_event_loop(connect: Connect) -> None:
    async with connect() as client:
        assert result_text(await client.call_tool("thread")) != "MainThread"


async def test_errors_of_tools_are_results(connect: Connect) -> None:
    async with connect() as client:
        failed = await client.call_tool("fail", {"why": "no luck"})
        assert failed.is_error
        assert "no luck" in failed.content[0].text  # pyright: ignore
        assert (await client.call_tool("crash")).is_error
        assert (await client.call_tool("add", {"a": "not a number", "b": 1})).is_error
        assert result_text(await client.call_tool("add", {"a": 1, "b": 1})) == "2"


async def test_an_unknown_tool_is_an_error(connect: Connect) -> None:
    async with connect() as client:
        assert "nonesuch" in await failure_text(client.call_tool("nonesuch"))


async def test_an_unknown_method_is_an_error(connect: Connect) -> None:
    async with connect() as client:
        request = types.Request[dict[str, Any], str](method="nonesuch/method", params={})
        with pytest.raises(MCPError) as caught:
            await client.session.send_request(request, types.EmptyResult)  # pyright: ignore
        assert caught.value.code == types.METHOD_NOT_FOUND


async def test_structured_output_is_returned(connect: Connect) -> None:
    async with connect() as client:
        await client.list_tools()
        result = await client.call_tool("weather", {"city": "Zürich"})
        assert result.structured_content == {"city": "Zürich", "celsius": 21.5, "tags": ["sunny", "dry"]}


async def test_images_arrive_unchanged(connect: Connect) -> None:
    async with connect() as client:
        result = await client.call_tool("image")
        content = result.content[0]
        assert isinstance(content, types.ImageContent)
        assert content.mime_type == "image/png"
        assert base64.b64decode(content.data).startswith(b"\x89PNG")


async def test_a_large_result_arrives_complete(connect: Connect) -> None:
    async with connect() as client:
        result = result_text(await client.call_tool("big", {"size": 500_000}))
        assert len(result) == 500_000
        assert result[0] + result[1] + result[-1] == "äxz"


# ---------------------------------------------------------------- prompts, resources, completion


async def test_prompts_are_listed_and_rendered(connect: Connect) -> None:
    async with connect() as client:
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["introduce"]
        prompt = await client.get_prompt("introduce", {"name": "Ada"})
        assert prompt.messages[0].content.text == "Introduce Ada."  # pyright: ignore
        with pytest.raises(MCPError):
            await client.get_prompt("nonesuch")


async def test_resources_and_templates_are_listed_and_read(connect: Connect) -> None:
    async with connect() as client:
        uris = {str(resource.uri) for resource in (await client.list_resources()).resources}
        assert uris == {"memo://greeting", "memo://pixel"}
        greeting = (await client.read_resource("memo://greeting")).contents[0]
        assert isinstance(greeting, types.TextResourceContents)
        assert greeting.text == "Grüß Gott"
        pixel = (await client.read_resource("memo://pixel")).contents[0]
        assert isinstance(pixel, types.BlobResourceContents)
        assert base64.b64decode(pixel.blob).startswith(b"\x89PNG")
        templates = (await client.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates] == ["memo://{author}/notes"]
        notes = (await client.read_resource("memo://ada/notes")).contents[0]
        assert isinstance(notes, types.TextResourceContents)
        assert notes.text == "notes by ada"
        with pytest.raises(MCPError):
            await client.read_resource("memo://nonesuch")


async def test_arguments_are_completed(connect: Connect) -> None:
    async with connect() as client:
        ref = types.PromptReference(name="introduce")
        found = await client.complete(ref, {"name": "name", "value": "a"})
        assert found.completion.values == ["Ada", "Alan"]


@pytest.mark.parametrize("era", ["legacy", STATELESS])
async def test_all_pages_of_a_list_are_read(lowlevel: Server, era: str) -> None:
    async with connect_to(lowlevel, era) as client:
        names: list[str] = []
        cursor = None
        while True:
            page = await client.list_tools(cursor=cursor)
            names += [tool.name for tool in page.tools]
            assert len(names) <= 3, names
            cursor = page.next_cursor
            if cursor is None:
                break
        assert names == ["first", "second", "third"]


# ---------------------------------------------------------------- running calls


async def test_calls_run_concurrently(connect: Connect) -> None:
    """Each call waits for the next one, so the calls can only finish if all of them run."""
    run = uuid4()
    results: dict[int, str] = {}

    async def call(client: Client, index: int) -> None:
        results[index] = result_text(await client.call_tool("wait_at", {"gate": f"{run}-side-{index}"}))
        await client.call_tool("open_gate", {"gate": f"{run}-side-{index - 1}"})

    async with connect() as client:
        async with anyio.create_task_group() as tasks:
            for index in range(30):
                tasks.start_soon(call, client, index)
            await client.call_tool("open_gate", {"gate": f"{run}-side-29"})
        assert results == {index: f"through {run}-side-{index}" for index in range(30)}


async def test_a_silent_call_that_takes_long_is_answered(server: Server, connect: Connect) -> None:
    """The call runs until it has become a stream, as the gauge of streams shows."""
    gate = f"slow-{uuid4()}"
    results: list[str] = []

    async def call(client: Client) -> None:
        results.append(result_text(await client.call_tool("wait_at", {"gate": gate})))

    async with connect() as client, open_wire(server) as wire, anyio.create_task_group() as tasks:
        tasks.start_soon(call, client)

        async def is_streamed() -> bool:
            return 'mcp_tornado_streams_active{kind="response"} 1.0' in await wire.metrics_text()

        await wait_until(is_streamed, "the call has a stream")
        await client.call_tool("open_gate", {"gate": gate})
    assert results == [f"through {gate}"]


async def test_cancelling_a_call_cancels_the_handler(connect: Connect) -> None:
    gate = f"cancel-{uuid4()}"
    async with connect() as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "wait_at", {"gate": gate})
            await client.call_tool("wait_for_note", {"note": f"{gate}: started"})
            tasks.cancel_scope.cancel()
        assert (
            result_text(await client.call_tool("wait_for_note", {"note": f"{gate}: cancelled"})) == f"{gate}: cancelled"
        )
        assert result_text(await client.call_tool("echo", {"text": "x"})) == "x"


# ---------------------------------------------------------------- the end of a session


async def test_closing_the_client_ends_the_session(server: Server) -> None:
    async with connect_to(server, "legacy") as client:
        key = result_text(await client.call_tool("whoami"))
    await server.wait_until_logged("session.terminated", session=key[:8], reason="deleted")


async def test_the_stateless_era_creates_no_sessions(server: Server) -> None:
    async with open_wire(server) as wire:
        before = await wire.metric("mcp_tornado_sessions_created_total")
        async with connect_to(server, STATELESS, elicitation_callback=elicitation_callback("accept")) as client:
            await client.list_tools()
            assert result_text(await client.call_tool("whoami")) == "none"
            assert result_text(await client.call_tool("greet")) == "Hello Ada"
        assert await wire.metric("mcp_tornado_sessions_created_total") == before
