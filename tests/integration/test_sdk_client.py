"""The SDK's own client against a real server, in both eras."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged
from mcp.shared.exceptions import MCPError

from tests.integration.conftest import DEADLINE, STATELESS, Server, StartServer, until, wire_to

pytestmark = [
    pytest.mark.anyio,
    # Logging, sampling and roots still exist, and most clients use them.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

Connect = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server(EVENTS__RETRY_MILLISECONDS=10, EVENTS__STREAM_AFTER_SECONDS=0.2) as server:
        yield server


@pytest.fixture(scope="module")
def lowlevel(start_server: StartServer) -> Generator[Server]:
    with start_server("lowlevel") as server:
        yield server


@pytest.fixture(params=["legacy", STATELESS, "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def connect(server: Server, mode: str) -> Connect:
    """Return what connects a client in each of the eras."""
    return lambda **callbacks: connected(server, mode, **callbacks)


@pytest.fixture
def legacy(server: Server) -> Connect:
    return lambda **callbacks: connected(server, "legacy", **callbacks)


@asynccontextmanager
async def connected(server: Server, mode: str, **callbacks: Any) -> AsyncGenerator[Client]:
    with anyio.fail_after(2 * DEADLINE):
        async with Client(server.url, mode=mode, read_timeout_seconds=DEADLINE, **callbacks) as client:
            yield client


def text(result: types.CallToolResult) -> str:
    assert not result.is_error, result
    content = result.content[0]
    assert isinstance(content, types.TextContent)
    return content.text


async def complaint(call: Awaitable[types.CallToolResult]) -> str:
    """Return what a call fails with, be it as a result or as an error."""
    try:
        result = await call
    except MCPError as error:
        return f"{error} {error.error.data}"
    assert result.is_error, result
    return str(result.content)


class Inbox:
    """Collects the notifications a client gets, and waits for more."""

    def __init__(self) -> None:
        self.notifications: list[Any] = []
        self._changed = anyio.Event()

    async def __call__(self, message: Any) -> None:
        assert not isinstance(message, Exception), message
        self.notifications.append(message)
        self._changed.set()
        self._changed = anyio.Event()

    async def has(self, *methods: str) -> None:
        with anyio.fail_after(DEADLINE):
            while not set(methods) <= {notification.method for notification in self.notifications}:
                await self._changed.wait()


# ---------------------------------------------------------------- tools


async def test_tools_are_listed_and_called(connect: Connect) -> None:
    async with connect() as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert {"echo", "add", "weather"} <= tools
        assert text(await client.call_tool("echo", {"text": "grüß dich, 世界 🎈"})) == "grüß dich, 世界 🎈"
        assert text(await client.call_tool("add", {"a": 2, "b": 40})) == "42"


async def test_the_server_says_who_it_is(connect: Connect, mode: str) -> None:
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
        assert text(await client.call_tool("thread")) != "MainThread"


async def test_errors_of_tools_are_results(connect: Connect) -> None:
    async with connect() as client:
        failed = await client.call_tool("fail", {"why": "no luck"})
        assert failed.is_error
        assert "no luck" in failed.content[0].text  # pyright: ignore
        assert (await client.call_tool("crash")).is_error
        assert (await client.call_tool("add", {"a": "not a number", "b": 1})).is_error
        assert text(await client.call_tool("add", {"a": 1, "b": 1})) == "2"


async def test_an_unknown_tool_is_an_error(connect: Connect) -> None:
    async with connect() as client:
        assert "nonesuch" in await complaint(client.call_tool("nonesuch"))


async def test_an_unknown_method_is_an_error(connect: Connect) -> None:
    async with connect() as client:
        request = types.Request[dict[str, Any], str](method="nonesuch/method", params={})
        with pytest.raises(MCPError) as caught:
            await client.session.send_request(request, types.EmptyResult)  # pyright: ignore
        assert caught.value.code == types.METHOD_NOT_FOUND


async def test_structured_output_is_validated_and_given(connect: Connect) -> None:
    async with connect() as client:
        await client.list_tools()
        result = await client.call_tool("weather", {"city": "Zürich"})
        assert result.structured_content == {"city": "Zürich", "celsius": 21.5, "tags": ["sunny", "dry"]}


async def test_images_arrive_as_they_are(connect: Connect) -> None:
    async with connect() as client:
        result = await client.call_tool("image")
        content = result.content[0]
        assert isinstance(content, types.ImageContent)
        assert content.mime_type == "image/png"
        assert base64.b64decode(content.data).startswith(b"\x89PNG")


async def test_a_large_result_arrives_whole(connect: Connect) -> None:
    async with connect() as client:
        result = text(await client.call_tool("big", {"size": 500_000}))
        assert len(result) == 500_000
        assert result[0] + result[1] + result[-1] == "äxz"


# ---------------------------------------------------------------- prompts, resources, completion


async def test_prompts(connect: Connect) -> None:
    async with connect() as client:
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["introduce"]
        prompt = await client.get_prompt("introduce", {"name": "Ada"})
        assert prompt.messages[0].content.text == "Introduce Ada."  # pyright: ignore
        with pytest.raises(MCPError):
            await client.get_prompt("nonesuch")


async def test_resources_and_templates(connect: Connect) -> None:
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


async def test_completion(connect: Connect) -> None:
    async with connect() as client:
        ref = types.PromptReference(name="introduce")
        found = await client.complete(ref, {"name": "name", "value": "a"})
        assert found.completion.values == ["Ada", "Alan"]


@pytest.mark.parametrize("era", ["legacy", STATELESS])
async def test_pages_follow_one_another(lowlevel: Server, era: str) -> None:
    async with connected(lowlevel, era) as client:
        names: list[str] = []
        cursor = None
        while True:
            page = await client.list_tools(cursor=cursor)
            names += [tool.name for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert names == ["first", "second", "third"]


# ---------------------------------------------------------------- messages of the server's


async def test_progress_comes_in_order_before_the_result(connect: Connect) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async with connect() as client:
        assert text(await client.call_tool("progress", {"steps": 20}, progress_callback=on_progress)) == "done"
        assert seen == [(step, 20, f"step {step}") for step in range(1, 21)]


async def test_log_messages_come_in_order_before_the_result(connect: Connect) -> None:
    seen: list[str] = []

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        seen.append(params.data)

    async with connect(logging_callback=on_log, log_level="debug") as client:
        assert text(await client.call_tool("logs", {"number": 20})) == "logged"
        assert seen == [f"{index}:" for index in range(20)]


async def test_more_messages_than_the_log_of_events_holds_all_arrive(connect: Connect) -> None:
    """A client that stays connected gets all, however few the server keeps for those that come back."""
    seen: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with connect() as client:
        assert text(await client.call_tool("progress", {"steps": 2500}, progress_callback=on_progress)) == "done"
    assert seen == list(range(1, 2501))


def answering(action: str, name: str = "Ada") -> Any:
    async def on_elicitation(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        content: Any = {"name": name} if action == "accept" else None
        return types.ElicitResult(action=action, content=content)  # pyright: ignore

    return on_elicitation


async def on_sampling(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    content = types.TextContent(type="text", text="ho ho")
    return types.CreateMessageResult(role="assistant", content=content, model="oracle", stop_reason="endTurn")


async def on_roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///a"), types.Root(uri="file:///b")])  # pyright: ignore


@pytest.mark.parametrize(
    ("action", "said"),
    [("accept", "Hello Ada"), ("decline", "no name: decline"), ("cancel", "no name: cancel")],
)
async def test_elicitation(connect: Connect, action: str, said: str) -> None:
    async with connect(elicitation_callback=answering(action)) as client:
        assert text(await client.call_tool("greet")) == said


async def test_a_client_that_cannot_be_asked(connect: Connect) -> None:
    async with connect() as client:
        assert "elicitation" in await complaint(client.call_tool("greet"))


async def test_sampling_and_roots(connect: Connect) -> None:
    async with connect(sampling_callback=on_sampling, list_roots_callback=on_roots) as client:
        assert text(await client.call_tool("sample")) == "oracle says ho ho"
        assert text(await client.call_tool("roots")) == "file:///a, file:///b"


async def test_several_requests_to_the_client_in_one_call(connect: Connect) -> None:
    callbacks = {
        "elicitation_callback": answering("accept"),
        "sampling_callback": on_sampling,
        "list_roots_callback": on_roots,
    }
    async with connect(**callbacks) as client:
        assert text(await client.call_tool("all_three")) == "Ada; ho ho; 2"


async def test_several_questions_at_once(legacy: Connect) -> None:
    async def on_elicitation(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": params.message.removeprefix("question ")})

    async with legacy(elicitation_callback=on_elicitation) as client:
        said = text(await client.call_tool("elicit", {"times": 8}))
        assert said == ", ".join(str(index) for index in range(8))


async def test_an_error_of_the_clients_reaches_the_tool(legacy: Connect) -> None:
    async def on_elicitation(context: Any, params: Any) -> types.ErrorData:
        return types.ErrorData(code=-32042, message="I would rather not")

    async with legacy(elicitation_callback=on_elicitation) as client:
        assert "I would rather not" in await complaint(client.call_tool("elicit"))


async def test_calls_side_by_side(connect: Connect) -> None:
    """Each call waits for the next one, so they can only finish if all of them run."""
    run = uuid4()
    results: dict[int, str] = {}

    async def call(client: Client, index: int) -> None:
        results[index] = text(await client.call_tool("wait_at", {"gate": f"{run}-side-{index}"}))
        await client.call_tool("open_gate", {"gate": f"{run}-side-{index - 1}"})

    async with connect() as client:
        async with anyio.create_task_group() as tasks:
            for index in range(30):
                tasks.start_soon(call, client, index)
            await client.call_tool("open_gate", {"gate": f"{run}-side-29"})
        assert results == {index: f"through {run}-side-{index}" for index in range(30)}


async def test_a_silent_call_that_takes_long_is_answered(server: Server, connect: Connect) -> None:
    """Long enough to become a stream, which the test sees on the gauge of streams."""
    gate = f"slow-{uuid4()}"
    results: list[str] = []

    async def call(client: Client) -> None:
        results.append(text(await client.call_tool("wait_at", {"gate": gate})))

    async with connect() as client, wire_to(server) as wire, anyio.create_task_group() as tasks:
        tasks.start_soon(call, client)

        async def streams() -> bool:
            text = (await wire.http.get(f"{server.origin}/metrics")).text
            return 'mcp_tornado_streams_active{kind="response"} 1.0' in text

        await until(streams)
        await client.call_tool("open_gate", {"gate": gate})
    assert results == [f"through {gate}"]


async def test_cancelling_a_call_cancels_the_handler(connect: Connect) -> None:
    gate = f"cancel-{uuid4()}"
    async with connect() as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "wait_at", {"gate": gate})
            await client.call_tool("seen", {"what": f"{gate}: started"})
            tasks.cancel_scope.cancel()
        assert text(await client.call_tool("seen", {"what": f"{gate}: cancelled"})) == f"{gate}: cancelled"
        assert text(await client.call_tool("echo", {"text": "still here"})) == "still here"


async def test_close_sse_stream_and_the_client_comes_back(legacy: Connect) -> None:
    gate = f"away-{uuid4()}"
    seen: list[str] = []
    results: list[str] = []

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        seen.append(params.data)

    async def call(client: Client) -> None:
        results.append(text(await client.call_tool("close_stream", {"gate": gate})))

    async with legacy(logging_callback=on_log) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, client)
            await client.call_tool("seen", {"what": f"{gate}: closed"})
            await client.call_tool("open_gate", {"gate": gate})
        assert results == ["closed and came back"]
        assert seen == ["before", "while away", "after"]


# ---------------------------------------------------------------- what the server says unasked


async def test_changes_come_on_the_standalone_stream(legacy: Connect) -> None:
    inbox = Inbox()
    async with legacy(message_handler=inbox) as client:
        await client.call_tool("change")
        await inbox.has(
            "notifications/tools/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/list_changed",
            "notifications/resources/updated",
        )
        assert [note.method for note in inbox.notifications] == [
            "notifications/tools/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/list_changed",
            "notifications/resources/updated",
        ]
        assert str(inbox.notifications[-1].params.uri) == "memo://changed"


async def test_the_standalone_stream_is_closed_and_comes_back(legacy: Connect) -> None:
    inbox = Inbox()
    async with legacy(message_handler=inbox) as client:
        await client.call_tool("change")
        await inbox.has("notifications/resources/updated")
        await client.call_tool("close_standalone")
        await client.call_tool("change", {"uri": "memo://later"})
        with anyio.fail_after(DEADLINE):
            while len(inbox.notifications) < 8:
                await anyio.sleep(0.01)
        assert [str(note.params.uri) for note in inbox.notifications if note.method.endswith("updated")] == [
            "memo://changed",
            "memo://later",
        ]


async def test_subscriptions_of_the_handshake_era(lowlevel: Server) -> None:
    inbox = Inbox()
    async with connected(lowlevel, "legacy", message_handler=inbox) as client:
        for uri in ("memo://a", "memo://b", "memo://c"):
            await client.subscribe_resource(uri)  # pyright: ignore
        await client.unsubscribe_resource("memo://b")  # pyright: ignore
        assert text(await client.call_tool("subscriptions")) == "memo://a memo://c"
        await client.call_tool("update")
        with anyio.fail_after(DEADLINE):
            while len(inbox.notifications) < 2:
                await anyio.sleep(0.01)
        assert [str(note.params.uri) for note in inbox.notifications] == ["memo://a", "memo://c"]


async def test_the_logging_level_belongs_to_the_session(lowlevel: Server) -> None:
    async with connected(lowlevel, "legacy") as one, connected(lowlevel, "legacy") as other:
        await one.set_logging_level("warning")  # pyright: ignore
        assert text(await one.call_tool("level")) == "warning"
        assert text(await other.call_tool("level")) == "none"


async def test_listen_delivers_what_was_asked_for(server: Server) -> None:
    async with connected(server, STATELESS) as client:
        with anyio.fail_after(DEADLINE):
            async with client.listen(tools_list_changed=True, resource_subscriptions=["memo://mine"]) as subscription:
                await client.call_tool("publish", {"uri": "memo://yours"})
                assert await anext(subscription) == ToolsListChanged()
                await client.call_tool("publish", {"uri": "memo://mine"})
                heard = {await anext(subscription), await anext(subscription)}
                assert heard == {ToolsListChanged(), ResourceUpdated(uri="memo://mine")}
            async with client.listen(prompts_list_changed=True, resources_list_changed=True) as subscription:
                await client.call_tool("publish")
                assert {await anext(subscription), await anext(subscription)} == {
                    PromptsListChanged(),
                    ResourcesListChanged(),
                }


# ---------------------------------------------------------------- the end of a session


async def test_leaving_the_client_ends_the_session(server: Server) -> None:
    async with connected(server, "legacy") as client:
        key = text(await client.call_tool("whoami"))
    await server.line("session.terminated", session=key[:8], reason="deleted")


async def test_the_stateless_era_makes_no_sessions(server: Server) -> None:
    async with wire_to(server) as wire:
        before = await wire.metric("mcp_tornado_sessions_created_total")
        async with connected(server, STATELESS, elicitation_callback=answering("accept")) as client:
            await client.list_tools()
            assert text(await client.call_tool("whoami")) == "none"
            assert text(await client.call_tool("greet")) == "Hello Ada"
        assert await wire.metric("mcp_tornado_sessions_created_total") == before
