"""The end of a process: running calls finish, other requests are refused, and no process or socket remains."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import mcp_types as types
import psutil
import pytest
from mcp.client.client import Client

from tests.integration.server_process import Server, StartServer
from tests.integration.stateless_era import envelope, stateless_headers
from tests.integration.waiting import DEADLINE_SECONDS, wait_until
from tests.integration.wire import STATELESS, Frame, Wire, answer_text, error_code, open_wire

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


@pytest.fixture
def start_server(start_server: StartServer) -> StartServer:
    """Return the fixture `start_server`, with a long grace for running calls by default."""
    return lambda **settings: start_server(**{"SERVER__SHUTDOWN_GRACE_SECONDS": 3600, **settings})


def stateless_call(wire: Wire, tool: str, **arguments: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a call of the stateless era and its headers."""
    return wire.tool_request(tool, meta=envelope(), **arguments), stateless_headers("tools/call", tool)


@asynccontextmanager
async def post_in_background(wire: Wire, message: Any, **headers: str) -> AsyncGenerator[list[httpx.Response]]:
    """POST during the block; after the block, the list holds the response."""
    responses: list[httpx.Response] = []

    async def call() -> None:
        responses.append(await wire.post(message, **headers))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        yield responses


def last_message(response: httpx.Response) -> Any:
    """Return the answer in a response, which may be JSON or a stream."""
    assert response.content, f"the response with status {response.status_code} is empty"
    if response.headers["Content-Type"] == "application/json":
        return response.json()
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    return json.loads(data[-1])


async def assert_clean_exit(server: Server) -> None:
    """Check that the process ends with 0, logs its end, and frees its port."""
    assert await server.wait_for_exit() == 0
    assert server.log_lines[-1]["event"] == "server.stopped"
    names = [line["event"] for line in server.log_lines if line["event"].startswith("server.")]
    assert names == ["server.started", "server.draining", "server.stopped"]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", urlsplit(server.url).port or 0))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_server_stops(start_server: StartServer, number: int) -> None:
    with start_server() as server:
        assert psutil.Process(server.pid).children() == []
        server.send_signal(number)
        await assert_clean_exit(server)


async def test_running_calls_finish_and_new_work_is_refused(start_server: StartServer) -> None:
    with start_server(EVENTS__STREAM_AFTER_SECONDS=0.1) as server:
        async with open_wire(server) as wire, anyio.create_task_group() as tasks:
            await wire.open_session()
            silent, background = await wire.new_client().open_session(), await wire.new_client().open_session()
            results: list[str] = []

            async def read_stream() -> None:
                async with wire.post_stream(
                    wire.tool_request("logs_then_wait", gate="stream", before=3, after=3)
                ) as events:
                    frames = await events.read_to_end()
                    results.append(answer_text(frames[-1].message))
                    assert len(frames) == 8

            async def post_stateless() -> None:
                message, headers = stateless_call(wire, "wait_at", gate="alone")
                results.append(answer_text(last_message(await wire.new_client().post(message, **headers))))

            async def post_silent_call() -> None:
                results.append(
                    answer_text(last_message(await silent.post(silent.tool_request("wait_at", gate="silent"))))
                )

            for work in (read_stream, post_stateless, post_silent_call):
                tasks.start_soon(work)
            for gate in ("stream", "alone", "silent"):
                await background.call_tool("wait_for_note", note=f"{gate}: started")

            async with wire.get_stream() as standalone:
                server.send_signal()
                await server.wait_until_logged("server.draining")
                (last,) = await standalone.read_to_end()
                assert (last.id, last.message) == (None, None), "a stream without a call must end"
                assert last.retry is not None, "the client must learn when to reconnect"

            ready = await wire.http.get(f"{server.origin}/readyz")
            assert ready.status_code == 503
            assert (await wire.http.get(f"{server.origin}/healthz")).status_code == 200
            message, headers = stateless_call(wire, "echo", text="x")
            for refused in (
                await background.post(background.tool_request("echo", text="x")),
                await background.post(background.tool_request("echo", text="x"), "/send"),
                await wire.new_client().initialize(),
                await wire.new_client().post(None, "/session"),
                await wire.new_client().post(message, **headers),
                await wire.http.get(server.url, headers={**wire.headers, "Accept": "text/event-stream"}),
            ):
                assert refused.status_code == 503
                assert error_code(refused) == "SERVER_DRAINING"
                assert int(refused.headers["Retry-After"]) > 0
            assert results == []

            server.send_signal(signal.SIGUSR1)
        assert sorted(results) == ["logged", "through alone", "through silent"]
        await assert_clean_exit(server)


