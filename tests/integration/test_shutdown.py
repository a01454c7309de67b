"""The end of the process: it finishes what runs, tells who it cannot serve, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import mcp_types as types
import psutil
import pytest
from mcp.client.client import Client

from tests.integration.conftest import (
    DEADLINE,
    STATELESS,
    Frame,
    Server,
    StartServer,
    Wire,
    error_code,
    text_of,
    until,
    wire_to,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": STATELESS,
    "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.fixture
def start_server(start_server: StartServer) -> StartServer:
    """Start servers that wait long for what runs, unless a test says otherwise."""
    return lambda **settings: start_server(**{"SERVER__SHUTDOWN_GRACE_SECONDS": 3600, **settings})


def stateless(wire: Wire, tool: str, **arguments: Any) -> tuple[dict[str, Any], dict[str, str]]:
    headers = {"MCP_Protocol_Version": STATELESS, "Mcp_Method": "tools/call", "Mcp_Name": tool}
    return wire.call(tool, meta=ENVELOPE, **arguments), headers


@asynccontextmanager
async def answer_to(wire: Wire, message: Any, **headers: str) -> AsyncGenerator[list[httpx.Response]]:
    """POST in the background; the list holds the response once it is there."""
    responses: list[httpx.Response] = []

    async def call() -> None:
        responses.append(await wire.post(message, **headers))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        yield responses


def last_message(response: httpx.Response) -> Any:
    """Return the answer in a response, be it JSON or a stream."""
    assert response.content, f"an empty answer with status {response.status_code}"
    if response.headers["Content-Type"] == "application/json":
        return response.json()
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    return json.loads(data[-1])


async def ended_well(server: Server) -> None:
    """Check that the process ends with 0, says so, and that its port is free again."""
    assert await server.exit_code() == 0
    assert server.lines[-1]["event"] == "server.stopped"
    names = [line["event"] for line in server.lines if line["event"].startswith("server.")]
    assert names == ["server.started", "server.draining", "server.stopped"]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", urlsplit(server.url).port or 0))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_server_stops(start_server: StartServer, number: int) -> None:
    with start_server() as server:
        assert psutil.Process(server.pid).children() == []
        server.signal(number)
        await ended_well(server)


async def test_running_calls_finish_and_new_work_is_refused(start_server: StartServer) -> None:
    with start_server(EVENTS__STREAM_AFTER_SECONDS=0.1) as server:
        async with wire_to(server) as wire, anyio.create_task_group() as tasks:
            await wire.open()
            silent, background = await wire.fork().open(), await wire.fork().open()
            results: list[str] = []

            async def streaming() -> None:
                async with wire.stream(wire.call("logs_then_wait", gate="stream", before=3, after=3)) as events:
                    frames = await events.rest()
                    results.append(text_of(frames[-1].message))
                    assert len(frames) == 8

            async def standing_alone() -> None:
                message, headers = stateless(wire, "wait_at", gate="alone")
                results.append(text_of(last_message(await wire.fork().post(message, **headers))))

            async def waiting() -> None:
                results.append(text_of(last_message(await silent.post(silent.call("wait_at", gate="silent")))))

            for work in (streaming, standing_alone, waiting):
                tasks.start_soon(work)
            for gate in ("stream", "alone", "silent"):
                await background.tool("seen", what=f"{gate}: started")

            async with wire.listen() as standalone:
                server.signal()
                await server.line("server.draining")
                (ended,) = await standalone.rest()
                assert (ended.id, ended.message) == (None, None), "a stream without a call ends"
                assert ended.retry is not None, "and its client is to come back"

            ready = await wire.http.get(f"{server.origin}/readyz")
            assert ready.status_code == 503
            assert (await wire.http.get(f"{server.origin}/healthz")).status_code == 200
            message, headers = stateless(wire, "echo", text="x")
            for refused in (
                await background.post(background.call("echo", text="x")),
                await background.post(background.call("echo", text="x"), "/send"),
                await wire.fork().initialize(),
                await wire.fork().post(None, "/session"),
                await wire.fork().post(message, **headers),
                await wire.http.get(server.url, headers={**wire.headers, "Accept": "text/event-stream"}),
            ):
                assert refused.status_code == 503
                assert error_code(refused) == "SERVER_DRAINING"
                assert int(refused.headers["Retry-After"]) > 0
            assert results == []

            server.signal(signal.SIGUSR1)
        assert sorted(results) == ["logged", "through alone", "through silent"]
        await ended_well(server)


@pytest.mark.parametrize("size", [0, 8_000_000])
@pytest.mark.parametrize("stream_after", [0.05, 60])
async def test_the_last_answer_is_written_before_the_end(
    start_server: StartServer, size: int, stream_after: float
) -> None:
    """As JSON and as a stream, a small one and one that takes several writes."""
    bounds = {"EVENTS__MAX_BYTES": 20_000_000, "EVENTS__STREAM_AFTER_SECONDS": stream_after}
    with start_server(**bounds) as server:
        async with wire_to(server) as wire:
            await wire.open()
            async with answer_to(wire, wire.call("wait_at", gate="last", size=size)) as responses:
                await wire.tool("seen", what="last: started")
                server.signal()
                await server.line("server.draining")
                server.signal(signal.SIGUSR1)
            assert text_of(last_message(responses[0])) == "through last" + "x" * size
        await ended_well(server)


async def test_a_call_that_waits_for_the_client_can_finish(start_server: StartServer) -> None:
    """While the server drains, replies are still taken."""
    with start_server() as server:
        async with wire_to(server) as wire:
            await wire.open(capabilities={"elicitation": {}})
            async with wire.stream(wire.call("elicit")) as events:
                question = await events.message()
                server.signal()
                await server.line("server.draining")
                answer = {"action": "accept", "content": {"name": "Ada"}}
                reply = await wire.post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
                assert reply.status_code == 202
                assert text_of((await events.rest())[-1].message) == "Ada"
        await ended_well(server)


async def test_a_running_call_can_be_resumed_while_the_server_drains(start_server: StartServer) -> None:
    """A call that is let finish is worth nothing, if the client that lost its stream cannot get the answer."""
    with start_server(EVENTS__STREAM_AFTER_SECONDS=0.1) as server:
        async with wire_to(server) as wire:
            await wire.open()
            async with wire.stream(wire.call("wait_at", gate="resumed")) as events:
                primed = await events.next()
                assert primed is not None
            server.signal()
            await server.line("server.draining")
            async with wire.listen(primed.id) as events:
                status = events.response.status_code
                server.signal(signal.SIGUSR1)
                frames = await events.rest()
        assert status == 200
        assert text_of(frames[-1].message) == "through resumed"
        await ended_well(server)


async def test_the_sdk_client_gets_the_answer_of_a_draining_server(start_server: StartServer) -> None:
    with start_server(EVENTS__RETRY_MILLISECONDS=10) as server:
        results: list[str] = []
        async with Client(server.url, mode="legacy", read_timeout_seconds=DEADLINE) as client, wire_to(server) as wire:
            await wire.open()
            await client.list_tools()  # else the client asks for the schema after the call

            async def call() -> None:
                result = await client.call_tool("wait_at", {"gate": wire.gate("sdk")})
                assert isinstance(result.content[0], types.TextContent)
                results.append(result.content[0].text)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await wire.tool("seen", what="sdk: started")
                server.signal()
                await server.line("server.draining")
                server.signal(signal.SIGUSR1)
        assert results == ["through sdk"]
        await ended_well(server)


async def test_after_the_grace_every_caller_is_told(start_server: StartServer) -> None:
    """Calls of each kind, each answered in its way: a stream, JSON, on its own, in a thread, in the background."""
    settings = {"SERVER__SHUTDOWN_GRACE_SECONDS": 0.2, "EVENTS__STREAM_AFTER_SECONDS": 60}
    with start_server(**settings) as server:
        async with wire_to(server) as wire:
            await wire.open()
            lone_message, headers = stateless(wire, "wait_at", gate="alone")
            async with (
                wire.stream(wire.call("logs_then_wait", gate="stream", before=1, after=0, id="s")) as stream,
                answer_to(wire, wire.call("wait_at", gate="json", id="j")) as as_json,
                answer_to(wire.fork(), lone_message, **headers) as alone,
                answer_to(wire, wire.call("wait_in_thread", gate="thread", id="t")) as in_thread,
            ):
                for gate in ("stream", "json", "alone"):
                    await wire.tool("seen", what=f"{gate}: started")
                assert await wire.tool("thread_started", gate="thread")
                server.signal()
                await server.line("server.draining")
                frames = await stream.rest()
            assert frames[-1].message["id"] == "s"
            assert frames[-1].message["error"]["code"] == -32000
            for response, id, code in (
                (as_json[0], "j", -32000),
                (alone[0], lone_message["id"], -32603),
                (in_thread[0], "t", -32000),
            ):
                answer = last_message(response)
                assert answer is not None, f"{id}: {response.text!r}"
                assert answer["id"] == id
                assert answer["error"]["code"] == code
                assert answer["error"]["data"]["code"] == "SERVER_DRAINING"
        await server.exit_code()


async def test_after_the_grace_streams_are_told_too(start_server: StartServer) -> None:
    """Many of them, in both eras, so that the last one has to wait for its turn."""
    settings = {"SERVER__SHUTDOWN_GRACE_SECONDS": 0.2, "EVENTS__STREAM_AFTER_SECONDS": 0.05}
    with start_server(**settings) as server:
        async with wire_to(server) as wire:
            told: list[Any] = []

            async def session(index: int) -> None:
                mine = await wire.fork().open()
                async with mine.stream(mine.call("wait_at", gate=f"s{index}", id=index)) as events:
                    frames = await events.rest()
                    told.append((frames[-1].message or {}).get("id"))

            async def alone(index: int) -> None:
                message, headers = stateless(wire, "wait_at", gate=f"a{index}")
                async with wire.fork().stream({**message, "id": -index}, **headers) as events:
                    frames = await events.rest()
                    told.append((frames[-1] if frames else Frame(None, {}, None)).message.get("id"))

            async with anyio.create_task_group() as tasks:
                for index in range(1, 21):
                    tasks.start_soon(session, index)
                    tasks.start_soon(alone, index)

                async def all_stream() -> bool:
                    text = (await wire.http.get(f"{server.origin}/metrics")).text
                    return 'mcp_tornado_streams_active{kind="response"} 40.0' in text

                await until(all_stream)
                server.signal()
            assert sorted(told, key=str) == sorted([*range(1, 21), *range(-20, 0)], key=str)
        await ended_well(server)


async def test_subscriptions_end_gracefully(start_server: StartServer) -> None:
    with start_server() as server:
        async with Client(server.url, mode=STATELESS, read_timeout_seconds=DEADLINE) as client:
            with anyio.fail_after(DEADLINE):
                async with client.listen(tools_list_changed=True) as subscription:
                    server.signal()
                    assert [event async for event in subscription] == []
        await ended_well(server)


async def test_a_long_poll_is_answered(start_server: StartServer) -> None:
    with start_server() as server:
        async with wire_to(server) as wire:
            await wire.open()
            url = urlsplit(server.url)
            async with await anyio.connect_tcp(url.hostname or "", url.port or 0) as poll:
                headers = "".join(f"{name}: {value}\r\n" for name, value in wire.headers.items())
                request = f"GET {url.path}/receive?wait=60 HTTP/1.1\r\nHost: {url.netloc}\r\n{headers}\r\n"
                await poll.send(request.encode())
                # What was sent first has been read once something that was sent later is answered.
                assert await wire.tool("echo", text="later") == "later"
                server.signal()
                answer = await received(poll)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b'{"events":[],"after":null}')
        await ended_well(server)


async def received(stream: Any) -> bytes:
    """Return all that comes until the other side closes the connection."""
    data = b""
    with anyio.fail_after(DEADLINE):
        try:
            async for chunk in stream:
                data += chunk
        except anyio.BrokenResourceError:
            pass
    return data


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_at_once(start_server: StartServer, second: int) -> None:
    with start_server(exit_code=128 + second) as server:
        async with wire_to(server) as wire:
            await wire.open()
            async with wire.stream(wire.call("logs_then_wait", gate="never", before=1, after=0)) as events:
                assert await events.message()
                server.signal()
                await server.line("server.draining")
                server.signal(second)
                with pytest.raises(httpx.RemoteProtocolError):
                    await events.rest()
        assert await server.exit_code() == 128 + second
        assert server.events("server.stopped") == []


async def test_nothing_is_left_behind(start_server: StartServer) -> None:
    with start_server() as server:
        async with wire_to(server) as wire:
            await wire.open()
            await wire.tool("thread")
            assert psutil.Process(server.pid).children(recursive=True) == []
            async with wire.listen():
                server.signal()
                await ended_well(server)
        assert not psutil.pid_exists(server.pid) or psutil.Process(server.pid).status() == psutil.STATUS_ZOMBIE