@pytest.mark.parametrize("size", [0, 8_000_000])
@pytest.mark.parametrize("stream_after", [0.05, 60])
async def test_the_last_answer_is_written_before_the_end(
    start_server: StartServer, size: int, stream_after: float
) -> None:
    """The answer comes as JSON or as a stream, and is small or takes several writes."""
    bounds = {"EVENTS__MAX_BYTES": 20_000_000, "EVENTS__STREAM_AFTER_SECONDS": stream_after}
    with start_server(**bounds) as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            async with post_in_background(wire, wire.tool_request("wait_at", gate="last", size=size)) as responses:
                await wire.call_tool("wait_for_note", note="last: started")
                server.send_signal()
                await server.wait_until_logged("server.draining")
                server.send_signal(signal.SIGUSR1)
            assert answer_text(last_message(responses[0])) == "through last" + "x" * size
        await assert_clean_exit(server)


async def test_a_call_that_waits_for_the_client_can_finish(start_server: StartServer) -> None:
    """A draining server still accepts replies."""
    with start_server() as server:
        async with open_wire(server) as wire:
            await wire.open_session(capabilities={"elicitation": {}})
            async with wire.post_stream(wire.tool_request("elicit")) as events:
                question = await events.next_message()
                server.send_signal()
                await server.wait_until_logged("server.draining")
                answer = {"action": "accept", "content": {"name": "Ada"}}
                reply = await wire.post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
                assert reply.status_code == 202
                assert answer_text((await events.read_to_end())[-1].message) == "Ada"
        await assert_clean_exit(server)


async def test_a_running_call_can_be_resumed_while_the_server_drains(start_server: StartServer) -> None:
    """Otherwise a client that lost its stream could not get the answer of a call that may finish."""
    with start_server(EVENTS__STREAM_AFTER_SECONDS=0.1) as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            async with wire.post_stream(wire.tool_request("wait_at", gate="resumed")) as events:
                priming = await events.next_frame()
                assert priming is not None
            server.send_signal()
            await server.wait_until_logged("server.draining")
            async with wire.get_stream(priming.id) as events:
                status = events.response.status_code
                server.send_signal(signal.SIGUSR1)
                frames = await events.read_to_end()
        assert status == 200
        assert answer_text(frames[-1].message) == "through resumed"
        await assert_clean_exit(server)


async def test_the_sdk_client_gets_the_answer_of_a_draining_server(start_server: StartServer) -> None:
    with start_server(EVENTS__RETRY_MILLISECONDS=10) as server:
        results: list[str] = []
        async with (
            Client(server.url, mode="legacy", read_timeout_seconds=DEADLINE_SECONDS) as client,
            open_wire(server) as wire,
        ):
            await wire.open_session()
            await client.list_tools()  # otherwise the client would ask for the schema after the call

            async def call() -> None:
                result = await client.call_tool("wait_at", {"gate": wire.gate_name("sdk")})
                assert isinstance(result.content[0], types.TextContent)
                results.append(result.content[0].text)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await wire.call_tool("wait_for_note", note="sdk: started")
                server.send_signal()
                await server.wait_until_logged("server.draining")
                server.send_signal(signal.SIGUSR1)
        assert results == ["through sdk"]
        await assert_clean_exit(server)


async def test_after_the_grace_every_call_is_answered_with_an_error(start_server: StartServer) -> None:
    """The error comes on a stream, as JSON, in the stateless era, and for a plain function in a thread."""
    settings = {"SERVER__SHUTDOWN_GRACE_SECONDS": 0.2, "EVENTS__STREAM_AFTER_SECONDS": 60}
    with start_server(**settings) as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            stateless_message, headers = stateless_call(wire, "wait_at", gate="alone")
            async with (
                wire.post_stream(
                    wire.tool_request("logs_then_wait", gate="stream", before=1, after=0, id="s")
                ) as stream,
                post_in_background(wire, wire.tool_request("wait_at", gate="json", id="j")) as as_json,
                post_in_background(wire.new_client(), stateless_message, **headers) as alone,
                post_in_background(wire, wire.tool_request("wait_in_thread", gate="thread", id="t")) as in_thread,
            ):
                for gate in ("stream", "json", "alone"):
                    await wire.call_tool("wait_for_note", note=f"{gate}: started")
                await wire.call_tool("wait_for_thread", gate="thread")
                server.send_signal()
                await server.wait_until_logged("server.draining")
                frames = await stream.read_to_end()
            assert frames[-1].message["id"] == "s"
            assert frames[-1].message["error"]["code"] == -32000
            for response, id, code in (
                (as_json[0], "j", -32000),
                (alone[0], stateless_message["id"], -32603),
                (in_thread[0], "t", -32000),
            ):
                answer = last_message(response)
                assert answer is not None, f"{id}: {response.text!r}"
                assert answer["id"] == id
                assert answer["error"]["code"] == code
                assert answer["error"]["data"]["code"] == "SERVER_DRAINING"
        await server.wait_for_exit()


async def test_after_the_grace_every_stream_ends_with_an_error(start_server: StartServer) -> None:
    """There are many streams, in both eras, so that the last one has to wait."""
    settings = {"SERVER__SHUTDOWN_GRACE_SECONDS": 0.2, "EVENTS__STREAM_AFTER_SECONDS": 0.05}
    with start_server(**settings) as server:
        async with open_wire(server) as wire:
            answered: list[Any] = []

            async def call_in_session(index: int) -> None:
                mine = await wire.new_client().open_session()
                async with mine.post_stream(mine.tool_request("wait_at", gate=f"s{index}", id=index)) as events:
                    frames = await events.read_to_end()
                    answered.append((frames[-1].message or {}).get("id"))

            async def call_stateless(index: int) -> None:
                message, headers = stateless_call(wire, "wait_at", gate=f"a{index}")
                async with wire.new_client().post_stream({**message, "id": -index}, **headers) as events:
                    frames = await events.read_to_end()
                    answered.append((frames[-1] if frames else Frame(None, {}, None)).message.get("id"))

            async with anyio.create_task_group() as tasks:
                for index in range(1, 21):
                    tasks.start_soon(call_in_session, index)
                    tasks.start_soon(call_stateless, index)

                async def are_all_streamed() -> bool:
                    return 'mcp_tornado_streams_active{kind="response"} 40.0' in await wire.metrics_text()

                await wait_until(are_all_streamed, "40 calls have a stream")
                server.send_signal()
            assert sorted(answered, key=str) == sorted([*range(1, 21), *range(-20, 0)], key=str)
        await assert_clean_exit(server)


async def test_subscriptions_end_gracefully(start_server: StartServer) -> None:
    with start_server() as server:
        async with Client(server.url, mode=STATELESS, read_timeout_seconds=DEADLINE_SECONDS) as client:
            with anyio.fail_after(DEADLINE_SECONDS):
                async with client.listen(tools_list_changed=True) as subscription:
                    server.send_signal()
                    assert [event async for event in subscription] == []
        await assert_clean_exit(server)


async def test_a_long_poll_is_answered_when_the_drain_begins(start_server: StartServer) -> None:
    with start_server() as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            url = urlsplit(server.url)
            async with await anyio.connect_tcp(url.hostname or "", url.port or 0) as poll:
                headers = "".join(f"{name}: {value}\r\n" for name, value in wire.headers.items())
                request = f"GET {url.path}/receive?wait=60 HTTP/1.1\r\nHost: {url.netloc}\r\n{headers}\r\n"
                await poll.send(request.encode())
                # The server has read the poll when it answers a request that was sent later.
                assert await wire.call_tool("echo", text="later") == "later"
                server.send_signal()
                answer = await read_all(poll)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b'{"events":[],"after":null}')
        await assert_clean_exit(server)


async def read_all(stream: Any) -> bytes:
    """Return all data up to the end of the connection."""
    data = b""
    with anyio.fail_after(DEADLINE_SECONDS), suppress(anyio.BrokenResourceError):
        async for chunk in stream:
            data += chunk
    return data


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_at_once(start_server: StartServer, second: int) -> None:
    with start_server(exit_code=128 + second) as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            async with wire.post_stream(wire.tool_request("logs_then_wait", gate="never", before=1, after=0)) as events:
                assert await events.next_message()
                server.send_signal()
                await server.wait_until_logged("server.draining")
                server.send_signal(second)
                with pytest.raises(httpx.RemoteProtocolError):
                    await events.read_to_end()
        assert await server.wait_for_exit() == 128 + second
        assert server.log_lines_of("server.stopped") == []


async def test_no_process_is_left_behind(start_server: StartServer) -> None:
    with start_server() as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            await wire.call_tool("thread")
            assert psutil.Process(server.pid).children(recursive=True) == []
            async with wire.get_stream():
                server.send_signal()
                await assert_clean_exit(server)
        assert not psutil.pid_exists(server.pid) or psutil.Process(server.pid).status() == psutil.STATUS_ZOMBIE
